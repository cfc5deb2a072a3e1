"""WebSocket messages, and plain GETs for health pages on the same port; without compression.

The framing is our own on both sides, because a message of 2.76 MB answered with 5.6 kB took 0.9 ms with it, 1.9 ms with picows as
the server, 2.1 ms with `websockets` as the server and 4.3 ms with `websockets` on both sides (`benchmarks/websocket_libraries.py`,
two shared cores; a bare socket 0.5-1.0 ms). For 200 bytes picows is 24 µs faster, which no policy notices, while here the memory of
a message is its receiver's, fragments, text and limits are judged as they arrive, and the client needs no package.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlink.address import Address
from actlink.dialects._base import Buffer, Frame
from actlink.errors import ConnectError, LinkClosedError, LinkError, LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from actlink.transports import _base
from actlink.transports import _http as http
from actlink.transports import _ws_frames as ws
from actlink.transports import _ws_handshake as handshake
from actlink.transports._base import Limits, Pages
from actlink.transports._blocking import BlockingSocket, Deadline
from actlink.transports._buffers import Buffers, Inbox, flat
from actlink.transports._framing import Ended, Framing, Happening, Opened, Reply
from actlink.transports._greetings import recognise
from actlink.transports._listening import StreamListener
from actlink.transports._sites import Sites
from actlink.transports._tls import TlsClient, TlsServer

_GOODBYE_S = 0.5
"""Seconds a closing client waits for the server's own close frame."""
_MASK_BYTES = 512 * 1024
"""A longer frame is masked and sent piece by piece. Pieces of this size stay in the processor's cache on their way: measured
10-25 % faster for 2.76 MB than the whole at once."""
_SMALL_BYTES = 1024
"""Up to here copying costs less than thinking about how to avoid it."""
_WORDS_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of a ``ws`` address."""

    origins: tuple[str, ...] = ()
    """Web pages of other hosts whose scripts may connect, as ``https://host[:port]``, written with commas."""
    hosts: tuple[str, ...] = ()
    """Names by which clients may call this server, written with commas; IP addresses, localhost and the machine's name always may.
    None given: any name where other machines can connect, no further one on a loopback address."""


class Listener(StreamListener):
    """Accepts WebSocket peers; ``pages`` answers plain requests."""

    carries_token = True

    def __init__(self, address: Address, config: Config, pages: Pages | None = None, tls: TlsServer | None = None) -> None:
        super().__init__(address, config, pages, tls)
        self._sites = Sites(address, config.hosts, config.origins)

    def _framing(self) -> Framing:
        return _ServerFraming(Inbox(self._buffers), self._limits.max_frame_bytes, self._address, self._sites, self._pages)


def connect(
    address: Address, config: Config, *, token: str | None = None, timeout_s: float = 10.0, tls: TlsClient | None = None
) -> _base.Link:
    """Connect and open the WebSocket; ``ConnectError`` says what to check, or what the server said."""
    deadline = Deadline(timeout_s)
    link = Link(BlockingSocket(address, timeout_s, tls), config)
    try:
        link.open(address, token, deadline)
    except LinkTimeoutError as error:
        link.drop("the opening failed")
        raise ConnectError(f"{address}: connected, but got no WebSocket opening within {timeout_s:g} s; check the port") from error
    except LinkClosedError as error:
        raise ConnectError(f"{address}: the server closed the connection during the WebSocket opening; check the port") from error
    except BaseException:
        link.drop("the opening failed")
        raise
    return link


