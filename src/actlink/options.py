"""Options as text to frozen dataclasses, one way for all. Law: pure; an unknown option is an error that lists the known ones.

The same grammar serves addresses, policies and environments: ``name?option=value&option=value``. Values are read as YAML, so
``2``, ``0.5``, ``true``, ``[10, 50]`` and plain words mean what they look like.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from actlink.errors import ConfigError

T = TypeVar("T")


def split(reference: str) -> tuple[str, dict[str, str]]:
    """``name?a=1&b=2`` as ``("name", {"a": "1", "b": "2"})``."""
    name, _, query = reference.partition("?")
    return name, dict(parse_qsl(query, keep_blank_values=True))


def parse_pairs(pairs: typing.Iterable[str], where: str) -> dict[str, str]:
    """``["a=1", "b=2"]`` as a mapping; ``ConfigError`` where a pair has no ``=``."""
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"{where}: expected option=value, got {pair!r}")
        options[key] = value
    return options


def build(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``cls`` from options given as text or as YAML values.

    ``ConfigError`` names ``where``, the option, what was expected and what came.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls) if f.init}  # type: ignore[arg-type]
    values = {}
    for key, given in options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"{where}: unknown option {key!r}; known options: {', '.join(known) or 'none'}")
        values[name] = convert(given, known[name], f"{where}: option {key!r}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def convert(given: Any, hint: Any, where: str) -> Any:
    """``given`` (text or a YAML value) as the annotated type ``hint``; ``ConfigError`` if it is not one."""
    value = _read(given) if isinstance(given, str) and hint is not str else given
    try:
        return _cast(value, hint)
    except (TypeError, ValueError):
        shown = hint.__name__ if isinstance(hint, type) and typing.get_origin(hint) is None else str(hint)
        shown = shown.replace("typing.", "").replace("collections.abc.", "")
        raise ConfigError(f"{where}: expected {shown}, got {given!r}") from None


def _read(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2024-99-99 looks like a date
        return text


def _cast(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _cast_first(value, arguments)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ValueError
    if origin is tuple:
        return _cast_tuple(value, arguments)
    if origin is not None and issubclass(origin, Mapping):
        return {_cast(k, arguments[0]): _cast(v, arguments[1]) for k, v in dict(value).items()}
    return _cast_plain(value, hint)


def _cast_first(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        try:
            return _cast(value, choice)
        except (TypeError, ValueError):
            continue
    raise ValueError


def _cast_tuple(value: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    values = list(value) if isinstance(value, list | tuple) else [value]
    hints = items[:1] * len(values) if len(items) == 2 and items[1] is Ellipsis else items
    if len(values) != len(hints):
        raise ValueError
    return tuple(
        _cast(_read(v) if isinstance(v, str) and hint is not str else v, hint) for v, hint in zip(values, hints, strict=True)
    )


def _cast_plain(value: Any, hint: Any) -> Any:
    if hint is type(None):
        if value is None:
            return None
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)  # YAML 1.1 reads 1e-3 as text
    elif hint is str:
        if isinstance(value, str | int | float):
            return str(value)
    elif isinstance(value, hint):
        return value
    elif isinstance(value, str):
        return hint(value)  # Path and the like
    raise ValueError
