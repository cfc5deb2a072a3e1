"""Examiner of execution strategies. Law: an action runs at the control step it was meant for, or never.

``check_strategy(make)`` raises ``AssertionError`` saying what the strategy did wrong. Chunks under examination carry in every entry
of a row the control step that the row is for, so any mixture of right rows still says the right step.

A strategy that says of itself that it is not ``honest`` is spared that one question, and must then be caught at it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actlink.execution._base import Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

ACTION_DIM = 3
HORIZON = 8
STEPS = 40

Make = Callable[[Spec], Strategy]


def check_strategy(make: Make) -> None:
    """Examine the strategies that ``make(spec)`` builds, for policies of ``HORIZON`` float32 actions of ``ACTION_DIM`` entries."""
    _starts_empty(make(_spec()))
    _plays_each_action_at_its_step(make(_spec()))
    if make(_spec()).honest:
        _plays_the_right_row_of_a_late_chunk(make(_spec()))
        _drops_what_is_stale(make(_spec()))
        _takes_no_repeated_chunk_for_news(make(_spec()), make(_spec()))
        _waits_on_after_a_repeated_chunk(make(_spec()))
    else:
        _is_caught_at_another_step(make(_spec()))
    _forgets_on_reset(make(_spec()))
    _plays_zeros(make(_spec()))
    _keeps_its_own_copy(make(_spec()))
    _sends_a_prefix_for_the_step(make(_spec(accepts_prefix=True)))
    _forgets_when_stopped(make(_spec(accepts_prefix=True)))
    _asks_again_for_what_is_lost(make(_spec()))
    _knows_what_its_actions_rest_on(lambda: make(_spec()))


def _starts_empty(strategy: Strategy) -> None:
    assert strategy.action(0) is None, "action(0) before any chunk: expected None, there is nothing to run"
    replan = strategy.replan(0)
    assert replan is not None, "replan(0): expected a Replan, there is nothing to run"
    assert replan.step == 0, f"replan(0): expected step 0, got {replan.step}"
    assert replan.prefix is None, "replan(0): expected no prefix before the first chunk"
    assert replan.must_go, "replan(0): expected must_go, the embodiment holds until the answer comes"
    assert strategy.observed(0) is None, "observed(0) before any chunk: expected None, there is no action"
    assert strategy.replan(0) is None, "replan while a chunk is awaited: expected None"


def _plays_each_action_at_its_step(strategy: Strategy) -> None:
    """In a world that waits nothing is starved, whatever the chunks' lengths."""
    lengths = (HORIZON, 1, 2 * HORIZON, 3)
    asked = 0
    for step in range(STEPS):
        if strategy.replan(step) is not None:
            strategy.add(_chunk(step, lengths[asked % len(lengths)]), step)
            asked += 1
        _expect(strategy, step, "with chunks that arrive at once")
        _expect(strategy, step, "asked a second time")
    assert asked > 1, f"expected more than one replan in {STEPS} steps with chunks of at most {2 * HORIZON} actions"


def _plays_the_right_row_of_a_late_chunk(strategy: Strategy) -> None:
    delay = 3
    due: dict[int, int] = {}  # step of arrival -> step of the request
    ran = 0
    for step in range(STEPS):
        if step in due:
            strategy.add(_chunk(due[step], HORIZON), step)
        if strategy.replan(step) is not None:
            due[step + delay] = step
        ran += _expect(strategy, step, f"with chunks {delay} steps late", starving=True)
    assert ran, f"expected actions although chunks come {delay} steps late, got none in {STEPS} steps"


