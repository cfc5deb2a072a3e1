"""torch tensors without torch, both ways. Law: a tensor is a view into one storage whose bytes are all in the message.

A pickled tensor is ``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)``, and its storage is
``_load_from_bytes(blob)``. The blob is what ``torch.save`` wrote before it wrote zip files: five pickles of protocol 2 (a magic
number, 1001, a dict of the machine's type sizes, one persistent id that describes the storage, a list of its key), then the
number of elements as int64 and the elements, little-endian. Read from torch 2.13 (``torch/serialization.py``, ``_legacy_save``) and
checked against what it writes and loads. Where the storage lived (``cpu``, ``cuda:0``) does not matter to bytes and is ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy import ndarray

from actlink.codecs._pickle_arrays import DTYPES, Call, check_booleans, check_shape
from actlink.codecs._pickle_records import Message, Name, Refusal, shown
from actlink.errors import LocalProtocolError
from actlink.types import Array

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_BFLOAT16 = "bfloat16"
_UNTYPED = "bytes"
STORAGES = {
    ("torch", "FloatStorage"): "f4",
    ("torch", "DoubleStorage"): "f8",
    ("torch", "HalfStorage"): "f2",
    ("torch", "BFloat16Storage"): _BFLOAT16,
    ("torch", "LongStorage"): "i8",
    ("torch", "IntStorage"): "i4",
    ("torch", "ShortStorage"): "i2",
    ("torch", "CharStorage"): "i1",
    ("torch", "ByteStorage"): "u1",
    ("torch", "BoolStorage"): "b1",
    ("torch.storage", "UntypedStorage"): _UNTYPED,
}
_NEWER_DTYPES = {"uint16": "u2", "uint32": "u4", "uint64": "u8"}
"""dtypes without a storage class of their own: ``_rebuild_tensor_v3`` names them beside an untyped storage."""

_STREAM_OBJECTS = 16
"""What reading a stream costs, counted in objects."""
_FAR = 2**40
"""Longest stride: a dimension of length 1 may have any, and numpy overflows on some."""


class PersistentId:
    """What stands for a storage inside the stream."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Storage:
    """The elements of one storage, flat and read-only; bfloat16 widened to float32, which numpy knows."""

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: Array) -> None:
        self.kind = kind
        self.values = values


def _load_from_bytes(args: tuple[Any, ...], message: Message) -> Storage:
    """``_load_from_bytes(blob)``: the storage in it; the blob of the call before is not read twice."""
    blob = args[0] if len(args) == 1 else None
    if type(blob) is not bytes and type(blob) is not memoryview:
        raise Refusal("torch's _load_from_bytes takes bytes")
    if message.blob is not blob:
        message.scan(len(blob))
        if message.blob is None or len(message.blob) != len(blob) or bytes(message.blob) != bytes(blob):  # views compare slowly
            message.count(_STREAM_OBJECTS)
            message.storage = _read_storage(blob, message)
        message.blob = blob
    return message.storage  # type: ignore[no-any-return]


def _read_storage(blob: bytes | memoryview, message: Message) -> Storage:
    """The storage in one legacy ``torch.save`` stream, which must be used up to its last byte."""
    values: list[Any] = []
    position = 0
    for _ in range(5):
        value, position = message.read(blob, position, message)
        values.append(value)
    magic, protocol, system, storage, keys = values
    if type(magic) is not int or magic != MAGIC or type(protocol) is not int or protocol != PROTOCOL:
        raise Refusal("not a torch stream: its magic number or protocol is wrong")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refusal("a torch stream that is not little-endian")
    kind, key, count = _described(storage)
    if type(keys) is not list or len(keys) != 1 or type(keys[0]) is not str or keys[0] != key:
        raise Refusal("a torch stream whose keys do not name its one storage")
    return Storage(kind, _elements(kind, count, blob, position, message))


def _described(storage: Any) -> tuple[str, str, int]:
    """Kind, key and number of elements out of ``('storage', class, key, location, count, None)``."""
    fields = storage.value if type(storage) is PersistentId else None
    if type(fields) is not tuple or len(fields) != 6 or tuple(map(type, fields)) != (str, Name, str, str, int, type(None)):
        raise Refusal("a torch stream whose storage is not described as ('storage', class, key, location, count, None)")
    word, cls, key, _, count, _ = fields
    kind = STORAGES.get((cls.module, cls.name))
    if word != "storage" or kind is None or count < 0:
        raise Refusal(f"a torch storage of class {shown(cls)} with {shown(count)} elements")
    return kind, key, count


