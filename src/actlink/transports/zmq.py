"""ZeroMQ request and reply over TCP (``zmq://``) or a Unix socket (``ipc://``): frames for REQ and DEALER sockets.

The server behaves as a ROUTER and the client as a REQ socket, by speaking ZeroMQ's wire themselves (``_zmtp``): libzmq is not
needed. Through libzmq a server could not see a foreign greeting, give a started frame a deadline, or close one peer's connection;
here peers have the limits of all stream transports. One connection is one peer. A client whose reply was lost takes a fresh
connection, and is never stuck as a REQ socket would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlink.address import Address
from actlink.dialects._base import Buffer, Frame
from actlink.errors import (
    ConfigError,
    ConnectError,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    RemoteProtocolError,
    UnauthorizedError,
)
from actlink.transports import _base, _curve, _zmtp
from actlink.transports._base import Limits, Pages
from actlink.transports._blocking import BlockingSocket, Deadline
from actlink.transports._buffers import Buffers, Inbox, flat
from actlink.transports._framing import Ended, Framing, Happening, Opened, Reply
from actlink.transports._greetings import recognise
from actlink.transports._http import refuse_greeting
from actlink.transports._listening import StreamListener

_ANSWER_S = 5.0
"""Seconds that an answer of the wire itself may take; whoever waits for a message may have less time left, or none."""
_SERVER, _CLIENT = b"ROUTER", b"REQ"
_MAY_ASK, _MAY_ANSWER = (b"REQ", b"DEALER"), (b"REP", b"ROUTER")


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of a ``zmq`` or ``ipc`` address."""


class Listener(StreamListener):
    """Accepts REQ and DEALER sockets at a TCP port or a Unix socket. With ``curve`` a TCP port speaks CURVE and nothing else."""

    speaks_curve = True

    def __init__(
        self, address: Address, config: Config, pages: Pages | None = None, curve: _curve.CurveServer | None = None
    ) -> None:
        super().__init__(address, config, None)
        self._spoken = f"{address.dialect}+{address.scheme}"
        self._keys = None if curve is None or address.path else _curve.server_keys(curve)

    def _framing(self) -> Framing:
        opening = None if self._keys is None else _curve.ServerOpening(self._keys)
        return _ServerFraming(Inbox(self._buffers), self._limits.max_frame_bytes, self._spoken, opening)


def connect(
    address: Address,
    config: Config,
    *,
    token: str | None = None,
    timeout_s: float = 10.0,
    curve: _curve.CurveClient | None = None,
) -> _base.Link:
    """Connect to a REP or ROUTER socket; ``ConnectError`` says what to check. This wire has no place for a ``token``."""
    deadline = Deadline(timeout_s)
    keys = None if curve is None or address.path else _curve.client_keys(curve)
    link = Link(BlockingSocket(address, timeout_s), config, None if keys is None else _curve.ClientOpening(keys))
    try:
        link.open(deadline)
    except LinkTimeoutError as error:
        link.drop("the opening failed")
        raise ConnectError(f"{address}: connected, but got no ZeroMQ greeting within {timeout_s:g} s; check the port") from error
    except LinkClosedError as error:
        raise ConnectError(f"{address}: the server closed the connection during ZeroMQ's opening; check the port") from error
    except BaseException:
        link.drop("the opening failed")
        raise
    return link


