"""openpi's arrays in msgpack. Law: sizes and dtypes are checked before numpy sees them; nothing is built from a name on the wire.

An array is the map ``{__ndarray__: true, data: bin (C order), dtype: str, shape: list}``, a numpy scalar
``{__npgeneric__: true, data: native value, dtype: str}``; the keys are ``bin`` where openpi's own packer wrote them. That packer's
decoder hands any dtype to numpy; ``|O`` crashes the process, ``V8`` with a large integer allocates gigabytes. Here only the dtypes
of ``array_dtypes`` exist, a scalar becomes a plain Python value, and an array has exactly the bytes of its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from actlink.codecs import array_dtypes, msgpack_views
from actlink.codecs.msgpack_views import Buffer, Writer
from actlink.errors import LocalProtocolError, RemoteProtocolError
from actlink.types import Array

MAX_ARRAYS = 1024

_ARRAY, _SCALAR = "__ndarray__", "__npgeneric__"
_SCALARS: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (float, int)}


def read(data: Buffer) -> Any:
    """The value in ``data``; arrays are read-only views on it, arrays of one text are str, other ``bin`` values are views.

    ``RemoteProtocolError`` for anything that is not one value of plain types, arrays and scalars within the limits.
    """
    return _Arrays().built(msgpack_views.read(data), "message")


def write(value: Any) -> tuple[Buffer, ...]:
    """The message as buffers to be written one after the other; long arrays are views, so leave them alone until then.

    Numpy scalars are written as plain numbers, which every decoder knows. ``LocalProtocolError`` for what the format cannot say.
    """
    writer = Writer()
    _write(value, writer)
    return writer.parts()


class _Arrays:
    def __init__(self) -> None:
        self._left = MAX_ARRAYS

    def built(self, value: Any, where: str) -> Any:
        """``value`` with every map that stands for an array replaced by it."""
        if type(value) is list:
            return [self.built(each, where) for each in value]
        if type(value) is not dict:
            return value
        if _ARRAY in value:
            return self._array(value, where)
        if _SCALAR in value:
            return _scalar(value, where)
        return {key: self.built(each, f"{where}[{key!r}]" if len(where) < 256 else where) for key, each in value.items()}

    def _array(self, value: dict[str, Any], where: str) -> Array | str:
        self._left -= 1
        if self._left < 0:
            raise RemoteProtocolError(f"{where}: expected at most {MAX_ARRAYS} arrays in a message")
        data, shape = value.get("data"), value.get("shape")
        if value[_ARRAY] is not True or type(data) is not memoryview or type(shape) is not list or len(value) != 4:
            raise RemoteProtocolError(f"{where}: expected an array as {{{_ARRAY}: true, data: bin, dtype: text, shape: list}}")
        return array_dtypes.array(data, _dtype(value, where), shape, where)


def _scalar(value: dict[str, Any], where: str) -> Any:
    name, data = _dtype(value, where), value.get("data")
    if type(data) is str and name[1:2] in ("U", "S"):
        return data
    dtype = array_dtypes.DTYPES.get(name)
    if value[_SCALAR] is not True or len(value) != 3 or dtype is None or type(data) not in _SCALARS[dtype.kind]:
        raise RemoteProtocolError(f"{where}: expected a number as {{{_SCALAR}: true, data: number, dtype: text}}")
    return data


def _dtype(value: dict[str, Any], where: str) -> str:
    return msgpack_views.text(value.get("dtype"), f"{where}: dtype")


def _write(value: Any, writer: Writer) -> None:
    if isinstance(value, Mapping):
        writer.begin_map(len(value))
        for key, each in value.items():
            writer.plain(key)
            _write(each, writer)
    elif isinstance(value, list | tuple):
        writer.begin_list(len(value))
        for each in value:
            _write(each, writer)
    elif isinstance(value, np.ndarray):
        _write_array(value, writer)
    elif isinstance(value, np.generic) and value.dtype.kind in "biuf":
        writer.plain(value.item())
    else:
        writer.plain(value)


def _write_array(array: Array, writer: Writer) -> None:
    name = array_dtypes.name_of(array.dtype)
    if name is None:
        raise LocalProtocolError(
            f"this message cannot be written: expected an array of bool, int, uint or float, got {array.dtype}"
        )
    writer.begin_map(4)
    before: tuple[Any, ...] = (b"__ndarray__", True, b"data")
    after: tuple[Any, ...] = (b"dtype", name, b"shape", list(array.shape))
    for plain in before:
        writer.plain(plain)
    writer.bin(array_dtypes.raw(array, name))
    for plain in after:
        writer.plain(plain)
