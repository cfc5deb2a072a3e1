"""The loop in a world that does not wait: simulated time, scripted delays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from actlink import loading, options
from actlink.asking import Arrival
from actlink.clock import ManualClock
from actlink.controller import Controller, Record
from actlink.errors import ActlinkError, ConfigError, LinkTimeoutError
from actlink.execution import receding
from actlink.execution._base import Replan, Strategy
from actlink.safety import Config, Guard
from actlink.spec import Field, Spec
from actlink.ticks import Recorder
from actlink.types import ActionChunk, Array, Observation

SPEC = Spec(observation={"state": Field((1,))}, action=Field((1,)), action_horizon=8)
RATE_HZ = 10.0
HELD = -1.0


@dataclass
class Later:
    """Answers ``horizon`` rows, each the number of its control step, after the delay that ``delays`` names; None: never."""

    delays: Callable[[int], float | None]
    horizon: int = 8
    asked: list[tuple[int, float]] = field(default_factory=list)
    pending: list[Arrival] = field(default_factory=list)
    dropped = 0

    def begin(self, episode: int) -> None:
        self.pending = []

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        self.asked.append((replan.step, now_s))
        delay_s = self.delays(replan.step)
        if delay_s is None:
            self.pending.append(Arrival(replan.step, None, LinkTimeoutError("cut"), now_s, now_s + 1.0))
            return
        rows = np.arange(replan.step, replan.step + self.horizon, dtype=np.float32)[:, None]
        self.pending.append(Arrival(replan.step, ActionChunk(rows, replan.step), None, now_s, now_s + delay_s))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        # Half a microsecond: a moment that is exactly a tick's belongs to it whatever the rounding.
        found = [arrival for arrival in self.pending if arrival.arrived_s <= now_s + 5e-7]
        self.pending = [arrival for arrival in self.pending if arrival not in found]
        return found

    def close(self) -> None:
        pass


@dataclass
class Arm:
    """Notes when it got which command; a command may take a while."""

    clock: ManualClock
    steps: int
    takes_s: Callable[[float], float] = lambda now_s: 0.0
    blind: Callable[[float], bool] = lambda now_s: False
    commands: list[tuple[float, float]] = field(default_factory=list)

    def observe(self) -> Observation | None:
        return None if self.blind(self.clock.now()) else {"state": np.zeros(1, np.float32)}

    def act(self, action: Array) -> bool:
        self.commands.append((round(self.clock.now(), 6), float(action[0])))
        self.clock.advance(self.takes_s(self.clock.now()))
        return len(self.commands) < self.steps

    def hold_action(self, last: Array | None) -> Array:
        return np.array([HELD], np.float32)


@dataclass
class Ran:
    arm: Arm
    asker: Later
    recorder: Recorder
    record: object
    missed: list[int]


def run(
    delays: Callable[[int], float | None] = lambda step: 0.0,
    steps: int = 20,
    guard: Guard | None = None,
    horizon: int | None = None,
    first_chunk: bool = False,
    **arm: Callable[[float], float] | Callable[[float], bool],
) -> Ran:
    clock = ManualClock(1000.0)
    world, asker, recorder, missed = Arm(clock, steps, **arm), Later(delays), Recorder(), []  # type: ignore[arg-type,var-annotated]
    strategy = receding.Strategy(receding.Config(horizon), SPEC)
    controller = Controller(
        asker, strategy, clock, rate_hz=RATE_HZ, guard=guard, log=recorder, missed=missed.append, first_chunk=first_chunk
    )
    return Ran(world, asker, recorder, controller.run(world), missed)


def test_commands_come_at_absolute_moments_and_play_their_own_step() -> None:
    ran = run()
    assert ran.arm.commands == [(1000.0 + step / 10, step) for step in range(20)]
    assert [step for step, _ in ran.asker.asked] == [0, 8, 16]


def test_steps_pass_while_a_chunk_is_under_way_and_hold() -> None:
    ran = run(lambda step: 0.3, steps=14)
    # Asked at 0, there at 3: rows 0..2 are never played. The next is asked when the chunk has run, at 8.
    assert [action for _, action in ran.arm.commands] == [HELD] * 3 + [3, 4, 5, 6, 7] + [HELD] * 3 + [11, 12, 13]
    assert [tick.starved for tick in ran.recorder.ticks] == [action == HELD for _, action in ran.arm.commands]
    assert [reply.arrived for reply in ran.recorder.replies] == [3, 11]


def test_an_answer_within_the_tick_is_used_in_that_tick() -> None:
    ran = run(lambda step: 0.0, steps=3)
    assert ran.record.starved == 0  # type: ignore[attr-defined]


def test_a_tick_that_lasts_too_long_skips_steps_and_never_bursts() -> None:
    ran = run(takes_s=lambda now_s: 0.55 if abs(now_s - 1000.3) < 1e-6 else 0.0, steps=12)
    moments = [moment for moment, _ in ran.arm.commands]
    actions = [action for _, action in ran.arm.commands]
    # The command of step 3 lasts until 1000.85: step 8 is running then. 4 to 7 are gone.
    assert actions[:6] == [0, 1, 2, 3, 8, 9]
    assert moments[4:6] == [1000.85, 1000.9]
    assert ran.missed == [4] and ran.record.missed == 4  # type: ignore[attr-defined]
    assert [tick.skipped for tick in ran.recorder.ticks][4] == 4
    assert all(later - sooner >= 0.05 - 1e-9 for sooner, later in pairwise(moments))


def test_a_little_late_is_caught_up_without_a_drift() -> None:
    ran = run(takes_s=lambda now_s: 0.04, steps=40)
    assert ran.arm.commands == [(round(1000 + step / 10, 6), step) for step in range(40)]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match="rate_hz: expected more than 0"):
        Controller(Later(lambda step: 0.0), receding.Strategy(receding.Config(), SPEC), ManualClock(), rate_hz=rate_hz)


def test_a_lost_question_is_asked_again_and_the_run_goes_on() -> None:
    ran = run(lambda step: None if step == 0 else 0.0, steps=16)
    assert [step for step, _ in ran.asker.asked][:2] == [0, 10]
    assert [action for _, action in ran.arm.commands] == [HELD] * 10 + list(range(10, 16))
    assert (ran.record.lost, ran.record.first_error) == (1, "timeout: cut")  # type: ignore[attr-defined]
    assert ran.recorder.replies[0].actions is None and ran.recorder.replies[0].error == "timeout: cut"


def test_a_step_without_an_observation_asks_at_the_next() -> None:
    ran = run(blind=lambda now_s: now_s < 1000.25, steps=6)
    assert [step for step, _ in ran.asker.asked] == [3]
    assert [action for _, action in ran.arm.commands] == [HELD] * 3 + [3, 4, 5]
    assert ran.record.blind == 3  # type: ignore[attr-defined]


def guard(**options: object) -> Guard:
    return Guard(Config(**options), Field((1,), range=(-50.0, 50.0)), RATE_HZ, action_horizon=8)  # type: ignore[arg-type]


def test_the_guard_has_the_last_word() -> None:
    ran = run(guard=guard(upper=(4.0,), resume_step=(9.0,)), steps=8)
    assert [action for _, action in ran.arm.commands] == [0, 1, 2, 3, 4, 4, 4, 4]
    assert [tick.reasons for tick in ran.recorder.ticks][5:] == [("position",)] * 3


def test_what_the_guard_refuses_is_held_in_that_very_tick() -> None:
    ran = run(guard=guard(upper=(4.0,), resume_step=(9.0,), on_violation="refuse", ramp_s=0.05), steps=8)
    assert [action for _, action in ran.arm.commands] == [0, 1, 2, 3, 4, HELD, HELD, HELD]
    assert (ran.record.guarded, ran.record.starved) == (3, 0)  # type: ignore[attr-defined]


def test_a_guard_that_says_stop_ends_the_run() -> None:
    ran = run(lambda step: 0.0 if step == 0 else 100.0, guard=guard(resume_step=(9.0,), on_link_loss="exit"), steps=99)
    # The last fresh action runs at step 7; a second later the arm is latched, and the client leaves.
    assert len(ran.arm.commands) == 18 and ran.arm.commands[-1] == (1001.7, HELD)


def test_an_error_that_the_asker_raises_ends_the_run() -> None:
    class Refuses(Later):
        def arrived(self, now_s: float) -> Sequence[Arrival]:
            if now_s > 1000.4:
                raise ConfigError("another policy answers there")
            return super().arrived(now_s)

    clock = ManualClock(1000.0)
    controller = Controller(Refuses(lambda step: 0.0), receding.Strategy(receding.Config(), SPEC), clock, rate_hz=RATE_HZ)
    with pytest.raises(ActlinkError, match="another policy"):
        controller.run(Arm(clock, 20))


class Strangers(Later):
    """The second question is answered by what somebody else was told: rows of 45."""

    def __init__(self, **whose: Any) -> None:
        super().__init__(lambda step: 0.0)
        self.whose = whose

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        super().ask(observation, replan, now_s)
        chunk = self.pending[-1].chunk
        if len(self.asked) == 2 and chunk is not None:
            foreign = replace(chunk, actions=np.full_like(chunk.actions, 45.0), **self.whose)
            self.pending[-1] = replace(self.pending[-1], chunk=foreign)


@pytest.mark.parametrize("name", ["receding", "asynchronous", "ensemble", "realtime"])
@pytest.mark.parametrize(
    ("whose", "reason"),
    [({"episode": 7}, "wrong_episode"), ({"episode": -1}, "wrong_episode"), ({"session": "another"}, "wrong_session")],
)
def test_an_answer_to_another_episode_or_session_never_runs_and_is_recorded(name: str, whose: Any, reason: str) -> None:
    def drive(guarded: bool) -> tuple[Record, list[float], Recorder]:
        clock, recorder, asker = ManualClock(1000.0), Recorder(), Strangers(**whose)
        arm = Arm(clock, 30)
        module = loading.load("execution", name)
        strategy = module.Strategy(module.Config(), SPEC)
        watched = guard(resume_step=(99.0,), ramp_s=0.05) if guarded else None
        record = Controller(asker, strategy, clock, rate_hz=RATE_HZ, guard=watched, log=recorder).run(arm)
        return record, [action for _, action in arm.commands], recorder

    record, commands, recorder = drive(guarded=True)
    assert {action for step, action in enumerate(commands) if action != pytest.approx(step)} <= {HELD}
    errors = [reply.error for reply in recorder.replies if reply.error is not None]
    assert len(errors) == record.lost == 1 and errors[0].startswith(f"policy: {reason}: ") and record.first_error == errors[0]
    _, unguarded, _ = drive(guarded=False)
    assert any(action not in (HELD, pytest.approx(step)) for step, action in enumerate(unguarded)), "it would not have been missed"


class Clings(Strategy):
    """Forgets nothing at the end of an episode."""

    def __init__(self) -> None:
        self.inner = receding.Strategy(receding.Config(), SPEC)

    def replan(self, step: int) -> Replan | None:
        return None if step else Replan(step)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)

    def action(self, step: int) -> Array | None:
        return self.inner.action(step)

    def observed(self, step: int) -> int | None:
        return self.inner.observed(step)

    def reset(self) -> None:
        pass


def test_a_plan_that_outlives_its_episode_does_not_run() -> None:
    clock, recorder, silent = ManualClock(1000.0), Recorder(), [False]
    asker = Later(lambda step: None if silent[0] else 0.0)
    driver = Controller(asker, Clings(), clock, rate_hz=RATE_HZ, guard=guard(resume_step=(9.0,)), log=recorder)
    first = Arm(clock, 4)
    driver.run(first)
    assert [action for _, action in first.commands] == [0, 1, 2, 3]
    silent[0] = True
    second = Arm(clock, 4)
    driver.run(second)
    assert [action for _, action in second.commands] == [HELD] * 4
    assert [tick.reasons for tick in recorder.ticks] == [("wrong_episode",)] * 4


class TestTheFirstChunk:
    def test_is_waited_for_and_its_observation_is_step_0(self) -> None:
        ran = run(lambda step: 0.25, steps=6, first_chunk=True)
        # Asked at 1000.0, there at 1000.25 (the loop looks every 2 ms): step 2 is running, and the first two rows are never played.
        assert [action for _, action in ran.arm.commands] == [2, 3, 4, 5, 6, 7]
        assert ran.arm.commands[0][0] == pytest.approx(1000.25, abs=0.003) and ran.arm.commands[1][0] == 1000.3
        assert ran.record.starved == 0 and ran.record.missed == 0  # type: ignore[attr-defined]
        assert len(ran.recorder.replies) == 1

    def test_is_asked_for_again_when_it_is_lost(self) -> None:
        asked: list[int] = []
        ran = run(lambda step: asked.append(step) or (None if len(asked) < 3 else 0.1), steps=4, first_chunk=True)  # type: ignore[func-returns-value]
        assert len(asked) == 3 and [action for _, action in ran.arm.commands] == [1, 2, 3, 4]

    def test_is_not_waited_for_for_ever(self) -> None:
        ran = run(lambda step: None, steps=4, first_chunk=True)
        assert [action for _, action in ran.arm.commands] == [HELD] * 4

    def test_a_world_that_cannot_be_seen_begins_without(self) -> None:
        ran = run(blind=lambda now_s: now_s < 1000.15, steps=4, first_chunk=True)
        assert [action for _, action in ran.arm.commands] == [HELD, HELD, 2, 3]


class Plans(Later):
    """A chunk stands where the question's time says: 1 before ``until_s``, 5 afterwards; keeps what was asked."""

    until_s = 0.0

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        self.replans = [*getattr(self, "replans", []), replan]
        super().ask(observation, replan, now_s)
        last = self.pending[-1]
        if last.chunk is not None:
            last.chunk.actions[:] = 1.0 if now_s < self.until_s else 5.0


