"""The last word before the driver: what may run, and what happens when nothing may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.errors import ConfigError
from actlink.safety import REASONS, Config, Decision, Guard, Watchdog
from actlink.spec import Field
from actlink.types import Array

RATE_HZ = 30.0
TICK_S = 1 / RATE_HZ
DIM = 3
ARM = Field((DIM,), range=(-1.0, 1.0), unit="rad")
STEP = 0.05
HOME = np.zeros(DIM, np.float32)


def guard(field: Field = ARM, *, horizon: int | None = 50, control_type: str = "abs", **options: Any) -> Guard:
    options.setdefault("max_step", (STEP,))
    return Guard(Config(**options), field, RATE_HZ, action_horizon=horizon, control_type=control_type)


def row(value: float) -> Array:
    return np.full(DIM, value, np.float32)


def drive(watched: Guard, steps: range, plan: Callable[[int], Array | None], measured: Array | None = HOME) -> list[Decision]:
    """Every step on time, each action fresh from this step's observation."""
    return [watched.decide(step * TICK_S, step, plan(step), step, measured) for step in steps]


def moved(watched: Guard, steps: int = 10, pace: float = 0.01) -> Array:
    """The guard after some steps at ``pace``; the last command."""
    decisions = drive(watched, range(steps), lambda step: row(pace * step))
    assert [each.kind for each in decisions] == ["act"] * steps
    assert decisions[-1].action is not None
    return decisions[-1].action


# What may run


def test_a_sound_action_runs_as_it_is() -> None:
    decision = guard().decide(0.0, 0, row(0.02), 0, HOME)
    assert decision.action is not None
    assert (decision.kind, decision.action.tolist(), decision.reasons) == ("act", row(0.02).tolist(), ())
    assert decision.action.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"planned": None}, "no_action"),
        ({"planned": np.zeros(DIM + 1, np.float32)}, "malformed"),
        ({"planned": np.zeros((1, DIM), np.float32)}, "malformed"),
        ({"planned": np.array(["0", "0", "0"])}, "malformed"),
        ({"planned": np.array([0, 0, None])}, "malformed"),
        ({"planned": np.zeros(DIM, np.complex64)}, "malformed"),
        ({"planned": [0.0, 0.0, 0.0]}, "malformed"),
        ({"planned": np.array([0, np.nan, 0], np.float32)}, "not_finite"),
        ({"planned": np.array([0, 0, -np.inf], np.float32)}, "not_finite"),
        ({"planned": np.array([0, 1e300, 0])}, "not_finite"),
        ({"observed_step": None}, "no_observation"),
        ({"observed_step": 11}, "no_observation"),
        ({"observed_step": -41}, "stale"),
        ({"meant_for": 11}, "wrong_step"),
        ({"episode": 1}, "wrong_episode"),
        ({"session": "another"}, "wrong_session"),
        ({"step": 9}, "repeated_step"),
        ({"step": 3}, "repeated_step"),
    ],
)
def test_what_may_not_run_is_a_hold_in_the_same_tick(given: dict[str, Any], reason: str) -> None:
    watched = guard()
    moved(watched)
    asked = {"step": 10, "planned": row(0.1), "observed_step": 10, "measured": HOME} | given
    decision = watched.decide(10 * TICK_S, **asked)
    assert (decision.kind, decision.reasons, decision.latched) == ("hold", (reason,), False)
    assert reason in REASONS
    after = watched.decide(11 * TICK_S, 11, row(0.11), 11, HOME)
    assert after.kind == "act", "one bad action is that action's affair"


@pytest.mark.parametrize(("observed", "kind"), [(41, "act"), (40, "hold")])
def test_an_action_runs_while_its_observation_is_young(observed: int, kind: str) -> None:
    watched = guard(max_open_loop_s=2.0)
    drive(watched, range(100), lambda step: HOME)
    decision = watched.decide(100 * TICK_S, 100, HOME, observed, HOME)
    assert decision.kind == kind, decision.reasons


@pytest.mark.parametrize(("horizon", "limit_s"), [(8, 9 / 30), (50, 51 / 30), (100, 2.0), (None, 2.0)])
def test_the_default_age_is_a_chunk_and_a_step(horizon: int | None, limit_s: float) -> None:
    assert guard(horizon=horizon).max_open_loop_s == pytest.approx(limit_s)


