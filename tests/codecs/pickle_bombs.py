"""Messages that cost their receiver far more than their sender. ``BOMBS[name](size)`` builds one; most grow with ``size``.

Run as ``pickle_bombs.py NAME SIZE READER`` it prints JSON: how far reading raised the peak of resident memory (bytes), what became
of the message, and seconds. READER is ``decode`` or, for the baseline, ``loads``: Python's own unpickler. ``pickle_bombs.py work
SIZE`` prints for each bomb how many lines of our code run on it at SIZE and at twice SIZE: work without a clock.
"""

from __future__ import annotations

import json
import pickle
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pickle_world import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NONE,
    REDUCE,
    TUPLE,
    array,
    call,
    dtype,
    integer,
    items,
    name,
    ordered,
    raw,
    run,
    storage,
    stream,
    text,
    torch_blob,
)

from actlink.codecs.safe_pickle import PickleDecodeError, decode

LARGE = 2**20
_FACE = "\U0001f916"
"""One letter that makes Python keep a whole text at four bytes a letter."""


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def long_text(letters: int) -> bytes:
    value = (_FACE + "x" * letters).encode()
    return b"X" + struct.pack("<I", len(value)) + value


def kept(*values: bytes) -> bytes:
    """Values that go into the memo, in this order, inside a list."""
    return EMPTY_LIST + MARK + b"".join(value + MEMOIZE for value in values)


def int_keys(keys: list[int]) -> bytes:
    return stream(EMPTY_DICT, MARK, b"".join(b"\x8a\x10" + key.to_bytes(16, "little", signed=True) + NONE for key in keys), b"u")


def doubled(start: bytes, double: Callable[[bytes], bytes], size: int) -> bytes:
    """A value in the memo, then one made of two of it, and so on."""
    return stream(EMPTY_LIST, MARK, start + MEMOIZE, *(double(get(index)) + MEMOIZE for index in range(size)), b"e")


def shared_reads(data: bytes, read: bytes, size: int) -> bytes:
    """``size`` uses of one large value."""
    return stream(kept(data), read * size, b"e")


def torch_alternating(size: int) -> bytes:
    """Two storages of bfloat16, rebuilt in turn."""
    blobs = [torch_blob("torch\nBFloat16Storage", 2**18, bytes([value]) * 2**19) for value in (0, 1)]
    load = name("torch.storage", "_load_from_bytes")
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    tail = integer(0) + items(integer(2**18)) + items(integer(1)) + FALSE + ordered()
    both = b"".join(call(get(3), get(2) + get(index) + b"\x85R" + tail) for index in (0, 1))
    return stream(kept(*map(raw, blobs), load, rebuild), both * size, b"e")


def torch_repeated(size: int) -> bytes:
    shape = items(integer(2**20), integer(2**20)), items(integer(0), integer(0))
    tensor = run("torch._utils", "_rebuild_tensor_v2", storage(torch_blob()), integer(0), *shape, FALSE, ordered())
    return stream(EMPTY_LIST, MARK, tensor * min(size, 1000), b"e")


def arrays(size: int) -> bytes:
    """Arrays of eight axes over the same byte."""
    args = raw(b"\x07"), dtype("u1", "|"), items(*[integer(1)] * 8), text("C")
    return stream(kept(name("numpy.core.numeric", "_frombuffer"), items(*args)), b"h\x00h\x01R" * size, b"e")


