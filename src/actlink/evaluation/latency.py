"""What an answer costs in time. Law: with a scripted or replayed latency the same seed gives the same episode, on any machine.

``paused``: nothing passes while a chunk is computed. ``virtual``: simulated time pays for it, with the time that it took here, with
a scripted one, or with a recorded one, and the evaluation is as fast as the machine. ``wallclock``: real time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from actlink.asking import Arrival, Conversation
from actlink.asking_thread import Threaded
from actlink.clock import Clock, ManualClock, MonotonicClock
from actlink.errors import ConfigError, LinkTimeoutError, SupersededError
from actlink.evaluation import journal
from actlink.execution._base import Replan
from actlink.policies._base import Policy
from actlink.spec import digest_of
from actlink.types import Observation

EPSILON_S = 1e-9
"""An answer that is due at a control step's very moment is there, whatever the rounding."""


@dataclass(frozen=True)
class LatencyConfig:
    """Whether time passes while the policy computes, and how much."""

    latency: Literal["paused", "virtual", "wallclock"] = "paused"
    """paused: none; virtual: simulated time pays for it, as fast as the machine can; wallclock: real time."""
    latency_ms: float | None = None
    """virtual: from question to answer; None: as long as it takes here and now, which no two runs have in common."""
    jitter_ms: float = 0.0
    """virtual, with latency_ms: standard deviation of it; normal, cut off at 0, drawn from the episode's seed."""
    latency_trace: Path | None = None
    """virtual: recorded latencies instead: the journal or directory of an evaluation, or a file with a number (ms) per line."""
    rate_hz: float | None = None
    """Control steps per second, where time passes; None: the environment's."""

    def __post_init__(self) -> None:
        for name, given in (("latency_ms", self.latency_ms is not None), ("latency_trace", self.latency_trace is not None)):
            if given and self.latency != "virtual":
                more = "; put a bad link in between (actlink link)" if self.latency == "wallclock" else ""
                raise ConfigError(f"{name}: only with --latency virtual, got --latency {self.latency}{more}")
        if self.latency_ms is not None and self.latency_trace is not None:
            raise ConfigError("latency_ms and latency_trace: expected one of them")
        if self.latency_ms is not None and not 0 <= self.latency_ms < math.inf:
            raise ConfigError(f"latency_ms: expected at least 0, got {self.latency_ms}")
        if not 0 <= self.jitter_ms < math.inf:
            raise ConfigError(f"jitter_ms: expected at least 0, got {self.jitter_ms}")
        if self.jitter_ms and self.latency_ms is None:
            raise ConfigError("jitter_ms: only with latency_ms")
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ConfigError(f"rate_hz: expected more than 0, got {self.rate_hz}")
        if self.rate_hz is not None and self.latency == "paused":
            raise ConfigError("rate_hz: only where time passes (--latency virtual or wallclock)")

    @property
    def passes(self) -> bool:
        """Whether time passes while the policy computes."""
        return self.latency != "paused"

    def header(self, trace: Trace | None) -> dict[str, Any]:
        """What makes two evaluations the same one; nothing where time does not pass."""
        if not self.passes:
            return {}
        found: dict[str, Any] = {"mode": self.latency, "rate_hz": self.rate_hz}
        if self.latency == "virtual":
            found |= {"latency_ms": self.latency_ms, "jitter_ms": self.jitter_ms, "trace": trace.digest if trace else None}
        return {"latency": found}


@dataclass(frozen=True)
class Trace:
    """Recorded latencies."""

    digest: str
    values_ms: tuple[float, ...] = ()
    """Of a plain list; an episode begins somewhere in it and goes round."""
    of_seed_ms: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Of an evaluation: the episode with the same seed had these."""

    def of(self, seed: int) -> tuple[float, ...]:
        """The latencies of the episode with ``seed``, to be gone through round and round."""
        if seed in self.of_seed_ms:
            return self.of_seed_ms[seed]
        values = self.values_ms or tuple(itertools.chain.from_iterable(self.of_seed_ms.values()))
        start = random.Random(f"trace/{seed}").randrange(len(values))
        return values[start:] + values[:start]


def read_trace(path: Path) -> Trace:
    """The latencies in ``path``: an evaluation's directory or journal, or a number per line; ``ConfigError`` names the bad line."""
    if path.is_dir():
        path = path / journal.FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"latency_trace: {path}: {error.strerror}") from error
    digest = digest_of(content)
    if content.startswith(b'{"header"'):
        _, episodes = journal.read_file(path)
        trace = Trace(digest, of_seed_ms={each.seed: each.latencies_ms for each in episodes if each.latencies_ms})
    else:
        trace = Trace(
            digest, tuple(_number(line, number, path) for number, line in enumerate(content.splitlines(), 1) if line.strip())
        )
    if not trace.values_ms and not trace.of_seed_ms:
        raise ConfigError(f"latency_trace: {path}: no latency in it")
    return trace


