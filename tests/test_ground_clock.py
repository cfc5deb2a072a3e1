"""Clocks: monotonic, absolute moments, and a manual one that jumps."""

from __future__ import annotations

import pytest

from actlink.clock import Clock, ManualClock, MonotonicClock


def test_the_machine_clock_waits_until_the_moment_has_come() -> None:
    clock = MonotonicClock()
    moment = clock.now() + 0.001
    clock.wait_until(moment)
    assert clock.now() >= moment


def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    clock = MonotonicClock()
    clock.wait_until(clock.now() - 1e9)  # would hang the test if it waited


def test_manual_time_moves_only_when_told_to() -> None:
    clock = ManualClock(5.0)
    assert clock.now() == clock.now() == 5.0
    clock.advance(0.5)
    assert clock.now() == 5.5
    clock.wait_until(9.0)
    assert clock.now() == 9.0


def test_manual_time_never_goes_back() -> None:
    clock = ManualClock(5.0)
    clock.wait_until(1.0)
    assert clock.now() == 5.0
    with pytest.raises(ValueError, match="time cannot go back"):
        clock.advance(-0.1)


def test_a_clock_must_say_both_things() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Clock()  # type: ignore[abstract]
