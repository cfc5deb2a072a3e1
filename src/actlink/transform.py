"""From what a giver offers to what a policy wants: rename, select, reorder, transpose, resize, unit, rate. Law: pure; numpy only.

Written as a YAML list, applied in order::

    - rename: {images.cam_high: images.top}          # giver's key: policy's key
    - select: {state: [left_waist, left_shoulder]}   # entries of the giver's, by name or by index
    - reorder: {state: [b, a]}                       # the same entries in another order
    - reorder: {images.top: bgr->rgb}                # colour channels
    - transpose: {images.top: chw->hwc}              # or hwc->chw; whc->hwc where width comes first
    - resize: {images.top: [240, 320]}               # [height, width]
    - actions: {select: [left_waist, left_shoulder]} # entries of the policy's action that the giver takes, in the giver's order
    - actions: {reorder: [b, a]}
    - unit: {state.*: deg->rad}                      # all entries, some (state.left_*) or one (state.0); see _units.py
    - actions: {unit: rad->deg}
    - actions: {rate: 30->50}                        # the policy's rows at 30 Hz for a giver at 50 Hz; see _rate.py

Observations flow from the giver (environment, robot, client) to the policy, actions from the policy to the giver. Keys are those in
force where the operation stands: after a rename, the new name. Every operation has one form for values and one for fields, so that
what a transform does to a spec can be asked before anything runs. Of actions, whatever the order of the lines: first units, by the
policy's names and indexes, then which entries, then the rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from actlink import documents
from actlink._operations import Change, Operation, Rename, Select, entries, listed, operation
from actlink._rate import Rate, parse_rate
from actlink._units import Unit, parse_action_units, parse_unit
from actlink.errors import ConfigError, SpecError
from actlink.spec import Field
from actlink.types import Array, Observation

Fields: TypeAlias = Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Transform:
    """Operations on the observation in order, and what becomes of the policy's actions on their way to the giver."""

    operations: tuple[Operation, ...] = ()
    action: Select | None = None
    """Which entries the giver takes; None: all, as they are."""
    units: tuple[Unit, ...] = ()
    """Entries that the giver takes in another unit."""
    rate: Rate | None = None
    """Where the giver's control rate is another; None: it is the same."""

    def __bool__(self) -> bool:
        return bool(self.operations or self.units) or self.action is not None or self.rate is not None

    def __str__(self) -> str:
        lines = [str(each) for each in (*self.operations, *self.units)]
        if self.action is not None:
            kind = "reorder" if self.action.reorder else "select"
            lines.append(f"- actions: {{{kind}: {listed(self.action.entries)}}}")
        if self.rate is not None:
            lines.append(str(self.rate))
        return "\n".join(lines)

    def fields(self, given: Fields) -> dict[str, Field]:
        """The giver's observation as it is after the transform."""
        return self._walk(given)[0]

    def before(self, wanted: Fields) -> dict[str, Field]:
        """The loosest observation that becomes ``wanted``; entries that are selected lose their names."""
        found = dict(wanted)
        for each in reversed(self.operations):
            if isinstance(each, Rename):
                found = {each.key if key == each.to else key: value for key, value in found.items()}
            elif each.key in found:
                found[each.key] = each.before(found[each.key])
        return found

    def actions(self, policy: Field) -> Field:
        """The policy's action as the giver gets it."""
        for each in self.units:
            policy = each.field(policy)
        return policy if self.action is None else self.action.field(policy)

    def bind(self, given: Fields, policy_action: Field) -> Bound:
        """The transform with every name resolved; ``ConfigError`` names the operation and key that cannot be."""
        _, sources, changes = self._walk(given)
        indexes = None if self.action is None else np.array(self.action.indexes(policy_action))
        scale = None
        for each in self.units:
            scale = each.scale(policy_action) if scale is None else scale * each.scale(policy_action)
        return Bound(sources, changes, indexes, policy_action.shape[0], scale, self.rate)

    def _walk(self, given: Fields) -> tuple[dict[str, Field], dict[str, str], dict[str, list[Change]]]:
        """Fields after the transform; for each key where it comes from and what is done to it."""
        found = dict(given)
        sources = {key: key for key in given}
        changes: dict[str, list[Change]] = {key: [] for key in given}
        for each in self.operations:
            if each.key not in found:
                there = ", ".join(found) or "nothing"
                raise ConfigError(f"transform '{str(each)[2:]}': no {each.key!r} in the observation; there is: {there}")
            if isinstance(each, Rename):
                if each.to in found:
                    raise ConfigError(f"transform '{str(each)[2:]}': {each.to!r} is there already")
                found[each.to] = found.pop(each.key)
                sources[each.to] = sources.pop(each.key)
                changes[each.to] = changes.pop(each.key)
                continue
            changes[each.key].append(each.change(found[each.key]))
            found[each.key] = each.field(found[each.key])
        return found, sources, changes


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A transform ready to run."""

    _sources: Mapping[str, str]
    _changes: Mapping[str, Sequence[Change]]
    _action_indexes: Array | None
    _policy_action_dim: int | None
    _action_scale: Array | None = None
    rate: Rate | None = None

    def source(self, key: str) -> str:
        """The giver's name of what the policy calls ``key``."""
        return self._sources.get(key, key)

    def observation(self, given: Observation) -> dict[str, Array | str]:
        """The giver's observation as the policy wants it; absent keys stay absent. ``SpecError`` if a value does not fit."""
        found = {}
        for key, source in self._sources.items():
            if source not in given:
                continue
            value: Any = given[source]
            try:
                for change in self._changes[key]:
                    value = change(value)
            except (IndexError, ValueError, TypeError) as error:
                raise SpecError(f"observation[{source!r}]: cannot be transformed: {error}") from error
            found[key] = value
        return found

    def actions(self, actions: Array) -> Array:
        """The policy's actions ``(..., action_dim)`` as the giver takes them, each by itself."""
        if self._action_scale is not None:
            actions = (actions * self._action_scale).astype(actions.dtype)
        return actions if self._action_indexes is None else actions[..., self._action_indexes]

    def chunk(self, actions: Array) -> Array:
        """The policy's ``(action_horizon, action_dim)`` at the giver's control steps, as the giver takes them."""
        return self.actions(actions if self.rate is None else self.rate.chunk(actions))

    def prefix(self, actions: Array) -> Array:
        """The giver's committed actions ``(n, action_dim)`` in the policy's entries, units and rows."""
        restored = self.restore(actions)
        return restored if self.rate is None else self.rate.prefix(restored)

    @property
    def restorable(self) -> bool:
        """Whether the giver's actions hold every entry of the policy's."""
        return self._action_indexes is None or sorted(self._action_indexes) == list(range(self._policy_action_dim or 0))

    def restore(self, actions: Array, rest: Array | None = None) -> Array:
        """The inverse of ``actions``; what the giver does not take comes from ``rest``, or is 0."""
        scale = 1.0 if self._action_scale is None else self._action_scale
        if self._action_indexes is None:
            return actions if self._action_scale is None else (actions / scale).astype(actions.dtype)
        shape = (*actions.shape[:-1], self._policy_action_dim or 0)
        restored = np.zeros(shape, actions.dtype) if rest is None else np.array(rest * scale, actions.dtype)
        restored[..., self._action_indexes] = actions
        return restored if self._action_scale is None else (restored / scale).astype(actions.dtype)


