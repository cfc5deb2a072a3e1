"""Files of ``.npy`` arrays one behind the other, as Equinox writes the leaves of a tree. Law: views, sizes checked first.

Each array is numpy's format 1.0 to 3.0: a magic text, the length of a header, the header (a literal with dtype, order and shape),
the bytes. Only numbers and booleans are read.
"""

from __future__ import annotations

import io
import mmap
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.types import Array

MOST_LEAVES = 100_000
LONGEST_HEADER = 10_000
_MAGIC = b"\x93NUMPY"


def read(path: Path) -> list[Array]:
    """The arrays in the file, read-only views on it in their order; ``ConfigError`` names the one that is wrong."""
    try:
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError:
        raise ConfigError(f"{path}: an empty file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
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
    shape, fortran, dtype = _header(bytes(view[begin - width : begin + length]), start[6], where)
    data = begin + length
    if dtype.kind not in "biufc":
        raise ConfigError(f"{where}: expected numbers or booleans, got dtype {dtype}")
    if any(axis < 0 for axis in shape) or len(shape) > 8 or prod(axis or 1 for axis in shape) > 2**40:
        raise ConfigError(f"{where}: absurd shape {str(shape)[:80]}")
    end = data + prod(shape) * dtype.itemsize
    if end > len(view):
        raise ConfigError(f"{where}: {dtype} of shape {shape} needs {end - data} bytes, {len(view) - data} are left")
    return np.ndarray(shape, dtype, view[data:end], 0, None, "F" if fortran else "C"), end


def _header(raw: bytes, version: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    reader: Any = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = reader(io.BytesIO(raw))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, EOFError, UnicodeError) as error:
        raise ConfigError(f"{where}: its header cannot be read: {error}") from None
    return shape, fortran, dtype
