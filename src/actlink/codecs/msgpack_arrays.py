"""Messages with arrays: a small msgpack header and the arrays' raw bytes beside it. Law: no I/O, and arrays are never copied.

A message without arrays is one msgpack map and nothing else. A message with arrays is::

    byte 0       0xC1 (no msgpack value begins with it), bytes 1 to 3 zero
    bytes 4-7    length of the header, uint32 little-endian
    byte 8 ...   the header: a msgpack map; in place of each array an extension of type 1 that holds the msgpack array
                 [dtype, shape, offset, length]
    then         padding to a multiple of 16, and the payload: the arrays' bytes (C order, little-endian) in the order in
                 which the header names them, each at a multiple of 16 from the start of the payload

Offsets and lengths are bytes within the payload; the frame ends with its last array. ``docs/wire.md`` has the specification.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgpack  # type: ignore[import-untyped]
import numpy as np

from actlink.errors import LocalProtocolError, RemoteProtocolError
from actlink.types import Array

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MARK = 0xC1
EXTENSION = 1
ALIGNMENT = 16

MAX_HEADER_BYTES = 256 * 1024
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 8
MAX_ARRAY_BYTES = 2**32 - 1
MAX_ENTRIES = 1024
"""Longest list or map. Bounds what nested announcements can make a decoder allocate."""
MAX_CONTAINERS = 4096
MAX_DEPTH = 16
MAX_STRING_BYTES = 64 * 1024

_SEPARATE_BYTES = 8192
"""Arrays shorter than this are copied next to the header: cheaper than one more buffer to write."""

_LITERALS = {
    "bool": "?",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}
DTYPES: Mapping[str, np.dtype[Any]] = {name: np.dtype(literal) for name, literal in _LITERALS.items()}
"""Every dtype that can travel, by its name on the wire. No other text becomes a dtype."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_KEYS = {str}
_SCALARS = frozenset({str, int, float, bool, type(None), np.ndarray})
_PREFIX = struct.Struct("<B3xI")


def encode(message: Mapping[str, Any]) -> tuple[Buffer, ...]:
    """The message as buffers to be written one after the other; large arrays are views, so leave them alone until then.

    ``LocalProtocolError`` for what the format cannot say: other types, other dtypes, anything over a limit.
    """
    try:
        header, collected = _writer.write(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"this message cannot be written: {error}") from error
    if len(header) > MAX_ENTRIES:  # shorter ones cannot hold anything too long
        _check_lengths(message)
    if len(header) > MAX_HEADER_BYTES:
        raise LocalProtocolError(
            f"header: expected at most {MAX_HEADER_BYTES} bytes, got {len(header)}; send long values as arrays"
        )
    return collected.beside(header) if collected.found else (header,)


def decode(buffer: Buffer) -> dict[str, Any]:
    """The message in ``buffer``: maps with string keys, lists, strings, numbers, booleans, None, and arrays.

    Arrays are read-only views on ``buffer`` (a copy only where the buffer's address does not fit the dtype's alignment).
    ``RemoteProtocolError`` for anything else than one message within the limits.
    """
    frame = memoryview(buffer).toreadonly()
    if not frame.nbytes or frame[0] != MARK:
        return _Reader(frame, None).message()
    if frame.nbytes < _PREFIX.size or bytes(frame[1:4]) != b"\0\0\0":
        raise RemoteProtocolError("frame: expected 0xC1, three zero bytes and the header's length")
    (_, length) = _PREFIX.unpack_from(frame)
    start = _aligned(_PREFIX.size + length)
    if length > MAX_HEADER_BYTES or _PREFIX.size + length > frame.nbytes:
        raise RemoteProtocolError(
            f"header: expected at most {MAX_HEADER_BYTES} bytes within a frame of {frame.nbytes}, the frame announces {length}"
        )
    return _Reader(frame[_PREFIX.size : _PREFIX.size + length], frame[start:]).message()


