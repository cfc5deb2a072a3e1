"""What each opcode of pickle does to the stack. Law: values are built; nothing is imported, looked up or called.

A global is a ``Name``; a call of one is one of a handful of interpretations (numpy's arrays, torch's tensors) or else makes a
``Record``; a state completes it. What no honest message contains is refused: text opcodes, persistent ids (except for the storage
inside a torch stream), the extension registry, out-of-band buffers, sets, INST and OBJ, DUP and POP.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from actlink.codecs._pickle_arrays import NDARRAY, PENDING
from actlink.codecs._pickle_machine import CALLS, Machine, Stack, append_items, set_items
from actlink.codecs._pickle_records import Name, Record, Refusal, Text, shown

LONG_INT = 17
"""Bytes: enough for an unsigned number of 128 bits, which the state of a random generator is."""
NAME_BYTES = 256

_REFUSED = {
    **dict(zip(b"IFLSVgpP", ("INT", "FLOAT", "LONG", "STRING", "UNICODE", "GET", "PUT", "PERSID"), strict=True)),
    **dict(
        zip(b"TUio02d1l", ("BINSTRING", "SHORT_BINSTRING", "INST", "OBJ", "POP", "DUP", "DICT", "POP_MARK", "LIST"), strict=True)
    ),
    **dict(zip(b"\x82\x83\x84\x8b\x8f\x90", ("EXT1", "EXT2", "EXT4", "LONG4", "EMPTY_SET", "ADDITEMS"), strict=True)),
    **dict(zip(b"\x91\x92\x97\x98\x80", ("FROZENSET", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER", "PROTO"), strict=True)),
}
_NAMES = {("numpy", "ndarray"): NDARRAY, **{(module, name): Name(module, name) for module, name in CALLS}}
"""Names that nearly every message has, made once."""

_u2 = struct.Struct("<H").unpack_from
_i4 = struct.Struct("<i").unpack_from
_u4 = struct.Struct("<I").unpack_from
_u8 = struct.Struct("<Q").unpack_from


# The handlers: each takes (machine, stack, where the opcode stands) and returns where the next one stands.


def _tuple1(machine: Machine, stack: Stack, at: int) -> int:
    stack[-1] = (stack[-1],)
    return at + 1


def _tuple2(machine: Machine, stack: Stack, at: int) -> int:
    stack[-2:] = [(stack[-2], stack[-1])]
    return at + 1


def _tuple3(machine: Machine, stack: Stack, at: int) -> int:
    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
    return at + 1


def _empty_tuple(machine: Machine, stack: Stack, at: int) -> int:
    stack.append(())
    return at + 1


def _empty_list(machine: Machine, stack: Stack, at: int) -> int:
    machine.message.count()
    stack.append([])
    return at + 1


def _empty_dict(machine: Machine, stack: Stack, at: int) -> int:
    machine.message.count()
    stack.append({})
    return at + 1


def _true(machine: Machine, stack: Stack, at: int) -> int:
    stack.append(True)
    return at + 1


def _false(machine: Machine, stack: Stack, at: int) -> int:
    stack.append(False)
    return at + 1


def _binint(machine: Machine, stack: Stack, at: int) -> int:
    stack.append(_i4(machine.code, at + 1)[0])
    return at + 5


def _binint2(machine: Machine, stack: Stack, at: int) -> int:
    stack.append(_u2(machine.code, at + 1)[0])
    return at + 3


def _long1(machine: Machine, stack: Stack, at: int) -> int:
    end = at + 2 + machine.code[at + 1]
    if end > at + 2 + LONG_INT or end > machine.limit:
        raise Refusal(f"an int of {end - at - 2} bytes; at most {LONG_INT} are read")
    stack.append(int.from_bytes(machine.code[at + 2 : end], "little", signed=True))
    return end


def _short_binbytes(machine: Machine, stack: Stack, at: int) -> int:
    start = at + 2
    stack.append(bytes(machine.code[start : _end(machine, start, machine.code[at + 1])]))
    return start + machine.code[at + 1]


def _binbytes(machine: Machine, stack: Stack, at: int) -> int:
    start = at + 5
    end = _end(machine, start, _u4(machine.code, at + 1)[0])
    stack.append(machine.view[start:end])
    return end


def _binbytes8(machine: Machine, stack: Stack, at: int) -> int:
    start = at + 9
    end = _end(machine, start, _u8(machine.code, at + 1)[0])
    stack.append(machine.view[start:end])
    return end


def _binunicode8(machine: Machine, stack: Stack, at: int) -> int:
    start = at + 9
    end = _end(machine, start, _u8(machine.code, at + 1)[0])
    stack.append(Text(machine.view[start:end]))
    return end


def _end(machine: Machine, start: int, length: int) -> int:
    if start + length > machine.limit:
        raise Refusal(f"{length} bytes announced where {machine.limit - start} are left")
    return start + length


def _binput(machine: Machine, stack: Stack, at: int) -> int:
    machine.remember(machine.code[at + 1], stack[-1])
    return at + 2


def _long_binput(machine: Machine, stack: Stack, at: int) -> int:
    machine.remember(_u4(machine.code, at + 1)[0], stack[-1])
    return at + 5


def _appended(machine: Machine, stack: Stack, at: int) -> int:
    item = stack.pop()
    append_items(stack[-1], [item])
    return at + 1


def _set_item(machine: Machine, stack: Stack, at: int) -> int:
    value, key = stack.pop(), stack.pop()
    set_items(stack[-1], [key, value])
    return at + 1


def _global(machine: Machine, stack: Stack, at: int) -> int:
    line = bytes(machine.code[at + 1 : min(at + 2 * NAME_BYTES + 3, machine.limit)]).split(b"\n", 2)
    if len(line) != 3:
        raise Refusal(f"GLOBAL without two lines of at most {NAME_BYTES} bytes")
    stack.append(_name(machine, line[0].decode(), line[1].decode()))
    return at + 3 + len(line[0]) + len(line[1])


def _stack_global(machine: Machine, stack: Stack, at: int) -> int:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Refusal(f"a global named by {shown(module)} and {shown(name)}, not by two texts")
    stack.append(_name(machine, module, name))
    return at + 1


def _name(machine: Machine, module: str, name: str) -> Name:
    known = _NAMES.get((module, name))
    if known:
        return known
    machine.message.count()
    if len(module) > NAME_BYTES or len(name) > NAME_BYTES:
        raise Refusal(f"a global whose name is longer than {NAME_BYTES} letters")
    return Name(module, name)


def _callee(stack: Stack) -> tuple[Name, tuple[Any, ...]]:
    args, callee = stack.pop(), stack.pop()
    if type(callee) is not Name or type(args) is not tuple:
        raise Refusal(f"a call of {shown(callee)} with {shown(args)}, not of a name with a tuple")
    return callee, args


def _reduce(machine: Machine, stack: Stack, at: int) -> int:
    callee, args = _callee(stack)
    call = machine.calls.get((callee.module, callee.name))
    machine.message.count()
    value = call(args, machine.message) if call else Record(callee.module, callee.name, args)
    if isinstance(value, PENDING):
        value.slot = len(machine.memo)
    stack.append(value)
    return at + 1


def _newobj(machine: Machine, stack: Stack, at: int) -> int:
    callee, args = _callee(stack)
    machine.message.count()
    stack.append(Record(callee.module, callee.name, args))
    return at + 1


def _build(machine: Machine, stack: Stack, at: int) -> int:
    """BUILD: completes the value below the state; a finished array takes the place of its half in the memo too."""
    state, target = stack.pop(), stack[-1]
    if isinstance(target, PENDING):
        value = stack[-1] = target.build(state, machine.message)
        if target.slot < len(machine.memo) and machine.memo[target.slot] is target:
            machine.memo[target.slot] = value
    elif type(target) is Record and target.state is None:
        object.__setattr__(target, "state", state)  # frozen for everybody else; it is not finished before this
    elif machine.stateful and type(target) is dict and type(state) is dict:
        pass  # what a state dict says about itself (``_metadata``)
    else:
        raise Refusal(f"a state for {shown(target)}, which has one or takes none")
    return at + 1


def _binpersid(machine: Machine, stack: Stack, at: int) -> int:
    if machine.persistent is None:
        raise Refusal("opcode BINPERSID outside a torch stream")
    stack[-1] = machine.persistent(stack[-1])
    return at + 1


def _refused(machine: Machine, stack: Stack, at: int) -> int:
    op = machine.code[at]
    raise Refusal(f"opcode {_REFUSED[op]} is not read" if op in _REFUSED else f"{op:#04x} is no opcode of pickle")


_KNOWN: dict[int, Callable[[Machine, Stack, int], int]] = {
    **dict(zip(b"\x85\x86\x87)]}", (_tuple1, _tuple2, _tuple3, _empty_tuple, _empty_list, _empty_dict), strict=True)),
    **dict(zip(b"\x88\x89JM\x8a", (_true, _false, _binint, _binint2, _long1), strict=True)),
    **dict(zip(b"CB\x8e\x96\x8d", (_short_binbytes, _binbytes, _binbytes8, _binbytes8, _binunicode8), strict=True)),
    **dict(zip(b"qras", (_binput, _long_binput, _appended, _set_item), strict=True)),
    **dict(zip(b"c\x93R\x81bQ", (_global, _stack_global, _reduce, _newobj, _build, _binpersid), strict=True)),
}
HANDLERS = [_KNOWN.get(op, _refused) for op in range(256)]