def parse(document: str | Sequence[Any], where: str = "transform") -> Transform:
    """The transform written as YAML (a path, or in place) or as its plain list; ``ConfigError`` names operation and key."""
    plain = documents.read(document, where) if isinstance(document, str) else document
    if plain is None:
        return Transform()
    if isinstance(plain, Mapping):
        plain = [plain]
    if isinstance(plain, str) or not isinstance(plain, Sequence):
        raise ConfigError(f"{where}: expected a list of operations, got a {type(plain).__name__}")
    operations: list[Operation] = []
    units: list[Unit] = []
    action, rate = None, None
    for position, line in enumerate(plain):
        for name, arguments in _pairs(line, f"{where}[{position}]"):
            for key, argument in _pairs(arguments, f"{where}[{position}] {name}"):
                at = f"{where}[{position}] {name} of {key!r}"
                if name == "unit":
                    operations.append(parse_unit(key, argument, at))
                elif name != "actions":
                    operations.append(operation(name, key, argument, at))
                elif key == "unit":
                    units.extend(parse_action_units(argument, at))
                elif key == "rate" and rate is None:
                    rate = parse_rate(argument, at)
                elif action is None and key in ("select", "reorder"):
                    action = Select("actions", entries(argument, at), key == "reorder")
                else:
                    raise ConfigError(f"{at}: expected unit, one of select and reorder, once, and rate, once")
    return Transform(tuple(operations), action, tuple(units), rate)


def join(parts: Iterable[Transform]) -> Transform:
    """One transform after another."""
    operations: tuple[Operation, ...] = ()
    units: tuple[Unit, ...] = ()
    action, rate = None, None
    for part in parts:
        operations, units = operations + part.operations, units + part.units
        if part.action is not None and action is not None:
            raise ConfigError("transform: actions are selected or reordered twice")
        if part.rate is not None and rate is not None:
            raise ConfigError("transform: the rate is changed twice")
        action, rate = part.action or action, part.rate or rate
    return Transform(operations, action, units, rate)


def _pairs(plain: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(plain, Mapping) or not plain or not all(isinstance(key, str) for key in plain):
        raise ConfigError(f"{where}: expected a mapping such as {{state: ...}}, got {plain!r}")
    return list(plain.items())
