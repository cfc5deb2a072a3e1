"""A link that loses, delays, repeats and reorders chunks, drawn by Hypothesis; and strategies driven over it, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from actlink.execution._base import Replan, Strategy
from actlink.types import ActionChunk, Array

DIM = 2
ROWS = 8


@dataclass(frozen=True)
class Fate:
    """What becomes of one question."""

    delays: tuple[int, ...]
    """Steps after which a copy of its chunk arrives, not in order; none: it never does."""
    given_up: int | None
    """Steps after which the asker reports it as lost, whether or not it comes after all."""
    length: int


def fates(longest: int = 14) -> st.SearchStrategy[list[Fate]]:
    """Mostly chunks that come, late by a few steps; sooner or later every question is answered or given up."""
    comes = st.builds(Fate, st.tuples(st.integers(0, 6)), st.none(), st.integers(1, ROWS + 4))
    odd = st.builds(
        Fate,
        st.lists(st.integers(0, longest), max_size=3).map(tuple),
        st.integers(1, longest),
        st.integers(1, ROWS),
    )
    return st.lists(st.one_of(comes, comes, odd), min_size=1, max_size=8)


@dataclass
class Seen:
    """One control step of a strategy on the link."""

    step: int
    added: list[ActionChunk]
    lost: bool
    replan: Replan | None
    action: Array | None
    observed: int | None


def drive(strategy: Strategy, drawn: list[Fate], steps: int, rows: Callable[[int, int], Array]) -> Iterator[Seen]:
    """``rows(first, length)`` is what the policy answers. The n-th question has the n-th fate, over and over."""
    arriving: dict[int, list[ActionChunk]] = {}
    giving_up: set[int] = set()
    asked = 0
    for step in range(steps):
        added = arriving.pop(step, [])
        for chunk in added:
            strategy.add(chunk, step)
        if step in giving_up:
            strategy.lost(step)
        replan = strategy.replan(step)
        if replan is not None:
            assert replan.step == step
            fate = drawn[asked % len(drawn)]
            asked += 1
            for delay in fate.delays:
                chunk = ActionChunk(rows(step, fate.length), step)
                if delay:
                    arriving.setdefault(step + delay, []).append(chunk)
                else:
                    strategy.add(chunk, step)
                    added.append(chunk)
            if fate.given_up is not None:
                giving_up.add(step + fate.given_up)
        yield Seen(step, added, step in giving_up, replan, strategy.action(step), strategy.observed(step))


def step_coded(first: int, length: int) -> Array:
    """Each row says which control step it is for."""
    return np.repeat(np.arange(first, first + length, dtype=np.float32)[:, None], DIM, axis=1)


def random_rows(seed: int) -> Callable[[int, int], Array]:
    random = np.random.default_rng(seed)
    return lambda first, length: random.normal(size=(length, DIM)).astype(np.float32)


class Twins(Strategy):
    """A strategy and the model of it, asked the same; they must answer the same."""

    def __init__(self, strategy: Strategy, model: Strategy) -> None:
        self.strategy, self.model = strategy, model

    def reset(self) -> None:
        self.strategy.reset()
        self.model.reset()

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.strategy.add(chunk, step)
        self.model.add(chunk, step)

    def lost(self, step: int) -> None:
        self.strategy.lost(step)
        self.model.lost(step)

    def replan(self, step: int) -> Replan | None:
        ours, expected = self.strategy.replan(step), self.model.replan(step)
        assert (ours is None) == (expected is None), f"replan({step}): expected {expected}, got {ours}"
        if ours is not None and expected is not None:
            assert (ours.inference_delay, ours.must_go) == (expected.inference_delay, expected.must_go), f"replan({step})"
            same(ours.prefix, expected.prefix, f"prefix at {step}")
        return ours

    def action(self, step: int) -> Array | None:
        ours = self.strategy.action(step)
        same(ours, self.model.action(step), f"action({step})")
        return ours

    def observed(self, step: int) -> int | None:
        ours = self.strategy.observed(step)
        assert ours == self.model.observed(step), f"observed({step})"
        return ours


def same(ours: Array | None, expected: Array | None, where: str) -> None:
    assert (ours is None) == (expected is None), f"{where}: expected {expected}, got {ours}"
    if ours is not None and expected is not None:
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=where)