class _ServerFraming(Framing):
    opening = True

    def __init__(self, inbox: Inbox, max_bytes: int, address: Address, sites: Sites, pages: Pages | None) -> None:
        self._inbox = inbox
        self._reader = ws.FrameReader(inbox, masked=True, max_bytes=max_bytes)
        self._requests = http.RequestReader(inbox, f"{address.dialect}+{address.scheme}")
        self._sites = sites
        self._pages = pages
        self._request: http.Head | None = None

    @property
    def idle(self) -> bool:
        return self._inbox.idle if self.opening else self._reader.idle

    def buffer(self) -> memoryview:
        return self._inbox.buffer()

    def filled(self, count: int) -> Iterator[Happening]:
        self._inbox.filled(count)
        if self.opening:
            request = self._requests.read()
            if request is None:
                return
            verdict = request if isinstance(request, Ended) else self._judge(request)
            yield verdict
            if isinstance(verdict, Ended):
                return
        try:
            while (found := self._reader.read()) is not None:
                happening = self._happening(found)
                if happening is not None:
                    yield happening
                if isinstance(happening, Ended):
                    return
        except ws.FrameError as error:
            yield Ended(error.reason, self._close_frame(error.code, error.reason), error=True)

    def welcome(self) -> bytes:
        assert self._request is not None
        self.opening = False
        return handshake.accept(self._request)

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        return (ws.header(ws.TEXT if frame.text else ws.BINARY, frame.size), *frame.parts)

    def goodbye(self, reason: str, error: bool) -> bytes:
        if self.opening:
            return http.answer(503, f"{reason}\n".encode()) if reason else b""
        code = (self.close_code or ws.POLICY_VIOLATION) if error else ws.GOING_AWAY if reason else ws.NORMAL
        return self._close_frame(code, reason)

    def _close_frame(self, code: int, reason: str) -> bytes:
        return ws.control(ws.CLOSE, ws.close_payload(code, reason), masked=False)

    def _judge(self, request: http.Head) -> Opened | Ended:
        if not handshake.wants_upgrade(request):
            return Ended(f"{request.method} {request.path[:80]}", http.page(request, self._pages, self._sites.refusal(request)))
        refused = handshake.refusal(request, self._sites)
        if refused is not None:
            return Ended(refused[1], refused[0], error=True)
        self._request = request
        return Opened(request.path.strip("/"), handshake.credential(request))

    def _happening(self, found: ws.Message | ws.Control) -> Happening | None:
        if isinstance(found, ws.Message):
            return Frame((found.data,), text=found.text)
        if found.opcode == ws.PING:
            return Reply(ws.control(ws.PONG, found.payload, masked=False))
        if found.opcode == ws.PONG:
            return None
        return Ended(f"closed by the peer{_because(found)}", ws.control(ws.CLOSE, found.payload[:2], masked=False))


