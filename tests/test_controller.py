from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from actlink.asking import ASK_AGAIN, Waiting
from actlink.clock import ManualClock
from actlink.controller import Controller
from actlink.errors import (
    ActlinkError,
    ConfigError,
    DrainingError,
    InternalError,
    LinkClosedError,
    PolicyError,
    RefusedError,
    RemoteProtocolError,
    SimulationError,
    UnauthorizedError,
)
from actlink.execution import ensemble, receding
from actlink.execution._base import Replan, Strategy
from actlink.policies._base import Policy, Result
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array, Observation, Request

SPEC = Spec(observation={"state": Field((2,))}, action=Field((1,)), action_horizon=4)


@dataclass
class Line:
    """A world of one dimension: the state is the position and the step, the action is what it says."""

    steps: int = 10
    observation: Callable[[int], Observation] = lambda step: {"state": np.array([0.0, step])}
    actions: list[float] = field(default_factory=list)
    held: list[float | None] = field(default_factory=list)

    def observe(self) -> Observation:
        return self.observation(len(self.actions))

    def act(self, action: Array) -> bool:
        self.actions.append(float(action[0]))
        return len(self.actions) < self.steps

    def hold_action(self, last: Array | None) -> Array:
        self.held.append(None if last is None else float(last[0]))
        return np.array([-1.0], np.float32)


class Scripted(Policy):
    """Answers step + row, after what ``change`` does to the chunk; keeps the requests it got."""

    def __init__(self, change: Callable[[ActionChunk], Result] = lambda chunk: chunk, spec: Spec = SPEC) -> None:
        self.spec = spec
        self.change = change
        self.requests: list[Request] = []

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        self.requests += requests
        return [self.change(self.chunk(request)) for request in requests]

    def chunk(self, request: Request) -> ActionChunk:
        rows = np.arange(request.step, request.step + 4, dtype=np.float32)[:, None]
        return ActionChunk(rows, request.step, request.episode, request.session)


def controller(policy: Policy, clock: ManualClock | None = None, strategy: Strategy | None = None) -> Controller:
    clock = clock or ManualClock()
    return Controller(Waiting(policy, clock, "one"), strategy or receding.Strategy(receding.Config(), policy.spec), clock)


def test_plays_each_action_at_its_step_and_asks_when_the_chunk_has_run() -> None:
    policy, world = Scripted(), Line(10)
    record = controller(policy).run(world)
    assert world.actions == list(range(10))
    assert [request.step for request in policy.requests] == [0, 4, 8]
    assert (record.steps, record.starved, record.dropped, record.error) == (10, 0, 0, None)
    assert len(record.latencies_ms) == 3


def test_the_ensemble_runs_in_the_same_loop() -> None:
    policy, world = Scripted(), Line(6)
    controller(policy, strategy=ensemble.Strategy(ensemble.Config(), SPEC)).run(world)
    assert world.actions == pytest.approx(range(6))
    assert len(policy.requests) == 6


def test_the_observation_is_checked_before_the_policy_sees_it() -> None:
    policy = Scripted()
    controller(policy).run(Line(1, observation=lambda step: {"state": np.array([1, 2], np.int64), "more": np.zeros(3)}))
    (request,) = policy.requests
    assert list(request.observation) == ["state"]
    assert isinstance(request.observation["state"], np.ndarray) and request.observation["state"].dtype == np.float32


def test_an_observation_that_does_not_fit_ends_the_episode() -> None:
    policy = Scripted()
    record = controller(policy).run(Line(observation=lambda step: {"state": np.array([np.nan, 0])}))
    assert record.error is not None and record.error.startswith("spec: observation['state'][0]: expected finite")
    assert policy.requests == []


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (np.zeros((0, 1), np.float32), "at least one action"),
        (np.full((4, 1), np.nan, np.float32), "finite"),
        (np.full((4, 1), np.inf, np.float32), "finite"),
        (np.zeros((4, 2), np.float32), "expected shape"),
        (np.zeros(1, np.float32), "expected shape"),
        (np.array([["1"]]), "expected float32"),
    ],
)
def test_a_bad_chunk_is_an_error_and_never_an_action(actions: Array, says: str) -> None:
    world = Line()
    record = controller(Scripted(lambda chunk: replace(chunk, actions=actions))).run(world)
    assert record.error is not None and record.error.startswith("spec: actions") and says in record.error
    assert world.actions == [] and world.held == []


def test_the_memory_goes_round_and_ends_with_the_episode() -> None:
    count = iter(range(100))
    policy = Scripted(lambda chunk: replace(chunk, memory=next(count)))
    driver = controller(policy)
    driver.run(Line(10))
    driver.run(Line(5))
    assert [request.memory for request in policy.requests] == [None, 0, 1, None, 3]
    assert [request.episode for request in policy.requests] == [0, 0, 0, 1, 1]
    assert {request.session for request in policy.requests} == {"one"}


