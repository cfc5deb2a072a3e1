"""A client of IL-Studio's policy server: ``python policy_client_example.py --host localhost --port 5000``.

The actlink way: ``actlink.connect("ilstudio+tcp://localhost:5000", spec=...)``.
"""

from __future__ import annotations

import argparse
import errno
import time
from dataclasses import fields
from typing import Any

import numpy as np
from benchmark.base import MetaAction, MetaObs

from actlink.address import Address
from actlink.codecs.safe_pickle import Limits, Record, decode, encode
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError, ConnectError
from actlink.transports import tcp

STATE_DIM = 21
"""Entries of the state of the model that start_policy_server.py serves by default."""

_AXES = {"state": (1, 2), "state_ee": (1, 2), "state_joint": (1, 2), "state_obj": (1, 2), "image": (4, 5)}
_AXES |= {"depth": (3, 4), "pc": (2, 3)}
_LIMITS = Limits(operations=400_000, objects=100_000)


class PolicyClient:
    """One connection to a policy server."""

    def __init__(self, host: str = "localhost", port: int = 5000, *, timeout_s: float = 60.0) -> None:
        self._address = Address("ilstudio", "tcp", host, port)
        self._timeout_s = timeout_s
        self._link: tcp.Link | None = None

    def connect(self) -> None:
        """``ConnectionRefusedError`` if nothing listens there, ``ConnectionError`` for anything else."""
        try:
            self._link = tcp.connect(self._address, tcp.Config(), timeout_s=10.0)  # type: ignore[assignment]
        except ConnectError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused", str(self._address)) from error
            raise ConnectionError(str(error)) from error

    def disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def send_meta_obs(self, meta_obs: MetaObs) -> list[Any]:
        """The actions for an observation: one ``MetaAction`` for each step, or, for a batch, an array of them.

        Empty if the inference failed on the server, whose log says why. ``TypeError`` and ``ValueError`` for an observation that
        cannot be sent, ``ConnectionError`` if the connection is lost.
        """
        check(meta_obs)
        if self._link is None:
            raise ConnectionError("not connected; call connect() first")
        record = Record("benchmark.base", "MetaObs", (), dict(vars(meta_obs)))
        try:
            self._link.send([Frame(tuple(encode(record)))], self._timeout_s)
            reply = decode(self._link.receive(self._timeout_s).data, _LIMITS)
        except ActlinkError as error:
            self.disconnect()
            raise ConnectionError(str(error)) from error
        steps = [_actions(element) for element in reply]
        return steps if _is_batch(meta_obs) else [step[0] for step in steps]


def check(meta_obs: MetaObs) -> None:
    """``TypeError`` or ``ValueError`` unless every field has a dtype and a shape that the server takes."""
    for name, axes in _AXES.items():
        value = getattr(meta_obs, name)
        if value is None:
            continue
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected an array of numbers, got {getattr(value, 'dtype', type(value).__name__)}")
        if value.ndim not in axes:
            raise ValueError(f"{name}: expected {axes[0]} axes, or {axes[1]} for a batch, got the shape {value.shape}")
    image = meta_obs.image
    if image is not None and (image.dtype != np.uint8 or image.shape[-3] != 3):
        raise ValueError(f"image: expected uint8 (K, 3, H, W), got {image.dtype} {image.shape}")
    if not isinstance(meta_obs.raw_lang, str | list):
        raise TypeError(f"raw_lang: expected a string, or a list of them for a batch, got a {type(meta_obs.raw_lang).__name__}")


def _is_batch(meta_obs: MetaObs) -> bool:
    return any(value is not None and value.ndim == axes[1] for name, axes in _AXES.items() for value in [getattr(meta_obs, name)])


def _actions(element: Any) -> Any:
    """The ``MetaAction`` of every environment, whether the server sent dicts or objects."""
    each = element.reshape(-1).tolist() if isinstance(element, np.ndarray) else [element]
    found = np.empty(len(each), object)
    for row, action in enumerate(each):
        plain = action.state if isinstance(action, Record) else action
        found[row] = MetaAction(**{field.name: plain[field.name] for field in fields(MetaAction) if field.name in plain})
    return found


def example(step: int) -> MetaObs:
    """An observation like those of the default model's task."""
    random = np.random.default_rng(step)
    return MetaObs(
        state=random.standard_normal(STATE_DIM),
        image=random.integers(0, 255, (1, 3, 480, 640), dtype=np.uint8),
        raw_lang="Transfer the red cube from the right arm to the left arm.",
        timestep=step,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Send observations to a policy server.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--num_requests", type=int, default=5)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds between two requests")
    given = parser.parse_args()
    client = PolicyClient(given.host, given.port)
    try:
        client.connect()
        for request in range(given.num_requests):
            observation = example(request)
            started_s = time.perf_counter()
            actions = client.send_meta_obs(observation)
            took_ms = 1000 * (time.perf_counter() - started_s)
            first = f", the first of {len(actions[0])} entries" if actions else ": its log says why"
            print(
                f"Request {request + 1}/{given.num_requests}: received {len(actions)} actions in {took_ms:.1f} ms{first}",
                flush=True,
            )
            if request + 1 < given.num_requests:
                time.sleep(given.delay)
    except ConnectionError as error:
        print(f"{type(error).__name__}: {error}\nIs the server running? Is the port right? Does a firewall block it?", flush=True)
        return 1
    finally:
        client.disconnect()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
