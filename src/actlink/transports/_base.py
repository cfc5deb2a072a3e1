"""The contract of a transport: frames over a wire.

A transport file defines ``Config`` (frozen dataclass, a superset of ``Limits``' fields), ``Listener`` (server side, on the asyncio
loop, driven by callbacks) and ``connect`` (client side, blocking). Frames longer than ``max_frame_bytes`` are refused from their
announced length, before anything is allocated. Errors leave as ``LinkError`` or ``RemoteProtocolError``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from actlink.dialects._base import Frame
from actlink.errors import ConfigError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a listener allows its peers."""

    max_frame_bytes: int = 64 * MIB
    """Longest frame accepted or sent."""
    max_connections: int = 256
    """Peers at once; further ones are turned away with a reason."""
    write_buffer_bytes: int = 64 * MIB
    """Unsent bytes kept for a peer that reads slowly; beyond it the peer is dropped."""
    handshake_s: float = 10.0
    """Seconds a peer has to finish the opening of a wire that has one."""
    frame_s: float = 30.0
    """Seconds a peer has to finish a frame that it started."""

    def __post_init__(self) -> None:
        for name in Limits.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")


class Connection(ABC):
    """One peer as the server sees it. Every method is called on the event loop and never blocks."""

    peer: str
    """Where the peer is, for logs: ``127.0.0.1:54321``."""
    token: str | None = None
    """Bearer or Api-Key credential the wire carried at connection time, if any."""
    model: str = ""
    """Model named by the connection itself (URL path), if any."""
    close_code: int | None = None
    """WebSocket code of a goodbye because of an error, where the peer's wire fixes it."""

    @abstractmethod
    def send(self, frames: Sequence[Frame]) -> None:
        """Queue ``frames`` in order; a peer over its write limit is dropped. Does nothing once closed."""

    @abstractmethod
    def close(self, reason: str = "", *, error: bool = False) -> None:
        """Say goodbye in the wire's manner after what is queued; ``reason`` reaches the peer where the wire can carry it."""


class Receiver(Protocol):
    """What the server gives a transport for each peer: a session."""

    def received(self, frame: Frame) -> None:
        """A whole frame has arrived. Its buffer belongs to the receiver."""

    def closed(self, reason: str) -> None:
        """The peer has gone; called exactly once, last."""


Opened = Callable[[Connection], Receiver]
"""Called for each new peer; may call ``connection.close`` at once to turn it away."""


@dataclass(frozen=True, slots=True)
class Page:
    """A plain HTTP answer (health, readiness) of a transport that shares its port with HTTP."""

    status: int
    body: bytes
    content_type: str = "application/json"


Pages = Callable[[str], "Page | None"]
"""Path -> page; None = 404."""


class Listener(ABC):
    """A bound address that accepts peers. Final subclasses are called ``Listener``."""

    carries_token: ClassVar[bool] = False
    """Whether the wire has a place for a credential at connection time (``Connection.token``)."""
    speaks_curve: ClassVar[bool] = False
    """Whether the wire has ZeroMQ's own encryption: ``Listener`` and ``connect`` take ``curve`` then."""

    @property
    @abstractmethod
    def bound(self) -> str:
        """``host:port`` (or path) actually bound; known after ``start``."""

    @abstractmethod
    async def start(self, opened: Opened) -> None:
        """Bind and accept; ``ConfigError`` if the address is taken, saying by whom where that can be found out."""

    @abstractmethod
    async def stop_accepting(self) -> None:
        """Refuse new peers, keep the present ones."""

    @abstractmethod
    async def close(self) -> None:
        """Flush what is queued (bounded), close every peer and free the address."""


class Link(ABC):
    """One connection as the client sees it: blocking, used by one thread at a time."""

    @abstractmethod
    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        """Write all ``frames``; ``LinkTimeoutError``, ``LinkClosedError``."""

    @abstractmethod
    def receive(self, timeout_s: float | None) -> Frame:
        """The next whole frame; ``LinkTimeoutError`` (nothing is lost, call again), ``LinkClosedError`` (says the peer's reason),
        ``RemoteProtocolError``."""

    @abstractmethod
    def close(self) -> None:
        """Close politely; never raises."""