def test_an_observation_ages_by_the_clock_where_the_loop_stood_still() -> None:
    watched = guard(watchdog_s=1.0)
    moved(watched)
    now_s = 9 * TICK_S + 0.9
    assert watched.decide(now_s, 10, row(0.1), 9, HOME).kind == "act"
    now_s += 0.9
    decision = watched.decide(now_s, 11, row(0.1), 9, HOME)  # two steps, but 1.8 s
    assert decision.reasons == ("stale",)


def test_10_000_actions_of_others_do_not_run() -> None:
    """Episodes before and after, sessions of another name, steps that are not this one: alone and together, at any time."""
    random = np.random.default_rng(7)
    watched = guard(max_open_loop_s=2.0)
    watched.begin(episode=3, session="mine")
    ran = refused = 0
    for step in range(11_000):
        whose: dict[str, Any] = {"meant_for": step, "episode": 3, "session": "mine"}
        foreign = step % 11 != 0  # the eleventh is ours, so that the arm moves and nothing is refused for another reason
        wrong = random.choice(["meant_for", "episode", "session"], size=random.integers(1, 4), replace=False) if foreign else []
        for name in wrong:
            others: dict[str, list[Any]] = {
                "meant_for": [step - 1, step + 1, int(random.integers(-(10**9), 10**9))],
                "episode": [0, 2, 4, -3, int(random.integers(4, 10**9))],
                "session": ["", "min", "mine ", "MINE", random.bytes(4).hex()],
            }
            whose[name] = others[name][random.integers(len(others[name]))]
        if foreign and whose == {"meant_for": step, "episode": 3, "session": "mine"}:
            continue  # the number drawn happened to be ours
        decision = watched.decide(step * TICK_S, step, row(0.0), step, HOME, **whose)
        assert decision.kind == ("hold" if foreign else "act"), (whose, decision)
        assert not foreign or set(decision.reasons) & {"wrong_step", "wrong_episode", "wrong_session"}
        ran, refused = ran + (not foreign), refused + foreign
    assert ran == 1000 and refused >= 9_990


def test_an_action_of_the_last_episode_does_not_run() -> None:
    watched = guard()
    moved(watched)
    watched.begin(episode=1, session="mine")
    assert watched.decide(1.0, 0, HOME, 0, HOME, episode=0, session="mine").reasons == ("wrong_episode",)
    assert watched.decide(1.1, 1, HOME, 1, HOME, episode=1, session="mine").kind == "act"


# Limits


def test_range_and_step_are_kept_by_clamping() -> None:
    watched = guard()
    last = moved(watched)
    decision = watched.decide(10 * TICK_S, 10, np.array([0.1, -5, 5], np.float32), 10, HOME)
    assert decision.action is not None
    np.testing.assert_allclose(decision.action, last + np.array([0.01, -STEP, STEP]), atol=1e-6)
    assert decision.reasons == ("position", "step")


@pytest.mark.parametrize(("value", "reason"), [(1.01, "position"), (0.2, "step")])
def test_or_by_refusing(value: float, reason: str) -> None:
    watched = guard(on_violation="refuse", max_step=(STEP,))
    moved(watched)
    decision = watched.decide(10 * TICK_S, 10, row(value), 10, HOME)
    assert decision.kind == "hold"
    assert reason in decision.reasons


def test_the_smaller_of_step_and_rate_counts() -> None:
    watched = guard(max_step=(0.2,), max_rate=(0.3, 30.0, 3.0))
    moved(watched, pace=0.0)
    action = watched.decide(10 * TICK_S, 10, row(1.0), 10, HOME).action
    assert action is not None
    np.testing.assert_allclose(action, [0.01, 0.2, 0.1], atol=1e-6)


def test_no_larger_step_after_steps_that_passed_without_a_tick() -> None:
    watched = guard(watchdog_s=0.5)
    last = moved(watched)
    action = watched.decide(14 * TICK_S, 14, row(1.0), 14, HOME).action
    assert action is not None
    np.testing.assert_allclose(action, last + STEP, atol=1e-6)