class _ServerFraming(Framing):
    def __init__(self, inbox: Inbox, max_bytes: int, spoken: str, curve: _curve.ServerOpening | None = None) -> None:
        self._inbox = inbox
        self._curve = curve
        self._mechanism = _zmtp.NULL if curve is None else _curve.MECHANISM
        self._traffic: _curve.Traffic | None = None
        self._reader = _zmtp.Reader(inbox, max_bytes if curve is None else max_bytes + _curve.OVERHEAD_BYTES)
        self._envelope = _zmtp.Envelope()
        self._spoken = spoken
        self._begun = self._greeted = False
        self.opening = True

    @property
    def idle(self) -> bool:
        return self._inbox.idle and not self._envelope.begun

    def buffer(self) -> memoryview:
        return self._inbox.buffer()

    def filled(self, count: int) -> Iterator[Happening]:
        self._inbox.filled(count)
        if not self._begun:
            self._begun = True
            yield Reply(_zmtp.greeting(server=True, mechanism=self._mechanism))
        try:
            if not self._greeted and not self._greeting():
                return
            while (piece := self._reader.read()) is not None:
                yield from self._happenings(piece)
        except RemoteProtocolError as error:
            yield self._refuse(error)

    def _greeting(self) -> bool:
        """Whether the peer's greeting is complete."""
        staged = self._inbox.staged
        if not _zmtp.starts_well(bytes(staged[: _zmtp.SIGNATURE_BYTES])):
            raise RemoteProtocolError("this peer does not speak ZeroMQ")
        if len(staged) < _zmtp.GREETING_BYTES:
            return False
        self._greeted = True
        _zmtp.check_greeting(bytes(staged[: _zmtp.GREETING_BYTES]), self._mechanism)
        self._inbox.skip(_zmtp.GREETING_BYTES)
        return True

    def _happenings(self, piece: _zmtp.Piece) -> Iterator[Happening]:
        if self.opening:
            yield from self._open(piece)
            return
        if self._traffic is not None:
            piece = self._traffic.opened(piece)
        if isinstance(piece, _zmtp.Command):
            if piece.name == b"PING":
                yield Reply(self._said(b"PONG", _zmtp.pong_of(piece.body)))
            elif piece.name == b"ERROR":
                yield Ended(_zmtp.reason_of(piece.body))
        else:
            body = self._envelope.body(piece)
            if body is not None:
                yield Frame((body,))

    def _open(self, piece: _zmtp.Piece) -> Iterator[Happening]:
        if isinstance(piece, _zmtp.Part):
            raise RemoteProtocolError("expected READY after the greeting, got a message")
        if self._curve is not None:
            answer = self._curve.hear(piece)
            if answer is not None:
                yield Reply(answer)
                return
            piece = _zmtp.Command(b"READY", self._curve.metadata)
        _zmtp.check_ready(piece, _MAY_ASK)
        self.opening = False
        yield Opened()

    def _said(self, name: bytes, body: bytes) -> bytes:
        return _zmtp.command(name, body) if self._traffic is None else self._traffic.command(name, body)

    def welcome(self) -> bytes:
        if self._curve is None:
            return _zmtp.ready(_SERVER)
        self._traffic = self._curve.traffic()
        return self._curve.ready(_zmtp.metadata(_SERVER))

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        if self._traffic is not None:
            return self._traffic.message(b"".join(flat(part) for part in frame.parts), delimited=self._envelope.delimited)
        return _zmtp.message(frame.parts, frame.size, delimited=self._envelope.delimited)

    def goodbye(self, reason: str, error: bool) -> bytes:
        return self._said(b"ERROR", _zmtp.reason(reason)) if reason and self._greeted else b""

    def _refuse(self, error: RemoteProtocolError) -> Ended:
        if self._greeted:
            return Ended(str(error), self.goodbye(str(error), True), error=True)
        return refuse_greeting(bytes(self._inbox.staged[:4]), error, self._spoken)


