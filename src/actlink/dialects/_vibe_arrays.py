"""Arrays beside their description in one msgpack map: vibe-rl's messages. Law: pure; ``docs/dialects/vibe.md`` specifies them.

``{obs: <raw bytes>, __meta__: {obs: {dtype: text, shape: list}}}``; every key and text may be ``bin`` or ``str``, and ``__meta__``
may be a packed map in itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from actlink.codecs import array_dtypes, msgpack_views
from actlink.codecs.msgpack_views import Buffer, Writer
from actlink.errors import LocalProtocolError, RemoteProtocolError
from actlink.types import Array

META = "__meta__"
MAX_ARRAYS = 256


def read(data: Buffer) -> tuple[dict[str, Array | str], dict[str, Any]]:
    """The arrays of a message by name (views on it; texts as str), and its ``__meta__``."""
    message = msgpack_views.read(data, raw=True)
    if type(message) is not dict:
        raise RemoteProtocolError(f"message: expected a map, got a {type(message).__name__}")
    meta = message.pop(META, None)
    if type(meta) is memoryview:
        meta = msgpack_views.read(meta, raw=True)
    if type(meta) is not dict:
        raise RemoteProtocolError(f"message: expected a map {META!r} that describes each array, got a {type(meta).__name__}")
    if len(message) > MAX_ARRAYS:
        raise RemoteProtocolError(f"message: expected at most {MAX_ARRAYS} arrays, got {len(message)}")
    return {key: _array(key, value, meta.get(key)) for key, value in message.items()}, meta


def write(arrays: Mapping[str, Array | str], meta: Mapping[str, Any]) -> tuple[Buffer, ...]:
    """A message of ``arrays``, ``meta`` added to their description; keys are ``bin``, as the original writes them."""
    writer = Writer()
    writer.begin_map(len(arrays) + 1)
    described: dict[bytes, Any] = {}
    for key, value in arrays.items():
        if isinstance(value, str) and len(value) > array_dtypes.MAX_TEXT:
            raise LocalProtocolError(f"{key}: expected at most {array_dtypes.MAX_TEXT} characters, got {len(value)}")
        array = np.array(value) if isinstance(value, str) else value
        name = array.dtype.newbyteorder("<").str if array.dtype.kind == "U" else array_dtypes.name_of(array.dtype)
        if name is None:
            raise LocalProtocolError(f"{key}: expected an array of bool, int, uint or float, or a text; got {array.dtype}")
        writer.plain(key.encode())
        writer.bin(memoryview(array.astype(name).tobytes()) if array.dtype.kind == "U" else array_dtypes.raw(array, name))
        described[key.encode()] = {b"dtype": name, b"shape": list(array.shape)}
    writer.plain(META.encode())
    writer.plain({**described, **{key.encode(): value for key, value in meta.items()}})
    return writer.parts()


def number(meta: Mapping[str, Any], key: str) -> float:
    """A number of the ``__meta__``; 0 where it is absent."""
    value = meta.get(key, 0.0)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise RemoteProtocolError(f"{META}: {key!r}: expected a finite number, got a {type(value).__name__}")
    return float(value)


def _array(key: str, value: Any, described: Any) -> Array | str:
    if type(value) is not memoryview or type(described) is not dict or type(described.get("shape")) is not list:
        raise RemoteProtocolError(
            f"{key!r}: expected the raw bytes of an array, and {{dtype: text, shape: list}} for it in {META!r}; got a "
            f"{type(value).__name__} and a {type(described).__name__}"
        )
    return array_dtypes.array(value, msgpack_views.text(described.get("dtype"), f"{key!r}: dtype"), described["shape"], repr(key))