@pytest.mark.parametrize("mode", ["clamp", "refuse"])
def test_100_000_hostile_actions_give_no_command_outside_the_limits(mode: str) -> None:
    """50 000 in each mode. The judge is told nothing by the guard; a guard that only clips lets NaN through and is caught."""
    random = np.random.default_rng(7)
    count = 50_000
    pool = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, 1e-45, 1.0, -1.0, 1.0000001, 0.0, -0.0, 3e38, 1e9])
    plans = random.normal(scale=0.3, size=(count, DIM))
    plans = np.where(random.random((count, DIM)) < 0.15, random.choice(pool, (count, DIM)), plans)
    plans[random.random(count) < 0.3] = 0.5  # a sound plan among them, so that something runs
    shapes = random.integers(0, 40, count)
    dtypes = [np.float64, np.float32, np.float16, np.int64]
    watched = guard(on_violation=mode, max_step=(STEP, 0.02, 0.1), max_rate=(3.0, 3.0, 1.5), rearm=True)
    judge = Judge(np.array([STEP, 0.02, 0.05]))
    acted = 0
    for step in range(count):
        with np.errstate(all="ignore"):
            planned: Any = plans[step].astype(dtypes[shapes[step] % 4])
        if shapes[step] == 39:
            planned = planned[:2]
        elif shapes[step] == 38:
            planned = planned.astype(object)
        decision = watched.decide(step * TICK_S, step, planned, step, judge.pose)
        judge.sees(decision.action)
        acted += decision.kind == "act"
    assert acted > count / 20

    clips_only = Judge(np.array([STEP, 0.02, 0.05]))
    with pytest.raises(AssertionError, match="not finite"):
        for plan in plans:
            clips_only.sees(np.clip(plan, clips_only.pose - 0.9 * clips_only.step, clips_only.pose + 0.9 * clips_only.step))


class Judge:
    """Stands where the driver is: each command is finite, in range, and one step from the one before."""

    def __init__(self, step: Array) -> None:
        self.step = step
        self.pose = HOME

    def sees(self, command: Array | None) -> None:
        if command is None:
            return
        assert np.isfinite(command).all(), "not finite"
        assert (np.abs(command) <= 1).all(), f"out of range: {command}"
        assert (np.abs(command.astype(float) - self.pose) <= self.step).all(), f"from {self.pose} to {command}"
        self.pose = command


@given(
    reference=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM),
    wanted=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=DIM, max_size=DIM),
    step=st.floats(1e-6, 3),
)
def test_a_step_is_kept_to_the_last_bit(reference: list[float], wanted: list[float], step: float) -> None:
    watched = guard(max_step=(step,))
    pose = np.array(reference, np.float32)
    decision = watched.decide(0.0, 0, np.array(wanted, np.float32), 0, pose)
    assert decision.action is not None
    assert (np.abs(decision.action.astype(float) - pose) <= step).all()
    assert (np.abs(decision.action) <= 1).all()


def test_limits_that_no_float32_hits_are_not_passed_by_rounding() -> None:
    watched = guard(lower=(-0.1,), upper=(0.7,), max_step=(5.0,))
    for step, value in enumerate((-1.0, 1.0)):
        action = watched.decide(step * TICK_S, step, row(value), step, HOME).action
        assert action is not None
        assert (action.astype(float) >= -0.1).all() and (action.astype(float) <= 0.7).all()


def test_an_arm_found_outside_its_range_comes_back_one_step_at_a_time() -> None:
    watched = guard()
    pose = row(1.2)
    for step, expected in enumerate((1.15, 1.10, 1.05, 1.0, 0.98)):
        decision = watched.decide(step * TICK_S, step, row(0.98 if step == 4 else 1.5), step, pose)
        assert decision.action is not None
        np.testing.assert_allclose(decision.action, expected, atol=1e-5)
        pose = decision.action


def test_differences_are_steps_themselves() -> None:
    watched = guard(control_type="delta")
    action = watched.decide(0.0, 0, row(0.4), 0, HOME).action
    assert action is not None and np.allclose(action, STEP)
    assert watched.decide(TICK_S, 1, None, None, HOME).action is None, "the embodiment's own hold, at once"


def test_discrete_actions_are_in_range_or_do_not_run() -> None:
    watched = guard(Field((1,), "int64", range=(0, 3)), max_step=None)
    kept = watched.decide(0.0, 0, np.array([3]), 0)
    assert kept.action is not None and kept.action.tolist() == [3] and kept.action.dtype == np.int64
    refused = watched.decide(TICK_S, 1, np.array([4]), 1)
    assert (refused.kind, refused.action, refused.reasons) == ("hold", None, ("position",))
    assert watched.decide(2 * TICK_S, 2, np.array([1.0]), 2).reasons == ("malformed",)


