"""Length-prefixed frames over TCP or Unix sockets: four bytes of big-endian length, then that many bytes.

The same framing as IL-Studio's wire. It has no opening, no text frames and no last words: a server that turns a peer away just
closes. A length over the limit is refused before memory is taken; the greetings of foreign wires read as such lengths, so
the peer that speaks HTTP to this port is recognised, told, and closed at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlink.address import Address
from actlink.dialects._base import Buffer, Frame
from actlink.errors import ConfigError, LinkClosedError, LocalProtocolError, RemoteProtocolError
from actlink.transports import _base
from actlink.transports._base import Limits, Pages
from actlink.transports._blocking import BlockingSocket, Deadline
from actlink.transports._buffers import Buffers, Inbox, flat
from actlink.transports._framing import Framing, Happening, Opened
from actlink.transports._greetings import recognise
from actlink.transports._http import refuse_greeting
from actlink.transports._listening import StreamListener
from actlink.transports._tls import TlsClient, TlsServer

_PREFIX = struct.Struct(">I")


_LONGEST = 2**32 - 1

_HINTS = {
    "HTTP": "; is its address a WebSocket one (ws:// instead of tcp://)?",
    "TLS": "; connect with tcps:// instead of tcp://",
}


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of a ``tcp`` or ``unix`` address."""

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        if self.max_frame_bytes > _LONGEST:
            raise ConfigError(f"max_frame_bytes: a length has four bytes, so at most {_LONGEST}, got {self.max_frame_bytes}")


class Listener(StreamListener):
    """Accepts peers at a TCP port or a Unix socket."""

    def __init__(self, address: Address, config: Config, pages: Pages | None = None, tls: TlsServer | None = None) -> None:
        super().__init__(address, config, None, tls)
        self._spoken = f"{address.dialect}+{address.scheme}"

    def _framing(self) -> Framing:
        return _ServerFraming(Inbox(self._buffers), self._limits.max_frame_bytes, self._spoken)


def connect(
    address: Address, config: Config, *, token: str | None = None, timeout_s: float = 10.0, tls: TlsClient | None = None
) -> _base.Link:
    """Connect; ``ConnectError`` says what to check. This wire has no place for a ``token``: the dialect carries it."""
    return Link(BlockingSocket(address, timeout_s, tls), config)


class FrameReader:
    """Bytes to frame bodies. Sans-I/O."""

    def __init__(self, inbox: Inbox, max_bytes: int) -> None:
        self._inbox = inbox
        self._max_bytes = max_bytes

    def read(self) -> memoryview | None:
        """The next whole body; None until more bytes have come. ``RemoteProtocolError`` for a length over the limit."""
        inbox = self._inbox
        body = inbox.body
        if body is None:
            staged = inbox.staged
            if len(staged) < _PREFIX.size:
                return None
            (size,) = _PREFIX.unpack_from(staged)
            if size > self._max_bytes:
                raise RemoteProtocolError(f"frame of {size} bytes announced; at most {self._max_bytes} are allowed")
            inbox.skip(_PREFIX.size)
            body = inbox.begin(size)
        return inbox.finish() if inbox.received == len(body) else None


class _ServerFraming(Framing):
    def __init__(self, inbox: Inbox, max_bytes: int, spoken: str) -> None:
        self._inbox = inbox
        self._reader = FrameReader(inbox, max_bytes)
        self._spoken = spoken
        self._new = True

    @property
    def idle(self) -> bool:
        return self._inbox.idle

    def buffer(self) -> memoryview:
        return self._inbox.buffer()

    def filled(self, count: int) -> Iterator[Happening]:
        self._inbox.filled(count)
        if self._new:
            self._new = False
            yield Opened()
        while True:
            try:
                body = self._reader.read()
            except RemoteProtocolError as error:
                yield refuse_greeting(bytes(self._inbox.staged[:4]), error, self._spoken)
                return
            if body is None:
                return
            yield Frame((body,))

    def welcome(self) -> bytes:
        return b""

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        return (_PREFIX.pack(frame.size), *frame.parts)

    def goodbye(self, reason: str, error: bool) -> bytes:
        return b""


class Link(_base.Link):
    """A client's connection."""

    def __init__(self, sock: BlockingSocket, config: Config) -> None:
        self._socket = sock
        self._max_bytes = config.max_frame_bytes
        self._inbox = Inbox(Buffers())
        self._reader = FrameReader(self._inbox, config.max_frame_bytes)

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        pieces: list[memoryview] = []
        for frame in frames:
            size = frame.size
            if size > self._max_bytes:
                raise LocalProtocolError(f"{self._socket.where}: frame of {size} bytes; at most {self._max_bytes} are allowed")
            pieces.append(memoryview(_PREFIX.pack(size)))
            pieces += [flat(part) for part in frame.parts]
        self._socket.send(pieces, Deadline(timeout_s))

    def receive(self, timeout_s: float | None) -> Frame:
        deadline = Deadline(timeout_s)
        while True:
            try:
                body = self._reader.read()
            except RemoteProtocolError as error:
                raise self._refuse(error) from None
            if body is not None:
                return Frame((body,))
            count = self._socket.receive_into(self._inbox.buffer(), deadline)
            if count == 0:
                raise self._ended()
            self._inbox.filled(count)

    def close(self) -> None:
        self._socket.shut("closed on this side")

    def _refuse(self, error: RemoteProtocolError) -> RemoteProtocolError:
        foreign = recognise(bytes(self._inbox.staged[:4]))
        reason = f"this server speaks {foreign}" if foreign else str(error)
        hint = _HINTS.get(foreign, "")
        self._socket.shut(reason)
        return RemoteProtocolError(f"{self._socket.where}: {reason}{hint}")

    def _ended(self) -> LinkClosedError:
        where = "" if self._inbox.idle else " in the middle of a frame"
        self._socket.shut(f"the server closed the connection{where}")
        return LinkClosedError(f"{self._socket.where}: the server closed the connection{where}")
