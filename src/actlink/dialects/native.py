"""The native wire: one msgpack header per message, arrays as raw bytes beside it.

Law: knows the order of messages and the session; ``_native_messages`` has their fields, ``codecs.msgpack_arrays`` their bytes.
``docs/wire.md`` is the specification.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.codecs import images, msgpack_arrays
from actlink.dialects import _native_fields as field
from actlink.dialects import _native_messages as messages
from actlink.dialects._base import (
    Bye,
    Chunks,
    ClientDialect,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Ping,
    Poll,
    Pong,
    Reply,
    Reset,
    Say,
    ServerDialect,
    Welcome,
)
from actlink.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from actlink.types import Array

logger = logging.getLogger("actlink.dialects.native")

DEFAULT_PORTS = {"ws": 8000, "wss": 8000, "tcp": 8001, "tcps": 8001}

DEFAULT_MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Bound on what the JPEGs of one message may decode to, where the welcome names no ``max_frame_bytes``."""


@dataclass(frozen=True, slots=True)
class Config:
    """Options of a native address or listener."""

    jpeg: bool = False
    """Server: let clients send images as JPEG. Client: do so where the server lets it (lossy; for slow links)."""
    jpeg_quality: int = 90
    """Client: 1 (smallest) to 100 (best)."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality: expected 1 to 100, got {self.jpeg_quality}")


class _State(enum.Enum):
    NEW = "a hello first"
    GREETED = "nothing but a bye before the welcome"
    OPEN = "ping, infer, reset or bye"
    LEFT = "nothing after a bye"


class Server(ServerDialect):
    """The server's half."""

    transports = ("websocket", "tcp", "memory")
    handshake = True
    carries_token = True

    def __init__(self, config: Config) -> None:
        if config.jpeg:
            images.backend()
        self._config = config
        self._state = _State.NEW
        self._session: str | None = None
        self._jpeg: frozenset[str] = frozenset()
        self._max_decoded_bytes = DEFAULT_MAX_FRAME_BYTES

    def receive(self, frame: Frame) -> list[Event]:
        message = _opened(frame)
        kind = field.text(message, "type", "message")
        if kind == "hello" and self._state is _State.NEW:
            hello = messages.read_hello(message)
            self._state = _State.GREETED
            return [hello]
        if kind == "bye" and self._state in (_State.GREETED, _State.OPEN):
            self._state = _State.LEFT
            return [Bye()]
        if kind not in ("ping", "infer", "reset") or self._state is not _State.OPEN:
            raise RemoteProtocolError(f"expected {self._state.value}, got a message of type {kind!r}")
        if kind == "ping":
            return [messages.read_ping(message)]
        _expect_session(message, kind, self._session)
        return [messages.read_reset(message) if kind == "reset" else messages.read_infer(message, self._images())]

    def send(self, reply: Reply) -> list[Frame]:
        return [Frame(msgpack_arrays.encode(self._written(reply)))]

    def _written(self, reply: Reply) -> messages.Message:
        if isinstance(reply, Failed):
            # A refused hello leaves nothing to talk about.
            return messages.write_failed(reply, fatal=reply.fatal or self._session is None)
        if isinstance(reply, Welcome):
            return self._welcome(reply)
        if self._session is None:
            raise LocalProtocolError(f"expected a welcome or a failure before {type(reply).__name__}")
        if isinstance(reply, Pong):
            return messages.write_pong(reply)
        if isinstance(reply, Chunks):
            return messages.write_chunks(reply, self._session)
        return messages.write_done(reply, self._session)

    def _welcome(self, reply: Welcome) -> messages.Message:
        if self._state is not _State.GREETED:
            raise LocalProtocolError("expected one hello before the welcome, and one welcome after it")
        cameras = tuple(key for key, value in reply.spec.observation.items() if value.is_image)
        jpeg = (reply.jpeg or cameras) if self._config.jpeg else ()
        message = messages.write_welcome(reply, jpeg)
        self._state, self._session, self._jpeg = _State.OPEN, reply.session, frozenset(jpeg)
        self._max_decoded_bytes = reply.limits.get("max_frame_bytes", DEFAULT_MAX_FRAME_BYTES)
        return message

    def _images(self) -> _Images:
        return _Images(self._jpeg, self._max_decoded_bytes)