def test_a_failed_request_does_not_change_the_memory() -> None:
    replies: list[Result] = [
        ActionChunk(np.zeros((4, 1), np.float32), 0, 0, memory="kept"),
        PolicyError("out of luck"),
    ]
    policy = Scripted(lambda chunk: replies.pop(0))
    record = controller(policy).run(Line(10))
    assert record.error == "policy: out of luck"
    assert record.steps == 4
    assert policy.requests[1].memory == "kept"


def test_a_chunk_of_another_step_or_episode_is_dropped_and_asked_for_again() -> None:
    wrong: list[dict[str, Any]] = [{"step": 7}, {"episode": 3}]
    world = Line(4)
    record = controller(Scripted(lambda chunk: replace(chunk, **wrong.pop()) if wrong else chunk)).run(world)
    assert (record.dropped, record.error) == (2, None)
    assert world.actions == [0, 1, 2, 3]


def test_a_policy_that_always_answers_for_another_step_fails() -> None:
    policy, world = Scripted(lambda chunk: replace(chunk, step=chunk.step + 1)), Line()
    record = controller(policy).run(world)
    assert record.error is not None and "at step 0 of episode 0, got one at step 1 of episode 0" in record.error
    assert len(policy.requests) == record.dropped == ASK_AGAIN
    assert world.actions == []


def test_any_exception_of_a_policy_is_that_episodes_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail(chunk: ActionChunk) -> Result:
        raise KeyError("weights")

    record = controller(Scripted(fail)).run(Line())
    assert record.error == "policy: KeyError: 'weights'"
    assert "Traceback" in caplog.text  # for whoever has to mend the policy


@pytest.mark.parametrize("error", [PolicyError("x"), RefusedError("x"), RemoteProtocolError("x"), SimulationError("x")])
def test_errors_of_the_request_end_the_episode(error: ActlinkError) -> None:
    record = controller(Scripted(lambda chunk: error)).run(Line())
    assert record.error == f"{error.code}: x"


@pytest.mark.parametrize(
    "error", [LinkClosedError("x"), DrainingError("x"), InternalError("x"), ConfigError("x"), UnauthorizedError("x")]
)
@pytest.mark.parametrize("raised", [False, True])
def test_errors_of_the_link_and_of_the_operator_are_raised(error: ActlinkError, raised: bool) -> None:
    def fail(chunk: ActionChunk) -> Result:
        if raised:
            raise error
        return error

    with pytest.raises(type(error)):
        controller(Scripted(fail)).run(Line())


def test_an_error_of_the_world_ends_the_episode() -> None:
    class Breaks(Line):
        def act(self, action: Array) -> bool:
            if len(self.actions) == 2:
                raise SimulationError("the arm left the world")
            return super().act(action)

    record = controller(Scripted()).run(Breaks())
    assert (record.error, record.steps) == ("simulation: the arm left the world", 2)


def test_two_results_for_one_request_are_the_policys_failure() -> None:
    class Generous(Scripted):
        def infer(self, requests: Sequence[Request]) -> list[Result]:
            return 2 * super().infer(requests)

    record = controller(Generous()).run(Line())
    assert record.error == "policy: expected one result for one request, got 2"


def test_measures_the_round_trip_and_keeps_the_policys_own_time() -> None:
    clock = ManualClock()

    def slow(chunk: ActionChunk) -> Result:
        clock.advance(0.25)
        return replace(chunk, timing={"infer_ms": 200.0, "queue_ms": 20.0})

    record = controller(Scripted(slow), clock).run(Line(8))
    assert record.latencies_ms == (250.0, 250.0)
    assert record.inference_ms == (200.0, 200.0)


class Lazy(Strategy):
    """Never has an action at an odd step."""

    def replan(self, step: int) -> Replan | None:
        return Replan(step) if step == 0 else None

    def add(self, chunk: ActionChunk, step: int) -> None:
        pass

    def action(self, step: int) -> Array | None:
        return None if step % 2 else np.array([step], np.float32)

    def observed(self, step: int) -> int | None:
        return None if step % 2 else 0

    def reset(self) -> None:
        pass


def test_a_starved_step_holds() -> None:
    world = Line(4)
    record = controller(Scripted(), strategy=Lazy()).run(world)
    assert record.starved == 2
    assert world.actions == [0, -1, 2, -1]
    assert world.held == [0, 2]


def test_a_new_run_is_a_new_episode_for_the_strategy_too() -> None:
    driver = controller(Scripted())
    for _ in range(2):
        world = Line(6)  # ends in the middle of a chunk
        assert driver.run(world).error is None
        assert world.actions == list(range(6))


def test_the_prefix_reaches_the_policy() -> None:
    spec = replace(SPEC, accepts_prefix=True)
    policy = Scripted(spec=spec)
    controller(policy, strategy=receding.Strategy(receding.Config(3), spec)).run(Line(5))
    assert policy.requests[0].prefix is None
    assert policy.requests[1].prefix is not None and policy.requests[1].prefix.tolist() == [[3.0]]


def test_counts_the_requests_that_shared_a_batch() -> None:
    policy = Scripted(lambda chunk: replace(chunk, timing={"batch_size": 1.0 if chunk.step else 3.0}))
    assert controller(policy).run(Line(10)).batched == 1
