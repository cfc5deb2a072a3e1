"""One pickle in, one plain value out. Law: what is read costs no more than its limits, counted before anything is allocated.

Every opcode costs a tick, text its bytes, arrays one each; frames must hold whole opcodes and the memo has no gaps. Depth and
sharing are measured on the finished value. The rarer opcodes live in ``_pickle_opcodes``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from actlink.codecs._pickle_machine import Archive, Machine, Stack, append_items, set_items
from actlink.codecs._pickle_opcodes import HANDLERS
from actlink.codecs._pickle_records import DEFAULT_LIMITS, Limits, Message, PickleDecodeError, Refusal, Text
from actlink.codecs._pickle_tree import measure, settle

SMALL = 2**16
"""Messages up to this length are copied when they come as a view: bytes are read faster."""
_FIRST_OF_0 = {b"I", b"F", b"L", b"S", b"V"}
_FIRST_OF_1 = {b"]", b"}", b")", b"K", b"M", b"J", b"G", b"X", b"U", b"T"}
MARKS = 512
"""Open marks; a container of depth 64 that is the state of an object of depth 64 has a few each."""
LONG_TEXT = 4096
"""Longer text stays in the message until it is known not to be an array's bytes."""

_u4 = struct.Struct("<I").unpack_from
_f8 = struct.Struct(">d").unpack_from


def run(machine: Machine, at: int, text_bytes: int) -> tuple[Any, int]:
    """The value of the pickle that starts at ``at``, and the byte after its STOP."""
    code, memo, limit = machine.code, machine.memo, machine.limit
    to_text: Callable[[Any], str] = bytes.decode if type(code) is bytes else _text_of_view
    stack: Stack = []
    below: list[Stack] = []
    try:
        for _ in machine.message.ticks:
            if at >= limit:
                limit = machine.leave_frame(at)
            op = code[at]
            if op == 0x94:  # MEMOIZE
                memo.append(stack[-1])
                at += 1
            elif op == 0x68:  # BINGET
                stack.append(memo[code[at + 1]])
                at += 2
            elif op == 0x4B:  # BININT1
                stack.append(code[at + 1])
                at += 2
            elif op == 0x8C or op == 0x58:  # SHORT_BINUNICODE, BINUNICODE
                if op == 0x8C:
                    start, length = at + 2, code[at + 1]
                else:
                    start, length = at + 5, _u4(code, at + 1)[0]
                if start + length > limit:
                    raise Refusal(f"text of {length} bytes where {limit - start} are left")
                if length > LONG_TEXT:
                    stack.append(Text(machine.view[start : start + length]))
                else:
                    text_bytes -= length
                    if text_bytes < 0:
                        raise Refusal("more text than the limit allows")
                    stack.append(to_text(code[start : start + length]))
                at = start + length
            elif op == 0x4E:  # NONE
                stack.append(None)
                at += 1
            elif op == 0x6A:  # LONG_BINGET
                stack.append(memo[_u4(code, at + 1)[0]])
                at += 5
            elif op == 0x28:  # MARK
                if len(below) > MARKS:
                    raise Refusal("marks inside marks without end")
                below.append(stack)
                stack = []
                at += 1
            elif op == 0x74:  # TUPLE
                items, stack = stack, below.pop()
                stack.append(tuple(items))
                at += 1
            elif op == 0x47:  # BINFLOAT
                stack.append(_f8(code, at + 1)[0])
                at += 9
            elif op == 0x75:  # SETITEMS
                items, stack = stack, below.pop()
                set_items(stack[-1], items)
                at += 1
            elif op == 0x65:  # APPENDS
                items, stack = stack, below.pop()
                append_items(stack[-1], items)
                at += 1
            elif op == 0x95:  # FRAME
                limit = machine.frame(at)
                at += 9
            elif op == 0x2E:  # STOP
                return _result(stack, below), at + 1
            else:
                at = HANDLERS[op](machine, stack, at)
        raise Refusal("more operations than the limit allows")
    except Refusal as refusal:
        raise PickleDecodeError(f"byte {at}: {refusal}", at) from None
    except (IndexError, struct.error):
        raise PickleDecodeError(f"byte {at}: the message is cut off, or the opcode wants what is not on the stack", at) from None
    except UnicodeDecodeError:
        raise PickleDecodeError(f"byte {at}: text that is not UTF-8", at) from None


