"""Frames within one process: the fake beside the interface, with everything of a wire but the wire.

A listener is reached under its name (``native+memory://name``) from any thread while it is started. Frames are copied once, as a
wire would: what arrives belongs to the receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.errors import ConfigError, ConnectError, LinkClosedError, LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from actlink.transports import _base
from actlink.transports._base import Limits, Opened, Pages, Receiver
from actlink.transports._receiving import hand_over, receiver_of

logger = logging.getLogger("actlink.transports")

_lock = threading.Lock()
_listening: dict[str, Listener] = {}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of a ``memory`` address."""


class Listener(_base.Listener):
    """Accepts peers of this process under a name."""

    def __init__(self, address: Address, config: Config, pages: Pages | None = None) -> None:
        self._address = address
        self._limits = config
        self._opened: Opened | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[_Connection] = set()

    @property
    def bound(self) -> str:
        return self._address.host

    async def start(self, opened: Opened) -> None:
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        with _lock:
            if self._address.host in _listening:
                raise ConfigError(f"{self._address}: already in use by another listener of this process; choose another name")
            _listening[self._address.host] = self

    async def stop_accepting(self) -> None:
        with _lock:
            if _listening.get(self._address.host) is self:
                del _listening[self._address.host]

    async def close(self) -> None:
        await self.stop_accepting()
        for connection in list(self._connections):
            connection.close("the server is shutting down")
        await asyncio.sleep(0)  # receivers are told in the next round of the loop

    def attach(self, address: Address, config: Config, token: str | None) -> Link:
        """From any thread: one more peer. ``RuntimeError`` if the loop is closed."""
        assert self._loop is not None and self._opened is not None
        connection = _Connection(self._limits, self._loop, self._opened, self._connections)
        connection.model, connection.token = address.model, token
        self._loop.call_soon_threadsafe(connection.begin)
        return Link(address, config, connection, self._loop)


class _Unread:
    """What the server has sent and the client has not taken: from the loop's thread to the client's."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Frame | str] = queue.SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, frame: Frame, limit: int) -> bool:
        """Whether there was room; one frame always has it."""
        with self._lock:
            if self._bytes and self._bytes + frame.size > limit:
                return False
            self._bytes += frame.size
        self._queue.put(frame)
        return True

    def end(self, reason: str) -> None:
        """No frame follows."""
        self._queue.put(reason)

    def get(self, timeout_s: float | None) -> Frame | str:
        """The next frame, or why none follows; ``queue.Empty``."""
        item = self._queue.get(timeout=timeout_s)
        if isinstance(item, Frame):
            with self._lock:
                self._bytes -= item.size
        return item


class _Connection(_base.Connection):
    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop, opened: Opened, present: set[_Connection]) -> None:
        self.peer = f"memory#{next(_numbers)}"
        self.unread = _Unread()
        self._limits = limits
        self._loop = loop
        self._opened = opened
        self._present = present
        self._receiver: Receiver | None = None
        self._ended = False

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if self._ended:
                return
            if frame.size > self._limits.max_frame_bytes:
                self.close(f"a reply of {frame.size} bytes is over the limit of {self._limits.max_frame_bytes}", error=True)
            elif not self.unread.put(_copy(frame), self._limits.write_buffer_bytes):
                self.close(f"the peer reads too slowly: more than {self._limits.write_buffer_bytes} bytes unread", error=True)

    def close(self, reason: str = "", *, error: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        logger.log(logging.WARNING if error else logging.DEBUG, "%s: closing: %s", self.peer, reason or "the peer has finished")
        self.unread.end(reason)
        self._present.discard(self)
        self._loop.call_soon(self._tell, reason)

    def begin(self) -> None:
        """On the loop: the peer is there."""
        if len(self._present) >= self._limits.max_connections:
            self.close(f"the server is full: {self._limits.max_connections} connections are open", error=True)
            return
        self._present.add(self)
        self._receiver = receiver_of(self, self._opened)

    def received(self, frame: Frame) -> None:
        """On the loop: the peer sent a frame."""
        if self._ended or self._receiver is None:
            return
        if frame.size > self._limits.max_frame_bytes:
            self.close(f"message of {frame.size} bytes; at most {self._limits.max_frame_bytes} are allowed", error=True)
            return
        hand_over(self, self._receiver, frame)

    def left(self) -> None:
        """On the loop: the peer has gone."""
        self.close()

    def _tell(self, reason: str) -> None:
        if self._receiver is not None:
            self._receiver.closed(reason)


def connect(address: Address, config: Config, *, token: str | None = None, timeout_s: float = 10.0) -> _base.Link:
    """Reach the listener of that name in this process."""
    with _lock:
        listener = _listening.get(address.host)
        names = ", ".join(_listening) or "none"
    if listener is None:
        raise ConnectError(f"{address}: no listener of that name in this process; there are: {names}")
    try:
        return listener.attach(address, config, token)
    except RuntimeError as error:
        raise ConnectError(f"{address}: the listener's event loop has ended") from error


class Link(_base.Link):
    """A client's connection."""

    def __init__(self, address: Address, config: Config, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._where = str(address)
        self._max_bytes = config.max_frame_bytes
        self._connection = connection
        self._loop = loop
        self._why_closed: str | None = None

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        for frame in frames:
            if frame.size > self._max_bytes:
                raise LocalProtocolError(f"{self._where}: frame of {frame.size} bytes; at most {self._max_bytes} are allowed")
            if self._why_closed is not None:
                raise LinkClosedError(f"{self._where}: {self._why_closed}")
            self._tell(self._connection.received, _copy(frame))

    def receive(self, timeout_s: float | None) -> Frame:
        if self._why_closed is not None:
            raise LinkClosedError(f"{self._where}: {self._why_closed}")
        try:
            item = self._connection.unread.get(timeout_s)
        except queue.Empty:
            raise LinkTimeoutError(f"{self._where}: nothing came within {timeout_s} s") from None
        if isinstance(item, str):
            self._why_closed = f"the server closed the connection: {item or 'without a reason'}"
            raise LinkClosedError(f"{self._where}: {self._why_closed}")
        if item.size > self._max_bytes:
            self.close()
            raise RemoteProtocolError(f"{self._where}: frame of {item.size} bytes; at most {self._max_bytes} are allowed")
        return item

    def close(self) -> None:
        if self._why_closed is None:
            self._why_closed = "closed on this side"
            with contextlib.suppress(LinkClosedError):
                self._tell(self._connection.left)

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError as error:  # the loop is closed
            raise LinkClosedError(f"{self._where}: the server has ended") from error


def _copy(frame: Frame) -> Frame:
    return Frame((bytearray().join(frame.parts),), text=frame.text)