class Link(_base.Link):
    """A client's connection."""

    def __init__(self, sock: BlockingSocket, config: Config, curve: _curve.ClientOpening | None = None) -> None:
        self._socket = sock
        self._max_bytes = config.max_frame_bytes
        self._curve = curve
        self._mechanism = _zmtp.NULL if curve is None else _curve.MECHANISM
        self._traffic: _curve.Traffic | None = None
        self._inbox = Inbox(Buffers())
        self._reader = _zmtp.Reader(self._inbox, config.max_frame_bytes + (0 if curve is None else _curve.OVERHEAD_BYTES))
        self._envelope = _zmtp.Envelope()

    def open(self, deadline: Deadline) -> None:
        """Greet, and say and hear READY."""
        self._write(_zmtp.greeting(server=False, mechanism=self._mechanism), deadline)
        while self._is_greeted() and len(self._inbox.staged) < _zmtp.GREETING_BYTES:
            self._fill(deadline)
        try:
            self._check_greeting(bytes(self._inbox.staged[: _zmtp.GREETING_BYTES]))
            self._inbox.skip(_zmtp.GREETING_BYTES)
            if self._curve is None:
                self._write(_zmtp.ready(_CLIENT), deadline)
                heard = self._word(deadline)
            else:
                heard = self._introduce(self._curve, deadline)
            _zmtp.check_ready(heard, _MAY_ANSWER)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self._socket.where}: {error}") from None

    def _introduce(self, curve: _curve.ClientOpening, deadline: Deadline) -> _zmtp.Command:
        """The opening of CURVE; the server's READY."""
        self._write(curve.hello(), deadline)
        # What is wrong with a key is said by an ERROR, or found out here; trying again would not help.
        self._write(curve.initiate(self._said(deadline), _zmtp.metadata(_CLIENT)), deadline)
        metadata = curve.ready(self._said(deadline))
        self._traffic = curve.traffic()
        return _zmtp.Command(b"READY", metadata)

    def _word(self, deadline: Deadline) -> _zmtp.Command:
        heard = self._piece(deadline)
        if isinstance(heard, _zmtp.Part):
            raise RemoteProtocolError("expected READY after the greeting, got a message")
        if heard.name == b"ERROR":
            raise self._ended(_zmtp.reason_of(heard.body))
        return heard

    def _said(self, deadline: Deadline) -> _zmtp.Command:
        """A word of CURVE's opening; ``UnauthorizedError`` if it is a refusal."""
        heard = self._piece(deadline)
        if isinstance(heard, _zmtp.Part):
            raise RemoteProtocolError("expected a word of CURVE's opening, got a message")
        if heard.name == b"ERROR":
            raise UnauthorizedError(f"{self._socket.where}: turned away: {_zmtp.reason_of(heard.body)}")
        return heard

    def _check_greeting(self, greeting: bytes) -> None:
        mechanism = _zmtp.mechanism_of(greeting)
        if mechanism == _curve.MECHANISM != self._mechanism:
            raise ConfigError(f"{self._socket.where}: the server asks for CURVE; give its public key: --curve-server-key FILE")
        if mechanism == _zmtp.NULL != self._mechanism:
            raise ConfigError(f"{self._socket.where}: this server does not encrypt (CURVE), but a key for it was given")
        _zmtp.check_greeting(greeting, self._mechanism)

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        pieces: list[memoryview] = []
        for frame in frames:
            size = frame.size
            if size > self._max_bytes:
                raise LocalProtocolError(f"{self._socket.where}: frame of {size} bytes; at most {self._max_bytes} are allowed")
            if self._traffic is None:
                written = _zmtp.message(frame.parts, size, delimited=True)
            else:
                written = self._traffic.message(b"".join(flat(part) for part in frame.parts), delimited=True)
            pieces += [flat(part) for part in written]
        self._socket.send(pieces, Deadline(timeout_s))

    def receive(self, timeout_s: float | None) -> Frame:
        deadline = Deadline(timeout_s)
        while True:
            try:
                piece = self._piece(deadline)
                if self._traffic is not None:
                    piece = self._traffic.opened(piece)
                if isinstance(piece, _zmtp.Command):
                    self._heed(piece)
                elif (body := self._envelope.body(piece)) is not None:
                    return Frame((body,))
            except RemoteProtocolError as error:
                self._socket.shut(str(error))
                raise RemoteProtocolError(f"{self._socket.where}: {error}") from None

    def close(self) -> None:
        self.drop("closed on this side")

    def drop(self, why: str) -> None:
        self._socket.shut(why)

    def _is_greeted(self) -> bool:
        """True unless what came so far is another wire's greeting: then ``RemoteProtocolError`` names it."""
        staged = self._inbox.staged
        if not _zmtp.starts_well(bytes(staged[: _zmtp.SIGNATURE_BYTES])):
            foreign = recognise(bytes(staged[:4])) or "something else"
            raise RemoteProtocolError(f"{self._socket.where}: this server speaks {foreign}, not ZeroMQ")
        return True

    def _heed(self, heard: _zmtp.Command) -> None:
        if heard.name == b"PING":
            pong = _zmtp.pong_of(heard.body)
            answer = _zmtp.command(b"PONG", pong) if self._traffic is None else self._traffic.command(b"PONG", pong)
            self._write(answer, Deadline(_ANSWER_S))
        elif heard.name == b"ERROR":
            raise self._ended(_zmtp.reason_of(heard.body))

    def _piece(self, deadline: Deadline) -> _zmtp.Piece:
        while (piece := self._reader.read()) is None:
            self._fill(deadline)
        return piece

    def _fill(self, deadline: Deadline) -> None:
        count = self._socket.receive_into(self._inbox.buffer(), deadline)
        if count == 0:
            where = "" if self._inbox.idle and not self._envelope.begun else " in the middle of a message"
            raise self._ended(where)
        self._inbox.filled(count)

    def _write(self, data: bytes, deadline: Deadline) -> None:
        self._socket.send([memoryview(data)], deadline)

    def _ended(self, why: str) -> LinkClosedError:
        why = why if why.startswith(" ") or not why else f": {why}"
        self._socket.shut(f"the server closed the connection{why}")
        return LinkClosedError(f"{self._socket.where}: the server closed the connection{why}")
