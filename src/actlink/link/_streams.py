"""The two ends of a proxied connection, and how much may be on its way. Law: nothing is lost by closing, everything by a reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Connection:
    number: int
    near: Stream
    far: Stream | None = None

    def close(self) -> None:
        """Close both ends when everything has been written."""
        for _, writer in self._ends():
            writer.close()

    def reset(self) -> None:
        """Close both ends with RST, whatever is on its way."""
        for _, writer in self._ends():
            if not writer.transport.is_closing():
                sock = writer.get_extra_info("socket")
                if sock.family != getattr(socket, "AF_UNIX", None):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _ends(self) -> list[Stream]:
        return [self.near] if self.far is None else [self.near, self.far]


class Room:
    """How many bytes are on their way."""

    def __init__(self) -> None:
        self.taken = 0
        self._changed = asyncio.Event()

    async def take(self, size: int, limit: float) -> None:
        """Count ``size``, and wait until no more than ``limit`` are on their way."""
        self.taken += size
        while self.taken > limit:
            self._changed.clear()
            await self._changed.wait()

    def give(self, size: int) -> None:
        self.taken -= size
        self._changed.set()
