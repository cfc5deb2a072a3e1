"""Files of ``.npy`` arrays one behind the other, as Equinox writes the leaves of a tree. Law: views, sizes checked first.

Each array is numpy's format 1.0 to 3.0: a magic text, the length of a header, the header (dtype, order and shape), the bytes.
Only numbers and booleans are read.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from actlink.codecs import array_dtypes
from actlink.codecs.mapped_files import mapped
from actlink.errors import ConfigError
from actlink.types import Array

MOST_LEAVES = 100_000
LONGEST_HEADER = 10_000
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(rb"\{'descr': '([<>=|]?\w{1,4})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,13},? ?){0,40})\), \}\s*")


def read(path: Path) -> list[Array]:
    """The arrays in the file, read-only views on it in their order; ``ConfigError`` names the one that is wrong."""
    view = mapped(path)
    leaves: list[Array] = []
    at = 0
    while at < len(view):
        if len(leaves) == MOST_LEAVES:
            raise ConfigError(f"{path}: more than {MOST_LEAVES} arrays")
        leaf, at = _one(view, at, f"{path}: array {len(leaves)} at byte {at}")
        leaves.append(leaf)
    return leaves


def _one(view: memoryview, at: int, where: str) -> tuple[Array, int]:
    start = bytes(view[at : at + 12])
    if len(start) < 12 or not start.startswith(_MAGIC) or start[6] not in (1, 2, 3):
        raise ConfigError(f"{where}: expected numpy's .npy format, got {start[:8]!r}")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(start[8 : 8 + width], "little")
    begin = at + 8 + width
    if length > LONGEST_HEADER or begin + length > len(view):
        raise ConfigError(f"{where}: its header of {length} bytes is cut off, or longer than {LONGEST_HEADER}")
    shape, fortran, dtype = _header(bytes(view[begin : begin + length]), where)
    data = begin + length
    if len(shape) > 8 or prod(axis or 1 for axis in shape) > 2**40:
        raise ConfigError(f"{where}: absurd shape {str(shape)[:80]}")
    end = data + prod(shape) * dtype.itemsize
    if end > len(view):
        raise ConfigError(f"{where}: {dtype} of shape {shape} needs {end - data} bytes, {len(view) - data} are left")
    return np.ndarray(shape, dtype, view[data:end], 0, None, "F" if fortran else "C"), end


def _header(raw: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype as numpy writes them; matched as text, where numpy itself parses a Python literal."""
    match = _HEADER.fullmatch(raw)
    if match is None:
        raise ConfigError(f"{where}: expected the header of an array of numbers, got {raw[:80]!r}")
    name, order, axes = match[1].decode(), match[2], match[3].split(b",")
    dtype = array_dtypes.DTYPES.get(name)
    if dtype is None:
        raise ConfigError(f"{where}: expected numbers or booleans, got dtype {name!r}")
    return tuple(int(axis) for axis in axes if axis.strip()), order == b"True", dtype