# Coming to rest


def test_motion_is_taken_down_to_zero_and_latched() -> None:
    watched = guard()
    last = moved(watched, pace=0.04)
    velocities, command = [], last
    for step in range(10, 60):
        decision = watched.decide(step * TICK_S, step, None, None, HOME)
        since_s = (step - 9) * TICK_S
        assert decision.kind == "hold"
        assert decision.latched == (since_s >= 1.0 - 1e-9), since_s
        if decision.action is not None:
            velocities.append(float(decision.action[0] - command[0]))
            command = decision.action
            assert since_s < watched.config.ramp_s
    assert velocities == sorted(velocities, reverse=True) and 0 < velocities[-1] < velocities[0] < 0.04
    assert watched.state == "latched"


def test_one_starved_step_is_bridged() -> None:
    watched = guard()
    moved(watched)
    hold = watched.decide(10 * TICK_S, 10, None, None, row(0.0))
    assert hold.action is not None and 0.09 < hold.action[0] < 0.1
    after = watched.decide(11 * TICK_S, 11, row(0.11), 11, row(0.0))
    assert after.kind == "act" and after.reasons == (), "the measured pose lags behind; it was no outage"


def test_nothing_is_latched_before_the_first_action() -> None:
    watched = guard()
    for step in range(200):
        decision = watched.decide(step * TICK_S, step, None, None, HOME)
        assert (decision.kind, decision.action, decision.latched) == ("hold", None, False)
    assert watched.state == "waiting"
    assert watched.decide(200 * TICK_S, 200, row(0.01), 195, HOME).kind == "act"


def stopped(**options: Any) -> tuple[Guard, int]:
    """A guard that has latched, and the next step."""
    watched = guard(**options)
    moved(watched)
    drive(watched, range(10, 60), lambda step: None)
    assert watched.latched
    return watched, 60


def test_a_latched_arm_moves_again_by_key_only() -> None:
    watched, step = stopped()
    decision = watched.decide(step * TICK_S, step, HOME, step, HOME)
    assert (decision.kind, decision.reasons) == ("hold", ("latched",))
    watched.rearm()
    decision = watched.decide((step + 1) * TICK_S, step + 1, HOME, step + 1, HOME)
    assert (decision.kind, decision.reasons, watched.state) == ("act", ("rearmed",), "moving")


def test_a_key_that_finds_no_fresh_action_lapses() -> None:
    watched, step = stopped()
    watched.rearm()
    drive(watched, range(step, step + 35), lambda step: None)
    assert drive(watched, range(step + 35, step + 37), lambda step: HOME)[-1].reasons == ("latched",)


def test_a_key_from_before_the_stop_means_nothing() -> None:
    watched = guard()
    moved(watched)
    drive(watched, range(10, 37), lambda step: None)
    watched.rearm()  # 0.1 s before it is latched
    drive(watched, range(37, 42), lambda step: None)
    assert watched.latched
    assert drive(watched, range(42, 44), lambda step: HOME)[-1].reasons == ("latched",)


def test_or_by_itself_where_that_is_wanted() -> None:
    watched, step = stopped(rearm=True)
    early = watched.decide(step * TICK_S, step, HOME, 12, HOME)  # seen while it still moved
    assert early.reasons == ("before_stop", "latched")
    decision = watched.decide((step + 1) * TICK_S, step + 1, HOME, step, HOME)
    assert decision.kind == "act"


@pytest.mark.parametrize(
    ("measured", "planned", "reason"), [(np.full(DIM, np.nan, np.float32), HOME, "no_pose"), (HOME, row(2.0), "position")]
)
def test_an_action_that_does_not_run_arms_nothing(measured: Array, planned: Array, reason: str) -> None:
    watched, step = stopped(rearm=True, on_violation="refuse")
    decision = watched.decide(step * TICK_S, step, planned, step, measured)
    assert (decision.kind, decision.latched, decision.reasons) == ("hold", True, (reason, "latched"))
    assert watched.decide((step + 1) * TICK_S, step + 1, HOME, step + 1, HOME).reasons == ("rearmed",)


def test_a_client_that_is_to_leave_is_told_so() -> None:
    watched = guard(on_link_loss="exit")
    moved(watched)
    kinds = [each.kind for each in drive(watched, range(10, 60), lambda step: None)]
    assert kinds == ["hold"] * 29 + ["stop"] * 21