def _drops_what_is_stale(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(_chunk(0, 2), 5)
    assert strategy.action(5) is None, "a chunk for the steps 0 and 1 arrived at step 5: expected no action, got one"
    assert strategy.replan(5) is not None, "nothing is left to run: expected a Replan"
    strategy.add(_chunk(5, HORIZON), 5)
    _expect(strategy, 5, "after a stale chunk")
    beyond = strategy.action(5 + HORIZON)
    assert beyond is None, f"action beyond the chunk's end: expected None, got {beyond}"


def _takes_no_repeated_chunk_for_news(strategy: Strategy, undisturbed: Strategy) -> None:
    """Every chunk comes a second time three steps later: nothing changes, and what is awaited is awaited still."""
    again: dict[int, int] = {}
    for step in range(STEPS):
        if step in again:
            strategy.add(_chunk(again[step], HORIZON), step)
        replan, expected = strategy.replan(step), undisturbed.replan(step)
        assert (replan is None) == (expected is None), f"replan({step}) after a repeated chunk: expected {expected}, got {replan}"
        if replan is not None:
            again[step + 3] = step
            strategy.add(_chunk(step, HORIZON), step)
            undisturbed.add(_chunk(step, HORIZON), step)
        said, right = strategy.observed(step), undisturbed.observed(step)
        assert said == right, f"observed({step}) after a repeated chunk: expected {right}, got {said}"


def _waits_on_after_a_repeated_chunk(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(_chunk(0, 1), 0)
    assert strategy.replan(1) is not None, "replan(1) when the chunk has run out: expected a Replan"
    strategy.add(_chunk(0, 1), 1)
    assert strategy.replan(1) is None, "replan(1) after a repeated chunk: expected None, another one is awaited"


def _is_caught_at_another_step(strategy: Strategy) -> None:
    """The flag is for those that need it: a chunk that comes three steps late is played from its beginning, or whatever it is."""
    strategy.replan(0)
    strategy.add(_chunk(0, HORIZON), 3)
    played = [strategy.action(step) for step in range(3, 3 + HORIZON)]
    elsewhere = [step for step, action in enumerate(played, start=3) if action is not None and not np.allclose(action, step)]
    assert elsewhere, "not honest by its own account, yet every action of a late chunk ran at its own step: drop the flag"


def _asks_again_for_what_is_lost(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.lost(4)
    replan = strategy.replan(4)
    assert replan is not None and replan.step == 4, f"replan(4) after lost(4): expected a Replan for step 4, got {replan}"
    assert replan.must_go, "replan(4) with nothing to run: expected must_go"
    strategy.add(_chunk(4, HORIZON), 4)
    _expect(strategy, 4, "after a chunk was lost")


def _knows_what_its_actions_rest_on(make: Callable[[], Strategy]) -> None:
    """By experiment: one chunk after the other is altered, and the actions that change then are those that rest on it."""
    plain = _rested(make(), altered=None)
    depends: list[set[int]] = [set() for _ in range(STEPS)]
    for chunk in range(STEPS):
        for step, ((action, _), (other, _)) in enumerate(zip(plain, _rested(make(), altered=chunk), strict=True)):
            if action is not None and other is not None and not np.array_equal(action, other):
                depends[step].add(chunk)
    for step, (action, said) in enumerate(plain):
        expected = max(depends[step], default=None)
        assert said == expected, (
            f"observed({step}): expected {expected}, the newest observation that the action rests on, got {said}"
            if action is not None
            else f"observed({step}): expected None where action({step}) is None, got {said}"
        )


def _rested(strategy: Strategy, altered: int | None) -> list[tuple[Array | None, int | None]]:
    """Actions, and what they are said to rest on, with chunks two steps late; the one of step ``altered`` says something else."""
    delay, due, seen = 2, dict[int, int](), list[tuple[Array | None, int | None]]()
    for step in range(STEPS):
        if step in due:
            strategy.add(_chunk(due[step], HORIZON, offset=1000.0 if due[step] == altered else 0.0), step)
        if strategy.replan(step) is not None:
            due[step + delay] = step
        seen.append((strategy.action(step), strategy.observed(step)))
    return seen


def _forgets_on_reset(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(_chunk(0, HORIZON), 0)
    strategy.replan(HORIZON)  # awaited while the episode ends
    strategy.reset()
    assert strategy.action(0) is None, "action(0) after reset: expected None, got one of the previous episode"
    assert strategy.action(1) is None, "action(1) after reset: expected None, got one of the previous episode"
    assert strategy.observed(1) is None, "observed(1) after reset: expected None, got a step of the previous episode"
    replan = strategy.replan(0)
    assert replan is not None, "replan(0) after reset: expected a Replan, whatever was awaited before"
    assert replan.prefix is None, "replan(0) after reset: expected no prefix of the previous episode"
    strategy.add(_chunk(0, HORIZON, offset=100.0), 0)
    _expect(strategy, 0, "after reset", offset=100.0)


def _forgets_when_stopped(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(_chunk(0, HORIZON), 0)
    strategy.stopped()
    assert strategy.action(2) is None, "action(2) after stopped: expected None, the plan will not run"
    replan = strategy.replan(2)
    assert replan is not None and replan.prefix is None, f"replan(2) after stopped: expected a Replan without prefix, got {replan}"
    strategy.add(_chunk(2, HORIZON, offset=100.0), 2)
    _expect(strategy, 2, "after stopped", offset=100.0)


def _plays_zeros(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(ActionChunk(np.zeros((HORIZON, ACTION_DIM), np.float32)), 0)
    action = strategy.action(0)
    assert action is not None and not action.any(), f"a zero is an action like any other: expected zeros, got {action}"


def _keeps_its_own_copy(strategy: Strategy) -> None:
    chunk = _chunk(0, HORIZON)
    strategy.replan(0)
    strategy.add(chunk, 0)
    chunk.actions[:] = -1.0
    _expect(strategy, 0, "after the policy wrote over its own buffer")
    action = strategy.action(0)
    if action is not None and action.flags.writeable:
        action[:] = -2.0
    _expect(strategy, 0, "after the embodiment wrote over the action it was given")


def _sends_a_prefix_for_the_step(strategy: Strategy) -> None:
    strategy.replan(0)
    strategy.add(_chunk(0, HORIZON), 0)
    for step in range(1, HORIZON + 1):
        replan = strategy.replan(step)
        if replan is None:
            continue
        if replan.prefix is not None:
            rows = np.arange(step, step + len(replan.prefix), dtype=np.float32)
            wrong = f"prefix at step {step}: expected float32 rows for the steps from {step} on, got {replan.prefix!r}"
            assert replan.prefix.dtype == np.float32 and replan.prefix.shape == (len(rows), ACTION_DIM), wrong
            assert len(rows) and np.allclose(replan.prefix, rows[:, None], atol=1e-4), wrong
        return
    raise AssertionError(f"expected a Replan by step {HORIZON}, when the chunk has run out")


def _expect(strategy: Strategy, step: int, when: str, *, offset: float = 0.0, starving: bool = False) -> bool:
    """Whether there was an action; it must be the one for ``step``."""
    action = strategy.action(step)
    if action is None:
        assert starving, f"action({step}) {when}: expected an action, got None"
        return False
    assert isinstance(action, np.ndarray) and action.shape == (ACTION_DIM,), (
        f"action({step}) {when}: expected shape ({ACTION_DIM},), got {np.shape(action)}"
    )
    assert action.dtype == np.float32, f"action({step}) {when}: expected float32, got {action.dtype}"
    assert np.allclose(action, offset + step, atol=1e-3), f"action({step}) {when}: it was meant for step {action[0] - offset:g}"
    return True


def _chunk(step: int, length: int, *, offset: float = 0.0) -> ActionChunk:
    rows: Array = offset + np.arange(step, step + length, dtype=np.float32)
    return ActionChunk(np.repeat(rows[:, None], ACTION_DIM, axis=1), step)


def _spec(*, accepts_prefix: bool = False) -> Spec:
    return Spec(action=Field((ACTION_DIM,)), action_horizon=HORIZON, accepts_prefix=accepts_prefix, name="examiner")