def _number(line: bytes, number: int, path: Path) -> float:
    try:
        value = float(json.loads(line))
        if not 0 <= value < math.inf:
            raise ValueError
    except (ValueError, TypeError):
        text = line.decode(errors="replace")
        raise ConfigError(f"latency_trace: {path}, line {number}: expected milliseconds, got {text!r}") from None
    return value


class Delays(Protocol):
    """How long answers take."""

    def begin(self, seed: int) -> None:
        """An episode with ``seed`` begins."""

    def next(self, sent_s: float, measured_s: float) -> Sequence[float]:
        """Seconds from the next question, asked ``sent_s`` into the episode, to its answer: one number, none (lost), or several.

        ``measured_s`` is what computing it took here and now.
        """


class Measured:
    """As long as it took."""

    def begin(self, seed: int) -> None:
        pass

    def next(self, sent_s: float, measured_s: float) -> Sequence[float]:
        return (measured_s,)


class Scripted:
    """Normal around ``latency_ms``, drawn from the episode's seed and the question's number."""

    def __init__(self, latency_ms: float, jitter_ms: float = 0.0) -> None:
        self._latency_ms = latency_ms
        self._jitter_ms = jitter_ms
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._random = random.Random(f"latency/{seed}")

    def next(self, sent_s: float, measured_s: float) -> Sequence[float]:
        return (max(0.0, self._random.gauss(self._latency_ms, self._jitter_ms)) / 1e3,)


class Replayed:
    """As recorded."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._values_ms = itertools.cycle(self._trace.of(seed))

    def next(self, sent_s: float, measured_s: float) -> Sequence[float]:
        return (next(self._values_ms) / 1e3,)


def delays_of(config: LatencyConfig, trace: Trace | None) -> Delays:
    """What ``config`` says about answers in virtual time."""
    if trace is not None:
        return Replayed(trace)
    return Measured() if config.latency_ms is None else Scripted(config.latency_ms, config.jitter_ms)


class VirtualClock(ManualClock):
    """Simulated time; every episode begins at 0, so that its rounding does not depend on those before."""

    def restart(self) -> None:
        self._now_s = 0.0


class Delayed:
    """An ``Asker`` in virtual time: the policy is asked at once, its answer arrives when it is due by ``delays``.

    A question whose answer is lost has its arrival, with an error, after ``timeout_s``; an answer that comes twice has two.
    """

    def __init__(
        self,
        policy: Policy,
        clock: VirtualClock,
        delays: Delays,
        session: str = "",
        *,
        timeout_s: float = 1.0,
        wall: Clock | None = None,
    ) -> None:
        self._conversation = Conversation(policy, wall or MonotonicClock(), session)
        self._clock = clock
        self._delays = delays
        self._timeout_s = timeout_s
        self.seed = 0
        """Of the next episode: what its latencies are drawn from."""
        self._due: list[tuple[float, int, Arrival]] = []
        self._numbers = itertools.count()

    @property
    def dropped(self) -> int:
        return self._conversation.dropped

    def begin(self, episode: int) -> None:
        self._conversation.begin(episode)
        self._clock.restart()
        self._delays.begin(self.seed)
        self._due = []

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        answer = self._conversation.ask(observation, replan)
        delays_s = self._delays.next(now_s, answer.arrived_s - answer.sent_s)
        for delay_s in delays_s:
            self._put(Arrival(replan.step, answer.chunk, None, now_s, now_s + delay_s))
        if not delays_s:
            error = LinkTimeoutError(f"no answer within {self._timeout_s:g} s")
            self._put(Arrival(replan.step, None, error, now_s, now_s + self._timeout_s))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        found = []
        while self._due and self._due[0][0] <= now_s + EPSILON_S:
            found.append(heapq.heappop(self._due)[2])
        return found

    def close(self) -> None:
        """Nothing to let go of: the policy belongs to whoever opened it."""

    def _put(self, arrival: Arrival) -> None:
        heapq.heappush(self._due, (arrival.arrived_s, next(self._numbers), arrival))


class Live(Threaded):
    """An ``Asker`` in real time for evaluations: an error ends the episode, as it does where the world waits.

    A robot would hold and go on; a score must not depend on what the link did to an episode.
    """

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        found = super().arrived(now_s)
        for arrival in found:
            if arrival.error is not None and not isinstance(arrival.error, SupersededError):
                raise arrival.error
        return found
