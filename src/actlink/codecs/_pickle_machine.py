"""The state of one stream that is being read, and what may be put into containers. Law: no gap, no straddling, no key twice."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from actlink.codecs._pickle_arrays import PLAIN_CALLS, Call
from actlink.codecs._pickle_records import Message, Refusal, shown
from actlink.codecs._torch_stream import TORCH_CALLS, PersistentId

KEY_LIMIT = 2**53
"""Dict keys that are ints are smaller than this: every multiple of 2**61 - 1 has the hash 0."""
CALLS: dict[tuple[str, str], Call] = {**PLAIN_CALLS, **TORCH_CALLS}
"""What is done for a call of these names, in place of the call."""

_u8 = struct.Struct("<Q").unpack_from

Stack: TypeAlias = list[Any]


@dataclass(frozen=True, slots=True)
class Archive:
    """What the pickle inside an archive may refer to."""

    find: Callable[[Any], Any]
    """The value that a persistent id stands for."""
    calls: Mapping[tuple[str, str], Call]


class Machine:
    """One stream being read: its bytes, its memo and the end of the frame.

    ``archive`` is given for the pickle of a torch zip file: what finds a storage by its persistent id, and the calls known there.
    """

    __slots__ = ("calls", "code", "framed", "limit", "memo", "message", "persistent", "stateful", "view")

    def __init__(self, data: bytes | memoryview, message: Message, nested: bool, archive: Archive | None = None) -> None:
        self.code = data
        self.view = memoryview(data)
        self.message = message
        self.persistent: Callable[[Any], Any] | None = PersistentId if nested else archive.find if archive else None
        self.calls = {} if nested else archive.calls if archive else CALLS
        self.stateful = archive is not None
        """Whether attributes of a dict are dropped (a state dict's ``_metadata``) and not refused."""
        self.memo: list[Any] = []
        self.limit = len(data)
        self.framed = False

    def frame(self, at: int) -> int:
        """Enter a frame whose header stands at ``at``; returns its end."""
        start = at + 9
        length = _u8(self.code, at + 1)[0]
        if self.framed:
            raise Refusal("a frame inside a frame")
        if not 0 < length <= len(self.code) - start:
            raise Refusal(f"a frame of {length} bytes where {len(self.code) - start} are left")
        self.framed, self.limit = True, start + length
        return self.limit

    def leave_frame(self, at: int) -> int:
        """The reader stands at ``at``, at or behind the end of what it may read; returns the new end."""
        if self.framed and at > self.limit:
            raise Refusal("an opcode straddles the end of its frame")
        if at >= len(self.code):
            raise Refusal("the message ends before STOP")
        self.framed, self.limit = False, len(self.code)
        return self.limit

    def remember(self, index: int, value: Any) -> None:
        """PUT: picklers number the memo without gaps."""
        if index > len(self.memo):
            raise Refusal(f"memo entry {index} where {len(self.memo)} comes next")
        self.memo[index : index + 1] = (value,)


def set_items(target: Any, items: Stack) -> None:
    """SETITEMS: into dicts only, keys str or int, none twice."""
    if type(target) is not dict:
        raise Refusal(f"items are set in {shown(target)}, not in a dict")
    if len(items) % 2:
        raise Refusal("a key without a value")
    keys = items[::2]
    for key in keys:
        if type(key) is not str and (type(key) is not int or not -KEY_LIMIT < key < KEY_LIMIT):
            raise Refusal(f"dict keys are str or int below 2**53 here, not {shown(key)}")
    expected = len(target) + len(keys)
    target.update(zip(keys, items[1::2], strict=True))
    if len(target) != expected:
        raise Refusal("a dict key twice")


def append_items(target: Any, items: Stack) -> None:
    """APPENDS: to lists only."""
    if type(target) is not list:
        raise Refusal(f"items are appended to {shown(target)}, not to a list")
    target.extend(items)
