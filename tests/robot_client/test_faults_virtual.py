"""What goes wrong between a robot and its policy, in simulated time: outcome, and a bound for the recovery.

The scenarios are those of LeRobot's guide to asynchronous inference; restarts of processes are in ``tests/test_cli_run.py``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from actlink.errors import CameraError, SimulationError
from robot_client.virtual import RATE_HZ, SPEED, Cut, Link, Ran, drive

TICK_S = 1 / RATE_HZ
ROWS = 50
OPEN_LOOP_S = (ROWS + 1) / RATE_HZ
"""How long after its observation an action may still run."""
RAMP_S = 0.5
LATCH_S = 1.0


def outages(ran: Ran) -> list[tuple[int, int]]:
    """First and last index of every row of ticks that held, but for the one at the start."""
    held = [tick.held for tick in ran.ticks]
    edges = [0, *(index for index, (a, b) in enumerate(pairwise(held), 1) if a != b), len(held)]
    return [(first, end - 1) for first, end in pairwise(edges) if held[first] and first]


def check_always(ran: Ran) -> None:
    """What holds in every run, whatever happened."""
    steps = [tick.step for tick in ran.ticks]
    assert all(b > a for a, b in pairwise(steps)), "control steps must grow"
    moments = [moment for moment, _ in ran.robot.commands]
    assert all(b - a > TICK_S / 2 for a, b in pairwise(moments)), "commands in a row"
    for tick in ran.ticks:
        assert np.isfinite(tick.action).all()
        if not tick.held:
            assert tick.basis is not None and (tick.step - tick.basis) / RATE_HZ < OPEN_LOOP_S
    for first, last in outages(ran):
        check_rest(ran, first, last)


def check_rest(ran: Ran, first: int, last: int) -> None:
    """From the last fresh action: still within half a second, latched at one."""
    fresh_s = ran.ticks[first - 1].at_s
    for before, tick in pairwise(ran.ticks[first - 1 : last + 1]):
        since_s = tick.at_s - fresh_s
        if since_s >= RAMP_S + 2 * TICK_S:
            assert np.abs(tick.action - before.action).max() < 1e-6, f"still moving {since_s:.2f} s after the last fresh action"
        assert tick.latched == (since_s >= LATCH_S - 1e-9), (since_s, tick)
    until_s = ran.ticks[last].at_s + TICK_S / 2
    late = [command for at_s, command in ran.robot.commands if fresh_s + RAMP_S + TICK_S < at_s - ran.start_s < until_s]
    assert set(late) <= {"hold"}, late
    if last + 1 < len(ran.ticks):
        resumed, stood = ran.ticks[last + 1], ran.ticks[last]
        if last + 1 - first > RAMP_S / TICK_S:  # it had come to rest: from the measured pose, and within one step of it
            at_s, pose = next(each for each in ran.robot.poses if each[0] - ran.start_s > stood.at_s + TICK_S / 2)
            assert at_s - ran.start_s == pytest.approx(resumed.at_s)
            assert np.abs(resumed.action - pose).max() <= SPEED + 1e-6
        if stood.latched:
            assert resumed.basis is not None and resumed.basis >= stood.step - 1 - (resumed.step - resumed.basis)


class TestTheLinkDrops:
    def test_it_holds_stops_and_resumes_by_itself_once_armed_to(self) -> None:
        ran = drive(12.0, Link(cuts=[Cut(3.0, 8.0)]), rearm=True)
        check_always(ran)
        ((first, last),) = outages(ran)
        # The plan that was there runs on; it ends at most a chunk after the last observation before the cut.
        assert 3.0 < ran.ticks[first].at_s <= 3.0 + OPEN_LOOP_S
        assert ran.ticks[first + 40].latched
        back_s = ran.ticks[last + 1].at_s - 8.0
        assert back_s <= ran.link.reconnect_s + 0.1 + 2 * TICK_S  # reconnected, asked, answered
        assert ran.ticks[last + 1].basis is not None and ran.ticks[last + 1].basis >= 8.0 * RATE_HZ  # seen after the link was back

    def test_without_leave_it_stays_latched_until_the_key(self) -> None:
        ran = drive(
            12.0, Link(cuts=[Cut(3.0, 7.0)]), meanwhile=lambda now_s, guard: guard.rearm() if 9.99 < now_s < 10.01 else None
        )
        check_always(ran)
        ((_, last),) = outages(ran)
        assert ran.ticks[last].at_s == pytest.approx(10.0, abs=2 * TICK_S)
        assert not ran.at(11.0).held

    def test_a_stall_that_the_queue_outlasts_is_no_fault(self) -> None:
        ran = drive(10.0, Link(cuts=[Cut(3.0, 3.6, "stall")]))
        check_always(ran)
        assert outages(ran) == []

    def test_told_to_leave_it_stops_and_leaves(self) -> None:
        ran = drive(30.0, Link(cuts=[Cut(3.0, 99.0)]), on_link_loss="exit")
        assert ran.ticks[-1].at_s <= 3.0 + OPEN_LOOP_S + LATCH_S + 2 * TICK_S
        assert ran.ticks[-1].latched and ran.robot.commands[-1][1] == "hold"


def test_an_inference_that_hangs_is_given_up_and_asked_again() -> None:
    ran = drive(14.0, Link(delay_s=lambda now_s: 30.0 if 103.0 < now_s < 105.0 else 0.1, timeout_s=2.0), rearm=True)
    check_always(ran)
    assert ran.record.lost >= 1 and ran.record.first_error == "timeout: no answer in time"
    last_asked_s = max(now_s for _, now_s in ran.link.asked if now_s < 105.0) - 100.0
    ((_, last),) = outages(ran)
    # Given up after timeout_s, asked at the next tick, answered.
    assert ran.ticks[last + 1].at_s <= last_asked_s + 2.0 + 0.1 + 3 * TICK_S


def test_an_empty_queue_holds_in_that_very_tick_and_goes_on_at_the_right_step() -> None:
    ran = drive(10.0, Link(delay_s=lambda now_s: 0.5, rows=10), ramp_s=0.1)
    check_always_short(ran, rows=10)
    assert ran.record.starved > 100
    for tick in ran.ticks:
        assert tick.held == tick.starved
    # Ten rows and half a second: fifteen steps pass on the way, so that every chunk is over before it is there.
    assert all(tick.held for tick in ran.ticks)


def check_always_short(ran: Ran, rows: int) -> None:
    assert all(tick.held or (tick.basis is not None and tick.step - tick.basis < rows + 1) for tick in ran.ticks)


def test_a_queue_that_runs_dry_between_chunks() -> None:
    ran = drive(10.0, Link(delay_s=lambda now_s: 0.5, rows=20), ramp_s=0.1)
    acted = [tick for tick in ran.ticks if not tick.held]
    assert acted and ran.record.starved > 50
    assert all(tick.basis is not None and 15 <= tick.step - tick.basis < 20 for tick in acted)
    assert not any(tick.latched for tick in ran.ticks)


class TestACameraIsGone:
    def test_each_failure_costs_one_step_and_the_plan_runs_on(self) -> None:
        gone = CameraError("no picture", camera="top", observation={"state": np.zeros(2, np.float32)})
        ran = drive(8.0, fails=lambda now_s: gone if 3.0 <= now_s < 3.5 else None)
        check_always(ran)
        assert outages(ran) == [] and ran.world.failures > 0 and ran.record.blind > 0

    def test_longer_than_the_plan_it_holds_and_resumes_when_it_is_back(self) -> None:
        ran = drive(
            12.0, fails=lambda now_s: CameraError("no picture") if 3.0 <= now_s < 6.0 else None, camera_failures=200, rearm=True
        )
        check_always(ran)
        ((_, last),) = outages(ran)
        assert ran.ticks[last + 1].at_s <= 6.0 + 0.1 + 3 * TICK_S

    def test_too_many_in_a_row_end_the_run(self) -> None:
        ran = drive(30.0, fails=lambda now_s: SimulationError("the bus is silent") if now_s >= 3.0 else None, camera_failures=10)
        assert ran.record.error is not None
        assert ran.record.error.startswith("simulation: no observation 11 times in a row (camera_failures 10): the bus is silent")


def test_a_hundred_random_cuts_hold_in_time_every_time() -> None:
    random = np.random.default_rng(7)
    long = latched = 0
    for _ in range(100):
        from_s = random.uniform(0.3, 3.0)
        cut = Cut(from_s, from_s + random.uniform(0.05, 6.0), str(random.choice(["drop", "stall"])))
        delay_s = random.uniform(0.02, 0.4)
        ran = drive(cut.to_s + 6.5, Link(delay_s=lambda now_s, d=delay_s: d, cuts=[cut], timeout_s=2.0), rearm=True)
        check_always(ran)
        long += cut.to_s - cut.from_s > OPEN_LOOP_S + LATCH_S
        latched += any(tick.latched for tick in ran.ticks)
        assert not ran.ticks[-1].held, f"{cut}: it did not resume"
    assert latched >= long > 20  # the cuts were such that there was something to see


def test_an_hour_at_one_percent_loss_stops_nothing() -> None:
    random = np.random.default_rng(11)
    packets, way_s, retransmission_s = 100, 0.02, 0.2

    def delay_s(now_s: float) -> float:
        """A question of 100 packets over TCP: a lost one costs a round trip, a lost last one a timer that doubles."""
        lost = random.random(packets) < 0.01
        total_s = 0.1 + way_s * int(lost[:-1].sum())
        timer_s = retransmission_s
        while random.random() < 0.01:
            total_s, timer_s = total_s + timer_s, 2 * timer_s
        return total_s

    ran = drive(3600.0, Link(delay_s=delay_s, rows=20), rate_hz=10.0)
    assert ran.record.steps >= 36_000
    assert not any(tick.latched for tick in ran.ticks)
    assert outages(ran) == []
