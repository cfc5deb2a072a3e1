from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lossy import DIM, ROWS, Fate, Twins, drive, fates, random_rows, step_coded

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.execution.naive import Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

SPEC = Spec(action=Field((DIM,)), action_horizon=ROWS)


class Model(_base.Strategy):
    """A list that is replaced by every chunk and popped once per step."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.reset()

    def reset(self) -> None:
        self.rows: list[Array] = []
        self.now, self.basis, self.next, self.waiting = 0, 0, 0, False

    def replan(self, step: int) -> Replan | None:
        row = self.action(step)
        if self.waiting or (step < self.next and row is not None):
            return None
        self.waiting = True
        return Replan(step, must_go=row is None)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.rows, self.now, self.basis = list(chunk.actions), step, chunk.step
        self.next, self.waiting = step + self.every, False

    def lost(self, step: int) -> None:
        self.waiting = False

    def action(self, step: int) -> Array | None:
        while self.now < step and self.rows:
            self.rows.pop(0)
            self.now += 1
        return self.rows[0] if self.rows else None

    def observed(self, step: int) -> int | None:
        return self.basis if self.action(step) is not None else None


@given(every=st.integers(1, 12), drawn=fates(), seed=st.integers(0, 99))
def test_agrees_with_the_model(every: int, drawn: list[Fate], seed: int) -> None:
    for _ in drive(Twins(Strategy(Config(every), SPEC), Model(every)), drawn, 60, random_rows(seed)):
        pass


def test_everything_runs_as_late_as_the_link_is_slow() -> None:
    late = [Fate((3,), None, ROWS)]
    seen = list(drive(Strategy(Config(4), SPEC), late, 31, step_coded))
    assert [each.step for each in seen if each.replan] == [0, 7, 14, 21, 28]
    assert {each.step - int(each.action[0]) for each in seen if each.action is not None} == {3}
    assert [each.observed for each in seen[:11]] == [None, None, None, 0, 0, 0, 0, 0, 0, 0, 7]


def test_says_of_itself_that_it_is_not_honest() -> None:
    assert not Strategy.honest
    assert _base.Strategy.honest


def test_refuses_a_horizon_that_runs_nothing() -> None:
    with pytest.raises(ConfigError, match="execution_horizon: expected at least 1, got 0"):
        Config(0)


def test_discrete_actions_keep_their_type() -> None:
    strategy = Strategy(Config(), Spec(action=Field((1,), "int64", range=(0, 3))))
    strategy.add(ActionChunk(np.array([[2], [3]]), 0), 5)
    action = strategy.action(6)
    assert action is not None and action.dtype == np.int64 and action.tolist() == [3]
