"""The contract of a dialect: frames and events, replies and frames.

A dialect file defines ``Config`` (frozen dataclass: the options of an address or listener), ``Server`` and ``Client``, and
``DEFAULT_PORTS`` (scheme -> port). The two halves mirror each other: what ``Client.send`` turns into frames, ``Server.receive``
turns back into the same events, and the other way round for replies. Neither waits, reads a clock or touches a socket.

Bytes that the wire does not allow raise ``RemoteProtocolError``; anything else that escapes a dialect is a bug in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from actlink.errors import ActlinkError
from actlink.spec import Spec
from actlink.types import ActionChunk, Array, Observation

Buffer: TypeAlias = "bytes | bytearray | memoryview"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One delimited message. Large arrays stay separate ``parts`` on the way out, so that nobody copies them together."""

    parts: tuple[Buffer, ...]
    """A received frame has exactly one part; on gRPC each message of a call is a part, both ways."""
    text: bool = False
    """WebSocket text message instead of a binary one; the part holds UTF-8."""
    route: str = ""
    """Where the wire has one: gRPC method (of an error, which is ``text``: name of its status), HTTP path."""
    call: Any = None
    """The transport's handle for answering this very frame, where the wire needs one (gRPC call, HTTP exchange)."""

    @property
    def data(self) -> Buffer:
        """The whole payload as one buffer; copies only when there are several parts."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    @property
    def size(self) -> int:
        return sum(memoryview(part).nbytes for part in self.parts)


# Events: what a client says. ``call`` ties a reply to its event; its type is the dialect's own business.


@dataclass(frozen=True, slots=True, eq=False)
class Hello:
    """First message of wires that have a handshake; nothing about the model leaves before it is accepted."""

    token: str | None = field(default=None, repr=False)  # never in a log
    model: str = ""
    resume: str = ""
    """Session id of an earlier connection that this one continues; empty for a new session."""
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Ping:
    sent_s: float
    """The sender's monotonic clock."""
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One observation of an ``Infer``: a single request, or one row of a batched peer."""

    observation: Observation
    step: int | None = None
    """None: the wire does not say; the session counts."""
    prefix: Array | None = None
    inference_delay: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Infer:
    """One frame's worth of requests; their replies make one ``Chunks``."""

    lanes: tuple[Lane, ...]
    episode: int | None = None
    """None: the wire does not say; the session counts resets."""
    budget_ms: float | None = None
    """Milliseconds left until the reply is of no use; never an absolute time."""
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Reset:
    """A new episode begins; the policy's memory of this session is dropped."""

    episode: int | None = None
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Poll:
    """Answer when a chunk is ready, or with ``empty_reply`` after ``wait_s``.

    Of dialects with ``polled``: the ``Chunks`` or ``Failed`` of their ``Infer`` wait for a poll and get its ``call``.
    """

    wait_s: float
    empty_reply: Frame
    call: Any = None
    least_s: float = 0.0
    """A chunk is not handed over sooner than this after the poll came: wires whose peers are paced by their polls."""