class Client(ClientDialect):
    """The client's half."""

    handshake = True
    announces_spec = True
    numbered = True

    def __init__(self, config: Config) -> None:
        if config.jpeg:
            images.backend()
        self._config = config
        self._greeted = False
        self._welcome: Welcome | None = None

    def send(self, event: Event) -> list[Frame]:
        if isinstance(event, Poll | Say) or (isinstance(event, Bye) and not self._greeted):
            return []
        frame = Frame(msgpack_arrays.encode(self._written(event)))
        limit = self._welcome.limits.get("max_frame_bytes") if self._welcome else None
        if limit is not None and frame.size > limit:
            raise LocalProtocolError(f"{type(event).__name__}: the server takes frames of at most {limit} bytes, got {frame.size}")
        return [frame]

    def receive(self, frame: Frame) -> list[Reply]:
        message = _opened(frame)
        if self._welcome is None and "type" not in message:
            raise RemoteProtocolError(
                "this peer does not speak the native wire: its message has no 'type'. An openpi server greets so: try openpi+ws://"
            )
        kind = field.text(message, "type", "message")
        if kind == "error" and self._greeted:
            return [messages.read_failed(message)]
        if kind == "welcome" and self._greeted and self._welcome is None:
            self._welcome = messages.read_welcome(message)
            self._warn()
            return [self._welcome]
        if kind not in ("pong", "chunks", "done") or self._welcome is None:
            expected = "pong, chunks, done or error" if self._welcome else "a welcome after our hello"
            raise RemoteProtocolError(f"expected {expected}, got a message of type {kind!r}")
        if kind == "pong":
            return [messages.read_pong(message)]
        _expect_session(message, kind, self._welcome.session)
        return [messages.read_done(message) if kind == "done" else messages.read_chunks(message, self._welcome.session)]

    def _written(self, event: Hello | Ping | Infer | Reset | Bye) -> messages.Message:
        if isinstance(event, Hello):
            if self._greeted:
                raise LocalProtocolError("expected one hello per connection, got a second")
            self._greeted = True
            return messages.write_hello(event)
        if isinstance(event, Bye):
            return {"type": "bye"}
        if self._welcome is None:
            raise LocalProtocolError(f"expected a hello and its welcome before {type(event).__name__}")
        if isinstance(event, Ping):
            return messages.write_ping(event)
        if isinstance(event, Infer):
            return messages.write_infer(event, self._welcome.session, self._packed)
        return messages.write_reset(event, self._welcome.session)

    def _packed(self, key: str, value: Array | str) -> Any:
        """Images as JPEG where both sides want that; everything else as it is."""
        assert self._welcome is not None
        if not self._config.jpeg or key not in self._welcome.jpeg or isinstance(value, str):
            return value
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != images.CHANNELS or not value.size:
            return value
        return {"jpeg": np.frombuffer(images.encode_jpeg(value, self._config.jpeg_quality), np.uint8)}

    def _warn(self) -> None:
        if self._config.jpeg and self._welcome and not self._welcome.jpeg and self._welcome.spec.cameras:
            logger.warning("this server does not take JPEG (its listener's option jpeg=true); images are sent raw")


class _Images:
    """Reads the JPEGs of one message, which together may not say more than the raw frame could."""

    def __init__(self, allowed: frozenset[str], max_bytes: int) -> None:
        self._allowed = allowed
        self._left_bytes = max_bytes

    def __call__(self, key: str, value: Any, where: str) -> Array:
        where = f"{where}.observation[{key!r}]"
        encoded = value.get("jpeg") if type(value) is dict else None
        if not isinstance(encoded, np.ndarray) or encoded.dtype != np.uint8 or encoded.ndim != 1:
            raise RemoteProtocolError(
                f"{where}: expected an array, a string or {{'jpeg': uint8 (n,)}}, got a {type(value).__name__}"
            )
        if key not in self._allowed:
            raise RemoteProtocolError(f"{where}: JPEG is allowed for: {', '.join(sorted(self._allowed)) or 'no key'}")
        try:
            height, width, channels = images.jpeg_size(encoded.data)
            self._left_bytes -= height * width * channels
            if self._left_bytes < 0:
                raise RemoteProtocolError("the images of this message are larger than a raw frame may be")
            return images.decode_jpeg(encoded.data)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{where}: {error}") from None


def _opened(frame: Frame) -> dict[str, Any]:
    if frame.text:
        raise RemoteProtocolError("expected binary messages, got text: this peer does not speak the native wire")
    return msgpack_arrays.decode(frame.data)


def _expect_session(message: dict[str, Any], kind: str, session: str | None) -> None:
    if field.text(message, "session", kind) != session:
        raise RemoteProtocolError(f"{kind}: 'session': expected the one of the welcome, got another")
