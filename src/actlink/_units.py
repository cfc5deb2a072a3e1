"""The transform's ``unit``: the same quantity in another unit, for all entries of a value or for some. Law: pure; numpy only.

::

    - unit: {state.*: deg->rad}             # every entry of the observation's state, as it flows: giver's -> policy's
    - unit: {state.left_*: deg->rad}        # entries by name, with * and ?; or by index: state.0
    - actions: {unit: rad->deg}             # actions flow the other way: policy's -> giver's
    - actions: {unit: {left_*: rad->deg}}
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from actlink._operations import Change, Operation, scalar
from actlink.errors import ConfigError
from actlink.spec import Field
from actlink.types import Array

_SIZES = {
    "angle": {"rad": 1.0, "deg": math.pi / 180},
    "length": {"m": 1.0, "cm": 0.01, "mm": 0.001},
    "share": {"ratio": 1.0, "percent": 0.01},
}
"""Quantity -> unit -> its size in the first one."""


@dataclass(frozen=True, slots=True)
class Unit(Operation):
    """Entries that match ``pattern`` from the unit ``source`` to ``target``."""

    key: str
    pattern: str
    source: str
    target: str

    @property
    def factor(self) -> float:
        return factor(self.source, self.target)

    def field(self, given: Field) -> Field:
        if given.unit not in (None, self.source):
            raise ConfigError(f"transform unit of {self.key!r}: expected {self.source}, and it is in {given.unit}")
        return self._scaled(given, self.factor, self.target)

    def before(self, wanted: Field) -> Field:
        """Entries are found by the names in force there; where those are not known, what was said of the values is left out."""
        if self.pattern != "*" and wanted.names is None and not self.pattern.isdigit():
            return replace(wanted, unit=None, range=None, typical=None)
        return self._scaled(wanted, 1 / self.factor, self.source)

    def change(self, given: Field) -> Change:
        scale = self.scale(given)
        return lambda value: (np.asarray(value, np.float32) * scale).astype(np.float32)

    def scale(self, given: Field) -> Array:
        """float32: what each entry is multiplied with; one number where it is all of them."""
        if given.dtype != "float32" or not given.shape:
            raise ConfigError(f"transform unit of {self.key!r}: needs a vector of float32, got {given.dtype} {given.shape}")
        if self.pattern == "*":
            return np.array(self.factor, np.float32)
        return np.where(self._chosen(given), self.factor, 1.0).astype(np.float32)

    def _chosen(self, given: Field) -> Array:
        size = given.shape[-1]
        if self.pattern.isdigit() and size is not None:
            chosen = np.array([index == int(self.pattern) for index in range(size)])
        elif given.names is None:
            raise ConfigError(
                f"transform unit of {self.key!r}: the names of its entries are not known here; write {self.key}.* for all, "
                "or an index"
            )
        else:
            chosen = np.array([fnmatchcase(name, self.pattern) for name in given.names])
        if not chosen.any():
            there = f"there are: {', '.join(given.names)}" if given.names else f"it has {size}"
            raise ConfigError(f"transform unit of {self.key!r}: no entry {self.pattern!r}; {there}")
        return chosen

    def _scaled(self, field: Field, factor: float, unit: str) -> Field:
        whole = self.pattern == "*"
        typical = field.typical
        if typical is not None:
            chosen = [True] * len(typical) if whole else self._chosen(field).tolist()
            typical = tuple(
                (low * factor, high * factor) if on else (low, high) for on, (low, high) in zip(chosen, typical, strict=True)
            )
        bounds = (field.range[0] * factor, field.range[1] * factor) if whole and field.range is not None else None
        return replace(field, unit=unit if whole else None, range=bounds, typical=typical)

    def __str__(self) -> str:
        if self.key == "actions":
            whole = f"{self.source}->{self.target}"
            inner = whole if self.pattern == "*" else f"{{{scalar(self.pattern)}: {whole}}}"
            return f"- actions: {{unit: {inner}}}"
        return f"- unit: {{{self.key}.{self.pattern}: {self.source}->{self.target}}}"


def factor(source: str, target: str) -> float:
    """What a value in ``source`` is multiplied with to be in ``target``; ``ConfigError`` if they measure different things."""
    for units in _SIZES.values():
        if source in units and target in units:
            return units[source] / units[target]
    known = "; ".join(", ".join(units) for units in _SIZES.values())
    raise ConfigError(f"unit {source}->{target}: expected two units of one quantity ({known})")


def convertible(source: str | None, target: str | None) -> bool:
    """Whether both are units of one quantity."""
    return any(source in units and target in units for units in _SIZES.values())


def parse_unit(key: str, argument: Any, where: str) -> Unit:
    """``state.*``, ``deg->rad``: the entries, and what happens to them."""
    value, dot, pattern = key.rpartition(".")
    return Unit(value, pattern, *_change(argument, where)) if dot else Unit(key, "*", *_change(argument, where))


def parse_action_units(argument: Any, where: str) -> Iterable[Unit]:
    """``rad->deg`` for every entry, or a mapping from entries to it."""
    if not isinstance(argument, dict):
        return [Unit("actions", "*", *_change(argument, where))]
    return [Unit("actions", str(pattern), *_change(each, where)) for pattern, each in argument.items()]


def _change(argument: Any, where: str) -> tuple[str, str]:
    parts = [part.strip() for part in argument.split("->")] if isinstance(argument, str) else []
    if len(parts) != 2:
        raise ConfigError(f"{where}: expected a change such as deg->rad, got {argument!r}")
    try:
        factor(*parts)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return parts[0], parts[1]
