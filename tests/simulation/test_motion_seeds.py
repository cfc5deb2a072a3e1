"""Hundreds of simulated runs with loss, duplicates, outages, late, overtaken and hostile chunks: nothing wrong reaches the arm.

``run_seeds.py`` beside this file runs as many as one likes. Every kind of violation has a control that must be found.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from actlink.controller import Controller
from actlink.execution import naive
from actlink.execution._base import Replan, Strategy
from actlink.types import ActionChunk, Array
from simulation.motion_world import STRATEGIES, Plan, Run, honest, simulate

SEEDS = 500
PARTS = 5


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_wrong_reaches_the_arm(part: int) -> None:
    runs = [simulate(seed) for seed in range(part, SEEDS, PARTS)]
    assert [f"seed {run.plan.seed}: {what}" for run in runs for what in run.violations] == []
    # And the runs were such as to tempt it.
    assert {run.plan.strategy for run in runs} == {name for name, _ in STRATEGIES}
    assert sum(run.acted for run in runs) > 20 * len(runs)
    assert sum(run.outages for run in runs) > len(runs)
    log = "\n".join(line for run in runs for line in run.lines)
    for reason in ("resuming", "late_tick", "not_finite", "position", "step", "latched", "rearmed", "stale"):
        assert reason in log, f"never met: {reason}"
    assert sum(arrivals_twice(run) for run in runs) > 10 and sum(overtaken(run) for run in runs) > 10


def test_where_neither_range_nor_option_tells_a_step_the_run_does() -> None:
    runs = [simulate(seed, bare=True) for seed in range(100)]
    assert [f"seed {run.plan.seed}: {what}" for run in runs for what in run.violations] == []
    ways_back = [run for run in runs if any("resuming" in tick.reasons for tick in run.ticks)]
    assert len(ways_back) > 20 and sum(run.outages for run in runs) > len(runs)


def test_a_limit_of_acceleration_is_kept_and_stops_are_as_before() -> None:
    runs = [simulate(seed, eased=True) for seed in range(100)]
    assert [f"seed {run.plan.seed}: {what}" for run in runs for what in run.violations] == []
    assert sum("acceleration" in tick.reasons for run in runs for tick in run.ticks) > 100
    assert "bend" in kinds([judged_as_eased(seed) for seed in range(20)])
    # The same ticks are holds, and of as many commands.
    for run in runs[:20]:
        plain = simulate(run.plan.seed)
        assert [tick.held for tick in plain.ticks] == [tick.held for tick in run.ticks]


def judged_as_eased(seed: int) -> Run:
    """A run without that limit, before the judge of those that have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actlink._motion.Easing.eased", lambda self, plan, *_: plan)
        return simulate(seed, eased=True)


def answers(run: Run) -> list[str]:
    """Steps of the answers of a run, in the order of their arrival; a lost one ends with ``!``."""
    return [word.partition("@")[0] for line in run.lines for word in line.rpartition("[")[2].rstrip("]").split()]


def arrivals_twice(run: Run) -> int:
    return sum(count > 1 for step, count in Counter(answers(run)).items() if not step.endswith("!"))


def overtaken(run: Run) -> int:
    steps = [int(step) for step in answers(run) if not step.endswith("!")]
    return sum(b < a for a, b in pairwise(steps))


def test_any_seed_replays_to_the_same_event_log() -> None:
    seeds = range(0, SEEDS, 25)
    first = {seed: simulate(seed).digest for seed in seeds}
    assert len(set(first.values())) == len(first)
    assert {seed: simulate(seed).digest for seed in reversed(seeds)} == first


# Controls: each breaks one thing, and is found for that.


