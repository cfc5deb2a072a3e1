from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lossy import DIM, ROWS, Fate, Twins, drive, fates, random_rows, step_coded

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.execution.asynchronous import AGGREGATE_FUNCTIONS, Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

SPEC = Spec(action=Field((DIM,)), action_horizon=ROWS)
WEIGHTS = {"weighted_average": (0.3, 0.7), "latest_only": (0.0, 1.0), "average": (0.5, 0.5), "conservative": (0.7, 0.3)}


def chunk(step: int, value: float, length: int = ROWS) -> ActionChunk:
    return ActionChunk(np.full((length, DIM), value, np.float32), step)


class Model(_base.Strategy):
    """A dictionary from control step to action, rebuilt from every chunk as LeRobot's client rebuilds its queue."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.old_share, self.new_share = WEIGHTS[config.aggregate_fn_name]
        self.reset()

    def reset(self) -> None:
        self.queue: dict[int, list[float]] = {}
        self.size, self.newest, self.awaited = 1, -1, -1

    def waiting(self, step: int) -> list[int]:
        return [each for each in self.queue if each >= step]

    def replan(self, step: int) -> Replan | None:
        left = len(self.waiting(step))
        if self.awaited >= 0 or left / self.size > self.config.chunk_size_threshold:
            return None
        self.awaited = step
        return Replan(step, must_go=not left)

    def add(self, chunk: ActionChunk, step: int) -> None:
        if chunk.step >= self.awaited:
            self.awaited = -1
        rows = chunk.actions.tolist()[: self.config.actions_per_chunk]
        future = {chunk.step + i: row for i, row in enumerate(rows) if chunk.step + i >= step}
        if chunk.step <= self.newest or not future:
            return
        for at, row in future.items():
            if at in self.queue:
                future[at] = [self.old_share * a + self.new_share * b for a, b in zip(self.queue[at], row, strict=True)]
        self.queue, self.newest, self.size = future, chunk.step, max(self.size, len(rows))

    def lost(self, step: int) -> None:
        self.awaited = -1

    def action(self, step: int) -> Array | None:
        return np.array(self.queue[step]) if step in self.queue else None

    def observed(self, step: int) -> int | None:
        return self.newest if step in self.queue else None


@given(
    config=st.builds(
        Config,
        actions_per_chunk=st.integers(1, ROWS + 4),
        chunk_size_threshold=st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]),
        aggregate_fn_name=st.sampled_from(sorted(WEIGHTS)),
    ),
    drawn=fates(),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_model(config: Config, drawn: list[Fate], seed: int) -> None:
    for _ in drive(Twins(Strategy(config, SPEC), Model(config)), drawn, 60, random_rows(seed)):
        pass


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_four_functions(name: str) -> None:
    strategy = Strategy(Config(aggregate_fn_name=name), SPEC)
    strategy.add(chunk(0, 1.0), 0)
    strategy.add(chunk(4, 2.0), 5)
    old, new = WEIGHTS[name]
    for step in (5, 6, 7):
        action = strategy.action(step)
        assert action is not None and action == pytest.approx(old * 1.0 + new * 2.0), "in both"
    beyond = strategy.action(8)
    assert beyond is not None and beyond.tolist() == [2.0, 2.0], "in the new one only"
    assert strategy.action(12) is None


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, [0, 8, 16]), (0.5, [0, 4, 8, 12, 16]), (1.0, list(range(20)))])
def test_asks_when_so_much_of_a_chunk_is_left(threshold: float, expected: list[int]) -> None:
    at_once = [Fate((0,), None, ROWS)]
    seen = list(drive(Strategy(Config(chunk_size_threshold=threshold), SPEC), at_once, 20, step_coded))
    assert [each.step for each in seen if each.replan] == expected


def test_must_go_when_the_queue_is_empty() -> None:
    late = [Fate((5,), None, ROWS)]
    seen = list(drive(Strategy(Config(chunk_size_threshold=0.5), SPEC), late, 40, step_coded))
    questions = {each.step: each.replan.must_go for each in seen if each.replan}
    # Asked at 0 with nothing; at 5 the queue has 3 of 8 left and the next is asked for; it arrives at 10, two steps too late.
    assert questions == {0: True, 5: False, 10: False, 15: False, 20: False, 25: False, 30: False, 35: False}
    assert [each.step for each in seen if each.action is None][:7] == [0, 1, 2, 3, 4, 8, 9]
    alone = Strategy(Config(chunk_size_threshold=0.0), SPEC)
    alone.add(chunk(0, 1.0), 0)
    assert alone.replan(7) is None
    replan = alone.replan(8)
    assert replan is not None and replan.must_go


def test_uses_so_many_actions_of_a_chunk() -> None:
    strategy = Strategy(Config(actions_per_chunk=3), SPEC)
    strategy.add(chunk(0, 1.0), 0)
    assert [strategy.action(step) is not None for step in range(5)] == [True, True, True, False, False]


def test_a_repeated_or_overtaken_chunk_is_no_news() -> None:
    strategy = Strategy(Config(aggregate_fn_name="average"), SPEC)
    strategy.add(chunk(0, 0.0), 0)
    strategy.add(chunk(4, 1.0), 4)
    for late in (chunk(4, 1.0), chunk(2, 9.0)):
        strategy.add(late, 5)
    assert [float(action[0]) for step in (5, 7, 8, 11) if (action := strategy.action(step)) is not None] == [0.5, 0.5, 1.0, 1.0]
    assert strategy.observed(5) == 4


def test_an_answer_to_a_question_given_up_does_not_end_the_wait_for_the_next() -> None:
    strategy = Strategy(Config(), SPEC)
    strategy.replan(0)
    strategy.lost(6)
    assert strategy.replan(6) is not None
    strategy.add(chunk(0, 1.0), 7)  # the first one after all
    assert strategy.action(7) is not None
    assert strategy.replan(7) is None, "the second is still under way"
    strategy.add(chunk(6, 2.0), 8)
    assert strategy.observed(8) == 6


def test_one_s_own_function(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text("def larger(old, new):\n    assert old.shape == (2,)\n    return [max(a, b) for a, b in zip(old, new)]\n")
    strategy = Strategy(Config(aggregate_fn_name=f"{place}:larger"), SPEC)
    strategy.add(chunk(0, 3.0), 0)
    strategy.add(chunk(2, 1.0), 2)
    first, later = strategy.action(2), strategy.action(9)
    assert first is not None and first.tolist() == [3.0, 3.0] and first.dtype == np.float32
    assert later is not None and later.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return old[:1]", r"expected finite float32 \(2,\), got array\(\[0"),
        ("return old * float('nan')", "expected finite float32"),
        ("return 'middle'", r"expected float32 \(2,\), got str"),
    ],
)
def test_is_held_to_what_it_returns(tmp_path: Path, body: str, says: str) -> None:
    place = tmp_path / "mine.py"
    place.write_text(f"def mix(old, new):\n    {body}\n")
    strategy = Strategy(Config(aggregate_fn_name=f"{place}:mix"), SPEC)
    strategy.add(chunk(0, 0.0), 0)
    with pytest.raises(ConfigError, match=says):
        strategy.add(chunk(2, 1.0), 2)


def test_no_function_of_that_name(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text("mix = 3\n")
    for name, says in (
        (f"{place}:mix", "expected a function of"),
        (f"{place}:max", "has no 'max'"),
        ("json:dumpz", "has no 'dumpz'"),
    ):
        with pytest.raises(ConfigError, match=says):
            Strategy(Config(aggregate_fn_name=name), SPEC)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"actions_per_chunk": 0}, "actions_per_chunk: expected at least 1, got 0"),
        ({"chunk_size_threshold": 1.01}, "chunk_size_threshold: expected 0 to 1, got 1.01"),
        ({"chunk_size_threshold": -0.1}, "chunk_size_threshold: expected 0 to 1"),
        ({"chunk_size_threshold": float("nan")}, "chunk_size_threshold: expected 0 to 1, got nan"),
        ({"aggregate_fn_name": "median"}, "weighted_average, latest_only, average, conservative or module:function, got 'median'"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**options)


def test_discrete_actions_are_not_mixed() -> None:
    discrete = Spec(action=Field((1,), "int64", range=(0, 3)), name="cartpole")
    with pytest.raises(ConfigError, match=r"those of cartpole are discrete.*latest_only"):
        Strategy(Config(), discrete)
    strategy = Strategy(Config(aggregate_fn_name="latest_only"), discrete)
    strategy.add(ActionChunk(np.array([[1], [2]]), 0), 0)
    strategy.add(ActionChunk(np.array([[3], [3]]), 1), 1)
    action = strategy.action(1)
    assert action is not None and action.dtype == np.int64 and action.tolist() == [3]


def test_the_names_are_those_of_the_document() -> None:
    old, new = np.float32([1.0]), np.float32([2.0])
    functions: dict[str, Callable[[Array, Array], Array]] = dict(AGGREGATE_FUNCTIONS)
    assert {name: float(fn(old, new)[0]) for name, fn in functions.items()} == pytest.approx(
        {"weighted_average": 1.7, "latest_only": 2.0, "average": 1.5, "conservative": 1.3}
    )
