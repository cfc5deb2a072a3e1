"""One peer of a listener: its socket on the event loop. Law: nothing here blocks, and nothing a peer sends or omits stays for ever.

asyncio's transport does the waiting. On selector loops the peer also reads and writes its socket directly: after each wake-up it
takes what has already arrived, and a reply goes out in one ``sendmsg`` with nobody joining its parts. For a frame of 2.76 MB that
measured up to a quarter of the round trip where both sides share a core, and nothing lost where they do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from actlink.dialects._base import Buffer, Frame
from actlink.transports._base import Connection, Limits, Receiver
from actlink.transports._buffers import flat, unsent
from actlink.transports._framing import Ended, Framing, Happening, Opened, Reply
from actlink.transports._receiving import hand_over, receiver_of

logger = logging.getLogger("actlink.transports")

LINGER_S = 1.0
"""Seconds a peer has, once we said goodbye, to read it and go."""

_DIRECT_READS = 16
"""Reads of one peer per wake-up, so that others get their turn."""
_JOIN_BYTES = 64 * 1024
_PIECES_PER_WRITE = 512  # below every system's IOV_MAX

Admit = Callable[["Peer"], "str | None"]
"""Why the peer is turned away; None if it is let in."""


class Peer(asyncio.BufferedProtocol, Connection):
    """Reads frames for a receiver and writes its replies."""

    def __init__(
        self,
        own: socket.socket,
        name: str,
        framing: Framing,
        limits: Limits,
        admit: Admit,
        opened: Callable[[Connection], Receiver],
        gone: Callable[[Peer], None],
    ) -> None:
        self.peer = name
        self._framing = framing
        self._limits = limits
        self._admit = admit
        self._opened = opened
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        direct = isinstance(self._loop, asyncio.SelectorEventLoop) and hasattr(own, "sendmsg")
        self._socket = own if direct else None
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._told = False
        self._ended_s: float | None = None
        self._begun_s: float | None = self._loop.time()
        self._scratch: memoryview | None = None

    @property
    def admitted(self) -> bool:
        """Whether the peer was let in and is still there."""
        return self._receiver is not None and self._ended_s is None

    # Connection

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if self._ended_s is not None:
                return
            if frame.size > self._limits.max_frame_bytes:
                self.close(f"a reply of {frame.size} bytes is over the limit of {self._limits.max_frame_bytes}", error=True)
                return
            self._write(self._framing.encode(frame))

    def close(self, reason: str = "", *, error: bool = False) -> None:
        self._framing.close_code = self.close_code
        self._end(Ended(reason, self._framing.goodbye(reason, error), error))

    # What the listener asks

    def check(self, now_s: float) -> None:
        """Drop the peer if one of its deadlines has passed; called about once a second."""
        if self._transport is None:
            return
        limits = self._limits
        if self._ended_s is not None:
            flushed = self._transport.get_write_buffer_size() == 0
            if now_s - self._ended_s > (LINGER_S if flushed else limits.frame_s):
                self._transport.abort()
        elif self._begun_s is not None:
            allowed_s = limits.handshake_s if self._framing.opening else limits.frame_s
            if now_s - self._begun_s > allowed_s:
                what = "the opening" if self._framing.opening else "a frame that it began"
                self.close(f"{what} was not finished within {allowed_s:g} s", error=True)

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._ended_s is None:
            self._take(0)
        else:
            transport.abort()  # the listener was closed meanwhile

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._ended_s is not None:
            return self._waste()
        return self._framing.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended_s is not None:
            return
        self._take(nbytes)
        for _ in range(_DIRECT_READS):
            if self._socket is None or self._ended_s is not None or self._framing.idle:
                return
            try:
                count = self._socket.recv_into(self._framing.buffer())
            except OSError:
                return  # nothing there yet; or an error, which asyncio finds on its next read
            if count == 0:
                return  # the end, which asyncio finds as well
            self._take(count)

    def eof_received(self) -> bool:
        if self._ended_s is None:
            self._end(Ended("" if self._framing.idle else "the peer went away in the middle of a frame"))
        return False  # asyncio closes the transport once everything is written

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ended_s is None:
            self._ended_s = self._loop.time()
        self._tell(f"connection lost: {exc}" if exc else "connection lost")
        self._transport = self._socket = None
        self._gone(self)

    # Inside

    def _take(self, count: int) -> None:
        """Act on ``count`` bytes that came in."""
        for happening in self._framing.filled(count):
            self._act(happening)
            if self._ended_s is not None:
                return
        if self._framing.idle and not self._framing.opening:
            self._begun_s = None
        elif self._begun_s is None:
            self._begun_s = self._loop.time()

    def _act(self, happening: Happening) -> None:
        if isinstance(happening, Frame):
            self._begun_s = None
            self._deliver(happening)
        elif isinstance(happening, Reply):
            self._write((happening.data,))
        elif isinstance(happening, Opened):
            self._let_in(happening)
        else:
            self._end(happening)

    def _deliver(self, frame: Frame) -> None:
        assert self._receiver is not None
        hand_over(self, self._receiver, frame)

    def _let_in(self, opened: Opened) -> None:
        self.model, self.token = opened.model, opened.token
        why_not = self._admit(self)
        if why_not is not None:
            self.close(why_not, error=True)
            return
        self._write((self._framing.welcome(),))
        self._receiver = receiver_of(self, self._opened)

    def _end(self, ended: Ended) -> None:
        """Say goodbye, then only wait for the peer to go."""
        if self._ended_s is not None:
            return
        level = logging.WARNING if ended.error else logging.DEBUG
        logger.log(level, "%s: closing: %s", self.peer, ended.reason or "the peer has finished")
        self._ended_s = self._loop.time()
        self._loop.call_soon(self._tell, ended.reason)  # not within the receiver's own call of close()
        if ended.data:
            self._write((ended.data,))
        if self._transport is None:
            return
        # Closing at once would reset the connection where the peer is still sending, and the last words would be lost.
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the peer has reset the connection; asyncio is about to find out
                self._transport.write_eof()
        else:
            self._transport.close()

    def _tell(self, reason: str) -> None:
        if self._told:
            return
        self._told = True
        if self._receiver is not None:
            self._receiver.closed(reason)

    def _write(self, pieces: Sequence[Buffer]) -> None:
        if self._transport is None:
            return
        queued = self._transport.get_write_buffer_size()
        waiting = [flat(piece) for piece in pieces]
        if queued == 0:
            waiting = self._write_directly(waiting)
        size = sum(len(piece) for piece in waiting)
        if size == 0:
            return
        if queued and queued + size > self._limits.write_buffer_bytes:
            self._drop_slow_reader(queued + size)
        elif size <= _JOIN_BYTES:
            self._transport.write(b"".join(waiting))
        else:
            for piece in waiting:
                self._transport.write(bytes(piece))  # a copy: the sender may change its arrays once send() is over

    def _write_directly(self, pieces: list[memoryview]) -> list[memoryview]:
        """What could not be written at once."""
        if self._socket is None:
            return pieces
        try:
            sent = self._socket.sendmsg(pieces[:_PIECES_PER_WRITE])
        except OSError:
            return pieces  # no room now; or an error, which the transport meets again and reports
        return unsent(pieces, sent)

    def _drop_slow_reader(self, size: int) -> None:
        assert self._transport is not None
        reason = f"the peer reads too slowly: {size} bytes unsent, at most {self._limits.write_buffer_bytes} are kept"
        logger.warning("%s: dropped: %s", self.peer, reason)
        self._ended_s = self._loop.time()
        self._loop.call_soon(self._tell, reason)
        self._transport.abort()

    def _waste(self) -> memoryview:
        if self._scratch is None:
            self._scratch = memoryview(bytearray(64 * 1024))
        return self._scratch
