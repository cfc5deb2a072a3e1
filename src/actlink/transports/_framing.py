"""The contract between a server's socket and its wire. Law: sans-I/O; what a peer's bytes mean is decided on this side of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from actlink.dialects._base import Buffer, Frame


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer has finished the opening of the wire, and may be let in."""

    model: str = ""
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes that the wire itself wants sent (a pong)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over: send ``data``, then close. ``reason`` goes to the log and the receiver."""

    reason: str = ""
    data: bytes = b""
    error: bool = False
    """Whether the peer broke a rule."""


Happening: TypeAlias = "Frame | Opened | Reply | Ended"


class Framing(ABC):
    """One peer's wire as a server speaks it. Bytes go to ``buffer()``; ``filled`` says what they mean."""

    opening: bool = False
    """Whether the peer has not been let in yet."""
    close_code: int | None = None
    """What a goodbye because of an error says as its code, on wires that have one; None = the transport's own."""

    @abstractmethod
    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""

    @abstractmethod
    def filled(self, count: int) -> Iterator[Happening]:
        """What ``count`` bytes written to ``buffer()`` complete, in order; nothing after ``Ended``."""

    @abstractmethod
    def welcome(self) -> bytes:
        """What lets the peer in, after ``Opened``."""

    @abstractmethod
    def encode(self, frame: Frame) -> Sequence[Buffer]:
        """The frame as pieces to be written one after the other."""

    @abstractmethod
    def goodbye(self, reason: str, error: bool) -> bytes:
        """Last words, as far as the wire has any; also before the peer was let in."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing is half received."""
