"""What becomes of requests once they are with the engine, whatever the policy does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving_world import SPEC, Client, Probe, World, run, state

from actlink.dialects._base import Bye, Chunks, Done, Failed, Lane, Ping, Pong, Reset
from actlink.errors import DeadlineError, OverloadedError, PolicyError, SupersededError
from actlink.policies._base import Result, answer
from actlink.serving.config import ServerConfig
from actlink.types import ActionChunk, Request

QUIET = ServerConfig(warm_up=False)


def only(reply: Any) -> ActionChunk:
    assert isinstance(reply, Chunks), reply
    (chunk,) = reply.results
    assert isinstance(chunk, ActionChunk)
    return chunk


def failure(reply: Any) -> Exception:
    assert isinstance(reply, Failed), reply
    assert not reply.fatal
    return reply.error


class TestAnswers:
    def test_a_chunk_says_which_question_it_answers_and_where_the_time_went(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            reply = await client.infer({"state": state(5, 6)}, step=7)
            chunk = only(reply)
            assert (chunk.step, chunk.episode) == (7, 0)
            np.testing.assert_array_equal(chunk.actions, np.tile(state(5, 6), (3, 1)))
            assert isinstance(reply, Chunks)
            assert set(reply.timing) == {"decode_ms", "queue_ms", "infer_ms", "server_ms", "batch_size", "clock_s"}
            assert reply.timing["batch_size"] == 1
            assert reply.timing["server_ms"] >= reply.timing["infer_ms"] >= 0

        world = run(scenario, Probe())
        statistics = world.counters.statistics(1.0, ())
        assert (statistics.requests, statistics.answered, statistics.batches, statistics.sessions_total) == (1, 1, 1, 1)
        assert statistics.latency_p99_ms >= statistics.latency_p50_ms > 0

    def test_the_policy_is_only_ever_called_on_its_thread(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            await client.infer()

        probe = Probe()
        run(scenario, probe, config=ServerConfig())
        assert probe.threads == {"actlink-engine-first"}
        assert probe.closed == 1

    def test_sessions_that_wait_share_a_batch(self) -> None:
        async def scenario(world: World) -> None:
            clients = [await world.client() for _ in range(4)]
            probe.gate.clear()
            clients[0].ask()
            await probe.busy()
            for number, client in enumerate(clients[1:]):
                client.ask({"state": state(number, 0)})
            probe.gate.set()
            for number, client in enumerate(clients[1:]):
                reply = None
                reply = await client.reply()
                assert only(reply).actions[0, 0] == number
                assert isinstance(reply, Chunks) and reply.timing["batch_size"] == 3
            only(await clients[0].reply())

        probe = Probe()
        run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [1, 3]

    @pytest.mark.parametrize("config", [replace(QUIET, deterministic=True), replace(QUIET, max_batch_size=1)])
    def test_deterministic_and_batch_limit_run_each_request_alone(self, config: ServerConfig) -> None:
        async def scenario(world: World) -> None:
            clients = [await world.client() for _ in range(3)]
            probe.gate.clear()
            for client in clients:
                client.ask()
            probe.gate.set()
            for client in clients:
                only(await client.reply())

        probe = Probe()
        run(scenario, probe, config=config)
        assert [len(batch) for batch in probe.batches] == [1, 1, 1]

    def test_different_shapes_do_not_share_a_batch(self) -> None:
        async def scenario(world: World) -> None:
            clients = [await world.client() for _ in range(3)]
            probe.gate.clear()
            clients[0].ask()
            await probe.busy()
            clients[1].ask({"state": state()})
            clients[2].ask({"state": state(), "images.top": np.zeros((4, 4, 3), np.uint8)})
            probe.gate.set()
            for client in clients:
                only(await client.reply())

        probe = Probe()
        run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [1, 1, 1]

    def test_lanes_make_one_reply_and_fail_one_by_one(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            client.ask_lanes([Lane({"state": state(n, n)}, 4) for n in range(2)] + [Lane({"state": state(np.nan, 0)}, 4)])
            reply = await client.reply()
            assert isinstance(reply, Chunks)
            first, second, third = reply.results
            assert isinstance(first, ActionChunk) and isinstance(second, ActionChunk)
            assert (first.actions[0, 0], second.actions[0, 0]) == (0, 1)
            assert "lanes[2].observation['state'][0]" in str(third)

        probe = Probe()
        world = run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [2]
        assert world.counters.errors == {"spec": 1}

    def test_more_lanes_than_a_batch_holds(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            client.ask_lanes([Lane({"state": state(n, n)}, 0) for n in range(20)])
            reply = await client.reply()
            assert isinstance(reply, Chunks)
            assert [chunk.actions[0, 0] for chunk in reply.results if isinstance(chunk, ActionChunk)] == list(range(20))

        probe = Probe()
        run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [8, 8, 4]


class TestPrefix:
    PREFIX = np.ones((2, 2), np.float32)

    def ask(self, accepts: bool, **more: Any) -> tuple[Any, Probe]:
        replies = []

        async def scenario(world: World) -> None:
            client = await world.client()
            replies.append(await client.infer(**more))

        probe = Probe(replace(SPEC, accepts_prefix=accepts))
        run(scenario, probe)
        return replies[0], probe

    def test_it_reaches_a_policy_that_takes_it(self) -> None:
        reply, probe = self.ask(True, prefix=self.PREFIX, inference_delay=1)
        only(reply)
        ((request,),) = probe.batches
        np.testing.assert_array_equal(request.prefix, self.PREFIX)
        assert request.inference_delay == 1

    def test_it_is_kept_from_one_that_does_not(self) -> None:
        _, probe = self.ask(False, prefix=self.PREFIX, inference_delay=1)
        ((request,),) = probe.batches
        assert request.prefix is None and request.inference_delay == 0

    def test_a_delay_may_come_without_one(self) -> None:
        reply, probe = self.ask(True, inference_delay=2)
        only(reply)
        assert probe.batches[0][0].prefix is None and probe.batches[0][0].inference_delay == 2

    def test_a_bad_one_is_refused(self) -> None:
        reply, probe = self.ask(True, prefix=np.full((2, 2), np.nan, np.float32))
        assert "prefix[0, 0]: expected finite" in str(failure(reply))
        reply, probe = self.ask(True, prefix=self.PREFIX, inference_delay=3)
        assert "inference_delay: expected at most the 2 rows of the prefix, got 3" in str(failure(reply))
        assert probe.batches == []


def fail_with(error: BaseException) -> Any:
    def act(requests: Sequence[Request]) -> Sequence[Result]:
        raise error

    return act


def chunk_of(actions: Any) -> Any:
    return lambda requests: [answer(request, actions) for request in requests]


class TestPoliciesThatFail:
    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (fail_with(ValueError("no such joint\nand a second line")), "policy failed: ValueError: no such joint"),
            (fail_with(MemoryError()), "out of memory during an inference (MemoryError)"),
            (fail_with(SystemExit(3)), "policy failed: SystemExit: 3"),
            (fail_with(PolicyError("my own words")), "my own words"),
            (chunk_of(np.full((3, 2), np.nan, np.float32)), "bad chunk: actions[0, 0]: expected finite float32 values, got nan"),
            (chunk_of(np.zeros((3, 5), np.float32)), "bad chunk: actions: expected shape (any, 2), got (3, 5)"),
            (chunk_of(np.zeros((0, 2), np.float32)), "expected at least one action"),
            (chunk_of("nonsense"), "bad chunk: actions: expected float32"),
            (lambda requests: [], "the policy returned 0 results for 1 requests"),
            (lambda requests: [None], "the policy returned a NoneType instead of an action chunk"),
            (lambda requests: None, "policy failed: TypeError"),
        ],
    )
    def test_the_request_fails_and_the_session_goes_on(self, act: Any, message: str) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            probe.act = act
            error = failure(await client.infer())
            assert isinstance(error, PolicyError)
            assert message in str(error)
            assert "\n" not in str(error) and "Traceback" not in str(error)
            probe.act = probe.repeat
            only(await client.infer())

        probe = Probe()
        assert run(scenario, probe).counters.errors == {"policy": 1}

    def test_one_failure_in_a_batch_is_nobody_elses(self) -> None:
        def act(requests: Sequence[Request]) -> Sequence[Result]:
            if any(np.asarray(request.observation["state"])[0] < 0 for request in requests):
                raise ValueError("negative")
            return probe.repeat(requests)

        async def scenario(world: World) -> None:
            clients = [await world.client() for _ in range(4)]
            probe.gate.clear()
            clients[0].ask()
            await probe.busy()
            for number, client in enumerate(clients[1:]):
                client.ask({"state": state(-1.0 if number == 1 else 1.0, 0)})
            probe.gate.set()
            only(await clients[1].reply())
            assert "negative" in str(failure(await clients[2].reply()))
            only(await clients[3].reply())

        probe = Probe(act=act)
        run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [1, 3, 1, 1, 1]

    def test_a_failed_batch_of_one_is_not_run_twice(self) -> None:
        async def scenario(world: World) -> None:
            failure(await (await world.client()).infer())

        probe = Probe(act=fail_with(ValueError("once")))
        run(scenario, probe)
        assert len(probe.batches) == 1

    def test_the_traceback_is_in_the_log_but_not_for_every_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            for _ in range(5):
                failure(await client.infer())

        run(scenario, Probe(act=fail_with(ValueError("the reason"))))
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(logged) == 1
        assert logged[0].exc_info is not None and "the reason" in str(logged[0].exc_info[1])

    def test_while_it_hangs_the_event_loop_answers(self) -> None:
        async def scenario(world: World) -> None:
            stuck, other = await world.client(), await world.client()
            probe.gate.clear()
            stuck.ask()
            await probe.busy()
            other.say(Ping(1.5, call=77))
            pong = await other.reply()
            assert isinstance(pong, Pong) and (pong.sent_s, pong.call) == (1.5, 77)
            assert (await Client(world).hello()).session
            probe.gate.set()
            only(await stuck.reply())

        probe = Probe()
        run(scenario, probe)


class TestRefusals:
    def test_overload_is_told_at_once(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            probe.gate.clear()
            client.ask()
            await probe.busy()
            client.ask()
            client.ask()
            too_many = client.ask()
            reply = await client.reply()
            assert isinstance(reply, Failed) and reply.call == too_many
            assert isinstance(failure(reply), OverloadedError)
            probe.gate.set()
            for _ in range(3):
                only(await client.reply())

        probe = Probe()
        run(scenario, probe, config=replace(QUIET, queue_per_session=2))

    def test_a_passed_deadline_is_told_while_the_policy_is_still_busy(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            probe.gate.clear()
            client.ask()
            await probe.busy()
            hopeless = client.ask(budget_ms=0.0)
            soon = client.ask(budget_ms=5.0)
            for call in (hopeless, soon):
                reply = await client.reply()
                assert isinstance(reply, Failed) and reply.call == call
                assert isinstance(failure(reply), DeadlineError)
            probe.gate.set()
            only(await client.reply())

        probe = Probe()
        run(scenario, probe)
        assert len(probe.batches) == 1

    def test_what_a_gone_peer_asked_is_not_inferred(self) -> None:
        async def scenario(world: World) -> None:
            busy, leaver = await world.client(), await world.client()
            probe.gate.clear()
            busy.ask()
            await probe.busy()
            leaver.ask({"state": state(13, 13)})
            leaver.peer.closed("reset by peer")
            probe.gate.set()
            only(await busy.reply())
            only(await busy.infer())
            assert world.counters.open_calls == 0

        probe = Probe()
        run(scenario, probe)
        assert all(np.asarray(request.observation["state"])[0] != 13 for batch in probe.batches for request in batch)


class Remembering(Probe):
    """Counts the requests of each session by memory alone."""

    def __init__(self) -> None:
        super().__init__(replace(SPEC, stateful=True), self.count)

    def count(self, requests: Sequence[Request]) -> Sequence[Result]:
        results: list[Result] = []
        for request in requests:
            if np.asarray(request.observation["state"])[0] < 0:
                raise ValueError("negative")
            seen = (request.memory or 0) + 1
            results.append(answer(request, np.full((3, 2), seen, np.float32), memory=seen))
        return results


async def seen(client: Client, **more: Any) -> int:
    return int(only(await client.infer(**more)).actions[0, 0])


class TestMemory:
    def test_each_session_has_its_own(self) -> None:
        async def scenario(world: World) -> None:
            one, other = await world.client(), await world.client()
            assert [await seen(one), await seen(one), await seen(other), await seen(one)] == [1, 2, 1, 3]

        run(scenario, Remembering())

    def test_each_lane_has_its_own(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            client.ask_lanes([Lane({"state": state()}, 0)] * 2)
            await client.reply()
            client.ask_lanes([Lane({"state": state()}, 0)] * 3)
            reply = await client.reply()
            assert isinstance(reply, Chunks)
            assert [chunk.actions[0, 0] for chunk in reply.results if isinstance(chunk, ActionChunk)] == [2, 2, 1]
            client.say(Reset(1, 50))
            await client.reply()
            client.ask_lanes([Lane({"state": state()}, 0)] * 3, episode=1)
            reply = await client.reply()
            assert isinstance(reply, Chunks)
            assert [chunk.actions[0, 0] for chunk in reply.results if isinstance(chunk, ActionChunk)] == [1, 1, 1]

        run(scenario, Remembering())

    def test_a_failure_leaves_it_as_it_was(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            assert await seen(client) == 1
            failure(await client.infer({"state": state(-1, 0)}))
            assert await seen(client) == 2

        run(scenario, Remembering())

    def test_a_reset_drops_it(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            assert [await seen(client), await seen(client)] == [1, 2]
            client.say(Reset(1, 50))
            assert await client.reply() and await seen(client, episode=1) == 1
            client.say(Reset(1, 51))  # the same episode once more
            assert await client.reply() and await seen(client, episode=1) == 1
            assert await seen(client, episode=2) == 1  # a request may begin the next one

        run(scenario, Remembering())

    def test_pipelined_requests_see_it_in_order(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            for _ in range(5):
                client.ask()
            assert [int(only(await client.reply()).actions[0, 0]) for _ in range(5)] == [1, 2, 3, 4, 5]

        run(scenario, Remembering())

    def test_a_reset_during_inference_answers_what_is_open_and_keeps_the_late_chunk_to_itself(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            probe.gate.clear()
            running = client.ask()
            await probe.busy()
            waiting = client.ask()
            client.say(Reset(1, 50))
            for call in (running, waiting):
                reply = await client.reply()
                assert isinstance(reply, Failed) and reply.call == call
                assert isinstance(failure(reply), SupersededError)
            done = await client.reply()
            assert isinstance(done, Done) and done.episode == 1
            probe.gate.set()
            assert await seen(client, episode=1) == 1
            assert client.wire.frames == []

        probe = Remembering()
        run(scenario, probe)
        assert [len(batch) for batch in probe.batches] == [1, 1]

    def test_an_episode_that_is_over_is_refused(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            assert await seen(client, episode=3) == 1
            error = failure(await client.infer(episode=2))
            assert isinstance(error, SupersededError) and "this session is in episode 3" in str(error)
            client.say(Reset(2, 50))
            assert isinstance(failure(await client.reply()), SupersededError)
            assert await seen(client, episode=3) == 2

        run(scenario, Remembering())

    def test_the_policy_is_told_when_a_session_has_ended(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            client.ask_lanes([Lane({"state": state()}, 0)] * 2)
            await client.reply()
            client.say(Bye())
            await client.closed()
            await seen(await world.client())

        probe = Remembering()
        run(scenario, probe)
        first, second = probe.forgotten[:2]
        assert second == f"{first}/1"
        assert first in {request.session for request in probe.batches[0]}


class Clumsy(Probe):
    """Fails at everything but inference."""

    def forget(self, session: str) -> None:
        raise ValueError("cannot forget")

    def close(self) -> None:
        raise ValueError("cannot close")


def test_a_policy_that_cannot_forget_or_close_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        client = await world.client()
        client.say(Bye())
        await client.closed()
        only(await (await world.client()).infer())

    run(scenario, Clumsy())
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["cannot forget"] * 2 + ["cannot close"]


class TestWarmUp:
    def test_it_runs_zeros_alone_in_pairs_and_in_the_largest_batch(self) -> None:
        async def scenario(world: World) -> None:
            assert [len(batch) for batch in probe.batches] == [1, 2, 8]

        probe = Probe()
        run(scenario, probe, config=ServerConfig())
        assert probe.forgotten == ["warm-up"] * 3

    def test_what_fails_then_is_an_error_at_the_start(self) -> None:
        async def scenario(world: World) -> None:
            raise AssertionError("never ready")

        for act in (fail_with(ValueError("bad weights")), fail_with(SystemExit(1)), chunk_of(np.full((3, 2), np.inf))):
            with pytest.raises(PolicyError, match=r"warm-up with 1 observation\(s\) of zeros failed"):
                run(scenario, Probe(act=act), config=ServerConfig())