class _Arrays:
    """The arrays met while a message is packed."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Array]] = []
        self._end = 0

    def extension(self, value: object) -> Any:
        """What stands in the header for a value that msgpack does not know."""
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return value.item()
        if not isinstance(value, np.ndarray):
            raise TypeError(f"expected plain values and arrays, got a {type(value).__name__}")
        if value.ndim > MAX_DIMENSIONS or value.nbytes > MAX_ARRAY_BYTES or len(self.found) >= MAX_ARRAYS:
            raise ValueError(
                f"expected at most {MAX_ARRAYS} arrays of {MAX_DIMENSIONS} dimensions and {MAX_ARRAY_BYTES} bytes, "
                f"got one more or {value.dtype} of shape {value.shape}"
            )
        array, name = _portable(value)
        offset = _aligned(self._end)
        self.found.append((offset, array))
        self._end = offset + array.nbytes
        return _description(name, array.shape, offset, array.nbytes)

    def beside(self, header: bytes) -> tuple[Buffer, ...]:
        """Prefix, header and payload; neighbouring small pieces share a buffer."""
        parts: list[Buffer] = []
        small = bytearray(_PREFIX.pack(MARK, len(header)) + header)
        small += bytes(_aligned(len(small)) - len(small))
        position = 0
        for offset, array in self.found:
            small += bytes(offset - position)
            position = offset + array.nbytes
            if array.nbytes < _SEPARATE_BYTES:
                small += array.tobytes()
                continue
            if small:
                parts.append(small)
                small = bytearray()
            parts.append(array.reshape(-1).view(np.uint8).data)
        return (*parts, small) if small else tuple(parts)


class _Writer(threading.local):
    """Packs headers: one packer for each thread, because making one costs more than a header does."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer(default=self._extension, autoreset=True)

    def write(self, message: Mapping[str, Any]) -> tuple[bytes, _Arrays]:
        self._arrays = _Arrays()
        try:
            header: bytes = self._packer.pack(message)
        except BaseException:
            self._packer.reset()
            raise
        return header, self._arrays

    def _extension(self, value: object) -> Any:
        return self._arrays.extension(value)


_writer = _Writer()


@lru_cache(maxsize=1024)
def _description(name: str, shape: tuple[int, ...], offset: int, length: int) -> Any:
    """What stands in the header for an array; the same from request to request."""
    return msgpack.ExtType(EXTENSION, msgpack.packb([name, shape, offset, length]))


