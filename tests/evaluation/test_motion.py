"""Seams, steps inside chunks, jerk and traffic, as the controller's ticks tell them."""

from __future__ import annotations

import numpy as np
import pytest

from actlink.asking import Arrival, Waiting
from actlink.clock import ManualClock
from actlink.evaluation.motion import Metered, Motion, Onlooker
from actlink.execution._base import Replan
from actlink.policies._open import open_policy
from actlink.ticks import Tick
from actlink.types import ActionChunk, Runtime


def ticks(onlooker: Onlooker, *given: tuple[float, int | None], skipped: int = 0, dtype: type = np.float32) -> Motion:
    """Commands (value of the second entry, control step of the observation behind it; None: a hold)."""
    onlooker.begin(0.0)
    for step, (value, basis) in enumerate(given):
        action = np.array([0.0, value], dtype)
        onlooker.tick(Tick(step, 0.0, 0.0, False, basis, basis is None, basis is None, (), False, skipped, action), [])
    return onlooker.motion


def test_a_seam_is_where_the_observation_behind_the_action_changes() -> None:
    motion = ticks(Onlooker(), (0.0, 0), (0.1, 0), (0.3, 0), (1.3, 3), (1.35, 3), (1.35, 3))
    assert motion.seams == pytest.approx((1.0,)) and motion.inside == pytest.approx(0.2)


def test_a_hold_is_a_seam_on_both_sides_and_none_inside() -> None:
    motion = ticks(Onlooker(), (0.6, 0), (0.6, 0), (0.5, None), (1.5, None), (1.8, 3))
    assert motion.seams == pytest.approx((0.1, 0.3)) and motion.inside == 0.0


def test_the_first_action_is_no_seam() -> None:
    assert ticks(Onlooker(), (0.0, None), (0.5, None), (0.9, 0), (0.9, 0)).seams == ()
    assert ticks(Onlooker(), (0.0, None), (0.9, 0), (1.0, 2)).seams == pytest.approx((0.1,))


def test_one_chunk_has_no_seam_and_one_step_has_nothing() -> None:
    assert ticks(Onlooker(), (0.0, 0), (0.1, 0)).seams == ()
    assert ticks(Onlooker(), (0.0, 0)) == Motion()


def test_jerk_is_the_third_difference_in_seconds() -> None:
    cubic = [(float(i**3), 0) for i in range(6)]  # third difference 6, whatever the step
    assert ticks(Onlooker(10.0), *cubic).jerk == pytest.approx(6e3)
    assert ticks(Onlooker(), *cubic).jerk == pytest.approx(6.0)
    assert ticks(Onlooker(10.0), *[(2.0 * i, 0) for i in range(6)]).jerk == pytest.approx(0.0)
    assert ticks(Onlooker(10.0), *cubic, skipped=1).jerk is None, "no difference across steps that were not commanded"


def test_discrete_actions_have_no_steps() -> None:
    assert ticks(Onlooker(), (0, 0), (3, 0), (1, 5), (2, 5), dtype=np.int64) == Motion()


def test_traffic_is_what_questions_and_chunks_hold() -> None:
    policy = open_policy("scripted:echo?state=4&action=4&horizon=8&cameras=top:6x8", Runtime(), {})
    onlooker = Onlooker()
    asker = Metered(Waiting(policy, ManualClock()), policy.spec, onlooker)
    asker.begin(0)
    observation = {"state": np.zeros(4, np.float32), "images.top": np.zeros((6, 8, 3), np.uint8), "unasked": np.zeros(1000)}
    asker.ask(observation, Replan(0, np.zeros((3, 4), np.float32)), 0.0)
    arrivals = asker.arrived(0.0)
    lost = Arrival(0, None, None, 0.0, 0.0)
    onlooker.tick(Tick(0, 0.0, 0.0, True, 0, False, False, (), False, 0, np.zeros(4, np.float32)), [*arrivals, lost])
    assert onlooker.motion.sent_bytes == 4 * 4 + 6 * 8 * 3 + 3 * 4 * 4
    assert onlooker.motion.received_bytes == 8 * 4 * 4
    assert isinstance(arrivals[0].chunk, ActionChunk)
    onlooker.begin(0.0)
    assert onlooker.motion == Motion()