class Link(_base.Link):
    """A client's connection."""

    def __init__(self, sock: BlockingSocket, config: Config) -> None:
        self._socket = sock
        self._max_bytes = config.max_frame_bytes
        self._inbox = Inbox(Buffers())
        self._reader = ws.FrameReader(self._inbox, masked=False, max_bytes=config.max_frame_bytes)
        self._masks = Buffers()

    def open(self, address: Address, token: str | None, deadline: Deadline) -> None:
        """The client's half of the opening."""
        where = self._socket.where
        key = handshake.new_key()
        self._socket.send([memoryview(handshake.upgrade_request(address, key, token))], deadline)
        while (end := bytes(self._inbox.staged).find(http.END_OF_HEAD)) < 0:
            start = bytes(self._inbox.staged[:5])
            if len(self._inbox.staged) >= http.MAX_HEAD or start != b"HTTP/"[: len(start)]:
                hint = "; it speaks TLS: connect with wss:// instead of ws://" if recognise(start) == "TLS" else ""
                raise RemoteProtocolError(f"{where}: this server does not speak WebSocket{hint}")
            self._fill(deadline)
        response = http.parse_head(bytes(self._inbox.staged[:end]))
        self._inbox.skip(end + len(http.END_OF_HEAD))
        body = b"" if response.first[1] == "101" else self._words(response, deadline)
        handshake.check_response(response, key, body, where)

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        deadline = Deadline(timeout_s)
        for frame in frames:
            size = frame.size
            if size > self._max_bytes:
                raise LocalProtocolError(f"{self._socket.where}: frame of {size} bytes; at most {self._max_bytes} are allowed")
            self._send_one(frame, size, deadline)

    def receive(self, timeout_s: float | None) -> Frame:
        deadline = Deadline(timeout_s)
        while True:
            try:
                found = self._reader.read()
            except ws.FrameError as error:
                raise self._refuse(error) from None
            if isinstance(found, ws.Message):
                return Frame((found.data,), text=found.text)
            if found is None:
                self._fill(deadline)
            elif found.opcode == ws.PING:
                self._say(ws.PONG, found.payload)
            elif found.opcode == ws.CLOSE:
                self._say(ws.CLOSE, found.payload[:2])
                raise self._ended(f"the server closed the connection{_because(found)}")

    def close(self) -> None:
        deadline = Deadline(_GOODBYE_S)
        with contextlib.suppress(LinkError, ws.FrameError):
            self._say(ws.CLOSE, ws.close_payload(ws.NORMAL, ""))
            while not _is_close(found := self._reader.read()):
                if found is None:
                    self._fill(deadline)
        self.drop("closed on this side")

    def drop(self, why: str) -> None:
        """Close without a word."""
        self._socket.shut(why)

    def _send_one(self, frame: Frame, size: int, deadline: Deadline) -> None:
        key = os.urandom(4)
        head = ws.header(ws.TEXT if frame.text else ws.BINARY, size, key)
        if size <= _SMALL_BYTES:
            self._socket.send([memoryview(head + ws.xored(b"".join(frame.parts), key))], deadline)
            return
        masked = self._masks.take(min(size, _MASK_BYTES))
        ready = [memoryview(head)]
        for group in _groups([flat(part) for part in frame.parts], _MASK_BYTES):
            ready.append(ws.mask(group, key, masked))
            self._socket.send(ready, deadline)
            ready = []

    def _say(self, opcode: int, payload: bytes) -> None:
        self._socket.send([memoryview(ws.control(opcode, payload, masked=True))], Deadline(_GOODBYE_S))

    def _fill(self, deadline: Deadline) -> None:
        count = self._socket.receive_into(self._inbox.buffer(), deadline)
        if count == 0:
            raise self._ended("the server closed the connection" + ("" if self._reader.idle else " in the middle of a message"))
        self._inbox.filled(count)

    def _words(self, response: http.Head, deadline: Deadline) -> bytes:
        """What the server says beside a refusal, as far as it comes."""
        expected = response.header("content-length")
        wanted = min(int(expected), _WORDS_BYTES) if expected.isdecimal() else _WORDS_BYTES
        with contextlib.suppress(LinkError):
            while len(self._inbox.staged) < wanted:
                self._fill(deadline)
        return bytes(self._inbox.staged[:wanted])

    def _refuse(self, error: ws.FrameError) -> RemoteProtocolError:
        with contextlib.suppress(LinkError):
            self._say(ws.CLOSE, ws.close_payload(error.code, error.reason))
        self.drop(error.reason)
        return RemoteProtocolError(f"{self._socket.where}: {error.reason}")

    def _ended(self, why: str) -> LinkClosedError:
        self.drop(why)
        return LinkClosedError(f"{self._socket.where}: {why}")


def _groups(pieces: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The pieces cut into groups of ``size`` bytes, the last one shorter."""
    group: list[memoryview] = []
    room = size
    for piece in pieces:
        while len(piece) > room:
            yield [*group, piece[:room]]
            piece, group, room = piece[room:], [], size
        if len(piece):
            group.append(piece)
            room -= len(piece)
    if group:
        yield group


def _is_close(found: ws.Message | ws.Control | None) -> bool:
    return isinstance(found, ws.Control) and found.opcode == ws.CLOSE


def _because(close: ws.Control) -> str:
    """Code and reason of a close frame, where they say more than 'finished'."""
    if close.code in (ws.NORMAL, ws.NO_STATUS) and not close.reason:
        return ""
    return f": {close.reason} ({close.code})" if close.reason else f" ({close.code})"
