from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lossy import DIM, ROWS, Fate, Twins, drive, fates, random_rows, step_coded

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.execution.realtime import Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

CONTINUES = Spec(action=Field((DIM,)), action_horizon=ROWS, accepts_prefix=True, name="flow")
JOINS = replace(CONTINUES, accepts_prefix=False, name="act")


def chunk(step: int, rows: Array | list[float]) -> ActionChunk:
    values = np.asarray(rows, np.float32)
    return ActionChunk(np.repeat(values[:, None], DIM, axis=1) if values.ndim == 1 else values, step)


class Model(_base.Strategy):
    """The plan as a dictionary from control step to action, one entry at a time."""

    def __init__(self, config: Config, spec: Spec) -> None:
        self.config, self.prefix, self.rows = config, spec.accepts_prefix, spec.action_horizon
        self.every = config.execution_horizon or self.rows // 2
        self.most = self.every if config.blend_steps is None else config.blend_steps
        self.reset()

    def reset(self) -> None:
        self.plan: dict[int, list[float]] = {}
        self.basis, self.wait, self.next = -1, -1, 0
        self.measured: list[int] = []
        self.before: list[float] | None = None
        self.now, self.paces = 0, [[0.0] * DIM]

    def delay(self) -> int:
        warm, counted = self.measured[: self.config.warmup_chunks], self.measured[self.config.warmup_chunks :]
        latest = sorted(counted[-self.config.delay_window :])
        if latest:
            return latest[math.ceil(self.config.delay_quantile * len(latest)) - 1]
        return min(min(warm, default=0), max(self.rows - self.every, 0))

    def replan(self, step: int) -> Replan | None:
        rest = [self.plan[each] for each in sorted(self.plan) if each >= step]
        delay = min(self.delay(), self.rows)
        if self.wait >= 0 or (step < self.next and len(rest) > delay):
            return None
        self.wait, self.next = step, step + self.every
        if not rest or not self.prefix:
            return Replan(step, must_go=not rest)
        rest = rest[: self.rows]
        return Replan(step, np.array(rest + rest[-1:] * (delay - len(rest)), np.float32), delay)

    def add(self, chunk: ActionChunk, step: int) -> None:
        if 0 <= self.wait <= chunk.step:
            self.wait = -1
            self.measured.append(step - chunk.step)
        self.pass_to(step)
        plan = {chunk.step + i: row for i, row in enumerate(chunk.actions.tolist())}
        if chunk.step <= self.basis or max(plan) < step:
            return
        pace = [max((abs(plan[s + 1][j] - plan[s][j]) for s in list(plan)[:-1]), default=-1.0) for j in range(DIM)]
        known = [each for each in (self.paces[-1], pace) if each[0] >= 0] if self.basis >= 0 else []
        if self.most and self.before is not None and known:
            for j in range(DIM):
                self.join(plan, j, step, max(each[j] for each in known))
        self.paces.append(pace)
        self.plan, self.basis = {s: row for s, row in plan.items() if s >= step}, chunk.step

    def join(self, plan: dict[int, list[float]], j: int, step: int, pace: float) -> None:
        assert self.before is not None
        jump = plan[step][j] - self.before[j]
        allowed = max(pace, abs(jump) / (self.most + 1))
        missing = math.copysign(max(abs(jump) - allowed, 0), jump)
        parts = min(max(math.ceil(abs(missing) / (allowed or 1)), 1), self.most)
        for s in range(step, max(plan) + 1):
            plan[s][j] -= missing * max(1 - (s - step) / parts, 0)

    def pass_to(self, step: int) -> None:
        """What ran at the step before ``step``."""
        while self.now < step:
            self.before, self.now = self.plan.get(self.now), self.now + 1

    def lost(self, step: int) -> None:
        self.wait, self.next = -1, 0

    def action(self, step: int) -> Array | None:
        return np.array(self.plan[step]) if step in self.plan else None

    def observed(self, step: int) -> int | None:
        return self.basis if step in self.plan else None


configs = st.builds(
    Config,
    execution_horizon=st.none() | st.integers(1, ROWS + 2),
    delay_window=st.integers(1, 5),
    delay_quantile=st.sampled_from([0.5, 0.9, 1.0]),
    warmup_chunks=st.integers(0, 3),
    blend_steps=st.none() | st.integers(0, 6),
)


@given(config=configs, spec=st.sampled_from([CONTINUES, JOINS]), drawn=fates(), seed=st.integers(0, 99))
def test_agrees_with_the_model(config: Config, spec: Spec, drawn: list[Fate], seed: int) -> None:
    for _ in drive(Twins(Strategy(config, spec), Model(config, spec)), drawn, 60, random_rows(seed)):
        pass


def test_skips_exactly_the_steps_that_passed() -> None:
    late = [Fate((3,), None, ROWS)]
    seen = list(drive(Strategy(Config(execution_horizon=4), CONTINUES), late, 40, step_coded))
    assert [each.step for each in seen if each.replan] == list(range(0, 40, 4))
    assert [each.step for each in seen if each.action is None] == [0, 1, 2]
    assert all(each.action is None or each.action[0] == each.step for each in seen)
    assert [each.observed for each in seen[3:12]] == [0, 0, 0, 0, 4, 4, 4, 4, 8]


