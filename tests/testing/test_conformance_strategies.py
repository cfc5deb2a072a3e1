"""Every strategy file passes the shipped examiner, with many settings; broken strategies do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actlink import loading, options
from actlink.execution import naive, receding
from actlink.execution._base import Replan, Strategy
from actlink.spec import Spec
from actlink.testing.strategies import check_strategy
from actlink.types import ActionChunk, Array

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "receding": [{"execution_horizon": n} for n in (1, 2, 5, 8, 50)],
    "naive": [{"execution_horizon": n} for n in (1, 3, 50)],
    "asynchronous": [
        {"actions_per_chunk": n, "chunk_size_threshold": t, "aggregate_fn_name": f}
        for n, t, f in ((50, 0.0, "latest_only"), (4, 0.5, "average"), (8, 1.0, "conservative"), (5, 0.7, "weighted_average"))
    ],
    "realtime": [{"execution_horizon": n, "warmup_chunks": w} for n, w in ((1, 0), (3, 2), (8, 1), (50, 2))],
    "ensemble": [{"execution_horizon": n, "k": k, "weights": w} for n in (1, 3, 50) for k, w in ((0.0, "oldest"), (1.0, "newest"))],
}


def cases() -> list[tuple[str, dict[str, Any]]]:
    return [(name, setting) for name in loading.names("execution") for setting in [{}, *SETTINGS.get(name, [])]]


@pytest.mark.parametrize(("name", "setting"), cases())
def test_every_strategy_conforms(name: str, setting: dict[str, Any]) -> None:
    module = loading.load("execution", name)
    check_strategy(lambda spec: module.Strategy(options.build(module.Config, setting, name), spec))


def test_all_strategies_are_found() -> None:
    assert {"receding", "ensemble", "asynchronous", "realtime", "naive"} <= set(loading.names("execution"))


class Wrapped(Strategy):
    """A sound strategy to break one thing of."""

    def __init__(self, spec: Spec) -> None:
        self.inner = receding.Strategy(receding.Config(), spec)

    def replan(self, step: int) -> Replan | None:
        return self.inner.replan(step)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)

    def action(self, step: int) -> Array | None:
        return self.inner.action(step)

    def observed(self, step: int) -> int | None:
        return self.inner.observed(step)

    def lost(self, step: int) -> None:
        self.inner.lost(step)

    def reset(self) -> None:
        self.inner.reset()


class PlaysRowZeroOnArrival(Wrapped):
    """The commonest mistake of the field: a late chunk is played from its beginning."""

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(ActionChunk(chunk.actions, step), step)


class RepeatsTheLastAction(Wrapped):
    """Stale: when the chunk has run out, its last row goes on."""

    last: Array | None = None

    def action(self, step: int) -> Array | None:
        action = self.inner.action(step)
        self.last = self.last if action is None else action
        return self.last


class IgnoresReset(Wrapped):
    def reset(self) -> None:
        pass


class GoesOnAfterAStop(Wrapped):
    def stopped(self) -> None:
        pass


class ForgetsTheAwaitedChunkOnly(Wrapped):
    """Resets the plan but still waits for the chunk of the previous episode."""

    awaited = False

    def replan(self, step: int) -> Replan | None:
        if self.awaited:
            return None
        replan = self.inner.replan(step)
        self.awaited = replan is not None
        return replan

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.awaited = False
        self.inner.add(chunk, step)


class AsksEveryTime(Wrapped):
    def replan(self, step: int) -> Replan:
        return Replan(step, must_go=True)


class AsksOnce(Wrapped):
    asked = False

    def replan(self, step: int) -> Replan | None:
        self.asked, before = True, self.asked
        return None if before else self.inner.replan(step)


class TakesZerosForNothing(Wrapped):
    def action(self, step: int) -> Array | None:
        action = self.inner.action(step)
        return None if action is None or not action.any() else action


class PopsInsteadOfLooking(Wrapped):
    """Counts calls instead of reading the step."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.rows: list[Array] = []

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)
        self.rows = list(chunk.actions[step - chunk.step :])

    def action(self, step: int) -> Array | None:
        return self.rows.pop(0) if self.rows else None


