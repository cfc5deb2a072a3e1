"""Asking on a thread: real threads, held and released by events; no test waits for time to pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from actlink.asking import Arrival
from actlink.asking_thread import Threaded
from actlink.clock import MonotonicClock
from actlink.errors import ActlinkError, ConfigError, LinkClosedError, PolicyError, SupersededError
from actlink.execution._base import Replan
from actlink.policies._base import Policy, Result
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Request

SPEC = Spec(observation={"state": Field((1,))}, action=Field((1,)), action_horizon=4)
STATE = {"state": np.zeros(1, np.float32)}
HUNG_S = 20.0
"""Far beyond what anything here takes."""


class Held(Policy):
    """Answers when told to."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.let_go = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.failures: list[Exception] = []
        self.requests: list[Request] = []

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        (request,) = requests
        self.requests.append(request)
        self.entered.release()
        assert self.let_go.acquire(timeout=HUNG_S)
        if self.failures:
            raise self.failures.pop(0)
        return [ActionChunk(np.full((4, 1), request.step, np.float32), request.step, request.episode, request.session)]


@pytest.fixture
def policy() -> Held:
    return Held()


def wait_for(asker: Threaded, count: int = 1) -> list[Arrival]:
    """Ends as soon as ``count`` arrivals are there; the clock only says when it hangs."""
    clock, found = MonotonicClock(), []  # type: ignore[var-annotated]
    give_up_s = clock.now() + HUNG_S
    while len(found) < count:
        assert clock.now() < give_up_s, "no arrival"
        found += asker.arrived(0.0)
        clock.wait_until(clock.now() + 0.0005)
    return found


def test_asking_never_waits_and_the_answer_comes_with_its_step(policy: Held) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    asker.ask(STATE, Replan(7), 0.0)
    assert asker.arrived(0.0) == []
    policy.let_go.release()
    (arrival,) = wait_for(asker)
    assert arrival.step == 7 and arrival.chunk is not None and arrival.chunk.actions[0, 0] == 7
    assert arrival.arrived_s >= arrival.sent_s
    asker.close()


def test_one_is_under_way_one_waits_and_the_newest_takes_its_place(policy: Held) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    asker.ask(STATE, Replan(0), 0.0)
    assert policy.entered.acquire(timeout=HUNG_S)
    for step in (1, 2, 3):
        asker.ask(STATE, Replan(step), 0.0)
    overtaken = asker.arrived(0.0)
    assert [arrival.step for arrival in overtaken] == [1, 2]
    assert all(isinstance(arrival.error, SupersededError) for arrival in overtaken)
    policy.let_go.release(2)
    assert [arrival.step for arrival in wait_for(asker, 2)] == [0, 3]
    asker.close()


def test_what_an_old_episode_asked_never_arrives(policy: Held) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    asker.ask(STATE, Replan(0), 0.0)
    assert policy.entered.acquire(timeout=HUNG_S)
    asker.ask(STATE, Replan(4), 0.0)  # waits, and is forgotten
    asker.begin(1)
    asker.ask(STATE, Replan(0), 0.0)
    policy.let_go.release(2)
    (arrival,) = wait_for(asker)
    assert arrival.chunk is not None and arrival.chunk.episode == 1
    assert [(request.episode, request.step) for request in policy.requests] == [(0, 0), (1, 0)]
    asker.close()


def test_after_the_links_error_questions_are_lost_until_the_server_is_back(policy: Held) -> None:
    knocked, opened = threading.Semaphore(0), threading.Event()

    def reach() -> None:
        knocked.release()
        if not opened.is_set():
            raise LinkClosedError("still away")

    asker = Threaded(policy, MonotonicClock(), reach=reach)
    asker.begin(0)
    policy.failures.append(LinkClosedError("gone"))
    policy.let_go.release()
    asker.ask(STATE, Replan(0), 0.0)
    (lost,) = wait_for(asker)
    assert isinstance(lost.error, LinkClosedError) and lost.chunk is None
    assert knocked.acquire(timeout=HUNG_S) and knocked.acquire(timeout=HUNG_S)  # it tries more than once
    asker.ask(STATE, Replan(1), 0.0)
    (refused,) = asker.arrived(0.0)
    assert refused.step == 1 and isinstance(refused.error, LinkClosedError)
    opened.set()
    clock = MonotonicClock()
    give_up_s = clock.now() + HUNG_S
    while asker.away is not None:
        assert clock.now() < give_up_s
    policy.let_go.release()
    asker.ask(STATE, Replan(2), 0.0)
    assert [arrival.step for arrival in wait_for(asker)] == [2]
    assert [request.step for request in policy.requests] == [0, 2]  # nothing seen before the server was back was sent
    asker.close()


@pytest.mark.parametrize("stateful", [True, False])
def test_a_policy_that_remembers_begins_anew_after_an_outage(policy: Held, stateful: bool) -> None:
    policy.spec = replace(SPEC, stateful=stateful)
    asker = Threaded(policy, MonotonicClock(), reach=lambda: None)
    asker.begin(0)
    policy.failures.append(LinkClosedError("gone"))
    policy.let_go.release(3)
    for step in (0, 1, 2):
        asker.ask(STATE, Replan(step), 0.0)
        (arrival,) = wait_for(asker)
        assert arrival.chunk is None or arrival.chunk.episode == 0, "to the loop it is one episode"
        clock = MonotonicClock()
        give_up_s = clock.now() + HUNG_S
        while asker.away is not None:
            assert clock.now() < give_up_s
    assert [request.episode for request in policy.requests] == [0, int(stateful), int(stateful)]
    asker.close()


@pytest.mark.parametrize("error", [PolicyError("no luck"), ValueError("a bug")])
def test_a_policys_failure_is_a_lost_question(policy: Held, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    policy.failures.append(error)
    policy.let_go.release(2)
    asker.ask(STATE, Replan(0), 0.0)
    (lost,) = wait_for(asker)
    assert isinstance(lost.error, PolicyError)
    asker.ask(STATE, Replan(1), 0.0)
    assert [arrival.step for arrival in wait_for(asker)] == [1]
    asker.close()


def test_what_the_operator_has_to_mend_ends_the_run(policy: Held) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    policy.failures.append(ConfigError("another policy answers there"))
    policy.let_go.release()
    asker.ask(STATE, Replan(0), 0.0)
    with pytest.raises(ConfigError, match="another policy"):
        wait_for(asker)
    asker.close()


def test_closing_does_not_wait_for_what_is_under_way(policy: Held) -> None:
    asker = Threaded(policy, MonotonicClock())
    asker.begin(0)
    asker.ask(STATE, Replan(0), 0.0)
    assert policy.entered.acquire(timeout=HUNG_S)
    asker.close()
    with pytest.raises(ActlinkError, match="after close"):
        asker.ask(STATE, Replan(1), 0.0)
    policy.let_go.release()