def test_sends_what_is_left_and_how_much_of_it_will_have_run() -> None:
    late = [Fate((3,), None, ROWS)]
    seen = list(drive(Strategy(Config(execution_horizon=4, warmup_chunks=1), CONTINUES), late, 20, step_coded))
    first, *others = [each.replan for each in seen if each.replan]
    assert first.prefix is None and first.inference_delay == 0 and first.must_go
    for replan in others:
        assert replan.prefix is not None and not replan.must_go
        assert replan.prefix[:, 0].tolist() == list(range(replan.step, replan.step + 4))
        assert replan.inference_delay == 3


def test_asks_at_once_where_the_plan_would_not_last_until_the_answer() -> None:
    late = [Fate((6,), None, ROWS)]
    seen = list(drive(Strategy(Config(execution_horizon=5, warmup_chunks=0), CONTINUES), late, 40, step_coded))
    # Each chunk has two rows left when it comes. The next question goes out in that very step, not three steps later.
    assert [each.step for each in seen if each.replan] == [0, 6, 12, 18, 24, 30, 36]


def test_a_prefix_shorter_than_the_delay_is_held_not_filled_with_zeros() -> None:
    late = [Fate((6,), None, ROWS)]
    seen = list(drive(Strategy(Config(warmup_chunks=0), CONTINUES), late, 14, step_coded))
    replan = seen[6].replan
    assert replan is not None and replan.prefix is not None
    assert replan.prefix[:, 0].tolist() == [6, 7, 7, 7, 7, 7]
    assert replan.inference_delay == 6
    moving = replace(CONTINUES, control_type="delta")
    seen = list(drive(Strategy(Config(warmup_chunks=0), moving), late, 14, step_coded))
    replan = seen[6].replan
    assert replan is not None and replan.prefix is not None
    assert replan.prefix[:, 0].tolist() == [6, 7, 0, 0, 0, 0], "of differences, zero is the one that holds"


def delays_expected(strategy: Strategy, delays: list[int], rows: int = 100) -> list[int]:
    """The delay that each question after the first expects, when its predecessors took ``delays``."""
    expected, step = [], 0
    for delay in delays:
        assert strategy.replan(step) is not None
        strategy.add(chunk(step, np.arange(step, step + rows, dtype=np.float32)), step + delay)
        expected.append(strategy.delay)
        step += max(50, delay)
    return expected


def test_first_latencies_do_not_poison_the_estimate() -> None:
    spec = replace(CONTINUES, action_horizon=100)
    # 0.7 s and more while the model compiles, then 100 ms at 30 Hz.
    assert delays_expected(Strategy(Config(), spec), [21, 15, 3, 4, 3]) == [21, 15, 3, 4, 4]
    assert delays_expected(Strategy(Config(warmup_chunks=0), spec), [21, 15, 3, 4, 3]) == [21, 21, 21, 21, 21]


def test_a_first_latency_longer_than_a_chunk_leaves_the_next_chunk_free_to_move() -> None:
    assert delays_expected(Strategy(Config(execution_horizon=5), CONTINUES), [21, 3], rows=100) == [3, 3]  # 8 rows, 5 of them free
    assert delays_expected(Strategy(Config(execution_horizon=50), CONTINUES), [21, 3], rows=100) == [0, 0]


