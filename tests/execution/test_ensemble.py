from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.errors import ConfigError
from actlink.execution.ensemble import Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

SPEC = Spec(action=Field((2,)), action_horizon=4)


def act_reference(chunks: list[Array], k: float) -> list[Array]:
    """The loop of ACT's evaluation program: a chunk per step into a table, the column's filled rows weighted oldest first."""
    steps, horizon, dim = len(chunks), chunks[0].shape[0], chunks[0].shape[1]
    table = np.zeros((steps, steps + horizon, dim), np.float32)
    filled = np.zeros((steps, steps + horizon), bool)  # the original asks for non-zero entries instead
    actions = []
    for t, rows in enumerate(chunks):
        table[t, t : t + horizon] = rows
        filled[t, t : t + horizon] = True
        column = table[:, t][filled[:, t]]
        weights = np.exp(-k * np.arange(len(column)))
        weights = weights / weights.sum()
        actions.append((column * weights[:, None]).sum(axis=0))
    return actions


@pytest.mark.parametrize("k", [0.01, 0.1, 0.0])
def test_is_acts_temporal_ensemble_to_the_last_bit(k: float) -> None:
    random = np.random.default_rng(0)
    chunks = [random.normal(size=(4, 2)).astype(np.float32) for _ in range(12)]
    strategy = Strategy(Config(k=k), SPEC)
    for step, (rows, expected) in enumerate(zip(chunks, act_reference(chunks, k), strict=True)):
        assert strategy.replan(step) is not None
        strategy.add(ActionChunk(rows, step), step)
        action = strategy.action(step)
        assert action is not None and action.dtype == np.float32
        assert action.tolist() == expected.astype(np.float32).tolist()


@pytest.mark.parametrize(("k", "expected"), [(0.01, 1.4975), (0.1, 1.475)])
def test_older_predictions_weigh_more(k: float, expected: float) -> None:
    # Predictions 1 (older) then 2 (newer), as measured on the original program.
    strategy = Strategy(Config(k=k), SPEC)
    for step, value in enumerate((1.0, 2.0)):
        strategy.add(ActionChunk(np.full((4, 2), value, np.float32), step), step)
    action = strategy.action(1)
    assert action is not None and action[0] == pytest.approx(expected, abs=5e-4)


def test_newest_turns_the_order_round() -> None:
    strategy = Strategy(Config(k=math.log(3), weights="newest"), SPEC)
    for step, value in enumerate((1.0, 5.0)):
        strategy.add(ActionChunk(np.full((4, 2), value, np.float32), step), step)
    action = strategy.action(1)
    assert action is not None and action[0] == pytest.approx(4.0)  # weights 3/4 for the newer, 1/4 for the older


def test_a_zero_is_an_action() -> None:
    # The original drops a row with any zero in it, and would answer 1 here.
    strategy = Strategy(Config(k=0.0), SPEC)
    strategy.add(ActionChunk(np.zeros((4, 2), np.float32), 0), 0)
    strategy.add(ActionChunk(np.ones((4, 2), np.float32), 1), 1)
    action = strategy.action(1)
    assert action is not None and action.tolist() == [0.5, 0.5]


@given(
    config=st.builds(
        Config, execution_horizon=st.integers(1, 6), k=st.floats(-2, 2), weights=st.sampled_from(["oldest", "newest"])
    ),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    delays=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    steps=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_model(config: Config, lengths: list[int], delays: list[int], steps: int, seed: int) -> None:
    """The model keeps every chunk for ever and averages those that cover the step, in the order of their steps."""
    random = np.random.default_rng(seed)
    strategy = Strategy(config, SPEC)
    arrived: list[ActionChunk] = []
    due: dict[int, ActionChunk] = {}
    waiting, until, asked = False, 0, 0

    def arrive(chunk: ActionChunk, step: int) -> None:
        strategy.add(chunk, step)
        arrived.append(chunk)

    for step in range(steps):
        if step in due:
            arrive(due.pop(step), step)
            waiting, until = False, step + config.execution_horizon
        covering = [c.actions[step - c.step] for c in arrived if c.step <= step < c.step + len(c)]
        expected = not waiting and (step >= until or not covering)
        assert (strategy.replan(step) is not None) == expected
        if expected:
            chunk = ActionChunk(random.normal(size=(lengths[asked % len(lengths)], 2)).astype(np.float32), step)
            delay = delays[asked % len(delays)]
            asked, waiting = asked + 1, True
            if delay:
                due[step + delay] = chunk
            else:
                arrive(chunk, step)
                waiting, until = False, step + config.execution_horizon
                covering.append(chunk.actions[0])
        action = strategy.action(step)
        assert (action is not None) == bool(covering)
        if action is not None:
            order = range(len(covering)) if config.weights == "oldest" else range(len(covering) - 1, -1, -1)
            weights = [math.exp(-config.k * i) for i in order]
            mean = sum(w * row.astype(float) for w, row in zip(weights, covering, strict=True)) / sum(weights)
            np.testing.assert_allclose(action, mean, atol=1e-5)


def test_memory_is_bounded() -> None:
    strategy = Strategy(Config(), SPEC)
    for step in range(1000):
        strategy.add(ActionChunk(np.ones((4, 2), np.float32), step), step)
    assert len(strategy._chunks) == 4


def test_an_extreme_k_stays_finite() -> None:
    strategy = Strategy(Config(k=-5000.0), SPEC)
    for step in range(4):
        strategy.add(ActionChunk(np.full((4, 2), float(step), np.float32), step), step)
    action = strategy.action(3)
    assert action is not None and action.tolist() == [3.0, 3.0]


def test_prefix_is_the_ensembled_plan() -> None:
    strategy = Strategy(Config(k=0.0), Spec(action=Field((2,)), action_horizon=4, accepts_prefix=True))
    strategy.add(ActionChunk(np.zeros((4, 2), np.float32), 0), 0)
    strategy.add(ActionChunk(np.ones((4, 2), np.float32), 1), 1)
    replan = strategy.replan(2)
    assert replan is not None and replan.prefix is not None
    assert replan.prefix[:, 0].tolist() == [0.5, 0.5, 1.0]  # steps 2 and 3 are in both chunks, step 4 in the second alone


def test_refuses_discrete_actions() -> None:
    discrete = Spec(action=Field((1,), "int64", range=(0, 1)), name="cartpole")
    with pytest.raises(ConfigError, match=r"those of cartpole are discrete.*use the receding strategy"):
        Strategy(Config(), discrete)


def test_refuses_bad_options() -> None:
    with pytest.raises(ConfigError, match="execution_horizon"):
        Config(execution_horizon=0)
    with pytest.raises(ConfigError, match="k: expected a finite number"):
        Config(k=float("nan"))