def _elements(kind: str, count: int, blob: bytes | memoryview, start: int, message: Message) -> Array:
    raw = blob[start + 8 :]
    dtype = np.dtype("<u2") if kind == _BFLOAT16 else np.dtype("u1") if kind == _UNTYPED else DTYPES[kind]
    if len(blob) < start + 8 or struct.unpack_from("<q", blob, start)[0] != count or len(raw) != count * dtype.itemsize:
        raise Refusal(f"a torch storage of {shown(count)} elements followed by {len(raw)} bytes")
    values: Array = ndarray((count,), dtype, raw)
    if kind == "b1":
        check_booleans(raw, message)
    if kind != _BFLOAT16:
        return values
    message.make(4 * count)
    wide = (values.astype("<u4") << 16).view("<f4")
    wide.flags.writeable = False
    return wide


def _rebuild(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)``, perhaps with metadata behind."""
    if len(args) not in (6, 7) or type(args[0]) is not Storage or args[0].kind == _UNTYPED:
        raise Refusal("torch's _rebuild_tensor_v2 takes (storage, offset, size, stride, requires_grad, hooks)")
    return strided(args[0].values, args[1], args[2], args[3])


def rebuild_newer(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_tensor_v3``: the same with an untyped storage and the dtype at the end."""
    if len(args) not in (7, 8) or type(args[0]) is not Storage or args[0].kind != _UNTYPED or type(args[6]) is not Name:
        raise Refusal("torch's _rebuild_tensor_v3 takes (untyped storage, offset, size, stride, requires_grad, hooks, dtype)")
    name = _NEWER_DTYPES.get(args[6].name) if args[6].module == "torch" else None
    if name is None or args[0].values.size % DTYPES[name].itemsize:
        raise Refusal(f"a torch tensor of dtype {shown(args[6])}")
    return strided(args[0].values.view(DTYPES[name]), args[1], args[2], args[3])


def strided(values: Array, offset: Any, size: Any, stride: Any) -> Array:
    count = check_shape(size)
    if type(stride) is not tuple or len(stride) != len(size) or not all(type(step) is int and 0 <= step <= _FAR for step in stride):
        raise Refusal("a torch tensor whose strides do not fit its size")
    if type(offset) is not int or offset < 0:
        raise Refusal(f"a torch tensor at offset {shown(offset)}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and last >= values.size:
        raise Refusal(f"a torch tensor that reaches to element {last} of a storage of {values.size}")
    if not count:
        return ndarray(size, values.dtype, b"")
    width = values.dtype.itemsize
    if prod(size) * width > 2**62:  # only with strides of 0; numpy would overflow
        raise Refusal("a torch tensor that repeats its elements without end")
    return ndarray(size, values.dtype, values, offset * width, tuple(step * width for step in stride))


def _rebuild_parameter(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_parameter(tensor, requires_grad, hooks)``: the tensor."""
    if len(args) != 3 or type(args[0]) is not ndarray:
        raise Refusal("torch's _rebuild_parameter takes (tensor, requires_grad, hooks)")
    return args[0]


def _rebuild_from_type(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_from_type_v2(rebuild, class, args, state)``: a tensor with attributes, which are dropped."""
    func = args[0] if len(args) == 4 else None
    if type(func) is not Name or type(args[2]) is not tuple or (func.module, func.name) not in _REBUILDS:
        raise Refusal("torch's _rebuild_from_type_v2 takes (_rebuild_tensor_v2, class, args, state)")
    return _REBUILDS[func.module, func.name](args[2], message)


def _size(args: tuple[Any, ...], message: Message) -> tuple[int, ...]:
    """``torch.Size(tuple)``: the tuple."""
    if len(args) != 1:
        raise Refusal("torch.Size takes a tuple")
    check_shape(args[0])
    return args[0]  # type: ignore[no-any-return]


_REBUILDS: dict[tuple[str, str], Callable[[tuple[Any, ...], Message], Array]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild_newer,
}
TORCH_CALLS: dict[tuple[str, str], Call] = {
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    **_REBUILDS,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Size"): _size,
}

CLASSES = {DTYPES[kind]: name for (_, name), kind in STORAGES.items() if kind in DTYPES}
_HEAD = (
    b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b".\x80\x02M\xe9\x03.\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03"
    b"X\x0d\x00\x00\x00little_endian\x88X\x0a\x00\x00\x00type_sizes}("
    b"X\x05\x00\x00\x00shortK\x02X\x03\x00\x00\x00intK\x04X\x04\x00\x00\x00longK\x04uu."
)


def write_storage(array: Array) -> bytes:
    """The blob of a storage that holds exactly the elements of ``array`` (C-contiguous), as ``_load_from_bytes`` reads it."""
    cls = CLASSES.get(array.dtype)
    if cls is None:
        raise LocalProtocolError(f"torch tensors are written from float, int and bool arrays, not from {array.dtype}")
    storage = b"\x80\x02(X\x07\x00\x00\x00storagectorch\n%s\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ%sNtQ." % (
        cls.encode(),
        struct.pack("<i", array.size),
    )
    return b"%s%s\x80\x02]X\x01\x00\x00\x000a.%s%s" % (_HEAD, storage, struct.pack("<q", array.size), array.tobytes())