def object_arrays(size: int) -> bytes:
    """Object arrays that all refer to one list."""
    start = run("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), items(integer(0)), raw(b"b"))
    state = items(integer(1), items(integer(size)), dtype("O8", "|", 63), FALSE, EMPTY_LIST + MARK + NONE * size + b"e")
    return stream(kept(state), (start + get(0) + BUILD) * (size // 10), b"e")


def bool_arrays(size: int) -> bytes:
    args = raw(bytes(LARGE)), dtype("b1", "|"), items(integer(LARGE)), text("C")
    return shared_reads(name("numpy.core.numeric", "_frombuffer") + MEMOIZE + items(*args), b"h\x00h\x01R", size)


def big_endian_arrays(size: int) -> bytes:
    start = run("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), items(integer(0)), raw(b"b"))
    state = items(integer(1), items(integer(LARGE // 4)), dtype("f4", ">"), FALSE, raw(bytes(LARGE)))
    return stream(kept(state), (start + get(0) + BUILD) * size, b"e")


def everything(size: int) -> bytes:
    """Each kind of memory up to its limit: copies, long text, short text, small values, objects."""
    face = _FACE.encode()
    parts = [
        run("_codecs", "encode", b"X" + struct.pack("<I", 2**20) + b"x" * 2**20, text("latin1")) + MEMOIZE,
        b"X" + struct.pack("<I", 2**18) + face + b"x" * (2**18 - len(face)),
        text(_FACE + "x" * 250) * 600,
        (EMPTY_DICT + b"K\x00Ns") * (size // 10),
        b"\x8c\x02ab" * (size // 4),
    ]
    return stream(EMPTY_LIST, MARK, *parts, b"e")


def colliding(size: int) -> list[int]:
    """Keys whose hash is 0."""
    return [index * (2**61 - 1) for index in range(size)]


def crowding(size: int) -> list[int]:
    """Keys that fit the limit and start in the same slot of a dict."""
    return [index << 36 for index in range(size)]


BOMBS: dict[str, Callable[[int], bytes]] = {
    "LONG_BINPUT of 50 million": lambda size: stream(NONE, b"r" + struct.pack("<I", 50_000_000)),
    "LONG_BINPUT of 4 billion": lambda size: stream(NONE, b"r\xff\xff\xff\xff"),
    "bytearray of 2 GiB": lambda size: stream(run("builtins", "bytearray", integer(2**31 - 1))),
    "ndarray called for 2 GiB": lambda size: stream(run("numpy", "ndarray", items(integer(2**28)), text("f8"))),
    "array of 16 GiB without its bytes": lambda size: stream(array((2**31 - 1, 8), dtype("u1", "|"), raw(b""))),
    "empty array of absurd shape": lambda size: stream(array((0, 2**31 - 1, 2**31 - 1, 2**31 - 1), dtype(), raw(b""))),
    "BINBYTES8 of 3 GiB, cut off": lambda size: stream(b"\x8e" + struct.pack("<Q", 3 * 2**30), b"abc"),
    "BINBYTES of 4 GiB, cut off": lambda size: stream(b"B\xff\xff\xff\xff", b"abc"),
    "BINUNICODE of 4 GiB, cut off": lambda size: stream(b"X\xff\xff\xff\xff", b"abc"),
    "BYTEARRAY8 of 2**63, cut off": lambda size: stream(b"\x96" + struct.pack("<Q", 2**63), b"abc", protocol=5),
    "FRAME of 2**62": lambda size: stream(b"\x95" + struct.pack("<Q", 2**62), NONE),
    "LONG4 of 2 GiB": lambda size: stream(b"\x8b\xff\xff\xff\x7f"),
    "int keys with the hash 0": lambda size: int_keys(colliding(size)),
    "int keys in one slot": lambda size: int_keys(crowding(size)),
    "tuples doubled by DUP": lambda size: stream(NONE, b"2\x86" * 27),
    "tuples doubled by memo": lambda size: doubled(NONE, lambda last: last + last + b"\x86", size),
    "lists doubled by memo": lambda size: doubled(EMPTY_LIST, lambda last: EMPTY_LIST + MARK + last + last + b"e", size),
    "dicts doubled by memo": lambda size: doubled(
        EMPTY_DICT, lambda last: EMPTY_DICT + MARK + text("a") + last + text("b") + last + b"u", size
    ),
    "records doubled by memo": lambda size: doubled(NONE, lambda last: name("a", "b") + last + last + b"\x86" + NEWOBJ, size),
    "nested tuples": lambda size: stream(NONE, b"\x85" * size),
    "nested lists": lambda size: stream(EMPTY_LIST * size, b"a" * (size - 1)),
    "nested dicts": lambda size: stream((EMPTY_DICT + b"K\x00") * size, NONE, b"s" * size),
    "nested calls": lambda size: stream(name("a", "b") * size, NONE, (b"\x85R" * size)),
    "nested states": lambda size: stream((name("a", "b") + EMPTY_TUPLE + NEWOBJ) * size, NONE, BUILD * size),
    "marks": lambda size: stream(MARK * size, TUPLE * size),
    "empty dicts": lambda size: stream(EMPTY_LIST, MARK, EMPTY_DICT * size, b"e"),
    "dicts of one item": lambda size: stream(EMPTY_LIST, MARK, (EMPTY_DICT + b"K\x00Ns") * size, b"e"),
    "empty lists": lambda size: stream(EMPTY_LIST, MARK, EMPTY_LIST * size, b"e"),
    "lists of one item": lambda size: stream(EMPTY_LIST, MARK, (EMPTY_LIST + b"Na") * size, b"e"),
    "records": lambda size: stream(kept(name("a", "b")), (b"h\x00)" + NEWOBJ) * size, b"e"),
    "texts of two letters": lambda size: stream(EMPTY_LIST, MARK, b"\x8c\x02ab" * size, b"e"),
    "byte strings of two": lambda size: stream(EMPTY_LIST, MARK, b"C\x02ab" * size, b"e"),
    "floats": lambda size: stream(EMPTY_LIST, MARK, (b"G" + bytes(8)) * size, b"e"),
    "long ints": lambda size: stream(EMPTY_LIST, MARK, (b"\x8a\x10" + b"\x7f" * 16) * size, b"e"),
    "names": lambda size: stream(EMPTY_LIST, MARK, b"ca\nb\n" * size, b"e"),
    "GLOBAL without an end": lambda size: stream(b"c" + b"a" * size * 10),
    "memo entries": lambda size: stream(EMPTY_LIST, MARK, (NONE + MEMOIZE) * size, b"e"),
    "frames of one opcode": lambda size: stream(EMPTY_LIST, MARK, (b"\x95" + struct.pack("<Q", 1) + NONE) * size, b"e"),
    "one long text, four bytes a letter": lambda size: stream(long_text(size)),
    "short texts, four bytes a letter": lambda size: stream(EMPTY_LIST, MARK, text(_FACE + "x" * 250) * size, b"e"),
    "one text in many places": lambda size: stream(kept(text("x" * 4000)), b"h\x00" * size, b"e"),
    "one array in many places": lambda size: stream(
        kept(array((LARGE,), dtype("u1", "|"), raw(bytes(LARGE)))), get(0) * size, b"e"
    ),
    "bytes out of one text": lambda size: shared_reads(text("x" * LARGE), run("_codecs", "encode", get(0), text("latin1")), size),
    "one byte string in many places": lambda size: stream(kept(raw(bytes(LARGE))), get(0) * size, b"e"),
    "booleans looked at again": bool_arrays,
    "big-endian arrays swapped again": big_endian_arrays,
    "object arrays of one list": object_arrays,
    "arrays of eight axes": arrays,
    "bfloat16 widened again": torch_alternating,
    "torch tensors of 4 TiB": torch_repeated,
    "torch streams": lambda size: stream(
        kept(raw(torch_blob()), raw(torch_blob(data=b"\1" * 8)), name("torch.storage", "_load_from_bytes")),
        (get(2) + get(0) + b"\x85R" + get(2) + get(1) + b"\x85R") * size,
        b"e",
    ),
    "a little of everything": everything,
    "a list inside itself": lambda size: stream(EMPTY_LIST, MEMOIZE, b"h\x00a"),
    "a dict inside itself": lambda size: stream(EMPTY_DICT, MEMOIZE, text("a"), b"h\x00s"),
    "a record inside itself": lambda size: stream(name("a", "b"), EMPTY_TUPLE, NEWOBJ, MEMOIZE, b"h\x00", BUILD),
    "an object array inside itself": lambda size: stream(
        array((1,), dtype("O8", "|", 63), b"](h\x00e").replace(REDUCE, REDUCE + MEMOIZE, 1)
    ),
}


SIZE = 100_000
SIZES = {
    **dict.fromkeys(("tuples doubled by memo", "lists doubled by memo", "dicts doubled by memo", "records doubled by memo"), 60),
    **dict.fromkeys(("one array in many places", "bytes out of one text", "one byte string in many places"), 1000),
    **dict.fromkeys(("booleans looked at again", "big-endian arrays swapped again", "bfloat16 widened again"), 1000),
    "short texts, four bytes a letter": 120_000,
    "one long text, four bytes a letter": 30_000_000,
}
"""How large each bomb is made where it is measured; SIZE for the others."""


def resident(line: str) -> int:
    """A line of /proc/self/status in bytes."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(line):
            return int(entry.split()[1]) * 1024
    raise LookupError(line)


def lines_run(data: bytes) -> int:
    """How many lines of Python ``decode`` runs on ``data``."""
    count = 0

    def tracer(frame: FrameType, event: str, arg: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return tracer

    sys.settrace(tracer)
    try:
        decode(data)
    except PickleDecodeError:
        pass
    finally:
        sys.settrace(None)
    return count


def main() -> None:
    if sys.argv[1] == "work":
        size = int(sys.argv[2])
        print(json.dumps({bomb: [lines_run(make(size)), lines_run(make(2 * size))] for bomb, make in BOMBS.items()}))
        return
    bomb, size, reader = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    data = BOMBS[bomb](size)
    decode(stream(EMPTY_LIST))
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.perf_counter()
    try:
        kept_value = decode(data) if reader == "decode" else pickle.loads(data)
        outcome = f"value: {type(kept_value).__name__}"
    except PickleDecodeError as error:
        outcome = f"refused: {error}"
    except (MemoryError, pickle.UnpicklingError, RecursionError) as error:
        outcome = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    print(json.dumps({"bytes": len(data), "peak": resident("VmHWM") - before, "outcome": outcome[:150], "seconds": seconds}))


if __name__ == "__main__":
    main()
