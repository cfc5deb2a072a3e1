"""A spec read from the wire. Law: what leaves here has the types that ``Spec`` and ``Field`` are annotated with."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from actlink.errors import ConfigError, RemoteProtocolError
from actlink.spec import Field, Spec

_HINTS: dict[type, dict[str, Any]] = {
    record: {f.name: typing.get_type_hints(record)[f.name] for f in fields(record)} for record in (Spec, Field)
}


def read_spec(plain: Mapping[str, Any]) -> Spec:
    """The spec in a welcome; ``RemoteProtocolError`` if it is not one. Unknown keys are a newer server's and ignored."""
    try:
        spec = Spec.from_dict(plain, "welcome.spec", ignore_unknown=True)
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from None
    for record in (spec, spec.action, *spec.observation.values()):
        for name, hint in _HINTS[type(record)].items():
            if not fits(getattr(record, name), hint):
                raise RemoteProtocolError(f"welcome.spec: {name!r}: expected {hint}, got something else")
    if spec.rate_hz is not None and not 0 < spec.rate_hz < math.inf:
        raise RemoteProtocolError("welcome.spec: 'rate_hz': expected a positive number")
    return spec


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type, through unions, tuples and mappings; NaN is not a number here."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(hints) and all(map(fits, value, hints))
    if origin is not None:  # a mapping; ``Spec.from_dict`` lets nothing else through
        return all(fits(key, arguments[0]) and fits(one, arguments[1]) for key, one in value.items())
    if hint is float:
        return type(value) in (int, float) and not math.isnan(value)
    return type(value) is hint
