"""The scheduler's promises, by example and as properties under a manual clock."""

from __future__ import annotations

import heapq
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink.errors import OverloadedError
from actlink.serving.scheduler import PATIENCE, Entry, Scheduler
from actlink.types import Request


def entry(session: str, step: int = 0, *, key: str = "k", group: object = None, lane: int = 0, **more: object) -> Entry:
    return Entry(session, Request({}, step=step, session=session), key, group or object(), lane, **more)  # type: ignore[arg-type]


def steps(batch: list[Entry]) -> list[tuple[str, int]]:
    return [(one.session, one.request.step) for one in batch]


def run(scheduler: Scheduler, now: float, took: float = 0.02) -> list[Entry]:
    """One batch, from the queue to its answers."""
    batch = scheduler.next_batch(now)
    scheduler.answered(batch, now + took)
    return batch


class TestBatches:
    def test_waiting_sessions_share_a_batch(self) -> None:
        scheduler = Scheduler(8)
        for name in "abc":
            scheduler.add([entry(name)], 0.0)
        assert steps(scheduler.next_batch(0.0)) == [("a", 0), ("b", 0), ("c", 0)]
        assert len(scheduler) == 0

    def test_never_more_than_the_maximum(self) -> None:
        scheduler = Scheduler(2)
        for name in "abc":
            scheduler.add([entry(name)], 0.0)
        assert steps(run(scheduler, 0.0)) == [("a", 0), ("b", 0)]
        assert steps(run(scheduler, 1.0)) == [("c", 0)]

    def test_only_equal_keys_share_a_batch_and_the_others_come_next(self) -> None:
        scheduler = Scheduler(8)
        scheduler.add([entry("a", key="small")], 0.0)
        scheduler.add([entry("b", key="large")], 0.0)
        scheduler.add([entry("c", key="small")], 0.0)
        assert steps(run(scheduler, 0.0)) == [("a", 0), ("c", 0)]
        assert steps(run(scheduler, 1.0)) == [("b", 0)]

    def test_requests_of_one_session_run_one_after_the_other(self) -> None:
        scheduler = Scheduler(8)
        for step in range(3):
            scheduler.add([entry("a", step)], 0.0)
        assert [steps(run(scheduler, float(now))) for now in range(3)] == [[("a", 0)], [("a", 1)], [("a", 2)]]

    def test_lanes_of_one_request_share_a_batch(self) -> None:
        scheduler = Scheduler(8)
        frame = object()
        scheduler.add([entry("a", lane, group=frame, lane=lane) for lane in range(5)], 0.0)
        scheduler.add([entry("a", 9)], 0.0)
        assert steps(run(scheduler, 0.0)) == [("a", lane) for lane in range(5)]

    def test_many_lanes_leave_room_for_other_sessions(self) -> None:
        scheduler = Scheduler(4)
        frame = object()
        scheduler.add([entry("many", lane, group=frame, lane=lane) for lane in range(100)], 0.0)
        scheduler.add([entry("one")], 0.0)
        assert ("one", 0) in steps(scheduler.next_batch(0.0))

    def test_a_pipelining_session_does_not_starve_the_others(self) -> None:
        scheduler = Scheduler(1)
        for step in range(10):
            scheduler.add([entry("greedy", step)], 0.0)
        scheduler.add([entry("modest")], 0.0)
        assert [steps(run(scheduler, float(now)))[0][0] for now in range(3)] == ["greedy", "modest", "greedy"]


class TestNewestWins:
    def test_a_newer_observation_displaces_the_waiting_one(self) -> None:
        scheduler = Scheduler(8)
        old = entry("a", 1, newest_wins=True)
        assert scheduler.add([old], 0.0) == []
        assert scheduler.add([entry("a", 2, newest_wins=True)], 0.0) == [old]
        assert steps(run(scheduler, 0.0)) == [("a", 2)]

    def test_displacing_keeps_the_turn(self) -> None:
        scheduler = Scheduler(1)
        scheduler.add([entry("a", 1, newest_wins=True)], 0.0)
        scheduler.add([entry("b", 1)], 0.0)
        scheduler.add([entry("a", 2, newest_wins=True)], 0.0)
        assert steps(run(scheduler, 0.0)) == [("a", 2)]


