"""Dtypes by the names that numpy has for them. Law: a text from a wire is looked up in a table, never given to numpy.

numpy itself makes object arrays out of ``|O``, structures out of ``f8,O`` and arrays of 2**62 entries in no bytes out of ``S0``.
Only numbers and booleans of a fixed size are in the table, and texts of bounded length.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actlink.errors import RemoteProtocolError
from actlink.types import Array

MAX_DIMENSIONS = 8
MAX_ARRAY_BYTES = 2**32 - 1
MAX_TEXT = 4096
"""Longest text that may come as an array of one entry, in characters."""

_NAMES = {
    "b1": "bool bool_ bool8 ?",
    "u1": "uint8 ubyte B",
    "u2": "uint16 ushort H",
    "u4": "uint32 uintc I",
    "u8": "uint64 uint ulong ulonglong uintp L Q",
    "i1": "int8 byte b",
    "i2": "int16 short h",
    "i4": "int32 intc i",
    "i8": "int64 int int_ long longlong intp l q",
    "f2": "float16 half e",
    "f4": "float32 single f",
    "f8": "float64 float float_ double d",
}
"""Kind and size -> what else numpy takes for it, sizes as on 64-bit machines."""


def _table() -> dict[str, np.dtype[Any]]:
    found: dict[str, np.dtype[Any]] = {}
    for code, names in _NAMES.items():
        little, big = np.dtype(f"<{code}"), np.dtype(f">{code}")
        for name in names.split():
            found[name] = little
        for order, name in itertools.product(("", "<", "=", "|", ">"), (code, *(n for n in names.split() if len(n) == 1))):
            found[order + name] = big if order == ">" else little
    return found


DTYPES: Mapping[str, np.dtype[Any]] = _table()
"""Every dtype of numbers and booleans that can travel, by each of its spellings."""

_TEXT = re.compile(r"[<>=|]?([US])([1-9]\d{0,3})")


def array(data: memoryview, name: str, shape: Sequence[object], where: str) -> Array | str:
    """The array whose bytes in C order are ``data``, a read-only view wherever alignment allows; a ``str`` for a text dtype.

    ``RemoteProtocolError`` unless the dtype is known and its bytes are exactly those of the shape.
    """
    entries = _entries(shape, where)
    text = _TEXT.fullmatch(name)
    if text is not None:
        return _text(data, name, text[1], int(text[2]), entries, where)
    dtype = DTYPES.get(name)
    if dtype is None:
        raise RemoteProtocolError(f"{where}: expected a dtype of bool, int, uint or float, got {name[:20]!r}")
    _check_size(data, name, shape, entries * dtype.itemsize, where)
    sizes = [int(axis) for axis in shape]  # type: ignore[call-overload]
    if not data.nbytes:
        empty: Array = np.zeros(sizes, dtype)
        empty.flags.writeable = False
        return empty
    made: Array = np.frombuffer(data.toreadonly(), dtype).reshape(sizes)
    if dtype.kind == "b" and made.view(np.uint8).max() > 1:
        raise RemoteProtocolError(f"{where}: expected bytes 0 and 1 in an array of bool")
    if not made.flags.aligned:
        made = made.copy()
        made.flags.writeable = False
    return made


def name_of(dtype: np.dtype[Any]) -> str | None:
    """How numpy's own ``dtype.str`` spells it, little-endian; None for what cannot travel."""
    name = dtype.newbyteorder("<").str if dtype.kind in "biuf" else ""
    return name if name in DTYPES else None


def raw(array: Array, name: str) -> memoryview:
    """The bytes of ``array`` in C order and in the byte order of the dtype ``name``; a view where they are so already."""
    ready = np.ascontiguousarray(array, DTYPES[name])
    return ready.reshape(-1).view(np.uint8).data


def _entries(shape: Sequence[object], where: str) -> int:
    if len(shape) > MAX_DIMENSIONS or any(type(axis) is not int or not 0 <= axis <= MAX_ARRAY_BYTES for axis in shape):
        raise RemoteProtocolError(f"{where}: expected a shape of at most {MAX_DIMENSIONS} whole numbers from 0 on")
    # Axes of length 0 count as one, so that no other axis can be absurd.
    if math.prod(axis or 1 for axis in shape) > MAX_ARRAY_BYTES:  # type: ignore[misc]
        raise RemoteProtocolError(f"{where}: expected at most {MAX_ARRAY_BYTES} bytes, got shape {list(shape)}")
    return math.prod(shape)  # type: ignore[arg-type]


def _check_size(data: memoryview, name: str, shape: Sequence[object], expected: int, where: str) -> None:
    if data.nbytes != expected:
        raise RemoteProtocolError(f"{where}: {name} of shape {list(shape)} has {expected} bytes, got {data.nbytes}")


def _text(data: memoryview, name: str, kind: str, length: int, entries: int, where: str) -> str:
    if entries != 1 or length > MAX_TEXT:
        raise RemoteProtocolError(f"{where}: expected one text of at most {MAX_TEXT} characters, got {entries} of {name}")
    _check_size(data, name, (), length * (4 if kind == "U" else 1), where)
    encoding = "utf-8" if kind == "S" else "utf-32-be" if name.startswith(">") else "utf-32-le"
    try:
        return bytes(data).decode(encoding).rstrip("\0")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{where}: not a text: {error.reason}") from None
