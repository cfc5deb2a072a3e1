from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.errors import ConfigError
from actlink.evaluation.plan import Plan, Trial, shard


def test_seeds_follow_the_episodes_within_each_task() -> None:
    assert Plan(("a", "b"), 2, 1000).trials == (
        Trial("a", 0, 1000),
        Trial("a", 1, 1001),
        Trial("b", 0, 1000),
        Trial("b", 1, 1001),
    )


def test_left_keeps_the_order_and_loses_nothing() -> None:
    plan = Plan(("a",), 5, 0)
    done = [plan.trials[3], plan.trials[0]]
    assert [trial.episode for trial in plan.left(done)] == [1, 2, 4]


@given(episodes=st.integers(1, 40), count=st.integers(1, 9))
def test_shards_are_disjoint_complete_and_even(episodes: int, count: int) -> None:
    trials = Plan(("a",), episodes, 0).trials
    parts = [shard(trials, index, count) for index in range(count)]
    assert sorted(trial for part in parts for trial in part) == sorted(trials)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_plain_values_and_back() -> None:
    plan = Plan(("a", "b"), 2, 7)
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("tasks", "episodes", "seed", "says"),
    [(("a",), 0, 0, "episodes"), (("a",), 1, -1, "seed"), ((), 1, 0, "tasks"), (("a", "a"), 1, 0, "tasks")],
)
def test_refuses_plans_that_are_none(tasks: tuple[str, ...], episodes: int, seed: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Plan(tasks, episodes, seed)


def test_refuses_a_shard_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="index from 0 to 1"):
        shard(Plan(("a",), 3, 0).trials, 2, 2)
