"""The last observations of an episode: what is remembered, and which observation stands for which control step."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.policies import _past


def remembered(steps: list[int], longest: int) -> _past.Seen[str]:
    seen: _past.Seen[str] = ()
    for step in steps:
        seen = _past.with_newest(seen, step, f"at {step}", longest)
    return seen


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0], ["at 0", "at 0", "at 0"]),
        ([0, 1], ["at 0", "at 0", "at 1"]),
        ([0, 1, 2, 3], ["at 1", "at 2", "at 3"]),
        ([0, 6], ["at 6", "at 6", "at 6"]),
        ([0, 2], ["at 0", "at 0", "at 2"]),  # of two equally near the older one
        ([0, 3], ["at 0", "at 3", "at 3"]),
        ([5, 3], ["at 3", "at 3", "at 3"]),  # a new beginning that nobody announced
        ([2, 2], ["at 2", "at 2", "at 2"]),
    ],
)
def test_each_place_takes_the_observation_nearest_in_time(steps: list[int], expected: list[str]) -> None:
    assert _past.places(remembered(steps, 3), 3) == expected


@given(st.integers(1, 6), st.integers(1, 12))
def test_one_observation_for_each_step_is_a_queue_that_starts_full_of_the_first(length: int, count: int) -> None:
    queue = deque([f"at {0}"] * length, maxlen=length)
    for step in range(1, count):
        queue.append(f"at {step}")
    assert _past.places(remembered(list(range(count)), length), length) == list(queue)


@given(st.lists(st.integers(-5, 40), min_size=1, max_size=20), st.integers(1, 5))
def test_memory_is_bounded_and_in_order(steps: list[int], longest: int) -> None:
    seen = remembered(steps, longest)
    numbers = [step for step, _ in seen]
    assert len(seen) <= longest and numbers == sorted(set(numbers)) and numbers[-1] == steps[-1]