class TestBounds:
    def test_one_session_may_only_have_so_many_waiting(self) -> None:
        scheduler = Scheduler(8, per_session=2)
        scheduler.add([entry("a", 0)], 0.0)
        scheduler.add([entry("a", 1)], 0.0)
        with pytest.raises(OverloadedError, match="one session may have 2 requests waiting; this one has 2 and asks 1 more"):
            scheduler.add([entry("a", 2)], 0.0)
        scheduler.add([entry("b", 0)], 0.0)
        assert len(scheduler) == 3

    def test_the_whole_queue_is_bounded_in_requests_and_in_bytes(self) -> None:
        scheduler = Scheduler(8, total=2)
        scheduler.add([entry("a")], 0.0)
        scheduler.add([entry("b")], 0.0)
        with pytest.raises(OverloadedError, match="the server's queue is full"):
            scheduler.add([entry("c")], 0.0)
        small = Scheduler(8, total_bytes=100)
        small.add([entry("a", size=60)], 0.0)
        with pytest.raises(OverloadedError, match="full"):
            small.add([entry("b", size=60)], 0.0)
        small.next_batch(0.0)
        small.add([entry("b", size=60)], 0.0)

    def test_all_lanes_or_none(self) -> None:
        scheduler = Scheduler(8, total=3)
        frame = object()
        scheduler.add([entry("a")], 0.0)
        with pytest.raises(OverloadedError):
            scheduler.add([entry("b", lane=lane, group=frame) for lane in range(3)], 0.0)
        assert len(scheduler) == 1

    def test_a_refused_newer_observation_displaces_nothing(self) -> None:
        scheduler = Scheduler(8, total_bytes=100)
        scheduler.add([entry("a", 1, newest_wins=True, size=50)], 0.0)
        with pytest.raises(OverloadedError):
            scheduler.add([entry("a", 2, newest_wins=True, size=150)], 0.0)
        assert steps(scheduler.next_batch(0.0)) == [("a", 1)]

    def test_displacing_makes_room(self) -> None:
        scheduler = Scheduler(8, per_session=1, total=1, total_bytes=100)
        scheduler.add([entry("a", 1, newest_wins=True, size=100)], 0.0)
        scheduler.add([entry("a", 2, newest_wins=True, size=100)], 0.0)
        assert steps(scheduler.next_batch(0.0)) == [("a", 2)]


class TestDeadlines:
    def test_a_passed_deadline_is_taken_out(self) -> None:
        scheduler = Scheduler(8)
        late = entry("a", 1, deadline_s=1.0)
        scheduler.add([late], 0.0)
        scheduler.add([entry("a", 2, deadline_s=9.0)], 0.0)
        assert scheduler.wake_at() == 1.0
        assert scheduler.expire(0.5) == []
        assert scheduler.expire(1.0) == [late]
        assert steps(scheduler.next_batch(1.0)) == [("a", 2)]

    def test_nothing_to_wake_for_without_deadlines(self) -> None:
        scheduler = Scheduler(8)
        assert scheduler.wake_at() is None
        scheduler.add([entry("a")], 0.0)
        assert scheduler.wake_at() is None


class TestLeaving:
    def test_what_a_gone_session_has_waiting_is_dropped(self) -> None:
        scheduler = Scheduler(8)
        scheduler.add([entry("a")], 0.0)
        scheduler.add([entry("b")], 0.0)
        assert steps(scheduler.remove("a")) == [("a", 0)]
        assert steps(scheduler.next_batch(0.0)) == [("b", 0)]
        assert scheduler.remove("nobody") == []