def test_a_latch_outlives_the_episode() -> None:
    watched, _ = stopped()
    watched.begin(episode=1)
    assert watched.decide(3.0, 0, HOME, 0, HOME).reasons == ("latched",)


# After an outage


@given(
    pose=st.lists(st.floats(-0.875, 0.875, width=32), min_size=DIM, max_size=DIM),
    target=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM),
    gap=st.integers(8, 90),
    mode=st.sampled_from(["clamp", "refuse"]),
)
def test_the_first_command_after_an_outage_starts_at_the_measured_pose(
    pose: list[float], target: list[float], gap: int, mode: str
) -> None:
    """Wherever the arm has sunk to meanwhile; then one step at a time until the plan is reached, never faster, no burst."""
    watched = guard(rearm=True, on_violation=mode)
    moved(watched)
    drive(watched, range(10, 10 + gap), lambda step: None)
    at, wanted = np.array(pose, np.float32), np.array(target, np.float32)
    for step in range(10 + gap, 60 + gap):
        decision = watched.decide(step * TICK_S, step, wanted, step, at)
        assert decision.kind == "act" and decision.action is not None
        assert (np.abs(decision.action.astype(float) - at) <= STEP).all()
        at = decision.action
    np.testing.assert_array_equal(at, wanted)


def test_so_does_the_very_first() -> None:
    action = guard().decide(0.0, 0, row(0.9), 0, row(-0.5)).action
    assert action is not None and np.allclose(action, -0.45)


def test_and_the_one_after_the_watchdog_has_held() -> None:
    watched = guard()
    moved(watched)
    decision = watched.decide(9 * TICK_S + 0.3, 18, row(0.18), 18, row(-0.5))
    assert decision.reasons == ("late_tick", "resuming")
    assert decision.action is not None and np.allclose(decision.action, -0.45)


@pytest.mark.parametrize("pose", [np.array([0, np.nan, 0]), np.zeros(DIM + 1)])
def test_a_pose_that_is_none_lets_nothing_start(pose: Array) -> None:
    assert guard().decide(0.0, 0, HOME, 0, pose).reasons == ("no_pose",)


def test_without_a_step_limit_the_range_says_how_to_resume() -> None:
    watched = guard(max_step=None)
    assert not watched.unlimited
    action = watched.decide(0.0, 0, row(0.9), 0, HOME).action
    assert action is not None and np.allclose(action, 0.04)  # 2 % of -1..1
    assert guard(Field((DIM,)), max_step=None).unlimited


