"""vibe-rl's wire: one WebSocket message of arrays up, one action down, in msgpack.

Law: a session is a connection, a step a message. The server's half answers each observation with one action unless the listener
says ``chunk=1``; the client's half takes whatever a server answers with. ``docs/dialects/vibe.md`` specifies the wire;
``_vibe_arrays`` has its bytes, ``_keys`` its names.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from actlink.dialects import _vibe_arrays as arrays
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Event,
    Execution,
    Failed,
    Frame,
    Infer,
    Lane,
    Reply,
    ServerDialect,
    Welcome,
)
from actlink.dialects._keys import IMAGES, Keys
from actlink.errors import ActlinkError, LocalProtocolError, RemoteProtocolError
from actlink.spec import Spec
from actlink.types import ActionChunk, Array, Observation

DEFAULT_PORTS = {"ws": 8000, "wss": 8000}

MAX_LANES = 256

_ONLY = "obs"
_MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Config:
    """Options of a vibe address or listener."""

    chunk: bool | Literal[0, 1] = False
    """Server: answer with the policy's whole chunk, (action_horizon, action_dim), instead of one action per observation."""
    raw: bool = False
    """Server: the policy reads and writes messages itself: its observation is ``message``, its action uint8 of any length."""


class Server(ServerDialect):
    """The server's half."""

    transports = ("websocket", "memory")
    any_path = True

    def __init__(self, config: Config) -> None:
        self._whole_chunks = bool(config.chunk)
        self._raw = config.raw
        if not config.chunk and not config.raw:
            self.execution = Execution("receding", {"execution_horizon": 1})
        self._spec: Spec | None = None
        self._batched: deque[bool] = deque()  # for each request that is not answered yet, in order

    def receive(self, frame: Frame) -> list[Event]:
        if frame.text:
            raise RemoteProtocolError("expected binary messages, got text: this peer does not speak the vibe wire")
        if self._spec is None:
            raise RemoteProtocolError("no model is served here")
        if self._raw:
            return [Infer((Lane({_MESSAGE: np.frombuffer(frame.data, np.uint8)}),))]
        observation, _ = arrays.read(frame.data)
        renamed = _renamed(observation, self._spec)
        count = _batch_size(renamed, self._spec)
        lanes = [renamed] if count is None else [_row(renamed, self._spec, index) for index in range(count)]
        self._batched.append(count is not None)
        return [Infer(tuple(Lane(_shaped(lane, self._spec)) for lane in lanes))]

    def send(self, reply: Reply) -> list[Frame]:
        if isinstance(reply, Welcome):
            self._spec = reply.spec
        elif isinstance(reply, Failed):
            self.ended = reply.error  # this wire has no word for an error but the end
        elif isinstance(reply, Chunks):
            return self._answer(reply)
        return []

    def _answer(self, reply: Chunks) -> list[Frame]:
        failed = next((result for result in reply.results if isinstance(result, ActlinkError)), None)
        if failed is not None:
            return self.send(Failed(failed))
        if self._raw:
            return [Frame((result.actions.reshape(-1).data,)) for result in reply.results if isinstance(result, ActionChunk)]
        batched = self._batched.popleft() if self._batched else len(reply.results) > 1
        rows = [self._action(result) for result in reply.results if isinstance(result, ActionChunk)]
        latency_ms = reply.timing.get("server_ms", reply.timing.get("infer_ms", 0.0))
        action = np.stack(rows) if batched else rows[0]
        return [Frame(arrays.write({"action": action}, {"latency_ms": float(latency_ms)}))]

    def _action(self, chunk: ActionChunk) -> Array:
        """float32 ``(action_dim,)`` or int32 ``()``; with a leading axis ``action_horizon`` where whole chunks are wanted."""
        discrete = chunk.actions.dtype.kind in "iu"
        actions = chunk.actions.astype(np.int32 if discrete else np.float32)
        if discrete and actions.shape[1] == 1:
            actions = actions[:, 0]
        return actions if self._whole_chunks else actions[0]


