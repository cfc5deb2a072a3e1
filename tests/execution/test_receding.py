from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.errors import ConfigError
from actlink.execution.receding import Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

SPEC = Spec(action=Field((2,)), action_horizon=8)


def chunk(step: int, length: int = 8) -> ActionChunk:
    rows = np.arange(step, step + length, dtype=np.float32)
    return ActionChunk(np.stack([rows, rows], axis=1), step)


def asked_at(strategy: Strategy, steps: int, delay: int = 0, length: int = 8) -> tuple[list[int], list[int]]:
    """Control steps of the replans and of the starved steps in a world where a chunk takes ``delay`` steps."""
    asked, starved, due = [], [], {}
    for step in range(steps):
        if step in due:
            strategy.add(chunk(due[step], length), step)
        if strategy.replan(step) is not None:
            asked.append(step)
            due[step + delay] = step
            if not delay:
                strategy.add(chunk(step, length), step)
        action = strategy.action(step)
        if action is None:
            starved.append(step)
        else:
            assert action.tolist() == [step, step]
    return asked, starved


def test_runs_the_whole_chunk_by_default() -> None:
    assert asked_at(Strategy(Config(), SPEC), 20) == ([0, 8, 16], [])


def test_runs_the_execution_horizon_then_asks() -> None:
    assert asked_at(Strategy(Config(3), SPEC), 10) == ([0, 3, 6, 9], [])


def test_a_horizon_beyond_the_chunk_means_the_chunk() -> None:
    assert asked_at(Strategy(Config(100), SPEC), 20) == ([0, 8, 16], [])


def test_counts_from_the_arrival() -> None:
    # asked at 0, arrives at 3, runs 3..6 (4 actions), asked at 7, arrives at 10, ...
    asked, starved = asked_at(Strategy(Config(4), SPEC), 14, delay=3)
    assert asked == [0, 7]
    assert starved == [0, 1, 2, 7, 8, 9]


def test_a_late_chunk_runs_only_to_its_end() -> None:
    asked, _ = asked_at(Strategy(Config(), SPEC), 20, delay=3)
    assert asked == [0, 8, 16]


@given(
    horizon=st.none() | st.integers(1, 12),
    lengths=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    delays=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    steps=st.integers(1, 40),
)
def test_agrees_with_the_model(horizon: int | None, lengths: list[int], delays: list[int], steps: int) -> None:
    """The model: the set of steps at which each chunk may run, worked out from its request, arrival and length."""
    strategy = Strategy(Config(horizon), SPEC)
    due: dict[int, tuple[int, int]] = {}
    playable: set[int] = set()
    waiting, asked = False, 0
    for step in range(steps):
        if step in due:
            first, length = due.pop(step)
            strategy.add(chunk(first, length), step)
            last = first + length if horizon is None else min(first + length, step + horizon)
            playable, waiting = set(range(step, last)), False
        expected = not waiting and step not in playable
        replan = strategy.replan(step)
        assert (replan is not None) == expected
        if expected:
            length, delay = lengths[asked % len(lengths)], delays[asked % len(delays)]
            asked, waiting = asked + 1, True
            if delay:
                due[step + delay] = (step, length)
            else:
                strategy.add(chunk(step, length), step)
                playable, waiting = set(range(step, step + (length if horizon is None else min(length, horizon)))), False
        action = strategy.action(step)
        assert (action is not None) == (step in playable)
        assert action is None or action.tolist() == [step, step]


def test_prefix_is_the_tail_that_did_not_run() -> None:
    strategy = Strategy(Config(3), Spec(action=Field((2,)), action_horizon=8, accepts_prefix=True))
    strategy.replan(0)
    strategy.add(chunk(0), 0)
    replan = strategy.replan(3)
    assert replan is not None and replan.prefix is not None
    assert replan.prefix.tolist() == [[float(s), float(s)] for s in range(3, 8)]


def test_no_prefix_where_nothing_is_left_or_nobody_wants_it() -> None:
    wants = Strategy(Config(), Spec(action=Field((2,)), action_horizon=8, accepts_prefix=True))
    refuses = Strategy(Config(3), SPEC)
    for strategy, end in ((wants, 8), (refuses, 3)):
        strategy.replan(0)
        strategy.add(chunk(0), 0)
        replan = strategy.replan(end)
        assert replan is not None and replan.prefix is None


def test_discrete_actions_keep_their_type() -> None:
    strategy = Strategy(Config(), Spec(action=Field((1,), "int64", range=(0, 3))))
    strategy.replan(0)
    strategy.add(ActionChunk(np.array([[2], [3]])), 0)
    action = strategy.action(1)
    assert action is not None and action.dtype == np.int64 and action.tolist() == [3]


@pytest.mark.parametrize("horizon", [0, -1])
def test_refuses_a_horizon_that_runs_nothing(horizon: int) -> None:
    with pytest.raises(ConfigError, match="execution_horizon: expected at least 1"):
        Config(horizon)