@dataclass(frozen=True, slots=True, eq=False)
class Say:
    """The dialect answers by itself, at once (an empty acknowledgement): the session only passes the frames on."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Bye:
    """The peer is leaving in an orderly way."""


Event: TypeAlias = "Hello | Ping | Infer | Reset | Poll | Say | Bye"


# Replies: what a server says.


@dataclass(frozen=True, slots=True, eq=False)
class Welcome:
    """The session is open. Every dialect receives it, also on wires that send nothing then: it carries the spec."""

    session: str
    spec: Spec
    episode: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    """``max_frame_bytes`` and whatever else bounds the peer."""
    heartbeat_s: float = 0.0
    """A waiting client should ping this often; 0 = never."""
    jpeg: tuple[str, ...] = ()
    """Observation keys that may be sent as JPEG."""
    server: str = ""
    """Name and version of the server."""
    call: Any = None
    deterministic: bool | None = None
    """Whether every request runs alone, so that equal requests get equal bits; None where the wire does not tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Pong:
    sent_s: float
    """Echo of the ping's clock."""
    received_s: float
    """The answering side's monotonic clock when the ping came in."""
    now_s: float
    """The answering side's monotonic clock when the pong left."""
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """The answer to an ``Infer``: for each lane a chunk, or the error of that lane."""

    results: tuple[ActionChunk | ActlinkError, ...]
    timing: Mapping[str, float] = field(default_factory=dict)
    """Server stages in milliseconds, names ending in ``_ms``."""
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A reset took effect."""

    episode: int = 0
    call: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """The server could not do what ``call`` asked; ``fatal`` announces that it closes the connection."""

    error: ActlinkError
    fatal: bool = False
    call: Any = None


Reply: TypeAlias = "Welcome | Pong | Chunks | Done | Failed"


@dataclass(frozen=True, slots=True)
class Execution:
    """How the server turns chunks into one action per observation, for wires that want that."""

    strategy: str
    """Name of a file in ``execution/``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of its ``Config``."""


class ServerDialect(ABC):
    """The server's half of a wire; one object per peer. Final subclasses are called ``Server``.

    On wires without a handshake the session opens with the connection: the first reply the dialect is asked to send is a
    ``Welcome``, for which it returns the frames of a greeting, or none. A later ``Hello`` binds the session to the model it
    names.
    """

    transports: ClassVar[Sequence[str]]
    """Transport files this wire runs over."""
    handshake: ClassVar[bool] = False
    """Whether a ``Hello`` must come before anything else."""
    execution: Execution | None = None
    """For wires that want one action per observation: the session executes chunks and answers with chunks of one row."""
    carries_token: ClassVar[bool] = False
    """Whether the wire itself has a place for a credential (``Hello.token``); its transport may have one besides."""
    polled: ClassVar[bool] = False
    """Whether the peer fetches its chunks with a ``Poll``."""
    newest_wins: ClassVar[bool] = False
    """Whether a newer observation of a session replaces its waiting one."""
    tells_reasons: ClassVar[bool] = True
    """Whether a peer learns why its request failed; on some wires it learns only that it did."""
    any_path: ClassVar[bool] = False
    """Whether a connection whose path names no model gets the default one, because the original never looks at the path."""
    close_code: ClassVar[int | None] = None
    """WebSocket code of a connection closed because of an error, where the wire fixes it."""
    ended: ActlinkError | None = None
    """Set by ``send`` where what it said ends the connection on this wire: the session closes it then, with this as the reason."""

    @abstractmethod
    def receive(self, frame: Frame) -> list[Event]:
        """Events in ``frame``; ``RemoteProtocolError`` if the wire does not allow it."""

    @abstractmethod
    def send(self, reply: Reply) -> list[Frame]:
        """Frames that say ``reply`` in this wire's manner; none where the wire says nothing."""


class ClientDialect(ABC):
    """The client's half of a wire; one object per connection. Final subclasses are called ``Client``."""

    handshake: ClassVar[bool] = False
    """Whether a ``Welcome`` must come before anything else; the client first sends its ``Hello``, where the wire has one."""
    announces_spec: ClassVar[bool | None] = False
    """Whether the ``Welcome`` carries the server's whole spec; otherwise the user gives one. None: some servers' do."""
    numbered: ClassVar[bool] = False
    """Whether replies carry the ``call`` of their event; otherwise they come in the order of what was asked."""
    reset_reconnects: bool = False
    """Whether a new episode takes a new connection: on wires without a word for it, whose sessions end with their connection."""

    def prepare(self, spec: Spec | None) -> None:  # noqa: B027 - only wires that announce no spec need the given one
        """Called once, before anything is sent: the spec that the user gave for wires that announce none."""

    @abstractmethod
    def send(self, event: Event) -> list[Frame]:
        """Frames that say ``event``; none where the wire cannot say it."""

    @abstractmethod
    def receive(self, frame: Frame) -> list[Reply]:
        """Replies in ``frame``; ``RemoteProtocolError`` if the wire does not allow it."""
