"""All strategies behind the guard, over a link with every fault at once: what runs is for its step, fresh, and in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lossy import DIM, ROWS, Fate, drive, fates, step_coded

from actlink import loading, options
from actlink.execution._base import Strategy
from actlink.safety import Config, Guard
from actlink.spec import Field, Spec

RATE_HZ = 30.0
SPEC = Spec(action=Field((DIM,)), action_horizon=ROWS, accepts_prefix=True)
HONEST: list[tuple[str, dict[str, Any]]] = [
    ("receding", {}),
    ("receding", {"execution_horizon": 3}),
    ("ensemble", {"execution_horizon": 2}),
    ("asynchronous", {}),
    ("asynchronous", {"chunk_size_threshold": 1.0, "aggregate_fn_name": "conservative"}),
    ("realtime", {}),
    ("realtime", {"execution_horizon": 2, "warmup_chunks": 0}),
]


def make(name: str, given: dict[str, Any], spec: Spec = SPEC) -> Strategy:
    module = loading.load("execution", name)
    strategy: Strategy = module.Strategy(options.build(module.Config, given, name), spec)
    return strategy


@pytest.mark.parametrize(("name", "setting"), HONEST)
@settings(max_examples=40)
@given(drawn=fates(longest=30))
def test_what_runs_is_for_its_step_and_fresh(name: str, setting: dict[str, Any], drawn: list[Fate]) -> None:
    guard = Guard(Config(rearm=True), SPEC.action, RATE_HZ, action_horizon=ROWS)
    ran: list[int] = []
    for seen in drive(make(name, setting), drawn, 120, step_coded):
        if seen.action is not None:
            assert seen.action == pytest.approx(seen.step, abs=1e-3), "an action of another step"
            assert seen.observed is not None and seen.observed <= seen.step
        decision = guard.decide(seen.step / RATE_HZ, seen.step, seen.action, seen.observed)
        if decision.kind == "act":
            assert seen.observed is not None
            assert (seen.step - seen.observed) / RATE_HZ < guard.max_open_loop_s
            ran.append(seen.step)
        assert seen.action is not None or decision.kind == "hold", "a hold in the same tick"
    assert ran == sorted(set(ran))


def test_naive_is_what_that_catches() -> None:
    late = [Fate((3,), None, ROWS)]
    assert any(s.action is not None and s.action[0] != s.step for s in drive(make("naive", {}), late, 20, step_coded))


@pytest.mark.parametrize(("name", "setting"), HONEST)
def test_after_a_cut_at_any_moment_the_arm_rests_in_time_and_moves_again(name: str, setting: dict[str, Any]) -> None:
    """Two hundred cuts in simulated time, thirty for each; chunks take 100 ms, the link comes back after two to four seconds."""
    random = np.random.default_rng(5)
    for _ in range(30):
        cut = int(random.integers(20, 100))
        back = cut + int(random.integers(60, 120))
        slow = [Fate((3,), None, ROWS)]
        strategy = make(name, setting)
        guard = Guard(Config(rearm=True, max_step=(0.05,)), SPEC.action, RATE_HZ, action_horizon=ROWS)
        pose = np.zeros(DIM, np.float32)
        commands, kinds, latched = [pose], [], []
        for seen in drive(_Cut(strategy, cut, back), slow, back + 60, lambda first, n: step_coded(first, n) * 0.01):
            decision = guard.decide(seen.step / RATE_HZ, seen.step, seen.action, seen.observed, pose)
            pose = pose if decision.action is None else decision.action
            commands.append(pose)
            kinds.append(decision.kind)
            latched.append(decision.latched)
        assert (np.abs(np.diff(commands, axis=0)) <= 0.05 + 1e-6).all()
        last = max(step for step in range(back) if kinds[step] == "act")
        assert cut - 8 <= last < cut + ROWS, "while the plan is good, a silent link is no fault"
        still = [step for step in range(last + 1, back) if (commands[step + 1] == commands[step]).all()]
        assert min(still) <= last + 15 and still == list(range(min(still), back)), "at rest within half a second, and stays so"
        assert latched[last + 1 : last + 30] == [False] * 29 and all(latched[last + 30 : back])
        assert "act" in kinds[back : back + 15], "it moves again, half a second after the link is back"


class _Cut(Strategy):
    """Between two steps nothing gets through; every question is given up after 200 ms."""

    def __init__(self, inner: Strategy, first: int, last: int) -> None:
        self.inner, self.first, self.last = inner, first, last
        self.asked: int | None = None

    def reset(self) -> None:
        self.inner.reset()

    def replan(self, step: int) -> Any:
        if self.asked is not None and step >= self.asked + 6:
            self.asked = None
            self.inner.lost(step)
        replan = self.inner.replan(step)
        self.asked = step if replan else self.asked
        return replan

    def add(self, chunk: Any, step: int) -> None:
        if not (self.first <= step < self.last or self.first <= chunk.step < self.last):
            self.asked = None
            self.inner.add(chunk, step)

    def action(self, step: int) -> Any:
        return self.inner.action(step)

    def observed(self, step: int) -> int | None:
        return self.inner.observed(step)


@settings(max_examples=40)
@given(lost=st.sets(st.integers(0, 20), max_size=3))
def test_a_lost_chunk_now_and_then_is_no_reason_to_stop(lost: set[int]) -> None:
    """Each is noticed after 100 ms, while half a chunk is still in the queue: not one starved step."""
    drawn = [Fate((), 3, 30) if n in lost else Fate((2,), None, 30) for n in range(200)]
    spec = Spec(action=Field((DIM,)), action_horizon=30)
    guard = Guard(Config(), spec.action, RATE_HZ, action_horizon=30)
    for seen in drive(make("asynchronous", {}, spec), drawn, 300, step_coded):
        decision = guard.decide(seen.step / RATE_HZ, seen.step, seen.action, seen.observed)
        assert decision.kind == "act" or guard.state == "waiting", (seen.step, decision.reasons)
