"""From what a giver offers to what a policy wants: rename, select, reorder, transpose, resize. Law: pure; numpy only.

Written as a YAML list, applied in order::

    - rename: {images.cam_high: images.top}          # giver's key: policy's key
    - select: {state: [left_waist, left_shoulder]}   # entries of the giver's, by name or by index
    - reorder: {state: [b, a]}                       # the same entries in another order
    - reorder: {images.top: bgr->rgb}                # colour channels
    - transpose: {images.top: chw->hwc}
    - resize: {images.top: [240, 320]}               # [height, width]
    - actions: {select: [left_waist, left_shoulder]} # entries of the policy's action that the giver takes, in the giver's order
    - actions: {reorder: [b, a]}

Observations flow from the giver (environment, robot, client) to the policy, actions from the policy to the giver. Keys are those in
force where the operation stands: after a rename, the new name. Every operation has one form for values and one for fields, so that
what a transform does to a spec can be asked before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from actlink import documents
from actlink._operations import Change, Operation, Rename, Select, entries, listed, operation
from actlink.errors import ConfigError, SpecError
from actlink.spec import Field
from actlink.types import Array, Observation

Fields: TypeAlias = Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Transform:
    """Operations in order, and which entries of the policy's action the giver takes (None: all, as they are)."""

    operations: tuple[Operation, ...] = ()
    action: Select | None = None

    def __bool__(self) -> bool:
        return bool(self.operations) or self.action is not None

    def __str__(self) -> str:
        lines = [str(each) for each in self.operations]
        if self.action is not None:
            kind = "reorder" if self.action.reorder else "select"
            lines.append(f"- actions: {{{kind}: {listed(self.action.entries)}}}")
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
        return policy if self.action is None else self.action.field(policy)

    def bind(self, given: Fields, policy_action: Field) -> Bound:
        """The transform with every name resolved; ``ConfigError`` names the operation and key that cannot be."""
        _, sources, changes = self._walk(given)
        indexes = None if self.action is None else np.array(self.action.indexes(policy_action))
        return Bound(sources, changes, indexes, policy_action.shape[0])

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
        """The policy's actions ``(..., action_dim)`` as the giver takes them."""
        return actions if self._action_indexes is None else actions[..., self._action_indexes]

    @property
    def restorable(self) -> bool:
        """Whether the giver's actions hold every entry of the policy's."""
        return self._action_indexes is None or sorted(self._action_indexes) == list(range(self._policy_action_dim or 0))

    def restore(self, actions: Array, rest: Array | None = None) -> Array:
        """The inverse of ``actions``; what the giver does not take comes from ``rest``, or is 0."""
        if self._action_indexes is None:
            return actions
        shape = (*actions.shape[:-1], self._policy_action_dim or 0)
        restored = np.zeros(shape, actions.dtype) if rest is None else np.array(rest, actions.dtype)
        restored[..., self._action_indexes] = actions
        return restored


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
    action = None
    for position, line in enumerate(plain):
        for name, arguments in _pairs(line, f"{where}[{position}]"):
            for key, argument in _pairs(arguments, f"{where}[{position}] {name}"):
                at = f"{where}[{position}] {name} of {key!r}"
                if name != "actions":
                    operations.append(operation(name, key, argument, at))
                elif action is None and key in ("select", "reorder"):
                    action = Select("actions", entries(argument, at), key == "reorder")
                else:
                    raise ConfigError(f"{at}: expected one of select and reorder, once")
    return Transform(tuple(operations), action)


def join(parts: Iterable[Transform]) -> Transform:
    """One transform after another."""
    operations: tuple[Operation, ...] = ()
    action = None
    for part in parts:
        operations += part.operations
        if part.action is not None and action is not None:
            raise ConfigError("transform: actions are selected or reordered twice")
        action = part.action or action
    return Transform(operations, action)


def _pairs(plain: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(plain, Mapping) or not plain or not all(isinstance(key, str) for key in plain):
        raise ConfigError(f"{where}: expected a mapping such as {{state: ...}}, got {plain!r}")
    return list(plain.items())
