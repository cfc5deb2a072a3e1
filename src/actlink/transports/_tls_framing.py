"""Any wire within TLS, as a server speaks it. Law: sans-I/O; nothing of the wire is read before the handshake is over.

TLS as one more framing, rather than asyncio's: the peer reads and writes its socket as ever, takes its leave by half-closing, and
its limits and deadlines count what is really on the wire, on every Python alike.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace

from actlink.dialects._base import Buffer, Frame
from actlink.transports._framing import Ended, Framing, Happening, Reply
from actlink.transports._greetings import recognise
from actlink.transports._http import answer
from actlink.transports._tls import ALERT, words
from actlink.transports._tls_records import Records

_HANDSHAKE = 0x16
"""First byte of whatever speaks TLS."""
_GREETING_BYTES = 4


class TlsFraming(Framing):
    """Another framing within TLS."""

    def __init__(self, context: ssl.SSLContext, inner: Framing, spoken: str) -> None:
        """``spoken`` names the port's wire to a peer that does not speak TLS."""
        self.opening = True
        self._records = Records(context)
        self._inner = inner
        self._spoken = spoken
        self._greeting = b""
        self._secure = False

    @property
    def idle(self) -> bool:
        return self._secure and self._inner.idle

    def buffer(self) -> memoryview:
        return self._records.scratch

    def filled(self, count: int) -> Iterator[Happening]:
        if len(self._greeting) < _GREETING_BYTES:
            self._greeting += bytes(self._records.scratch[: min(count, _GREETING_BYTES)])
        self._records.fed(count)
        if not self._secure:
            yield from self._shake_hands()
        if self._secure:
            yield from self._read()

    def welcome(self) -> bytes:
        welcome = self._inner.welcome()
        self.opening = self._inner.opening
        return self._sealed(welcome)

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        return list(self._records.sealed(self._inner.encode(frame)))

    def goodbye(self, reason: str, error: bool) -> bytes:
        return self._last_words(self._inner.goodbye(reason, error)) if self._secure else b""

    def _shake_hands(self) -> Iterator[Happening]:
        if self._greeting and self._greeting[0] != _HANDSHAKE:
            if len(self._greeting) >= _GREETING_BYTES:
                yield self._turned_away()
            return
        try:
            self._secure = self._records.shake_hands()
        except ssl.SSLError as error:
            yield self._failed(error)
            return
        yield from self._pending()
        if self._secure:
            self.opening = self._inner.opening
            yield from self._within(0)

    def _read(self) -> Iterator[Happening]:
        while True:
            try:
                count, finished = self._records.read(self._inner.buffer())
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

    def _within(self, count: int) -> Iterator[Happening]:
        """What the wire within makes of ``count`` more bytes; its own answers go out encrypted."""
        for happening in self._inner.filled(count):
            if isinstance(happening, Reply):
                yield Reply(self._sealed(happening.data))
            elif isinstance(happening, Ended):
                yield replace(happening, data=self._last_words(happening.data))
            else:
                yield happening

    def _sealed(self, data: bytes) -> bytes:
        return b"".join(self._records.sealed((data,)))

    def _last_words(self, data: bytes) -> bytes:
        """``data``, and that nothing will follow."""
        return self._sealed(data) + self._records.finish()

    def _pending(self) -> Iterator[Happening]:
        said = self._records.pending()
        if said:
            yield Reply(said)

    def _failed(self, error: ssl.SSLError) -> Ended:
        said = self._records.pending()
        self._secure = False  # nothing more can be said
        return Ended(f"TLS: {words(error)}", said, error=True)

    def _turned_away(self) -> Ended:
        foreign = recognise(self._greeting)
        reason = f"this peer {f'speaks plain {foreign}' if foreign else 'does not speak TLS'}; this port speaks {self._spoken}"
        if foreign != "HTTP":
            return Ended(reason, ALERT, error=True)
        told = f"this port speaks {self._spoken}, within TLS: connect with {self._spoken}:// (https:// for pages)\n"
        return Ended(reason, answer(400, told.encode()), error=True)
