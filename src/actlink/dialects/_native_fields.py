"""Reading one field of a native message. Law: a misfit is a ``RemoteProtocolError`` with where, expected and got.

None counts as absent. Values are never shown in errors, only their types: a field may hold a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from actlink.errors import RemoteProtocolError
from actlink.types import Array

MAX_WHOLE = 2**53 - 1
"""Largest whole number that every language keeps exactly."""
MAX_NAME = 256
MAX_TOKEN = 4096
MAX_ERROR = 4096

Message = Mapping[str, Any]


def text(message: Message, key: str, where: str, default: str | None = None, *, longest: int = MAX_NAME) -> str:
    value = _present(message, key, where, default)
    if type(value) is not str or len(value) > longest:
        raise misfit(where, key, f"a string of at most {longest} characters", value)
    return value


def whole(message: Message, key: str, where: str, default: int | None = None) -> int:
    value = _present(message, key, where, default)
    if type(value) is not int or not 0 <= value <= MAX_WHOLE:
        raise misfit(where, key, "a whole number from 0 to 2^53 - 1", value)
    return value


def number(message: Message, key: str, where: str, default: float | None = None) -> float:
    """A finite number; whole ones are welcome too, since some languages write 5.0 as 5."""
    value = _present(message, key, where, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise misfit(where, key, "a finite number", value)
    return float(value)


def flag(message: Message, key: str, where: str) -> bool:
    value = _present(message, key, where, False)
    if type(value) is not bool:
        raise misfit(where, key, "true or false", value)
    return value


def mapping(message: Message, key: str, where: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    value = _present(message, key, where, default)
    if type(value) is not dict:
        raise misfit(where, key, "a map", value)
    return value


def items(message: Message, key: str, where: str, default: list[Any] | None = None) -> list[Any]:
    value = _present(message, key, where, default)
    if type(value) is not list:
        raise misfit(where, key, "a list", value)
    return value


def rows(message: Message, key: str, where: str) -> Array:
    """An array of two axes: one row per control step."""
    value = _present(message, key, where, None)
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        raise misfit(where, key, "an array of two axes (control steps, entries of an action)", value)
    return value


def misfit(where: str, key: str, expected: str, value: object) -> RemoteProtocolError:
    got = "nothing" if value is None else f"a {type(value).__name__}"
    if isinstance(value, np.ndarray):
        got = f"an array of {value.dtype} {value.shape}"
    return RemoteProtocolError(f"{where}: {key!r}: expected {expected}, got {got}")


def _present(message: Message, key: str, where: str, default: Any) -> Any:
    value = message.get(key)
    if value is not None:
        return value
    if default is None:
        raise RemoteProtocolError(f"{where}: {key!r} is missing; got the keys: {', '.join(message)}"[:MAX_ERROR])
    return default