class TestGathering:
    """The engine has just answered some sessions; others have arrived meanwhile."""

    def after_a_batch_of(self, *sessions: str, gather_s: float = 0.002, batch: int = 8) -> Scheduler:
        scheduler = Scheduler(batch, gather_s=gather_s)
        for name in sessions:
            scheduler.add([entry(name)], 0.0)
        run(scheduler, 0.0, 0.020)
        return scheduler

    def test_waits_for_the_answered_ones(self) -> None:
        scheduler = self.after_a_batch_of("a", "b")
        scheduler.add([entry("c")], 0.020)
        assert scheduler.next_batch(0.020) == []
        assert scheduler.wake_at() == pytest.approx(0.022)
        scheduler.add([entry("a", 1)], 0.021)
        assert scheduler.next_batch(0.021) == []
        scheduler.add([entry("b", 1)], 0.0215)
        assert steps(scheduler.next_batch(0.0215)) == [("c", 0), ("a", 1), ("b", 1)]

    def test_only_for_the_time_configured(self) -> None:
        scheduler = self.after_a_batch_of("a", "b")
        scheduler.add([entry("c")], 0.020)
        assert scheduler.next_batch(0.0219) == []
        assert steps(scheduler.next_batch(0.022)) == [("c", 0)]

    def test_only_for_a_part_of_what_an_inference_takes(self) -> None:
        scheduler = self.after_a_batch_of("a", "b", gather_s=1.0)
        scheduler.add([entry("c")], 0.020)
        assert scheduler.wake_at() == pytest.approx(0.020 * (1 + PATIENCE))

    def test_not_at_all_where_gathering_is_off(self) -> None:
        scheduler = self.after_a_batch_of("a", "b", gather_s=0.0)
        scheduler.add([entry("c")], 0.020)
        assert steps(scheduler.next_batch(0.020)) == [("c", 0)]

    def test_a_single_session_never_waits(self) -> None:
        scheduler = self.after_a_batch_of("a")
        scheduler.add([entry("a", 1)], 0.0201)
        assert steps(scheduler.next_batch(0.0201)) == [("a", 1)]

    def test_a_full_batch_does_not_wait(self) -> None:
        scheduler = self.after_a_batch_of("a", "b", batch=2)
        scheduler.add([entry("c")], 0.020)
        scheduler.add([entry("d")], 0.020)
        assert len(scheduler.next_batch(0.020)) == 2

    def test_not_for_a_session_that_has_gone(self) -> None:
        scheduler = self.after_a_batch_of("a")
        scheduler.add([entry("c")], 0.020)
        assert scheduler.next_batch(0.020) == []
        scheduler.remove("a")
        assert steps(scheduler.next_batch(0.020)) == [("c", 0)]

    def test_not_for_a_session_that_is_known_to_take_its_time(self) -> None:
        scheduler = self.after_a_batch_of("slow")
        scheduler.add([entry("slow", 1)], 0.5)  # it thought for 480 ms
        run(scheduler, 0.5, 0.020)
        scheduler.add([entry("c")], 0.520)
        assert steps(scheduler.next_batch(0.520)) == [("c", 0)]

    def test_never_past_a_deadline(self) -> None:
        scheduler = self.after_a_batch_of("a")
        scheduler.add([entry("c", deadline_s=0.041)], 0.020)
        assert scheduler.next_batch(0.020) == []
        assert scheduler.wake_at() == pytest.approx(0.021)  # inference takes 20 ms
        assert steps(scheduler.next_batch(0.021)) == [("c", 0)]


def closed_loop(clients: int, seconds: float, *, infer_s: float, away_s: float, gather_s: float) -> float:
    """Answers per second of clients that ask again ``away_s`` after each answer, in virtual time; spread a little."""
    scheduler = Scheduler(64, gather_s=gather_s)
    order = itertools.count()
    events: list[tuple[float, int, str, list[Entry]]] = []
    answered, busy = 0, False
    for client in range(clients):
        heapq.heappush(events, (client * infer_s / clients, next(order), "ask", [entry(str(client))]))
    while events and events[0][0] < seconds:
        now, _, kind, entries = heapq.heappop(events)
        if kind == "ask":
            scheduler.add(entries, now)
        elif kind == "answered":
            busy = False
            answered += len(entries)
            scheduler.answered(entries, now)
            for one in entries:
                pause_s = away_s * (1 + int(one.session) % 4 / 4)
                heapq.heappush(events, (now + pause_s, next(order), "ask", [entry(one.session)]))
        if not busy:
            batch = scheduler.next_batch(now)
            wake_s = scheduler.wake_at()
            if batch:
                busy = True
                heapq.heappush(events, (now + infer_s, next(order), "answered", batch))
            elif wake_s is not None:
                heapq.heappush(events, (wake_s, next(order), "wake", []))
    return answered / seconds


def test_eight_closed_loop_clients_share_batches() -> None:
    alone = closed_loop(1, 20.0, infer_s=0.020, away_s=0.001, gather_s=0.008)
    together = closed_loop(8, 20.0, infer_s=0.020, away_s=0.001, gather_s=0.008)
    assert together / alone > 6.5


def test_without_gathering_they_alternate() -> None:
    """The reason for gathering: what the test above is about does not come by itself."""
    alone = closed_loop(1, 20.0, infer_s=0.020, away_s=0.001, gather_s=0.0)
    together = closed_loop(8, 20.0, infer_s=0.020, away_s=0.001, gather_s=0.0)
    assert together / alone < 5.0


# Properties: whatever happens, in whatever order

_ADD = st.tuples(
    st.just("add"),
    st.sampled_from("abcd"),
    st.sampled_from(["small", "large"]),
    st.integers(1, 3),
    st.one_of(st.just(math.inf), st.floats(0.0, 0.05)),
)
_OTHER = st.tuples(st.sampled_from(["batch", "answered", "remove", "wait"]), st.sampled_from("abcd"), st.floats(0.0, 0.03))