class Queue(Strategy):
    """Plays whatever arrived in the order of its arrival: what comes twice runs twice, what comes late runs late."""

    def __init__(self, plan: Plan) -> None:
        self.reset()

    def reset(self) -> None:
        self.rows: list[tuple[Array, int]] = []
        self.awaited, self.at, self.now = False, -1, None

    def replan(self, step: int) -> Replan | None:
        if self.awaited or len(self.rows) > 4:
            return None
        self.awaited = True
        return Replan(step)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.awaited = False
        self.rows += [(row, chunk.step) for row in chunk.actions]

    def lost(self, step: int) -> None:
        self.awaited = False

    def action(self, step: int) -> Array | None:
        if step != self.at:
            self.at, self.now = step, self.rows.pop(0) if self.rows else None
        return None if self.now is None else self.now[0]

    def observed(self, step: int) -> int | None:
        return None if self.now is None else self.now[1]


class Boasts(Strategy):
    """An honest strategy that says its actions are younger than they are, so that no guard finds them stale."""

    def __init__(self, plan: Plan) -> None:
        self.inner = honest(plan)

    def replan(self, step: int) -> Replan | None:
        return self.inner.replan(step)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)

    def lost(self, step: int) -> None:
        self.inner.lost(step)

    def action(self, step: int) -> Array | None:
        return self.inner.action(step)

    def observed(self, step: int) -> int | None:
        return None if self.inner.observed(step) is None else step

    def stopped(self) -> None:
        self.inner.stopped()

    def reset(self) -> None:
        self.inner.reset()


class Hoards(Boasts):
    """Answers with the last action there was when there is none any more."""

    def action(self, step: int) -> Array | None:
        found = self.inner.action(step)
        if found is not None:
            self.kept, self.basis = found, self.inner.observed(step)
        return getattr(self, "kept", None)

    def observed(self, step: int) -> int | None:
        return getattr(self, "basis", None)


def kinds(runs: list[Run]) -> set[str]:
    return {what.partition(":")[0].partition(" at ")[0] for run in runs for what in run.violations}


def naive_strategy(plan: Plan) -> Strategy:
    return naive.Strategy(naive.Config(), plan.spec)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(naive_strategy, "wrong step"), (Queue, "wrong step"), (Hoards, "wrong step"), (Boasts, "false basis")],
)
def test_a_broken_strategy_is_found(make: type[Strategy], kind: str) -> None:
    assert kind in kinds([simulate(seed, make=make) for seed in range(20)])


def test_a_missing_guard_is_found() -> None:
    found = kinds([simulate(seed, guarded=False, hostile=0.3) for seed in range(40)])
    assert {"not finite", "over limit", "burst"} <= found


def test_a_leap_after_an_outage_is_found_where_only_the_run_tells_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from actlink import _motion

    monkeypatch.setattr(_motion.Shown, "way", lambda self, *_: self._told)
    assert "burst" in kinds([simulate(seed, bare=True) for seed in range(20)])


def test_actions_that_run_too_long_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from actlink import safety

    monkeypatch.setattr(safety.Guard, "_stale", lambda *_: None)
    plays_on = {"strategy": "receding", "options": {}, "rows": 50, "rate_hz": 10.0}  # five seconds of a chunk, two are allowed
    assert "stale" in kinds([simulate(seed, **plays_on) for seed in range(10)])


def test_a_loop_that_makes_up_for_lost_steps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "_next", lambda self, start_s, step: catch_up(self, start_s, step))
    monkeypatch.setattr(Controller, "_after_looking", lambda self, start_s, step: (step, 0))
    assert kinds([simulate(seed, hangs=0.05) for seed in range(20)]) >= {"burst"}


def catch_up(controller: Controller, start_s: float, step: int) -> tuple[int, int]:
    assert controller._rate_hz is not None
    controller._clock.wait_until(start_s + (step + 1) / controller._rate_hz)
    return step + 1, 0


def test_what_is_judged_is_what_was_commanded() -> None:
    run = simulate(1)
    assert len(run.ticks) == len(run.lines) > 30
    assert all(np.isfinite(tick.action).all() for tick in run.ticks)