class _Reader:
    """One message being read: the checks that msgpack's own limits leave open."""

    def __init__(self, header: memoryview, payload: memoryview | None) -> None:
        self._header = header
        self._payload = payload
        self._end = 0
        self._arrays = 0
        self._containers = 0

    def message(self) -> dict[str, Any]:
        if self._header.nbytes > MAX_HEADER_BYTES:
            raise RemoteProtocolError(f"message: expected at most {MAX_HEADER_BYTES} bytes, got {self._header.nbytes}")
        message = _unpack(
            self._header,
            "message",
            object_pairs_hook=self._map,
            list_hook=self._list,
            ext_hook=self._array,
            max_str_len=MAX_STRING_BYTES,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
            max_ext_len=256,
        )
        if type(message) is not dict:
            raise RemoteProtocolError(f"message: expected a map, got a {type(message).__name__}")
        _check_values(message)
        if self._payload is not None and self._end != self._payload.nbytes:
            raise RemoteProtocolError(
                f"payload: expected {self._end} bytes, as the header describes them, got {self._payload.nbytes}"
            )
        return message

    def _map(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        self._count_container()
        made = dict(pairs)
        if len(made) != len(pairs) or not set(map(type, made)) <= _KEYS:
            raise RemoteProtocolError("map: expected keys that are strings and differ from each other")
        return made

    def _list(self, items: list[Any]) -> list[Any]:
        self._count_container()
        return items

    def _count_container(self) -> None:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise RemoteProtocolError(f"message: expected at most {MAX_CONTAINERS} maps and lists")

    def _array(self, code: int, data: bytes) -> Array:
        self._arrays += 1
        if code != EXTENSION or self._payload is None or self._arrays > MAX_ARRAYS:
            raise RemoteProtocolError(
                f"extension: expected type {EXTENSION} (an array in a frame with a payload; at most {MAX_ARRAYS}), got type {code}"
            )
        dtype, shape, offset, length = _described(data)
        if offset != _aligned(self._end) or offset + length > self._payload.nbytes:
            raise RemoteProtocolError(
                f"array: expected {length} bytes at offset {_aligned(self._end)}, the next multiple of {ALIGNMENT}, "
                f"in a payload of {self._payload.nbytes}; got offset {offset}"
            )
        self._end = offset + length
        return _view(self._payload[offset : self._end], dtype, shape)


@lru_cache(maxsize=1024)
def _described(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, offset and length of an array, with the length known to fit dtype and shape."""
    fields = _unpack(data, "array", max_str_len=16, max_array_len=MAX_DIMENSIONS, max_map_len=0, max_ext_len=0)
    if type(fields) is not list or len(fields) != 4 or type(fields[0]) is not str or type(fields[1]) is not list:
        raise RemoteProtocolError("array: expected [dtype, shape, offset, length]")
    name, shape, offset, length = fields
    # Python's integers do not overflow. Axes of length 0 count as one in ``span``, so that no other axis can be absurd.
    entries = span = 1
    for number in (*shape, offset, length):
        if type(number) is not int or number < 0:
            raise RemoteProtocolError("array: expected whole numbers from 0 on in shape, offset and length")
    for axis in shape:
        entries *= axis
        span *= axis or 1
    if name not in DTYPES:
        raise RemoteProtocolError(f"array: expected a dtype of {', '.join(DTYPES)}; got {name!r}")
    dtype = DTYPES[name]
    if span * dtype.itemsize > MAX_ARRAY_BYTES:
        raise RemoteProtocolError(f"array: expected at most {MAX_ARRAY_BYTES} bytes, got {name} of shape {shape}")
    if entries * dtype.itemsize != length:
        raise RemoteProtocolError(f"array: {name} of shape {shape} has {entries * dtype.itemsize} bytes, got {length}")
    return dtype, tuple(shape), offset, length


def _view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if not data.nbytes:
        array: Array = np.zeros(shape, dtype)
        array.flags.writeable = False
        return array
    array = np.frombuffer(data, dtype).reshape(shape)  # read-only, as ``data`` is
    if dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise RemoteProtocolError("array: expected bytes 0 and 1 in an array of bool")
    if not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _portable(array: Array) -> tuple[Array, str]:
    """The array in C order and little-endian (itself where it is so already), and its dtype's name on the wire."""
    dtype = array.dtype
    if dtype not in _NAMES and dtype.newbyteorder("<") not in _NAMES:
        raise TypeError(f"expected an array of {', '.join(DTYPES)}; got {dtype}")
    little = dtype if dtype in _NAMES else dtype.newbyteorder("<")
    return np.asarray(array, little, order="C"), _NAMES[little]


def _check_lengths(value: Any) -> None:
    if isinstance(value, str) and len(value.encode()) > MAX_STRING_BYTES:
        raise LocalProtocolError(f"string: expected at most {MAX_STRING_BYTES} bytes, got {len(value.encode())}: {value[:40]!r}...")
    if isinstance(value, dict | list | tuple):
        if len(value) > MAX_ENTRIES:
            raise LocalProtocolError(f"{type(value).__name__}: expected at most {MAX_ENTRIES} entries, got {len(value)}")
        for child in value.values() if isinstance(value, dict) else value:
            _check_lengths(child)


def _check_values(message: dict[str, Any]) -> None:
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in level:
            for value in container.values() if type(container) is dict else container:
                kind = type(value)
                if kind is dict or kind is list:
                    deeper.append(value)
                elif kind not in _SCALARS:
                    raise RemoteProtocolError(f"message: no value of type {kind.__name__} is part of this format")
        if not deeper:
            return
        level = deeper
    raise RemoteProtocolError(f"message: expected at most {MAX_DEPTH} levels of maps and lists")


def _unpack(data: Buffer, where: str, **limits: Any) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_bin_len=0, **limits)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"{where}: not msgpack as expected: {str(error) or type(error).__name__}") from None


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
