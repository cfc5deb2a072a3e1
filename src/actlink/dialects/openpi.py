"""openpi's wire: the server greets, then one WebSocket message of arrays up and one chunk down, in msgpack.

Law: a session is a connection; an error is a text message. ``docs/dialects/openpi.md`` specifies the wire, ``codecs.msgpack_numpy``
has its bytes, ``_openpi_keys`` its names, ``_openpi_own`` what only peers of this package say to each other.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.codecs import msgpack_numpy, msgpack_views
from actlink.dialects import _openpi_keys as keys
from actlink.dialects import _openpi_own as own
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Event,
    Failed,
    Frame,
    Infer,
    Lane,
    Reply,
    ServerDialect,
    Welcome,
)
from actlink.errors import ActlinkError, ConfigError, LocalProtocolError, PolicyError, RemoteProtocolError, from_code
from actlink.spec import Spec
from actlink.types import ActionChunk, Array

DEFAULT_PORTS = {"ws": 8000, "wss": 8000}

_CODED = re.compile(r"([a-z_]{3,32}): (.*)", re.DOTALL)
_CONNECTIONS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Config:
    """Options of an openpi address or listener."""

    default_prompt: str = ""
    """Server: the ``prompt`` of observations that have none, where the policy wants one."""
    reset_pose: tuple[float, ...] = ()
    """Server: joint angles that the greeting names as ``reset_pose``, for openpi's ALOHA client."""
    keep_open: bool = False
    """Server: keep the connection after an error. openpi's client goes on then; openpi's own server closes."""
    keys: str = "dot"
    """Client: how the server names things: dot (as the spec does), slash (observation/top) or nested ({images: {top: ...}})."""
    channels_first: bool = False
    """Client: send images as (channels, height, width), which openpi's ALOHA policies expect."""

    def __post_init__(self) -> None:
        if self.keys not in keys.STYLES:
            raise ConfigError(f"keys: expected one of {', '.join(keys.STYLES)}, got {self.keys!r}")


class Server(ServerDialect):
    """The server's half."""

    transports = ("websocket", "memory")
    any_path = True
    close_code = 1011

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spec: Spec | None = None
        self._previous_ms: float | None = None

    def receive(self, frame: Frame) -> list[Event]:
        if frame.text:
            raise RemoteProtocolError("expected binary messages, got text: this peer does not speak the openpi wire")
        if self._spec is None:
            raise RemoteProtocolError("no model is served here")
        message = msgpack_numpy.read(frame.data)
        if type(message) is not dict:
            raise RemoteProtocolError(f"observation: expected a map, got a {type(message).__name__}")
        told = message.pop(own.KEY, None)
        observation = keys.read(message, self._spec)
        if self._config.default_prompt and "prompt" in self._spec.observation:
            observation.setdefault("prompt", self._config.default_prompt)
        return [Infer((Lane(observation),)) if told is None else own.read_infer(told, observation)]

    def send(self, reply: Reply) -> list[Frame]:
        if isinstance(reply, Welcome):
            self._spec = reply.spec
            greeting: dict[str, Any] = {own.KEY: own.write_welcome(reply)}
            if self._config.reset_pose:
                greeting["reset_pose"] = list(self._config.reset_pose)
            return [Frame(msgpack_numpy.write(greeting))]
        if isinstance(reply, Failed):
            return self._failure(reply.error, reply.fatal)
        return self._answer(reply) if isinstance(reply, Chunks) else []

    def _answer(self, reply: Chunks) -> list[Frame]:
        (result,) = reply.results
        if isinstance(result, ActlinkError):
            return self._failure(result, False)
        timing = {name: float(value) for name, value in reply.timing.items()}
        timing.setdefault("infer_ms", timing.get("server_ms", 0.0))
        if self._previous_ms is not None:
            timing["prev_total_ms"] = self._previous_ms
        self._previous_ms = timing.get("server_ms", timing["infer_ms"])
        return [Frame(msgpack_numpy.write({"actions": result.actions, "server_timing": timing}))]

    def _failure(self, error: ActlinkError, fatal: bool) -> list[Frame]:
        if fatal or not self._config.keep_open:
            self.ended = error
        return [Frame((f"{error.code}: {error}".encode("utf-8", "replace"),), text=True)]