class SharesItsBuffer(Wrapped):
    chunk: ActionChunk | None = None

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)
        self.chunk = chunk

    def action(self, step: int) -> Array | None:
        ours = self.inner.action(step)
        return None if ours is None or self.chunk is None else self.chunk.actions[step - self.chunk.step]


class DoublePrecision(Wrapped):
    def action(self, step: int) -> Array | None:
        action = self.inner.action(step)
        return None if action is None else action.astype(np.float64)


class ClaimsToBeFresh(Wrapped):
    """Every action is said to rest on what is seen now: nothing would ever be too old to run."""

    def observed(self, step: int) -> int | None:
        return None if self.inner.action(step) is None else step


class ForgetsWhatItSaw(Wrapped):
    def observed(self, step: int) -> int | None:
        return None


class RemembersTooLong(Wrapped):
    """Tells the observation of a chunk that has run out."""

    newest: int | None = None

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.add(chunk, step)
        self.newest = chunk.step

    def observed(self, step: int) -> int | None:
        return self.newest

    def reset(self) -> None:
        self.inner.reset()
        self.newest = None


class WaitsForWhatIsLost(Wrapped):
    def lost(self, step: int) -> None:
        pass


class NeverMustGo(Wrapped):
    def replan(self, step: int) -> Replan | None:
        replan = self.inner.replan(step)
        return replan and Replan(step, replan.prefix)


class TakesAnyChunkForTheAwaited(Wrapped):
    """A chunk that comes twice ends the wait for the next one."""

    def add(self, chunk: ActionChunk, step: int) -> None:
        self.inner.lost(step)
        self.inner.add(chunk, step)


class HonestBehindTheFlag(Wrapped):
    honest = False


class NaiveWithoutTheFlag(Wrapped):
    """Sound but for one thing: what it is, it must say."""

    def __init__(self, spec: Spec) -> None:
        self.inner = naive.Strategy(naive.Config(), spec)  # type: ignore[assignment]


class PrefixOfAnotherStep(Wrapped):
    def replan(self, step: int) -> Replan | None:
        replan = self.inner.replan(step)
        return None if replan is None else Replan(step, None if step == 0 else np.zeros((2, 3), np.float32), must_go=replan.must_go)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (PlaysRowZeroOnArrival, "it was meant for step"),
        (RepeatsTheLastAction, "expected no action|expected None|meant for"),
        (IgnoresReset, "after reset"),
        (GoesOnAfterAStop, "after stopped"),
        (ForgetsTheAwaitedChunkOnly, "whatever was awaited before"),
        (AsksEveryTime, "while a chunk is awaited"),
        (AsksOnce, "expected an action, got None"),
        (TakesZerosForNothing, "got None|expected zeros"),
        (PopsInsteadOfLooking, "asked a second time"),
        (SharesItsBuffer, "wrote over"),
        (DoublePrecision, "expected float32"),
        (PrefixOfAnotherStep, "prefix at step"),
        (ClaimsToBeFresh, r"observed\(\d+\): expected \d+, the newest observation"),
        (ForgetsWhatItSaw, r"observed\(\d+\): expected \d+, the newest observation"),
        (RemembersTooLong, r"observed\(\d+\): expected None where"),
        (WaitsForWhatIsLost, "after lost"),
        (NeverMustGo, "expected must_go"),
        (TakesAnyChunkForTheAwaited, "after a repeated chunk"),
        (HonestBehindTheFlag, "drop the flag"),
        (NaiveWithoutTheFlag, "it was meant for step"),
    ],
)
def test_the_examiner_rejects(broken: Callable[[Spec], Strategy], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_strategy(broken)
