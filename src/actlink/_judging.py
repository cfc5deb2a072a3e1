"""Values that were really observed against what the policy was trained on. Law: pure; a finding needs values on both sides of it.

Shapes and names can agree and the numbers still mean something else. ``Field.typical`` (or, without it, ``Field.range``) says where
an entry's values lay in training. Where the giver's lie far outside, and in another unit inside, that unit is what is wrong; where
one entry too many is there, the entry without which the others fit best is the one to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actlink._units import factor
from actlink.spec import Field
from actlink.types import Array

_SLACK = 0.5
"""Of an interval's width: so far outside of it a value is still taken for usual. Training data never hold everything."""
_FAR = 6.0
"""Dividing brings every value close to 0, where many intervals lie: so many times beyond must one entry be for that to tell."""
_LEAST = 0.05
"""Least such distance, in whatever unit: an entry that never moved in training has an interval without width."""
_PAIRS = (("deg", "rad"), ("rad", "deg"), ("mm", "m"), ("m", "mm"), ("cm", "m"), ("m", "cm"))


def bounds(field: Field) -> Array | None:
    """float64 ``(n, 2)``: where each entry of a vector lay in training; None where nothing is known of it."""
    if field.dtype != "float32" or len(field.shape) != 1:
        return None
    if field.typical is not None:
        return np.array(field.typical, np.float64).reshape(-1, 2)
    size = field.shape[0]
    return None if field.range is None or size is None else np.tile(np.array(field.range, np.float64), (size, 1))


def inside(limits: Array, values: Array) -> Array:
    """bool, as ``values`` ``(..., n)``: whether they are usual."""
    slack = np.maximum(_SLACK * (limits[:, 1] - limits[:, 0]), _LEAST)
    found: Array = (values >= limits[:, 0] - slack) & (values <= limits[:, 1] + slack)
    return found


def wrong_unit(field: Field, values: Sequence[Array]) -> tuple[str, str, Array] | None:
    """The unit that ``values`` (each ``(n,)``) are in, the one that ``field`` means, and bool ``(n,)``: entries to be converted.

    None where they are usual, or where no other unit would make them so.
    """
    limits = bounds(field)
    if limits is None or not values or any(np.shape(value) != (len(limits),) for value in values):
        return None
    seen = np.array(values, np.float64)
    strange = np.logical_not(np.all(inside(limits, seen), axis=0))
    if not strange.any():
        return None
    far = bool(np.any(strange & (np.abs(seen) > _FAR * np.abs(limits).max(1))))
    for given, meant in _PAIRS:
        if field.unit not in (None, meant) or (factor(given, meant) < 1 and not far):
            continue
        converted = np.all(inside(limits, seen * factor(given, meant)), axis=0)
        if np.all(converted | ~strange):
            return given, meant, np.ones(len(limits), bool) if np.all(converted) else np.asarray(strange)
    return None


def unit_of(field: Field, other: str | None) -> str | None:
    """The unit of ``field``: as stated; else, beside an angle of the giver's, the one in which its bounds can be angles."""
    limits = bounds(field)
    if field.unit is not None or limits is None or other not in ("rad", "deg"):
        return field.unit
    largest = float(np.abs(limits).max(initial=0.0))
    return "deg" if largest > _TURNS else "rad" if 0 < largest <= _TURN else None


_TURN, _TURNS = 6.3, 12.6
"""Radians: joints go round once at most; twice round is degrees. Of what lies between nothing is concluded."""


def superfluous(field: Field, size: int, values: Sequence[Array]) -> tuple[int, ...]:
    """Which of ``size`` entries to keep so that those of ``field`` are left: the first, or those whose values fit best.

    One entry too many may stand anywhere; of several, only those behind the others are looked for.
    """
    wanted = field.shape[0] or 0
    first = tuple(range(wanted))
    limits = bounds(field)
    if limits is None or size != wanted + 1 or not values or any(np.shape(value) != (size,) for value in values):
        return first
    seen = np.array(values, np.float64)
    ways = [tuple(index for index in range(size) if index != left_out) for left_out in reversed(range(size))]
    scales = [1.0, *(factor(*pair) for pair in _PAIRS[:2] if field.unit in (None, pair[1]))]  # it may be in another unit as well
    fits = [max(int(inside(limits, seen[:, list(way)] * scale).sum()) for scale in scales) for way in ways]
    return ways[int(np.argmax(fits))]


def patterns(names: Sequence[str] | None, chosen: Array) -> Iterator[str]:
    """How the entries ``chosen`` (bool) are written behind the key: ``*`` for all, else by name, else by index."""
    if chosen.all():
        yield "*"
        return
    for index in range(len(chosen)):
        if chosen[index]:
            yield str(index) if names is None else names[index]
