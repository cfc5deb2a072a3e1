"""How ACT checkpoints normalise. Law: numpy only; every rule is ``(x - shift) / scale + offset``, some entries left alone.

Rules: z-score with mean and deviation; range, minimum..maximum onto -1..1; percentile, the same with the 1st and 99th percentile,
clipped (IL-Studio) or not (LeRobot); identity. Sources: IL-Studio's ``data_utils/normalize`` classes, LeRobot's
``processor/normalize_processor.py`` (0.4 and later) and ``common/policies/normalize.py`` (0.3), restated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.types import Array

EPSILON = 1e-8
STD_FLOOR = 0.01
"""IL-Studio's least deviation."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """How one vector is normalised; arrays float32 ``(n,)``."""

    shift: Array
    divisor: Array
    """What a normalised value is divided by on the way in ..."""
    factor: Array
    """... and multiplied with on the way out; the same but for an epsilon."""
    offset: Array
    """0 for a z-score, -1 for a range."""
    low: Array
    """Values below are clipped (percentile); -inf where nothing is."""
    high: Array
    typical: tuple[tuple[float, float], ...] | None = None
    """Smallest and largest value of each entry that the statistics lead one to expect; None where they do not tell of all."""

    def normalise(self, values: Array) -> Array:
        """float32 ``(..., n)`` -> float32 ``(..., n)``."""
        found = (values - self.shift) / self.divisor + self.offset
        clipped = np.isfinite(self.low)
        return np.where(clipped, np.clip(found, -1.0, 1.0), found).astype(np.float32) if clipped.any() else found

    def denormalise(self, values: Array) -> Array:
        """The inverse."""
        found = (values - self.offset) * self.factor + self.shift
        return np.clip(found, self.low, self.high) if np.isfinite(self.low).any() else found

    def content(self) -> bytes:
        """For the digest."""
        return b"".join(
            np.ascontiguousarray(part).tobytes() for part in (self.shift, self.divisor, self.factor, self.offset, self.low)
        )


def identity(width: int) -> Scaling:
    return _scaling(np.zeros(width), np.ones(width), np.zeros(width))


def zscore(mean: Any, std: Any, width: int, where: str, *, floor: float = 0.0, epsilon: float = 0.0) -> Scaling:
    """``(x - mean) / max(std, floor)``; a deviation of 0 without floor and epsilon counts as 1, so that nothing is divided by 0."""
    middle, spread = vector(mean, width, f"{where}: mean"), vector(std, width, f"{where}: std")
    if (spread < 0).any():
        raise ConfigError(f"{where}: std: expected numbers of 0 or more, got {spread.min():g}")
    spread = np.maximum(spread, np.float32(floor))
    if not epsilon:
        spread = np.where(spread < 1e-6, 1.0, spread)
    return _scaling(middle, spread, np.zeros(width), epsilon, typical=(middle - 4 * spread, middle + 4 * spread))


def span(low: Any, high: Any, width: int, where: str, *, clip: bool = False) -> Scaling:
    """low..high onto -1..1; where both are equal, that value is -1."""
    bottom, top = vector(low, width, f"{where}: lower bound"), vector(high, width, f"{where}: upper bound")
    if (bottom > top).any():
        raise ConfigError(f"{where}: entry {int(np.argmax(bottom > top))}: the lower bound is above the upper one")
    half = np.where(top == bottom, EPSILON, top - bottom) / 2
    limits = (bottom, top) if clip else None
    return _scaling(bottom, half, -np.ones(width), limits=limits, typical=(bottom, top))


def masked(scaling: Scaling, mask: Any, where: str) -> Scaling:
    """IL-Studio's masks: booleans, True = normalise; or indices (negative from the end) of entries to leave alone."""
    if mask is None or (isinstance(mask, Sequence) and not mask):
        return scaling
    width = len(scaling.shift)
    kept = np.zeros(width, bool)
    if not isinstance(mask, Sequence) or isinstance(mask, str):
        raise ConfigError(f"{where}: expected a list of booleans or of indices, got {mask!r}")
    if all(isinstance(each, bool) for each in mask):
        if len(mask) != width:
            raise ConfigError(f"{where}: expected {width} booleans, got {len(mask)}")
        kept = ~np.array(mask, bool)
    else:
        for each in mask:
            if isinstance(each, bool) or not isinstance(each, int) or not -width <= each < width:
                raise ConfigError(f"{where}: expected indices of {width} entries, got {each!r}")
            kept[each] = True
    plain = identity(width)
    parts = {
        name: np.where(kept, getattr(plain, name), getattr(scaling, name))
        for name in ("shift", "divisor", "factor", "offset", "low", "high")
    }
    return Scaling(**parts, typical=None if kept.any() else scaling.typical)


def joined(first: Scaling, second: Scaling) -> Scaling:
    """Two vectors behind each other."""
    parts = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("shift", "divisor", "factor", "offset", "low", "high")
    }
    return Scaling(**parts, typical=first.typical + second.typical if first.typical and second.typical else None)


def vector(value: Any, width: int, where: str) -> Array:
    """``value`` as ``(width,)`` finite float32; ``ConfigError`` says what it is instead."""
    try:
        array = np.array(value, np.float32).reshape(-1)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: expected {width} numbers, got a {type(value).__name__}") from None
    if len(array) != width:
        raise ConfigError(f"{where}: expected {width} numbers, got {len(array)}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{where}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    return array


def entry(statistics: Mapping[str, Any], name: str, where: str) -> Any:
    """One statistic; ``ConfigError`` lists those there are."""
    if name not in statistics:
        raise ConfigError(f"{where}: expected {name!r}, got {', '.join(map(str, statistics)) or 'nothing'}")
    return statistics[name]


def _scaling(
    shift: Array,
    spread: Array,
    offset: Array,
    epsilon: float = 0.0,
    limits: tuple[Array, Array] | None = None,
    typical: tuple[Array, Array] | None = None,
) -> Scaling:
    width = len(shift)
    low, high = limits or (np.full(width, -np.inf), np.full(width, np.inf))
    each = tuple(zip(typical[0].tolist(), typical[1].tolist(), strict=True)) if typical is not None and width else None
    return Scaling(
        *(np.asarray(shift, np.float32), np.asarray(spread + epsilon, np.float32), np.asarray(spread, np.float32)),
        *(np.asarray(offset, np.float32), np.asarray(low, np.float32), np.asarray(high, np.float32)),
        typical=each,
    )
