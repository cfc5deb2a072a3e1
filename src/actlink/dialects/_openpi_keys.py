"""openpi observations: their maps, names and image layouts, both ways. Law: pure; ``docs/dialects/openpi.md`` has the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from actlink.codecs import msgpack_views
from actlink.dialects._keys import IMAGES, Keys
from actlink.errors import RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

STYLES = ("dot", "slash", "nested")


def read(message: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """A peer's observation under the spec's names, in the spec's layouts; what the spec does not name stays as it came."""
    found = Keys(spec).renamed(dict(_flat(message, "")))
    return {key: _fitted(value, spec.observation[key], key) if key in spec.observation else value for key, value in found.items()}


def write(observation: Observation, style: str, channels_first: bool) -> dict[str, Any]:
    """The observation as a server expects it: ``images.top`` (dot), ``observation/top`` (slash), ``{images: …}`` (nested)."""
    laid_out = {key: _channels_first(value) if channels_first else value for key, value in observation.items()}
    if style == "dot":
        return laid_out
    if style == "slash":
        return {_slashed(key): value for key, value in laid_out.items()}
    nested: dict[str, Any] = {}
    for key, value in laid_out.items():
        room, dot, name = key.partition(".")
        if dot:
            nested.setdefault(room, {})[name] = value
        else:
            nested[key] = value
    return nested


def _flat(message: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in message.items():
        if type(value) is dict:
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _fitted(value: Any, field: Field, key: str) -> Any:
    if field.dtype == "str":
        return msgpack_views.text(value, f"observation[{key!r}]") if type(value) is memoryview else value
    if type(value) is memoryview:
        raise RemoteProtocolError(f"observation[{key!r}]: expected an array, got bytes")
    if type(value) in (int, float, bool):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 0 and field.shape == (1,):
        return value.reshape(1)
    if field.is_image and value.ndim == 3 and not _fits(value.shape, field) and _fits((*value.shape[1:], value.shape[0]), field):
        return value.transpose(1, 2, 0)
    return value


def _fits(shape: tuple[int, ...], field: Field) -> bool:
    return all(want is None or want == got for want, got in zip(field.shape, shape, strict=True))


def _slashed(key: str) -> str:
    if key == "prompt":
        return key
    return f"observation/{key.removeprefix(IMAGES).replace('.', '/')}"


def _channels_first(value: Array | str) -> Array | str:
    if isinstance(value, str) or value.ndim != 3 or value.dtype != np.uint8:
        return value
    return np.ascontiguousarray(value.transpose(2, 0, 1))
