"""The operations of a transform. Law: each has one form for values and one for fields, and writes itself as it is read."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from actlink._resize import resize
from actlink.errors import ConfigError
from actlink.spec import Field
from actlink.types import Array

Entry: TypeAlias = "str | int"
Change: TypeAlias = Callable[[Array], Array]


class Operation(ABC):
    """One line of a transform, for one key of the observation."""

    key: str

    @abstractmethod
    def field(self, given: Field) -> Field:
        """The field after the operation; ``ConfigError`` if it cannot be applied to ``given``."""

    @abstractmethod
    def before(self, wanted: Field) -> Field:
        """The loosest field that becomes ``wanted``: free axes where any length would do."""

    @abstractmethod
    def change(self, given: Field) -> Change:
        """The function of values, names resolved against ``given``."""

    @abstractmethod
    def __str__(self) -> str:
        """The line of YAML that says it."""


@dataclass(frozen=True, slots=True)
class Rename(Operation):
    """The giver's ``key`` is the policy's ``to``."""

    key: str
    to: str

    def field(self, given: Field) -> Field:
        return given

    def before(self, wanted: Field) -> Field:
        return wanted

    def change(self, given: Field) -> Change:
        return lambda value: value

    def __str__(self) -> str:
        return f"- rename: {{{scalar(self.key)}: {scalar(self.to)}}}"


@dataclass(frozen=True, slots=True)
class Select(Operation):
    """Entries along the last axis, by name or index; with ``reorder`` every entry must appear once."""

    key: str
    entries: tuple[Entry, ...]
    reorder: bool = False

    def field(self, given: Field) -> Field:
        indexes = self.indexes(given)
        names = None if given.names is None else tuple(given.names[index] for index in indexes)
        typical = None if given.typical is None else tuple(given.typical[index] for index in indexes)
        return replace(given, shape=(*given.shape[:-1], len(indexes)), names=names, typical=typical)

    def before(self, wanted: Field) -> Field:
        size = len(self.entries) if self.reorder else None
        return replace(wanted, shape=(*wanted.shape[:-1], size), names=None, typical=None)

    def change(self, given: Field) -> Change:
        indexes = np.array(self.indexes(given))
        return lambda value: np.asarray(value)[..., indexes]

    def indexes(self, given: Field) -> tuple[int, ...]:
        """Positions of the entries in ``given``; ``ConfigError`` names an entry that is not there."""
        where = f"transform {self._op} of {self.key!r}"
        if not given.shape or given.dtype == "str":
            raise ConfigError(f"{where}: it has no entries to choose from")
        size = given.shape[-1]
        found = tuple(_index(entry, given, where) for entry in self.entries)
        if self.reorder and (len(set(found)) != len(found) or (size is not None and len(found) != size)):
            raise ConfigError(f"{where}: expected each of its {size} entries once, got {listed(self.entries)}")
        return found

    @property
    def _op(self) -> str:
        return "reorder" if self.reorder else "select"

    def __str__(self) -> str:
        return f"- {self._op}: {{{scalar(self.key)}: {listed(self.entries)}}}"


@dataclass(frozen=True, slots=True)
class Channels(Operation):
    """Blue-green-red to red-green-blue or back: the same exchange."""

    key: str

    def field(self, given: Field) -> Field:
        if not given.is_image or given.shape[2] not in (3, None):
            raise ConfigError(f"transform reorder of {self.key!r}: bgr->rgb needs an image (height, width, 3), got {_show(given)}")
        return given

    def before(self, wanted: Field) -> Field:
        return wanted

    def change(self, given: Field) -> Change:
        self.field(given)
        return lambda image: image[..., ::-1]

    def __str__(self) -> str:
        return f"- reorder: {{{scalar(self.key)}: bgr->rgb}}"


@dataclass(frozen=True, slots=True)
class Transpose(Operation):
    """Channel-first to channel-last, or back."""

    key: str
    to_last: bool

    def field(self, given: Field) -> Field:
        if len(given.shape) != 3:
            raise ConfigError(f"transform transpose of {self.key!r}: needs three axes, got {_show(given)}")
        a, b, c = given.shape
        return replace(given, shape=(b, c, a) if self.to_last else (c, a, b), names=None)

    def before(self, wanted: Field) -> Field:
        return Transpose(self.key, not self.to_last).field(wanted)

    def change(self, given: Field) -> Change:
        self.field(given)
        axes = (1, 2, 0) if self.to_last else (2, 0, 1)
        return lambda image: np.ascontiguousarray(np.transpose(image, axes))

    def __str__(self) -> str:
        return f"- transpose: {{{scalar(self.key)}: {'chw->hwc' if self.to_last else 'hwc->chw'}}}"


@dataclass(frozen=True, slots=True)
class Upright(Operation):
    """Width-first to height-first: the first two axes exchanged, which is its own way back."""

    key: str

    def field(self, given: Field) -> Field:
        if len(given.shape) != 3:
            raise ConfigError(f"transform transpose of {self.key!r}: needs three axes, got {_show(given)}")
        width, height, channels = given.shape
        return replace(given, shape=(height, width, channels))

    def before(self, wanted: Field) -> Field:
        return self.field(wanted)

    def change(self, given: Field) -> Change:
        self.field(given)
        return lambda image: np.ascontiguousarray(np.swapaxes(image, 0, 1))

    def __str__(self) -> str:
        return f"- transpose: {{{scalar(self.key)}: whc->hwc}}"


@dataclass(frozen=True, slots=True)
class Resize(Operation):
    """An image (height, width, channels) at another size, whole picture, aspect ratio not kept."""

    key: str
    height: int
    width: int

    def field(self, given: Field) -> Field:
        if not given.is_image:
            raise ConfigError(
                f"transform resize of {self.key!r}: needs a uint8 image (height, width, channels), got {_show(given)}"
            )
        if given.shape[2] not in (1, 3, 4, None):
            raise ConfigError(
                f"transform resize of {self.key!r}: {_show(given)} has its channels first; transpose: chw->hwc before"
            )
        return replace(given, shape=(self.height, self.width, given.shape[2]))

    def before(self, wanted: Field) -> Field:
        return replace(wanted, shape=(None, None, *wanted.shape[2:]))

    def change(self, given: Field) -> Change:
        self.field(given)
        return lambda image: resize(image, self.height, self.width)

    def __str__(self) -> str:
        return f"- resize: {{{scalar(self.key)}: [{self.height}, {self.width}]}}"


def _index(entry: Entry, given: Field, where: str) -> int:
    if isinstance(entry, int):
        size = given.shape[-1]
        if entry < 0 or (size is not None and entry >= size):
            raise ConfigError(f"{where}: expected an index below {size}, got {entry}")
        return entry
    if given.names is None:
        raise ConfigError(f"{where}: the names of its entries are not known here; choose by index, or give the giver's spec")
    if entry not in given.names:
        raise ConfigError(f"{where}: no entry {entry!r}; there are: {', '.join(given.names)}")
    return given.names.index(entry)


def operation(name: str, key: str, argument: Any, where: str) -> Operation:
    """The operation ``name`` for ``key``; ``ConfigError`` at ``where`` says what its argument should be."""
    if name not in _OPERATIONS:
        raise ConfigError(f"{where}: no such operation; there are: {', '.join([*_OPERATIONS, 'unit', 'actions'])}")
    return _OPERATIONS[name](key, argument, where)


def entries(plain: Any, where: str) -> tuple[Entry, ...]:
    """Names or indexes of a selection."""
    fits = isinstance(plain, list | tuple) and plain and all(isinstance(e, str | int) and not isinstance(e, bool) for e in plain)
    if not fits:
        raise ConfigError(f"{where}: expected a list of names or indexes, got {plain!r}")
    return tuple(plain)


def _rename(key: str, argument: Any, where: str) -> Operation:
    if not isinstance(argument, str) or not argument:
        raise ConfigError(f"{where}: expected the policy's name for it, got {argument!r}")
    return Rename(key, argument)


def _reorder(key: str, argument: Any, where: str) -> Operation:
    if argument in ("bgr->rgb", "rgb->bgr"):
        return Channels(key)
    return Select(key, entries(argument, where), reorder=True)


def _transpose(key: str, argument: Any, where: str) -> Operation:
    if argument == "whc->hwc":
        return Upright(key)
    if argument not in ("chw->hwc", "hwc->chw"):
        raise ConfigError(f"{where}: expected chw->hwc, hwc->chw or whc->hwc, got {argument!r}")
    return Transpose(key, argument == "chw->hwc")


def _resize(key: str, argument: Any, where: str) -> Operation:
    fits = isinstance(argument, list | tuple) and len(argument) == 2
    if not fits or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 16384 for n in argument):
        raise ConfigError(f"{where}: expected [height, width] in pixels, got {argument!r}")
    return Resize(key, *argument)


_OPERATIONS: dict[str, Callable[[str, Any, str], Operation]] = {
    "rename": _rename,
    "select": lambda key, argument, where: Select(key, entries(argument, where)),
    "reorder": _reorder,
    "transpose": _transpose,
    "resize": _resize,
}


def listed(entries: Sequence[Entry]) -> str:
    """A YAML list in place."""
    return "[" + ", ".join(scalar(entry) for entry in entries) + "]"


_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_WORDS = ("null", "true", "false", "yes", "no", "on", "off")
"""What YAML does not read as text."""


def scalar(entry: Entry) -> str:
    """A YAML scalar that is read back as what it was."""
    if isinstance(entry, str) and (not _PLAIN.fullmatch(entry) or entry.lower() in _WORDS):
        return json.dumps(entry)
    return str(entry)


def _show(field: Field) -> str:
    return f"{field.dtype} ({', '.join('any' if n is None else str(n) for n in field.shape)})"
