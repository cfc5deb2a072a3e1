"""A load generator's one process: some clients, a thread each, random valid observations. Law: counts, judges nothing.

Clients are spread over processes because one interpreter serves its threads in turn: with many clients in one process the figures
would be the generator's. Within a process a thread per client is enough, for it mostly waits.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from actlink.client import Credentials, RemotePolicy, connect
from actlink.errors import ActlinkError, ConfigError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

VARIETY = 4
"""Different observations per client, made before the clock starts; sent in turn."""

PROMPT = "pick up the cube and hand it over"


@dataclass(frozen=True, slots=True)
class Load:
    """What one process does."""

    address: str
    clients: int
    duration_s: float
    rate_hz: float | None
    """Requests per second and client; None: the next request follows the answer."""
    image_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Camera -> (height, width) where the spec leaves it open; ``""`` = every camera."""
    spec: Spec | None = None
    """For servers whose wire announces none."""
    seed: int = 0
    token: str | None = field(default=None, repr=False)
    credentials: Credentials = field(default_factory=Credentials)


@dataclass(slots=True)
class Outcome:
    """What the clients of one process saw."""

    at_s: list[float] = field(default_factory=list)
    """Seconds after the start at which each answer came."""
    latency_ms: list[float] = field(default_factory=list)
    timing: dict[str, list[float]] = field(default_factory=dict)
    """What each answer's ``ActionChunk.timing`` says: name -> its values."""
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        self.at_s += other.at_s
        self.latency_ms += other.latency_ms
        self.errors.update(other.errors)
        for name, values in other.timing.items():
            self.timing.setdefault(name, []).extend(values)


def observations(spec: Spec, sizes: Mapping[str, tuple[int, int]], seed: int) -> Iterator[Observation]:
    """Random observations that pass ``spec.check``; pictures are noise, JPEG's hardest case. ``ConfigError`` for wrong sizes."""
    random = np.random.default_rng(seed)
    shapes = {key: _shape(key, value, sizes) for key, value in spec.observation.items()}
    while True:
        yield {key: _value(value, shapes[key], random) for key, value in spec.observation.items()}


def _shape(key: str, value: Field, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, ...]:
    asked = sizes.get(key.removeprefix("images."), sizes.get("")) if value.is_image else None
    if asked is None:
        return tuple(1 if n is None else n for n in value.shape)
    for want, got in zip(asked, value.shape[:2], strict=True):
        if got not in (None, want):
            raise ConfigError(f"--image-sizes: {key} is {value.shape[0]}x{value.shape[1]} in the spec, got {asked[0]}x{asked[1]}")
    return (*asked, value.shape[2] or 3)


def _value(value: Field, shape: tuple[int, ...], random: np.random.Generator) -> Array | str:
    if value.dtype == "str":
        return PROMPT
    if value.dtype == "float32":
        low, high = value.range or (-1.0, 1.0)
        return random.uniform(low, high, shape).astype(np.float32)
    if value.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    low, high = value.range or (0, 1)
    return random.integers(int(low), int(high) + 1, shape).astype(value.dtype)


def run(load: Load, parent: Connection) -> None:
    """Body of a process: connect every client, say so, wait for the word, run, send the ``Outcome`` or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    policies: list[RemotePolicy] = []
    try:
        policies.extend(_connected(load) for _ in range(load.clients))
        ready = [_prepared(load, policy, index) for index, policy in enumerate(policies)]
        parent.send(policies[0].spec)
        parent.recv()
        parent.send(_run(load, policies, ready))
    except ActlinkError as error:
        parent.send(error)
    except EOFError:
        pass  # the parent has gone
    finally:
        for policy in policies:
            policy.close()


def _connected(load: Load) -> RemotePolicy:
    return connect(load.address, spec=load.spec, token=load.token, credentials=load.credentials)


def _prepared(load: Load, policy: RemotePolicy, index: int) -> list[Observation]:
    source = observations(policy.spec, load.image_sizes, load.seed + index)
    return [next(source) for _ in range(VARIETY)]


def _run(load: Load, policies: list[RemotePolicy], ready: list[list[Observation]]) -> Outcome:
    outcomes = [Outcome() for _ in policies]
    started_s = time.perf_counter()
    threads = [
        threading.Thread(target=_client, args=(load, *one, started_s), daemon=True)
        for one in zip(policies, ready, outcomes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Outcome()
    for outcome in outcomes:
        total.add(outcome)
    return total


def _client(load: Load, policy: RemotePolicy, ready: list[Observation], outcome: Outcome, started_s: float) -> None:
    """Ask until the time is over. With a rate, latency counts from the moment the request was due, so a stall is not hidden."""
    step = 0
    while True:
        due_s = time.perf_counter() if load.rate_hz is None else started_s + step / load.rate_hz
        if due_s - started_s >= load.duration_s or time.perf_counter() - started_s >= load.duration_s:
            return
        time.sleep(max(0.0, due_s - time.perf_counter()))
        try:
            timing = policy.infer_one(ready[step % VARIETY], step=step).timing
        except ActlinkError as error:
            outcome.errors[error.code] += 1
        else:
            _count(outcome, timing, due_s, started_s)
        step += 1


def _count(outcome: Outcome, timing: Mapping[str, Any], due_s: float, started_s: float) -> None:
    now_s = time.perf_counter()
    outcome.at_s.append(now_s - started_s)
    outcome.latency_ms.append(1000 * (now_s - due_s))
    for name, value in timing.items():
        outcome.timing.setdefault(name, []).append(value)