def _text_of_view(view: memoryview) -> str:
    return str(view, "utf-8")


def _result(stack: Stack, below: list[Stack]) -> Any:
    if below or len(stack) != 1:
        raise Refusal("STOP with more or less than one value on the stack")
    return stack[0]


def decode(data: bytes | bytearray | memoryview, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The plain value in one pickle of protocol 2 to 5; runs nothing and imports nothing that the bytes name.

    Gives None, bool, int, float, str, bytes, list, tuple, dict (keys str or int; ``OrderedDict`` too), numpy arrays, scalars and
    dtypes, torch tensors as numpy arrays (bfloat16 as float32), and for an object of any other class a ``Record``. Arrays of 256
    bytes and more are read-only views on ``data``, which must not be changed while they live; they may be unaligned. Raises
    ``PickleDecodeError`` for whatever the bytes are, and nothing else.
    """
    view = memoryview(data) if type(data) is bytes else memoryview(data).cast("B").toreadonly()
    return read(view, limits, Message(limits, len(view), read_nested), data=data)


def read(view: memoryview, limits: Limits, message: Message, archive: Archive | None = None, data: Any = None) -> Any:
    """``decode`` with a ``message`` that may be larger than this pickle, which is one entry of ``archive``."""
    _check_start(view, limits)
    code = data if type(data) is bytes else view if len(view) > SMALL else bytes(view)
    value, end = run(Machine(code, message, nested=False, archive=archive), 2, limits.text_bytes)
    if end != len(view):
        raise PickleDecodeError(f"byte {end}: {len(view) - end} bytes follow STOP", end)
    try:
        return settle(value, limits) if measure(value, limits) else value
    except Refusal as refusal:
        raise PickleDecodeError(f"byte {end - 1}: {refusal}", end - 1) from None
    except UnicodeDecodeError:
        raise PickleDecodeError(f"byte {end - 1}: text that is not UTF-8", end - 1) from None


def _check_start(view: memoryview, limits: Limits) -> None:
    if len(view) > limits.message_bytes:
        raise PickleDecodeError(f"a message of {len(view)} bytes; at most {limits.message_bytes} are read")
    if len(view) < 2 or view[0] != 0x80:
        raise PickleDecodeError(f"byte 0: {_named_without_proto(view)}; protocols 2 to 5 are read")
    if not 2 <= view[1] <= 5:
        raise PickleDecodeError(f"byte 1: pickle protocol {view[1]}; protocols 2 to 5 are read", 1)


def _named_without_proto(view: memoryview) -> str:
    """What a message that does not name its protocol seems to be: 0 writes text, 1 writes binary, and both end with STOP."""
    start = bytes(view[:600])
    first, second = start[:1], start[1:2]
    if bytes(view[-1:]) != b"." or first not in _FIRST_OF_0 | _FIRST_OF_1 | {b"(", b"c", b"N"}:
        return "not a pickle"
    if first == b"c":
        second = start.split(b"\n", 2)[-1][:1]  # how the global is put into the memo
    if first in _FIRST_OF_0 or (first == b"(" and second in _FIRST_OF_0 | {b"d", b"l", b"t"}) or (first == b"c" and second == b"p"):
        return "pickle protocol 0"
    if first in _FIRST_OF_1 or (first == b"(" and second in _FIRST_OF_1) or (first == b"c" and second == b"q"):
        return "pickle protocol 1"
    return "pickle protocol 0 or 1"


def read_nested(stream: bytes | memoryview, at: int, message: Message) -> tuple[Any, int]:
    """One of the pickles in a torch stream: a header, and no calls."""
    if bytes(stream[at : at + 2]) != b"\x80\x02":
        raise Refusal(f"a torch stream without a pickle of protocol 2 at its byte {at}")
    try:
        return run(Machine(stream, message, nested=True), at + 2, LONG_TEXT)
    except PickleDecodeError as error:
        raise Refusal(f"in a torch stream, {error}") from None