class Reference:
    """Drives a scheduler and remembers what became of every entry."""

    def __init__(self, max_batch_size: int, newest_wins: bool) -> None:
        self.scheduler = Scheduler(max_batch_size, gather_s=0.002, per_session=6, total=15)
        self.max_batch_size = max_batch_size
        self.newest_wins = newest_wins
        self.now = 0.0
        self.count = 0
        self.waiting: list[Entry] = []
        self.out: list[Entry] = []
        self.ended_s = -math.inf
        self.last_run: dict[str, int] = {}

    def add(self, session: str, key: str, lanes: int, budget_s: float) -> None:
        frame, first = object(), self.count
        self.count += lanes
        new = [
            entry(session, first + i, key=key, group=frame, lane=i, deadline_s=self.now + budget_s, newest_wins=self.newest_wins)
            for i in range(lanes)
        ]
        try:
            displaced = self.scheduler.add(new, self.now)
        except OverloadedError:
            left = [e for e in self.waiting if not self.newest_wins or e.session != session]
            mine = sum(e.session == session for e in left)
            assert mine + lanes > 6 or len(left) + lanes > 15
            return
        assert displaced == ([e for e in self.waiting if e.session == session] if self.newest_wins else [])
        self.waiting = [e for e in self.waiting if e not in displaced] + new

    def batch(self) -> None:
        if self.out:
            return
        self.expire()
        batch = self.scheduler.next_batch(self.now)
        if not batch:
            gathering = self.now < self.ended_s + 0.002 and len(self.waiting) < self.max_batch_size
            assert not self.waiting or gathering
            wake_s = self.scheduler.wake_at()
            assert not self.waiting or (wake_s is not None and self.now < wake_s <= self.ended_s + 0.002)
            return
        self.check_batch(batch)
        self.waiting = [e for e in self.waiting if e not in batch]
        self.out = batch

    def check_batch(self, batch: list[Entry]) -> None:
        assert len(batch) <= self.max_batch_size
        assert len({e.key for e in batch}) == 1
        assert len({id(e) for e in batch}) == len(batch)
        assert all(e in self.waiting and e.deadline_s > self.now for e in batch)
        for session in {e.session for e in batch}:
            mine = [e for e in batch if e.session == session]
            assert len({id(e.group) for e in mine}) == 1
            assert mine == [e for e in self.waiting if e.session == session][: len(mine)]
            assert mine[0].request.step > self.last_run.get(session, -1)
            self.last_run[session] = mine[-1].request.step

    def answered(self) -> None:
        if self.out:
            self.scheduler.answered(self.out, self.now)
            self.out, self.ended_s = [], self.now

    def expire(self) -> None:
        late = self.scheduler.expire(self.now)
        assert {id(e) for e in late} == {id(e) for e in self.waiting if e.deadline_s <= self.now}
        self.waiting = [e for e in self.waiting if e.deadline_s > self.now]

    def remove(self, session: str) -> None:
        assert self.scheduler.remove(session) == [e for e in self.waiting if e.session == session]
        self.waiting = [e for e in self.waiting if e.session != session]
        self.out = [e for e in self.out if e.session != session] or self.out

    def wait(self, seconds: float) -> None:
        self.now += seconds


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_ADD, _OTHER), max_size=60), st.integers(1, 4), st.booleans())
def test_nothing_is_lost_doubled_or_out_of_order(events: list[tuple[object, ...]], batch: int, newest_wins: bool) -> None:
    world = Reference(batch, newest_wins)
    for kind, session, *rest in events:
        if kind == "add":
            world.add(str(session), *rest)  # type: ignore[arg-type]
        elif kind == "remove":
            world.remove(str(session))
        elif kind == "wait":
            world.wait(*rest)  # type: ignore[arg-type]
        else:
            getattr(world, str(kind))()
        assert len(world.scheduler) == len(world.waiting)
    while world.waiting:  # and it always comes to an end
        world.answered()
        world.batch()
        world.now += 0.002
    assert world.scheduler.wake_at() is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 0.05), st.floats(0.0001, 0.1)), max_size=30))
def test_one_session_is_served_the_moment_it_asks(turns: list[tuple[float, float]]) -> None:
    scheduler, now = Scheduler(8), 0.0
    for step, (away_s, infer_s) in enumerate(turns):
        now += away_s
        scheduler.add([entry("a", step)], now)
        assert steps(scheduler.next_batch(now)) == [("a", step)]
        now += infer_s
        scheduler.answered([entry("a", step)], now)