class Client(ClientDialect):
    """The client's half; understands servers that answer with one action and those that answer with chunks."""

    reset_reconnects = True

    def __init__(self, config: Config) -> None:
        self._spec: Spec | None = None
        self._asked: deque[tuple[int, int]] = deque()  # step and episode of each request that is not answered yet

    def prepare(self, spec: Spec | None) -> None:
        self._spec = spec

    def send(self, event: Event) -> list[Frame]:
        if not isinstance(event, Infer):
            return []
        if self._spec is None:
            raise LocalProtocolError("this wire announces no spec: one must be given before the first request")
        if len(event.lanes) != 1:
            raise LocalProtocolError(f"expected one lane per request, got {len(event.lanes)}")
        (lane,) = event.lanes
        self._asked.append((lane.step or 0, event.episode or 0))
        return [Frame(arrays.write(_written(lane.observation, self._spec), {}))]

    def receive(self, frame: Frame) -> list[Reply]:
        if frame.text:
            raise RemoteProtocolError("expected binary messages, got text: this peer does not speak the vibe wire")
        found, meta = arrays.read(frame.data)
        if "action" not in found:
            raise RemoteProtocolError(
                f"expected an 'action', got the keys: {', '.join(found) or 'none'}. An openpi server greets first: try openpi+ws://"[
                    :1000
                ]
            )
        if not self._asked:
            raise RemoteProtocolError("got an answer before anything was asked")
        chunk = ActionChunk(_rows(found["action"], self._spec), *self._asked.popleft())
        timing = {"server_ms": arrays.number(meta, "latency_ms")} if "latency_ms" in meta else {}
        return [Chunks((chunk,), timing)]


def _renamed(observation: dict[str, Array | str], spec: Spec) -> dict[str, Any]:
    """The observation under the spec's names; a lone ``obs`` is what the spec asks for, where that is one thing."""
    if list(observation) == [_ONLY] and _ONLY not in spec.observation:
        needed = [key for key, field in spec.observation.items() if field.required] or list(spec.observation)
        if len(needed) == 1:
            return {needed[0]: observation[_ONLY]}
        if "state" in needed:
            return {"state": observation[_ONLY]}
    return Keys(spec).renamed(observation)


def _batch_size(observation: dict[str, Any], spec: Spec) -> int | None:
    """Rows of a batch; None for a single observation. A batch has one axis more than the spec in every array that it names."""
    found = [(key, value) for key, value in observation.items() if isinstance(value, np.ndarray) and key in spec.observation]
    if not found or any(value.ndim != len(spec.observation[key].shape) + 1 for key, value in found):
        return None
    sizes = {value.shape[0] for _, value in found}
    if len(sizes) != 1 or not 1 <= max(sizes) <= MAX_LANES:
        shown = ", ".join(f"{key} {value.shape[0]}" for key, value in found)
        raise RemoteProtocolError(f"batch: expected the same number of rows, 1 to {MAX_LANES}, in each array; got {shown}")
    return int(max(sizes))


def _row(observation: dict[str, Any], spec: Spec, index: int) -> dict[str, Any]:
    """One observation of a batch; texts, and what the spec does not name, are the same in each."""
    return {
        key: value[index] if isinstance(value, np.ndarray) and key in spec.observation else value
        for key, value in observation.items()
    }


def _shaped(observation: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """A number may come as an array of one entry: numpy's ``ascontiguousarray``, which clients call, makes one of it."""
    return {
        key: value.reshape(())
        if isinstance(value, np.ndarray) and value.shape == (1,) and key in spec.observation and spec.observation[key].shape == ()
        else value
        for key, value in observation.items()
    }


def _written(observation: Observation, spec: Spec) -> dict[str, Array | str]:
    """What a lone value, the state and the only camera are called on this wire; everything else has the spec's name."""
    if len(spec.observation) == 1:
        return dict(zip((_ONLY,), observation.values(), strict=False))
    camera = f"{IMAGES}{next(iter(spec.cameras))}" if len(spec.cameras) == 1 else ""
    return {"image" if key == camera and "image" not in observation else key: value for key, value in observation.items()}


def _rows(action: Array | str, spec: Spec | None) -> Array:
    """``(action_horizon, action_dim)`` out of any of the shapes that servers answer with."""
    if isinstance(action, str) or action.ndim > 2:
        raise RemoteProtocolError("'action': expected an array of at most two axes (control steps, entries of an action)")
    discrete = spec is not None and spec.action.dtype == "int64" and spec.action_dim == 1
    if discrete and action.ndim < 2:
        return action.reshape(-1, 1)
    return action.reshape(1, -1) if action.ndim < 2 else action
