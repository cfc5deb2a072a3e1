"""Any wire within TLS, as a server speaks it. Law: sans-I/O; nothing of the wire is read before the handshake is over.

TLS as one more framing, rather than asyncio's: the peer reads and writes its socket as ever, takes its leave by half-closing, and
its limits and deadlines count what is really on the wire, on every Python alike.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from actlink.dialects._base import Buffer, Frame
from actlink.transports._buffers import flat
from actlink.transports._framing import Ended, Framing, Happening, Reply
from actlink.transports._greetings import recognise
from actlink.transports._http import answer
from actlink.transports._tls import ALERT, joined, words

_SCRATCH_BYTES = 64 * 1024
_HANDSHAKE = 0x16
"""First byte of whatever speaks TLS."""
_GREETING_BYTES = 4


class TlsFraming(Framing):
    """Another framing within TLS."""

    def __init__(self, context: ssl.SSLContext, inner: Framing, spoken: str) -> None:
        """``spoken`` names the port's wire to a peer that does not speak TLS."""
        self.opening = True
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._inner = inner
        self._spoken = spoken
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._greeting = b""
        self._secure = False
        self._finished = False  # we have said that nothing will follow

    @property
    def idle(self) -> bool:
        return self._secure and self._inner.idle

    def buffer(self) -> memoryview:
        return self._scratch

    def filled(self, count: int) -> Iterator[Happening]:
        if len(self._greeting) < _GREETING_BYTES:
            self._greeting += bytes(self._scratch[: min(count, _GREETING_BYTES)])
        self._incoming.write(self._scratch[:count])
        if not self._secure:
            yield from self._shake_hands()
        if self._secure:
            yield from self._read()

    def welcome(self) -> bytes:
        welcome = self._inner.welcome()
        self.opening = self._inner.opening
        return self._sealed((welcome,))

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        return (self._sealed(self._inner.encode(frame)),)

    def goodbye(self, reason: str, error: bool) -> bytes:
        return self._last_words(self._inner.goodbye(reason, error)) if self._secure else b""

    def _shake_hands(self) -> Iterator[Happening]:
        if self._greeting and self._greeting[0] != _HANDSHAKE:
            if len(self._greeting) >= _GREETING_BYTES:
                yield self._turned_away()
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            yield from self._pending()
            return
        except ssl.SSLError as error:
            yield self._failed(error)
            return
        self._secure = True
        self.opening = self._inner.opening
        yield from self._pending()
        yield from self._within(0)

    def _read(self) -> Iterator[Happening]:
        while True:
            try:
                count, finished = self._decrypt(self._inner.buffer())
            except ssl.SSLError as error:
                yield self._failed(error)
                return
            for happening in self._within(count):
                yield happening
                if isinstance(happening, Ended):
                    return
            if finished:
                yield Ended("" if self._inner.idle else "the peer went away in the middle of a frame", self._last_words(b""))
                return
            if count == 0:
                break
        yield from self._pending()

    def _decrypt(self, buffer: memoryview) -> tuple[int, bool]:
        """Bytes put into ``buffer``, as many as there are; and whether the peer has said that no more will come."""
        read: Any = self._tls.read  # with a buffer it gives the count, whatever its stub says
        count = 0
        try:
            while count < len(buffer):
                got = read(len(buffer) - count, buffer[count:])
                if got == 0:
                    return count, True
                count += got
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return count, True
        return count, False

    def _within(self, count: int) -> Iterator[Happening]:
        """What the wire within makes of ``count`` more bytes; its own answers go out encrypted."""
        for happening in self._inner.filled(count):
            if isinstance(happening, Reply):
                yield Reply(self._sealed((happening.data,)))
            elif isinstance(happening, Ended):
                yield replace(happening, data=self._last_words(happening.data))
            else:
                yield happening

    def _sealed(self, pieces: Iterable[Buffer]) -> bytes:
        if self._finished:
            return b""
        for piece in joined(flat(piece) for piece in pieces):
            left = piece
            while left:
                left = left[self._tls.write(left) :]  # one record at a time
        return self._outgoing.read()

    def _last_words(self, data: bytes) -> bytes:
        """``data``, and that nothing will follow."""
        sealed = self._sealed((data,))
        if not self._finished:
            self._finished = True
            with contextlib.suppress(ssl.SSLError):  # the peer has not answered; it need not
                self._tls.unwrap()
        return sealed + self._outgoing.read()

    def _pending(self) -> Iterator[Happening]:
        """What TLS itself has to say."""
        if self._outgoing.pending:
            yield Reply(self._outgoing.read())

    def _failed(self, error: ssl.SSLError) -> Ended:
        self._finished = True
        return Ended(f"TLS: {words(error)}", self._outgoing.read(), error=True)

    def _turned_away(self) -> Ended:
        foreign = recognise(self._greeting)
        reason = f"this peer {f'speaks plain {foreign}' if foreign else 'does not speak TLS'}; this port speaks {self._spoken}"
        if foreign != "HTTP":
            return Ended(reason, ALERT, error=True)
        told = f"this port speaks {self._spoken}, within TLS: connect with {self._spoken}:// (https:// for pages)\n"
        return Ended(reason, answer(400, told.encode()), error=True)
