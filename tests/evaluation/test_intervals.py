from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.evaluation.intervals import paired_means, paired_rates, quantile, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(trials=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_lies_around_the_rate_and_within_0_and_1(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        wilson(successes, trials)


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def test_paired_rates_give_the_published_limits() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10, for the table 36, 12, 2, 0
    difference, interval = paired_rates(*pairs(36, 12, 2, 0))
    assert difference == pytest.approx(0.2)
    assert interval == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(counts=st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_paired_rates_are_antisymmetric_and_bounded(counts: tuple[int, int, int, int]) -> None:
    first, second = pairs(*counts)
    difference, (low, high) = paired_rates(first, second)
    back, (low_back, high_back) = paired_rates(second, first)
    assert (back, low_back, high_back) == pytest.approx((-difference, -high, -low))
    assert -1 - 1e-9 <= low <= difference <= high <= 1 + 1e-9


def test_paired_rates_cover_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        luck = random.uniform(size=50)  # what the two have in common
        first = luck + 0.2 * random.normal(size=50) < 0.8
        second = luck + 0.2 * random.normal(size=50) < 0.6
        _, (low, high) = paired_rates(first.tolist(), second.tolist())
        covered += low <= 0.185 <= high  # the true difference, from 10^7 draws
    assert covered >= 370  # nominal 380


def test_paired_means() -> None:
    difference, interval = paired_means([3.0, 5.0, 7.0], [1.0, 4.0, 4.0])
    assert difference == 2.0
    half = 1.959964 * 1.0 / math.sqrt(3)  # the differences 2, 1, 3 have the standard deviation 1
    assert interval == pytest.approx((2 - half, 2 + half))
    assert paired_means([3.0], [1.0]) == (2.0, None)


def test_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([5.0, 1.0, 3.0, 2.0, 4.0], 0.5) == 3.0
    assert quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert quantile([7.0], 0.95) == 7.0
