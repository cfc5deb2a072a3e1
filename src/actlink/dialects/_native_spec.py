"""A spec read from the wire. Law: every value has its annotated type before ``Spec`` sees it; nothing is converted.

``Spec.from_dict`` is kinder, since it also reads what people write: there text may become a number.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from actlink.errors import ConfigError, RemoteProtocolError
from actlink.spec import Field, Spec

_SPEC = {name: hint for name, hint in typing.get_type_hints(Spec).items() if name not in ("observation", "action")}
_FIELD = typing.get_type_hints(Field)


def read_spec(plain: Mapping[str, Any]) -> Spec:
    """The spec in a welcome; ``RemoteProtocolError`` if it is not one. Unknown keys are a newer server's and ignored."""
    _check(plain, _SPEC, "welcome.spec")
    _check(plain.get("action"), _FIELD, "welcome.spec.action")
    observation = plain.get("observation", {})
    if type(observation) is not dict:
        raise RemoteProtocolError(f"welcome.spec.observation: expected a map, got a {type(observation).__name__}")
    for key, value in observation.items():
        _check(value, _FIELD, f"welcome.spec.observation[{key!r}]")
    try:
        return Spec.from_dict(plain, "welcome.spec", ignore_unknown=True)
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from None


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` from the wire is what ``hint`` says: a list where it says tuple; NaN is no number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is tuple:
        if type(value) is not list:
            return False
        hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(hints) and all(map(fits, value, hints))
    if hint is float:
        return type(value) in (int, float) and not math.isnan(value)
    return type(value) is hint


def _check(plain: object, hints: Mapping[str, Any], where: str) -> None:
    if type(plain) is not dict:
        raise RemoteProtocolError(f"{where}: expected a map, got a {type(plain).__name__}")
    for key, hint in hints.items():
        if key in plain and not fits(plain[key], hint):
            raise RemoteProtocolError(f"{where}: {key!r}: expected {hint}, got a {type(plain[key]).__name__}")
