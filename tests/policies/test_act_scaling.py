"""How ACT checkpoints normalise: every rule against its formula, masks, and statistics that are no good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actlink.errors import ConfigError
from actlink.policies import _act_scaling as scaling

VALUES = np.array([[-3.0, 0.0, 9.0], [0.5, 1.0, 2.0]], np.float32)
MEAN, STD = [1.0, 2.0, 3.0], [0.5, 0.001, 4.0]


def test_zscore_has_il_studios_floor() -> None:
    made = scaling.zscore(MEAN, STD, 3, "x", floor=scaling.STD_FLOOR)
    expected = (VALUES - np.array(MEAN)) / np.maximum(STD, 0.01)
    np.testing.assert_allclose(made.normalise(VALUES), expected, rtol=1e-6)
    np.testing.assert_allclose(made.denormalise(expected.astype(np.float32)), VALUES, rtol=1e-5, atol=1e-6)
    assert made.normalise(VALUES).dtype == np.float32
    assert made.typical is not None and len(made.typical) == len(made.shift)
    assert min(low for low, _ in made.typical) == -13 and max(high for _, high in made.typical) == 19


def test_zscore_without_spread_divides_by_one() -> None:
    np.testing.assert_array_equal(scaling.zscore([1], [0], 1, "x").normalise(np.array([3], np.float32)), [2])


def test_zscore_as_lerobot_has_an_epsilon_on_the_way_in_only() -> None:
    made = scaling.zscore([0.0], [1e-7], 1, "x", epsilon=1e-8)
    np.testing.assert_allclose(made.normalise(np.array([1.1e-7], np.float32)), [1.0], rtol=1e-5)
    np.testing.assert_allclose(made.denormalise(np.array([1.0], np.float32)), [1e-7], rtol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
def test_a_range_goes_onto_minus_one_to_one(clip: bool) -> None:
    low, high = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 2.0, 10.0])
    made = scaling.span(low, high, 3, "x", clip=clip)
    expected = (VALUES - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(made.normalise(VALUES), expected.clip(-1, 1) if clip else expected, rtol=1e-6, atol=1e-6)
    given = np.array([[-2.0, 0.0, 1.5]], np.float32)
    back = (given + 1) / 2 * (high - low) + low
    np.testing.assert_allclose(made.denormalise(given), back.clip(low, high) if clip else back, rtol=1e-6)
    assert made.typical == ((-1, 1), (0, 2), (2, 10))


def test_a_range_of_one_value_is_minus_one() -> None:
    made = scaling.span([2.0], [2.0], 1, "x")
    np.testing.assert_array_equal(made.normalise(np.array([2.0], np.float32)), [-1])
    np.testing.assert_allclose(made.denormalise(np.array([0.7], np.float32)), [2.0])


@pytest.mark.parametrize(("mask", "kept"), [([True, False, True], [1]), ([1, -1], [1, 2]), ([], []), (None, [])])
def test_masks(mask: Any, kept: list[int]) -> None:
    made = scaling.masked(scaling.span([0, 0, 0], [1, 1, 1], 3, "x", clip=True), mask, "x")
    found = made.normalise(VALUES)
    for entry in range(3):
        wanted = VALUES[:, entry] if entry in kept else (VALUES[:, entry] * 2 - 1).clip(-1, 1)
        np.testing.assert_allclose(found[:, entry], wanted)
    assert (made.typical is None) == bool(kept)


def test_identity_and_two_behind_each_other() -> None:
    made = scaling.joined(scaling.zscore([1], [2], 1, "x"), scaling.identity(2))
    np.testing.assert_allclose(made.normalise(VALUES), VALUES * [0.5, 1, 1] - [0.5, 0, 0])
    assert made.content() != scaling.identity(3).content()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: scaling.zscore([1, 2], [1], 1, "here"), "here: mean: expected 1 numbers, got 2"),
        (lambda: scaling.zscore([np.nan], [1], 1, "here"), "here: mean: expected finite numbers, got nan"),
        (lambda: scaling.zscore("abc", [1], 1, "here"), "here: mean: expected 1 numbers, got a str"),
        (lambda: scaling.zscore([0], [-1], 1, "here"), "here: std: expected numbers of 0 or more, got -1"),
        (lambda: scaling.span([2], [1], 1, "here"), "entry 0: the lower bound is above the upper one"),
        (lambda: scaling.masked(scaling.identity(2), [True], "here"), "here: expected 2 booleans, got 1"),
        (lambda: scaling.masked(scaling.identity(2), [2], "here"), "here: expected indices of 2 entries, got 2"),
        (lambda: scaling.masked(scaling.identity(2), [0.5, 1], "here"), "expected indices of 2 entries, got 0.5"),
        (lambda: scaling.masked(scaling.identity(2), "all", "here"), "expected a list of booleans or of indices"),
        (lambda: scaling.entry({"std": 1}, "mean", "here"), "here: expected 'mean', got std"),
    ],
)
def test_what_is_wrong_is_said(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