def test_an_outlier_leaves_with_the_window_or_counts_for_nothing() -> None:
    spec = replace(CONTINUES, action_horizon=100)
    delays = [3, 3, 40, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    largest = delays_expected(Strategy(Config(warmup_chunks=0, delay_window=4), spec), delays)
    assert largest == [3, 3, 40, 40, 40, 40, 3, 3, 3, 3, 3, 3]
    most = delays_expected(Strategy(Config(warmup_chunks=0, delay_window=10, delay_quantile=0.9), spec), delays)
    assert most == [3, 3, 40, 40, 40, 40, 40, 40, 40, 3, 3, 3], "one in ten is left out once there are ten"


def test_what_is_lost_is_not_measured_and_asked_for_at_once() -> None:
    strategy = Strategy(Config(warmup_chunks=0), CONTINUES)
    strategy.replan(0)
    strategy.add(chunk(0, [0.0] * ROWS), 1)
    assert strategy.replan(4) is not None
    strategy.lost(6)
    assert strategy.delay == 1
    replan = strategy.replan(6)
    assert replan is not None and replan.step == 6
    strategy.add(chunk(4, [1.0] * ROWS), 7)  # after all: it runs, but it ends no wait and is no measure
    assert strategy.observed(7) == 4 and strategy.delay == 1 and strategy.replan(11) is None


def test_no_delay_is_longer_than_a_chunk() -> None:
    strategy = Strategy(Config(warmup_chunks=0), CONTINUES)
    strategy.replan(0)
    strategy.add(chunk(0, [0.0] * 60), 50)
    replan = strategy.replan(50)
    assert replan is not None and replan.prefix is not None
    assert replan.inference_delay == len(replan.prefix) == ROWS


# Joining: what a policy does not continue, or not well enough


def steps_across(old: list[list[float]], new: list[list[float]], at: int, spec: Spec = JOINS, **options: Any) -> Array:
    """The steps between commands, entry by entry, when ``new`` (rows from step 0 on) arrives at step ``at``, from there on."""
    strategy = Strategy(Config(**options), replace(spec, action_horizon=len(new)))
    strategy.add(ActionChunk(np.array(old, np.float32), 0), 0)
    ran = [strategy.action(step) for step in range(at)]
    strategy.add(ActionChunk(np.array(new, np.float32), 1), at)
    ran += [strategy.action(step) for step in range(at, 1 + len(new))]
    return np.diff(np.array([action for action in ran if action is not None]), axis=0)[at - 1 :]


@given(
    seed=st.integers(0, 10_000),
    jump=st.floats(-50, 50),
    at=st.integers(1, 10),
    most=st.integers(1, 12),
    spec=st.sampled_from([CONTINUES, JOINS]),
)
def test_the_step_across_the_seam_is_bounded(seed: int, jump: float, at: int, most: int, spec: Spec) -> None:
    """By the largest step inside a chunk, or the jump in ``most + 1`` parts; the steps after it by little more than that again."""
    random = np.random.default_rng(seed)
    old = random.normal(size=(11, DIM)).cumsum(axis=0)
    new = old + jump + random.normal(scale=0.1, size=(11, DIM))
    steps = np.abs(steps_across(old.tolist(), new.tolist(), at, spec, blend_steps=most))
    inside = np.maximum(np.abs(np.diff(old, axis=0)).max(axis=0), np.abs(np.diff(new, axis=0)).max(axis=0))
    whole = np.abs(new[at - 1] - old[at - 1])
    bound = np.maximum(inside, whole / (most + 1))
    assert (steps[0] <= bound + 1e-4).all()
    assert (steps[1:] <= inside + np.maximum(bound, whole / most) + 1e-4).all()


def test_a_seam_like_any_step_is_left_alone() -> None:
    strategy = Strategy(Config(), JOINS)
    strategy.add(chunk(0, [0, 1, 2, 3, 4, 5, 6, 7]), 0)
    strategy.add(chunk(2, [1.75, 2.75, 3.75, 4.75, 5.75, 6.75, 7.75, 8.75]), 3)
    action = strategy.action(3)
    assert action is not None and action.tolist() == [2.75, 2.75]


def test_after_starving_nothing_is_joined() -> None:
    strategy = Strategy(Config(blend_steps=4), JOINS)
    strategy.add(chunk(0, [0, 1, 2, 3]), 0)
    strategy.add(chunk(4, [10, 11, 12, 13, 14, 15, 16, 17]), 6)
    assert [float(action[0]) for step in (6, 7) if (action := strategy.action(step)) is not None] == [12, 13]


def test_what_was_joined_is_what_the_next_question_continues() -> None:
    strategy = Strategy(Config(execution_horizon=4), CONTINUES)
    strategy.replan(0)
    strategy.add(chunk(0, [0, 1, 2, 3, 4, 5, 6, 7]), 0)
    strategy.replan(4)
    strategy.add(chunk(4, [14, 15, 16, 17, 18, 19, 20, 21]), 6)  # 16 would follow 5: eleven steps at once
    plan = [float(action[0]) for step in range(6, 10) if (action := strategy.action(step)) is not None]
    assert plan == pytest.approx([7.2, 10.4, 13.6, 16.8])  # a fifth of it, then the rest in four parts over the plan's own steps
    replan = strategy.replan(8)
    assert replan is not None and replan.prefix is not None
    assert replan.prefix[:2, 0].tolist() == plan[2:]


def test_joining_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "actlink.execution"):
        strategy = Strategy(Config(execution_horizon=5), JOINS)
        strategy.add(chunk(0, [0.0] * ROWS), 0)
        strategy.add(chunk(3, [1.0] * ROWS), 4)
    assert caplog.messages == ["realtime: act accepts no prefix; its chunks are not continued but joined over at most 5 steps"]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "actlink.execution"):
        Strategy(Config(), CONTINUES)
    assert not caplog.messages


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"execution_horizon": 0}, "execution_horizon: expected at least 1, got 0"),
        ({"delay_window": 0}, "delay_window: expected at least 1"),
        ({"warmup_chunks": -1}, "warmup_chunks: expected at least 0"),
        ({"blend_steps": -1}, "blend_steps: expected at least 0"),
        ({"delay_quantile": 0.0}, "delay_quantile: expected above 0, at most 1, got 0"),
        ({"delay_quantile": float("nan")}, "delay_quantile: expected above 0, at most 1, got nan"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**options)


def test_refuses_discrete_actions() -> None:
    with pytest.raises(ConfigError, match=r"those of cartpole are discrete.*use the receding strategy"):
        Strategy(Config(), Spec(action=Field((1,), "int64", range=(0, 1)), name="cartpole"))
