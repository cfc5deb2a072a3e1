"""How sure a number is. Law: pure; 95 % two-sided intervals, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence

Interval = tuple[float, float]

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(successes: int, trials: int) -> Interval:
    """Score interval of a proportion (Wilson 1927); sound for small numbers and for rates of 0 and 1."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"expected 0 <= successes <= trials and a trial, got {successes} of {trials}")
    rate = successes / trials
    scale = 1 + Z * Z / trials
    centre = (rate + Z * Z / (2 * trials)) / scale
    half = Z / scale * math.sqrt(rate * (1 - rate) / trials + Z * Z / (4 * trials * trials))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half)


def paired_rates(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, Interval]:
    """Difference (first - second) of two success rates over the same trials.

    The score interval for paired proportions, method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635-2650).
    """
    pairs = list(zip(first, second, strict=True))
    n = len(pairs)
    both, only_first, only_second, neither = (
        sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    rate_1, rate_2 = (both + only_first) / n, (both + only_second) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + only_first, n), wilson(both + only_second, n)
    phi = _correlation(both, only_first, only_second, neither)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = rate_1 - rate_2
    return difference, (
        difference - reach(rate_1 - low_1, high_2 - rate_2),
        difference + reach(high_1 - rate_1, rate_2 - low_2),
    )


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Newcombe's phi, with his continuity correction where it is positive."""
    n = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    excess: float = both * neither - only_first * only_second
    if excess > 0:
        excess = max(excess - n / 2, 0)
    return excess / math.sqrt(margins)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def paired_means(first: Sequence[float], second: Sequence[float]) -> tuple[float, Interval | None]:
    """Difference (first - second) of two means over the same trials, with the normal interval; None below two trials."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    centre = mean(differences)
    if len(differences) < 2:
        return centre, None
    variance = math.fsum((d - centre) ** 2 for d in differences) / (len(differences) - 1)
    half = Z * math.sqrt(variance / len(differences))
    return centre, (centre - half, centre + half)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