class Client(ClientDialect):
    """The client's half."""

    handshake = True
    announces_spec = None  # ours does, the original does not

    def __init__(self, config: Config) -> None:
        self._config = config
        self._given: Spec | None = None
        self._welcome: Welcome | None = None
        self._asked: deque[tuple[int, int]] = deque()  # step and episode of each request that is not answered yet
        self._knows_us = False

    def prepare(self, spec: Spec | None) -> None:
        self._given = spec

    def send(self, event: Event) -> list[Frame]:
        if not isinstance(event, Infer):
            return []
        if self._welcome is None:
            raise LocalProtocolError("expected the server's greeting before the first request")
        if len(event.lanes) != 1:
            raise LocalProtocolError(f"expected one lane per request, got {len(event.lanes)}")
        (lane,) = event.lanes
        message = keys.write(lane.observation, self._config.keys, self._config.channels_first)
        if self._knows_us:
            message[own.KEY] = own.write_infer(event)
        self._asked.append((lane.step or 0, event.episode or 0))
        return [Frame(msgpack_numpy.write(message))]

    def receive(self, frame: Frame) -> list[Reply]:
        if self._welcome is None:
            if frame.text and _CODED.fullmatch(str(bytes(frame.data[:256]), "utf-8", "replace")):
                return [Failed(_told(bytes(frame.data)), fatal=True)]  # turned away
            self._welcome = self._greeted(frame)
            return [self._welcome]
        if not self._asked:
            raise RemoteProtocolError("got an answer before anything was asked")
        asked = self._asked.popleft()
        if frame.text:
            return [Failed(_told(bytes(frame.data)))]
        return [_chunks(msgpack_numpy.read(frame.data), *asked)]

    def _greeted(self, frame: Frame) -> Welcome:
        if frame.text:
            raise RemoteProtocolError("expected metadata in a binary message, got text: this peer does not speak the openpi wire")
        metadata = msgpack_numpy.read(frame.data)
        if type(metadata) is dict and own.KEY in metadata:
            self._knows_us = True
            return own.read_welcome(metadata[own.KEY])
        self.reset_reconnects = True
        if self._given is None:
            raise RemoteProtocolError(
                "this openpi server does not say what it serves: give its spec (--spec FILE or --like POLICY)"
            )
        # Nobody can resume a session here: each connection is a new one.
        return Welcome(session=f"openpi-{next(_CONNECTIONS)}", spec=self._given)


def _chunks(message: Any, step: int, episode: int) -> Chunks:
    actions = message.get("actions") if type(message) is dict else None
    if not isinstance(actions, np.ndarray) or actions.ndim not in (1, 2):
        raise RemoteProtocolError(
            "answer: expected a map with 'actions', an array of two axes (control steps, entries of an action), got "
            + (f"an array of shape {actions.shape}" if isinstance(actions, np.ndarray) else f"a {type(message).__name__} without")
        )
    rows: Array = actions if actions.ndim == 2 else actions[None]
    return Chunks((ActionChunk(rows, step, episode),), _timing(message.get("server_timing")))


def _timing(given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping):
        return {}
    return {
        name: float(value)
        for name, value in given.items()
        if name.endswith("_ms") and type(value) in (int, float) and math.isfinite(value)
    }


def _told(text: bytes) -> ActlinkError:
    """What a server's text means: ours begins with a code, openpi's is a traceback whose last line says it."""
    if len(text) > msgpack_views.MAX_STRING_BYTES:
        text = text[-msgpack_views.MAX_STRING_BYTES :]
    words = text.decode("utf-8", "replace").strip()
    coded = _CODED.fullmatch(words)
    if coded is not None:
        return from_code(coded[1], coded[2])
    return PolicyError(f"the server says: {words.splitlines()[-1] if words else 'an error'}")