class TestWhereNeitherOptionNorRangeTellsAStep:
    """The run itself does, by the largest step of each entry between two commands in a row that ran as planned."""

    def test_the_first_command_may_be_any(self) -> None:
        watched = bare()
        decision = watched.decide(0.0, 0, row(50.0), 0, HOME)
        assert decision.action is not None and decision.action.tolist() == [50.0] * DIM and decision.reasons == ()
        assert watched.unlimited

    def test_after_an_outage_a_step_is_the_largest_so_far_of_that_entry(self) -> None:
        watched, pace = bare(rearm=True), np.array([0.01, 0.02, 0.04], np.float32)
        drive(watched, range(10), lambda step: pace * (step if step < 5 else 5))
        drive(watched, range(10, 60), lambda step: None)
        sunk = row(-0.2)
        decision = watched.decide(60 * TICK_S, 60, row(0.0), 60, sunk)
        assert decision.reasons == ("rearmed", "resuming") and decision.action is not None
        np.testing.assert_allclose(decision.action - sunk, pace, rtol=1e-5)

    def test_an_entry_that_has_not_moved_yet_is_back_within_a_second_and_not_at_once(self) -> None:
        watched, pace = bare(rearm=True), np.array([0.02, 0.0, 0.0], np.float32)
        drive(watched, range(10), lambda step: pace * step)
        drive(watched, range(10, 60), lambda step: None)
        first, at = 60, HOME
        for step in range(first, first + 30):
            decision = watched.decide(step * TICK_S, step, np.array([0.0, 0.6, -3.0], np.float32), step, HOME)
            assert decision.action is not None
            np.testing.assert_allclose(decision.action - at, [0.0, 0.6 / 30, -3.0 / 30], atol=1e-6)
            at = decision.action
        assert at.tolist() == np.array([0.0, 0.6, -3.0], np.float32).tolist()

    def test_steps_on_the_way_back_and_after_missing_commands_show_nothing(self) -> None:
        watched = bare(rearm=True, watchdog_s=1.0)
        drive(watched, range(10), lambda step: row(0.01 * step))
        watched.decide(12 * TICK_S, 12, row(0.5), 12, HOME)  # two steps passed without a tick
        assert drive(watched, range(13, 15), lambda step: None)[0].action is not None  # a hold, slowing down
        watched.decide(15 * TICK_S, 15, row(0.9), 15, HOME)
        drive(watched, range(16, 70), lambda step: None)
        for first in (70, 200):
            decision = watched.decide(first * TICK_S, first, row(0.0), first, row(-0.15))
            assert decision.action is not None
            np.testing.assert_allclose(decision.action, -0.15 + 0.01, atol=1e-6)
            drive(watched, range(first + 1, first + 100), lambda step: None)

    def test_a_new_episode_is_the_same_run(self) -> None:
        watched = bare()
        drive(watched, range(10), lambda step: row(0.01 * step))
        watched.begin(episode=1)
        decision = watched.decide(1.0, 0, row(0.2), 0, HOME)
        assert decision.action is not None and np.allclose(decision.action, 0.01)

    def test_an_entry_with_a_range_keeps_to_its_share_of_it(self) -> None:
        free = float("inf")
        watched = bare(lower=(-1.0, -free, -free), upper=(1.0, free, free))
        assert watched.unlimited
        action = watched.decide(0.0, 0, row(0.5), 0, HOME).action
        assert action is not None
        np.testing.assert_allclose(action, [0.04, 0.5, 0.5], atol=1e-6)

    @given(
        st.lists(
            st.tuples(st.integers(1, 50), st.integers(0, 45), st.integers(0, 2**32 - 1), st.booleans()), min_size=1, max_size=5
        )
    )
    def test_against_the_rule_in_words_of_its_own(self, parts: list[tuple[int, int, int, bool]]) -> None:
        watched, rule, step = bare(rearm=True), Shown(), 0
        plan = pose = HOME
        for acts, holds, seed, sags in parts:
            random = np.random.default_rng(seed)
            pace = random.choice([0.0, 1e-3, 0.02, 0.3], DIM)
            plan = (plan + random.choice([0.0, 1.0]) * random.normal(size=DIM)).astype(np.float32)
            for index in range(acts + holds):
                held = index >= acts
                plan = plan if held else (plan + pace * random.uniform(-1, 1, DIM)).astype(np.float32)
                decision = watched.decide(step * TICK_S, step, None if held else plan, step, pose)
                rule.sees(step, None if held else plan, pose, decision)
                pose = rule.last if not sags else (rule.last + random.normal(scale=0.1, size=DIM)).astype(np.float32)
                step += 1


