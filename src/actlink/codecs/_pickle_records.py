"""What a pickle is turned into, and what it may cost. Law: inert records and limits; nothing here can act."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from actlink.errors import RemoteProtocolError
from actlink.types import Array


class PickleDecodeError(RemoteProtocolError):
    """The bytes are no pickle that this package accepts. The only error of ``decode``; ``offset`` is the byte where it was seen."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


class Refusal(Exception):
    """Why the stream is refused, where the offset is not known: the reader adds it and raises ``PickleDecodeError``."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the peer named and that nobody looked up: ``torch.float32`` sent as a value, for example."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An object of the peer's: the name of its class, what it was built from and its state. Plain data; no such object exists here.

    ``state`` is the dict of its attributes for ordinary classes and dataclasses; None where it has none. Check ``name`` and the
    type of ``state`` before use: a peer may send any name with anything in it.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Write ``array`` so that the receiver gets a ``torch.Tensor``. Only for ``encode``: ``decode`` gives plain arrays."""

    array: Array
    of: Array | None = None
    """Whole array that ``array`` is a view of: written once for all its tensors, which share its storage at the receiver. Reading
    a storage is what costs torch time, so rows of one array go over like this. C-contiguous and little-endian."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may cost its receiver; whatever would exceed a limit is refused before it is allocated."""

    message_bytes: int = 64 * 2**20
    """Longest message (bytes)."""
    operations: int = 80_000
    """Opcodes executed, nested streams included; also the memo, and the values when shared ones are counted at each place."""
    objects: int = 30_000
    """Lists, dicts, arrays, numpy scalars, records and names made; a torch stream counts as 16."""
    depth: int = 64
    """Containers inside one another."""
    text_bytes: int = 2**18
    """All text together (bytes of UTF-8); texts of more than 4 KiB have a budget of the same size to themselves."""
    expanded_bytes: int = 256 * 2**20
    """Bytes of text, byte strings and arrays, shared ones counted at each place where they stand."""


DEFAULT_LIMITS = Limits()
SLACK = 2**20
"""What may be copied beyond the message's own length (bytes): widening bfloat16 doubles it."""

ReadPickle: TypeAlias = "Callable[[bytes | memoryview, int, Message], tuple[Any, int]]"
"""``(stream, start, message) -> (value, end)``: one pickle of a torch stream; persistent ids allowed, calls left as records."""


class Message:
    """One message being read: what is left of its limits, and what the streams nested in it share with it."""

    __slots__ = ("blob", "items", "made", "objects", "read", "scanned", "storage", "ticks")

    def __init__(self, limits: Limits, wire_bytes: int, read: ReadPickle) -> None:
        self.ticks: Iterator[int] = iter(range(limits.operations))
        self.objects = limits.objects
        self.items = limits.operations
        self.made = wire_bytes + SLACK
        self.scanned = 4 * wire_bytes
        self.read = read
        self.blob: Any = None
        """The torch stream read last, and what was in it: the rows of a chunk all carry the same."""
        self.storage: Any = None

    def count(self, objects: int = 1, items: int = 0) -> None:
        """Count what is made, and how many items it refers to."""
        self.objects -= objects
        self.items -= items
        if self.objects < 0 or self.items < 0:
            raise Refusal("more objects, or items in arrays of them, than the limit allows")

    def make(self, length: int) -> None:
        """Count bytes that are copied or converted; an honest message has each of its own copied once at most."""
        self.made -= length
        if self.made < 0:
            raise Refusal("the same bytes are copied again and again")

    def scan(self, length: int) -> None:
        """Count bytes that are looked at one by one."""
        self.scanned -= length
        if self.scanned < 0:
            raise Refusal("the same bytes are looked at again and again")


class Text:
    """Long text still in the message: the bytes of a numpy array at protocol 2 travel as text and never become a str."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view


def shown(value: object) -> str:
    """How a value is named in an error message: its kind, and never its contents beyond a few letters."""
    if type(value) is str:
        return repr(value if len(value) <= 40 else value[:40] + "...")
    if type(value) is int:
        return str(value)
    if type(value) is Name or type(value) is Record:
        return shown(f"{value.module}.{value.name}")
    return type(value).__name__
