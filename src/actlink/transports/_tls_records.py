"""One end of a TLS connection: what goes on the wire and what comes off it. Law: sans-I/O.

``ssl.SSLSocket`` and asyncio's TLS move single records of 16 KiB; here as many as there are go in one system call.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

from actlink.dialects._base import Buffer
from actlink.transports._buffers import flat

RECORD_BYTES = 16 * 1024
"""Most bytes that TLS puts into one record."""
_CHUNK_BYTES = 64 * 1024
_SCRATCH_BYTES = 64 * 1024


class Records:
    """Encrypts and decrypts; whoever owns it moves the bytes."""

    def __init__(self, context: ssl.SSLContext, host: str | None = None) -> None:
        """``host``: whom a client wants to talk to; None on the server's side."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=host is None, server_hostname=host)
        self._finished = False
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        """Where bytes from the wire may be put, before they are ``fed``."""

    def fed(self, count: int) -> None:
        """``count`` bytes from the wire are in ``scratch``."""
        self._incoming.write(self.scratch[:count])

    def fed_end(self) -> None:
        """Nothing more will come from the wire."""
        self._incoming.write_eof()

    def shake_hands(self) -> bool:
        """Whether the handshake is over; what it has to say is ``pending``. ``ssl.SSLError`` if it failed."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self, buffer: memoryview) -> tuple[int, bool]:
        """Bytes put into ``buffer``, as many as there are; and whether the peer has said that no more will come.

        ``ssl.SSLError`` for what is not TLS, or was refused by the other side.
        """
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
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return count, True
        return count, False

    def sealed(self, pieces: Iterable[Buffer]) -> Iterator[bytes]:
        """The pieces for the wire, in chunks; nothing once ``finish`` was called."""
        if self._finished:
            return
        for piece in joined(flat(piece) for piece in pieces):
            left = piece
            while left:
                left = left[self._tls.write(left) :]  # one record at a time
                if self._outgoing.pending >= _CHUNK_BYTES:
                    yield self._outgoing.read()
        if self._outgoing.pending:
            yield self._outgoing.read()

    def pending(self) -> bytes:
        """What TLS itself has to say."""
        return self._outgoing.read()

    def finish(self) -> bytes:
        """That nothing will follow."""
        if self._finished:
            return b""
        self._finished = True
        with contextlib.suppress(ssl.SSLError):  # the peer has not answered; it need not
            self._tls.unwrap()
        return self._outgoing.read()


def joined(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same bytes with small neighbours in one piece, so that they share a record."""
    small: list[memoryview] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > RECORD_BYTES and small:
            yield memoryview(b"".join(small))
            small, size = [], 0
        if len(piece) > RECORD_BYTES:
            yield piece
        elif len(piece):
            small.append(piece)
            size += len(piece)
    if small:
        yield memoryview(b"".join(small))