class TestAcceleration:
    LIMIT, MOST = 9.0, 0.01
    """Per s^2, and what a step may differ by from the one before; a little for the rounding of commands to float32."""

    def limited(self, **options: Any) -> Guard:
        return guard(max_acceleration=(self.LIMIT,), **options)

    def follow(self, watched: Guard, plans: Array, pose: Array = HOME) -> Array:
        """What is commanded, ``pose`` before it."""
        commands = [pose]
        for step, plan in enumerate(plans):
            decision = watched.decide(step * TICK_S, step, plan.astype(np.float32), step, pose)
            assert decision.kind == "act" and decision.action is not None
            commands.append(decision.action)
        return np.array(commands, np.float64)

    def bends(self, commands: Array) -> Array:
        return np.abs(np.diff(np.concatenate([commands[:1], commands]), n=2, axis=0))

    def test_a_plan_that_keeps_to_it_is_left_alone(self) -> None:
        plans = np.stack([0.4 * (1 - np.cos(pace * np.arange(200))) for pace in (0.02, 0.05, 0.1)], 1).astype(np.float32)
        assert self.bends(plans.astype(np.float64)).max() > 0.003
        assert self.follow(self.limited(), plans)[1:].tolist() == plans.tolist()

    @given(
        pose=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM),
        target=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM),
        limit=st.sampled_from([0.5, 9.0, 200.0]),
    )
    def test_a_plan_that_stands_is_reached_and_not_passed(self, pose: list[float], target: list[float], limit: float) -> None:
        start, end = np.array(pose, np.float32), np.array(target, np.float32)
        commands = self.follow(guard(max_acceleration=(limit,)), np.tile(end, (150, 1)), start)
        np.testing.assert_array_equal(commands[-1], end)
        assert (np.diff(np.abs(commands - end), axis=0) <= 1e-6).all(), "it turned round, or passed its goal"
        assert self.bends(commands).max() <= limit / RATE_HZ**2 + 1e-6

    @given(
        st.lists(
            st.tuples(st.integers(1, 40), st.floats(-1.3, 1.3), st.sampled_from([0.0, 0.01, 0.3]), st.integers(0, 2**32 - 1)),
            min_size=1,
            max_size=6,
        ),
        st.sampled_from([None, (STEP,)]),
    )
    def test_whatever_is_planned_no_step_differs_by_more(
        self, parts: list[tuple[int, float, float, int]], most: tuple[float, ...] | None
    ) -> None:
        """Leaps, noise and plans beyond the range: the range and the step are kept to the last bit, this one to rounding."""
        plans = np.concatenate(
            [at + noise * np.random.default_rng(seed).normal(size=(steps, DIM)) for steps, at, noise, seed in parts]
        )
        commands = self.follow(self.limited(max_step=most), plans)
        assert np.abs(commands).max() <= 1
        assert most is None or np.abs(np.diff(commands, axis=0)).max() <= STEP
        assert self.bends(commands).max() <= self.MOST + 1e-6

    def test_a_stop_is_as_quick_as_without(self) -> None:
        plans = np.outer(np.minimum(np.arange(80) ** 2 * 1e-4, 0.02 * np.arange(80) - 0.5), np.ones(DIM))
        watched = guard(max_acceleration=(0.5,), max_step=None)
        commands = self.follow(watched, plans)
        speed = float(commands[-1, 0] - commands[-2, 0])
        assert speed > 0.01
        last, steps = commands[-1], []
        for step in range(80, 96):
            decision = watched.decide(step * TICK_S, step, None, None, HOME)
            assert decision.kind == "hold"
            if decision.action is not None:
                steps.append(float(decision.action[0] - last[0]))
                last = decision.action.astype(np.float64)
        assert len(steps) <= watched.config.ramp_s * RATE_HZ and steps[-1] < 0.2 * speed

    def test_after_a_hold_the_speed_is_that_of_the_hold(self) -> None:
        watched = self.limited()
        commands = self.follow(watched, np.outer(0.5 * 0.005 * np.arange(8) ** 2, np.ones(DIM)))
        held = watched.decide(8 * TICK_S, 8, None, None, HOME).action
        after = watched.decide(9 * TICK_S, 9, row(0.9), 9, HOME)
        assert held is not None and after.action is not None and "acceleration" in after.reasons
        np.testing.assert_allclose(after.action - held, held - commands[-1] + self.MOST, atol=1e-6)

    def test_or_by_refusing(self) -> None:
        watched = self.limited(on_violation="refuse")
        moved(watched)
        decision = watched.decide(10 * TICK_S, 10, row(0.13), 10, HOME)
        assert (decision.kind, decision.reasons) == ("hold", ("acceleration",))

    @pytest.mark.parametrize(("field", "kind"), [(Field((DIM,)), "delta"), (Field((1,), "int64", range=(0, 3)), "abs")])
    def test_only_positions_have_one(self, field: Field, kind: str) -> None:
        with pytest.raises(ConfigError, match="max_acceleration cannot be held for"):
            guard(field, control_type=kind, max_step=None, max_acceleration=(1.0,))


def bare(**options: Any) -> Guard:
    """Of a robot that states no range, with no step configured."""
    return guard(Field((DIM,)), max_step=None, **options)