@pytest.mark.parametrize("name", ["asynchronous", "ensemble", "realtime"])
def test_once_latched_nothing_of_the_old_plan_runs_or_is_continued(name: str) -> None:
    """Its rows reach beyond the stop. What is observed after the stop is a plan of its own: not mixed, not continued."""
    spec = Spec(SPEC.observation, SPEC.action, action_horizon=50, accepts_prefix=name != "asynchronous")
    given: dict[str, dict[str, Any]] = {
        "asynchronous": {"aggregate_fn_name": "conservative", "chunk_size_threshold": 0.9},
        "ensemble": {"execution_horizon": 5},
        "realtime": {"execution_horizon": 5},
    }
    module = loading.load("execution", name)
    clock, recorder = ManualClock(1000.0), Recorder()
    asker = Plans(lambda step: 3.0 if 5 <= step < 35 else 0.2, horizon=50)
    asker.until_s = 1003.0
    guard = Guard(Config(rearm=True, max_open_loop_s=1.0, resume_step=(9.0,)), spec.action, RATE_HZ)
    strategy = module.Strategy(options.build(module.Config, given[name], name), spec)
    Controller(asker, strategy, clock, rate_hz=RATE_HZ, guard=guard, log=recorder).run(Arm(clock, 80))
    ticks = list(recorder.ticks)
    latched = [tick.step for tick in ticks if tick.latched]
    assert latched
    after = [float(tick.action[0]) for tick in ticks if tick.step > latched[-1]]
    assert len(after) > 10 and set(after) == {5.0}
    asked = [replan for replan in asker.replans if replan.step in latched]
    assert asked and all(replan.prefix is None and not replan.inference_delay for replan in asked)