class Shown:
    """The reference model: what each command may be, from nothing but the commands before."""

    def __init__(self) -> None:
        self.as_planned: dict[int, Array] = {}
        self.largest: Array | None = None
        self.last, self.rests, self.away, self.over = HOME, True, False, 0

    def sees(self, step: int, plan: Array | None, pose: Array, decision: Decision) -> None:
        if plan is None:
            assert decision.kind == "hold"
            self.rests = self.rests or decision.action is None
            self.last = self.last if decision.action is None else decision.action
            return
        assert decision.kind == "act" and decision.action is not None
        if self.rests or self.away:
            start = np.asarray(pose if self.rests else self.last, np.float64)
            self.over = step + round(RATE_HZ) if self.rests else self.over
            most = self.most(step, np.abs(plan - start))
            assert (np.abs(decision.action - start) <= most).all()
            np.testing.assert_allclose(decision.action, np.clip(plan, start - most, start + most), atol=1e-5)
        else:
            np.testing.assert_array_equal(decision.action, plan)
        self.away = not np.array_equal(decision.action, plan)
        assert self.away == ("resuming" in decision.reasons)
        if not self.away:
            if step - 1 in self.as_planned:
                change = np.abs(decision.action.astype(np.float64) - self.as_planned[step - 1])
                self.largest = change if self.largest is None else np.maximum(self.largest, change)
            self.as_planned[step] = decision.action
        self.last, self.rests = decision.action, False

    def most(self, step: int, way: Array) -> Array:
        left = self.over - step
        return np.full(DIM, np.inf) if self.largest is None or left <= 1 else np.maximum(self.largest, way / left)


# Time


def test_a_clock_that_goes_back_changes_nothing() -> None:
    watched = guard()
    moved(watched)
    decision = watched.decide(-3600.0, 10, row(0.1), 10, HOME)
    assert decision.kind == "act"
    assert watched.decide(10 * TICK_S, 11, row(0.11), 11, HOME).kind == "act"


def test_a_leap_of_the_clock_is_an_outage() -> None:
    watched = guard()
    moved(watched)
    decision = watched.decide(3600.0, 10, row(0.1), 9, HOME)
    assert decision.kind == "hold" and decision.latched
    assert decision.reasons == ("late_tick", "stale", "latched")


def test_the_watchdog_wants_a_tick_every_so_often() -> None:
    watchdog = Watchdog(0.2)
    assert not watchdog.due(100.0), "the loop has not begun"
    watchdog.tick(1.0)
    assert not watchdog.due(1.19)
    assert watchdog.due(1.2) and watchdog.due(5.0), "a hold may get lost, so it is repeated"
    watchdog.tick(5.0)
    assert not watchdog.due(5.1)
    watchdog.end()
    assert not watchdog.due(50.0)


@given(st.data())
def test_equal_inputs_give_equal_decisions(data: st.DataObject) -> None:
    one, other = guard(rearm=True), guard(rearm=True)
    now_s = 0.0
    for step in range(30):
        now_s += data.draw(st.sampled_from([TICK_S, TICK_S, 0.0, 0.3]))
        value = data.draw(st.none() | st.floats(-2, 2, width=32))
        planned = None if value is None else row(value)
        first, second = (each.decide(now_s, step, planned, max(0, step - 3), HOME) for each in (one, other))
        assert (first.kind, first.reasons, first.latched) == (second.kind, second.reasons, second.latched)
        np.testing.assert_array_equal(first.action, second.action)  # type: ignore[arg-type]


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_step": (0.0,)}, "max_step: expected values above 0"),
        ({"max_step": ()}, "max_step: expected values above 0"),
        ({"max_rate": (1.0, float("nan"), 1.0)}, "max_rate: expected values above 0"),
        ({"max_step": (1.0, 2.0)}, "max_step: expected 1 value or 3, got 2"),
        ({"lower": (0.5,), "upper": (0.4,)}, "expected lower <= upper"),
        ({"lower": (float("nan"),)}, "lower: expected numbers"),
        ({"ramp_s": 0.6}, "ramp_s: expected above 0, at most 0.5"),
        ({"ramp_s": 0.4, "latch_s": 0.3}, "ramp_s: expected at most latch_s"),
        ({"watchdog_s": 0.0}, "watchdog_s: expected above 0"),
        ({"max_open_loop_s": -1.0}, "max_open_loop_s: expected above 0"),
        ({"control_type": "relative"}, "cannot be held for relative actions"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        guard(**options)


def test_a_watchdog_that_would_bite_in_every_step() -> None:
    with pytest.raises(ConfigError, match=r"watchdog_s: expected at least 1.5 control steps, 0.3 s at 5 Hz, got 0.2"):
        Guard(Config(), ARM, 5.0)
    assert Guard(Config(watchdog_s=0.3), ARM, 5.0).config.watchdog_s == 0.3
