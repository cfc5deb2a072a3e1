"""What foreign wires need of a session: one action per observation, polled answers, no handshake, models on demand."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from serving_world import SPEC, Probe, Wire, World, run

from actlink.client import ClientConfig
from actlink.dialects._base import (
    Chunks,
    Done,
    Event,
    Execution,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Poll,
    Reply,
    Reset,
    Say,
    ServerDialect,
    Welcome,
)
from actlink.errors import (
    ConfigError,
    DrainingError,
    InternalError,
    LinkError,
    PolicyError,
    SpecError,
    SupersededError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.policies._base import Result, answer
from actlink.serving.config import ServerConfig
from actlink.serving.peer import Peer
from actlink.serving.server import Server
from actlink.types import ActionChunk, Array, Request

QUIET = ServerConfig(warm_up=False)


class Plain(ServerDialect):
    """A wire of Python objects: an event is a frame, a reply is kept."""

    transports = ("memory",)

    def __init__(self, execution: Execution | None = None) -> None:
        self.execution = execution
        self.replies: list[Reply] = []

    def receive(self, frame: Frame) -> list[Event]:
        events: list[Event] = frame.call
        return events

    def send(self, reply: Reply) -> list[Frame]:
        self.replies.append(reply)
        return [Frame((b"reply",))]


class Polled(Plain):
    polled = True
    newest_wins = True


class Talk:
    """One peer on such a wire."""

    def __init__(self, world: World, dialect: Plain, **wire: Any) -> None:
        self.dialect = dialect
        self.wire = Wire(**wire)
        self.peer = Peer(world.host, dialect, self.wire, model="", limits={}, handshake_s=30.0)

    def say(self, *events: Event) -> None:
        self.peer.received(Frame((b"",), call=list(events)))

    def ask(self, *states: float, call: Any = None, step: int | None = None) -> None:
        lanes = tuple(Lane({"state": np.array([value, 0.0], np.float32)}, step) for value in states)
        self.say(Infer(lanes, call=call))

    async def reply(self, count: int = 1) -> Reply:
        """The last of ``count`` replies since the last call."""
        while len(self.dialect.replies) < count:
            self.wire.news.clear()
            await asyncio.wait_for(self.wire.news.wait(), 30)
        reply = self.dialect.replies[count - 1]
        del self.dialect.replies[:count]
        return reply

    async def action(self) -> list[float]:
        reply = await self.reply()
        assert isinstance(reply, Chunks), reply
        rows = [result.actions for result in reply.results if not isinstance(result, Exception)]
        assert all(len(row) == 1 for row in rows)
        return [float(row[0, 0]) for row in rows]


def counting(requests: Sequence[Request]) -> Sequence[Result]:
    """Row i of the chunk asked for at step t with state s is 100 s + t + i / 10."""
    found: list[Result] = []
    for request in requests:
        value = float(np.asarray(request.observation["state"])[0])
        if value == 666:
            found.append(PolicyError("not this one"))
            continue
        rows = 100 * value + request.step + np.arange(3) / 10
        found.append(answer(request, np.stack([rows, rows], axis=1).astype(np.float32)))
    return found


def no_aggregate(old: Array, new: Array) -> Array:
    raise ZeroDivisionError("in the aggregate function")


def talk_of(world: World, dialect: Plain) -> Talk:
    talk = Talk(world, dialect)
    (welcome,) = dialect.replies
    assert isinstance(welcome, Welcome) and welcome.spec == SPEC  # first of all, on a wire without handshake
    dialect.replies.clear()
    return talk


def receding(horizon: int) -> Plain:
    return Plain(Execution("receding", {"execution_horizon": horizon}))


class TestOneActionPerObservation:
    def test_a_chunk_is_executed_before_the_policy_is_asked_again(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(2))
            seen = []
            for value in (1, 2, 3, 4, 5):
                talk.ask(value)
                seen += await talk.action()
            np.testing.assert_allclose(seen, [100, 100.1, 302, 302.1, 504], rtol=1e-6)

        policy = Probe(act=counting)
        run(scenario, policy)
        assert [batch[0].step for batch in policy.batches] == [0, 2, 4]

    def test_ensemble_weighs_what_covers_the_step(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Plain(Execution("ensemble", {"k": 0.0})))
            seen = []
            for value in (1, 2):
                talk.ask(value)
                seen += await talk.action()
            np.testing.assert_allclose(seen, [100, (100.1 + 201) / 2], rtol=1e-6)

        run(scenario, Probe(act=counting))

    def test_lanes_are_executed_apart(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(3))
            talk.ask(1, 2)
            np.testing.assert_allclose(await talk.action(), [100, 200])
            talk.ask(7, 8, 9)  # one more row: its first observation needs the policy, the others do not
            np.testing.assert_allclose(await talk.action(), [100.1, 200.1, 901], rtol=1e-6)

        run(scenario, Probe(act=counting))

    def test_reset_starts_at_step_0(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(3))
            talk.ask(1)
            await talk.action()
            talk.say(Reset())
            assert isinstance(await talk.reply(), Done)
            talk.ask(5)
            np.testing.assert_allclose(await talk.action(), [500])

        run(scenario, Probe(act=counting))

    def test_a_failed_step_is_asked_again(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(3))
            for bad in (666, float("nan")):
                talk.ask(bad)
                assert isinstance(await talk.reply(), Failed)
            talk.ask(1)
            np.testing.assert_allclose(await talk.action(), [100])  # still step 0: nothing was answered before

        run(scenario, Probe(act=counting))

    def test_questions_that_do_not_wait_for_answers_are_taken_in_order(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(1))
            for value in (1, 2, 3):
                talk.ask(value)
            seen = []
            for _ in range(3):
                seen += await talk.action()
            np.testing.assert_allclose(seen, [100, 201, 302], rtol=1e-6)

        run(scenario, Probe(act=counting))

    def test_a_reset_answers_what_waits_and_what_follows_is_heard(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(1))
            policy.gate.clear()
            talk.ask(1)
            await policy.busy()
            talk.ask(2)
            talk.ask(3)
            talk.say(Reset())
            replies = [await talk.reply() for _ in range(4)]
            assert [type(reply) for reply in replies] == [Failed, Failed, Failed, Done]
            assert all(isinstance(reply.error, SupersededError) for reply in replies if isinstance(reply, Failed))
            policy.gate.set()
            talk.ask(5)
            np.testing.assert_allclose(await talk.action(), [500])
            assert world.counters.open_calls == 0

        policy = Probe(act=counting)
        run(scenario, policy)
        assert [float(np.asarray(batch[0].observation["state"])[0]) for batch in policy.batches] == [1, 5]

    def test_a_server_that_ends_answers_what_waits(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(1))
            policy.gate.clear()
            talk.ask(1)
            await policy.busy()
            talk.ask(2)
            talk.peer.goodbye()
            replies = [await talk.reply() for _ in range(2)]
            assert all(isinstance(reply, Failed) and isinstance(reply.error, DrainingError) for reply in replies)
            assert world.counters.open_calls == 0

        run(scenario, policy := Probe(act=counting))

    def test_many_that_are_answered_at_once_while_one_takes_long(self) -> None:
        many = QUIET.queue_per_session

        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(1))
            policy.gate.clear()
            talk.ask(1)
            await policy.busy()
            for _ in range(many):
                talk.ask(float("nan"))
            policy.gate.set()
            assert isinstance(await talk.reply(), Chunks)
            for _ in range(many):
                reply = await talk.reply()
                assert isinstance(reply, Failed) and isinstance(reply.error, SpecError), reply
            assert world.counters.requests == many + 1  # each counted once, though it had to wait

        run(scenario, policy := Probe(act=counting))

    def test_lanes_that_need_no_inference_are_answered_although_others_fail(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, receding(3))
            talk.ask(1, 2)
            await talk.action()
            policy.gate.clear()
            talk.ask(7, 8, 9)  # the third lane is new and needs the policy
            await policy.busy()
            talk.say(Reset())
            reply = await talk.reply()
            assert isinstance(reply, Chunks)
            first, second, third = reply.results
            assert isinstance(first, ActionChunk) and isinstance(second, ActionChunk) and isinstance(third, SupersededError)

        policy = Probe(act=counting)
        policy.entered.acquire(blocking=False)
        run(scenario, policy)

    def test_a_strategy_that_raises_costs_only_its_own_peer_an_answer(self) -> None:
        async def scenario(world: World) -> None:
            options = {"actions_per_chunk": 3, "chunk_size_threshold": 1.0, "aggregate_fn_name": f"{__name__}:no_aggregate"}
            broken, sound, first = (
                talk_of(world, Plain(Execution("asynchronous", options))),
                *(talk_of(world, receding(1)) for _ in "ab"),
            )
            broken.ask(1)
            await broken.action()
            policy.gate.clear()
            policy.entered = threading.Semaphore(0)
            first.ask(1)
            await policy.busy()
            broken.ask(2)  # its chunk overlaps the first one
            sound.ask(3)
            policy.gate.set()
            reply = await broken.reply()
            assert isinstance(reply, Failed) and isinstance(reply.error, InternalError)
            np.testing.assert_allclose(await sound.action(), [300])
            assert len(policy.batches[-1]) == 2  # they were asked for together
            broken.ask(4)
            assert isinstance(await broken.reply(), Failed)  # and it is still heard

        run(scenario, policy := Probe(act=counting))


class TestPolling:
    EMPTY = Frame((b"nothing yet",))

    def test_a_poll_that_comes_first_waits_for_the_answer(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Polled())
            talk.say(Poll(30.0, self.EMPTY, call="poll"))
            talk.ask(1)
            reply = await talk.reply()
            assert isinstance(reply, Chunks) and reply.call == "poll"

        run(scenario, Probe(act=counting))

    def test_an_answer_that_comes_first_waits_for_the_poll_and_the_newest_wins(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Polled())
            policy = world.engines["first"]._policy
            assert isinstance(policy, Probe)
            for value in (1, 2):
                talk.ask(value, step=int(value))
                await policy.busy()
            while world.counters.open_calls:
                await asyncio.sleep(0)
            talk.say(Poll(0.0, self.EMPTY, call="poll"))
            reply = await talk.reply()
            assert isinstance(reply, Chunks)
            assert not isinstance(reply.results[0], Exception) and reply.results[0].step == 2

        run(scenario, Probe(act=counting))

    def test_a_poll_without_any_observation_ends_with_the_empty_reply(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Polled())
            sent = len(talk.wire.frames)
            talk.say(Poll(0.0, self.EMPTY))
            while len(talk.wire.frames) == sent:
                talk.wire.news.clear()
                await asyncio.wait_for(talk.wire.news.wait(), 30)
            assert talk.wire.frames[sent:] == [self.EMPTY]

        run(scenario, Probe(act=counting))

    def test_a_poll_outlasts_its_time_while_the_policy_works(self) -> None:
        async def scenario(world: World) -> None:
            policy = world.engines["first"]._policy
            assert isinstance(policy, Probe)
            policy.gate.clear()
            talk = talk_of(world, Polled())
            talk.ask(1)
            await policy.busy()
            talk.say(Poll(0.0, self.EMPTY, call="poll"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not talk.dialect.replies and self.EMPTY not in talk.wire.frames
            policy.gate.set()
            reply = await talk.reply()
            assert isinstance(reply, Chunks) and reply.call == "poll"

        run(scenario, Probe(act=counting))

    def test_an_error_is_told_to_the_poll(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Polled())
            talk.ask(666)
            talk.say(Poll(30.0, self.EMPTY, call="poll"))
            reply = await talk.reply()
            assert isinstance(reply, Failed) and reply.call == "poll" and "not this one" in str(reply.error)

        run(scenario, Probe(act=counting))

    def test_a_second_poll_frees_the_first_and_a_reset_frees_the_second(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Polled())
            sent = len(talk.wire.frames)
            other = Frame((b"nothing for the second",))
            talk.say(Poll(30.0, self.EMPTY), Poll(30.0, other))
            assert talk.wire.frames[sent:] == [self.EMPTY]
            talk.say(Reset())
            assert other in talk.wire.frames[sent:]

        run(scenario, Probe(act=counting))


class TestWithoutHandshake:
    def test_the_dialect_may_answer_by_itself(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Plain())
            said = Frame((b"yes",))
            talk.say(Say((said,)))
            assert talk.wire.frames[-1] is said

        run(scenario, Probe())

    def test_a_later_hello_binds_to_another_model(self) -> None:
        async def scenario(world: World) -> None:
            talk = talk_of(world, Plain())
            talk.say(Hello(model="second", call=1))
            assert isinstance(await talk.reply(), Welcome)
            talk.ask(1)
            await talk.reply()
            talk.say(Hello(model="third", call=2))
            reply = await talk.reply()
            assert isinstance(reply, Failed) and isinstance(reply.error, UnknownModelError) and reply.call == 2
            talk.ask(1)
            assert isinstance(await talk.reply(), Chunks)
            assert world.counters.sessions == 1

        first, second = Probe(), Probe()
        run(scenario, first, second)
        assert (len(first.batches), len(second.batches)) == (0, 2)


class TestModelsOnDemand:
    def serve(self, models: dict[str, Any], scenario: Callable[[Server], None]) -> None:
        with Server(models, ["native+memory://on-demand"], ServerConfig()) as server:
            scenario(server)

    def test_loaded_once_when_first_asked_for(self) -> None:
        from actlink import connect

        made: list[Probe] = []

        def make() -> Probe:
            made.append(Probe())
            return made[-1]

        def scenario(server: Server) -> None:
            assert not made
            for _ in range(2):
                with connect("native+memory://on-demand/late") as remote:
                    remote.infer_one({"state": np.zeros(2, np.float32)})
            with pytest.raises(UnknownModelError):
                connect("native+memory://on-demand")

        self.serve({"late": make}, scenario)
        assert len(made) == 1 and made[0].closed == 1

    def test_a_model_that_cannot_be_loaded_is_told_and_can_be_tried_again(self) -> None:
        from actlink import connect

        tries: list[int] = []

        def make() -> Probe:
            tries.append(1)
            if len(tries) == 1:
                raise ConfigError("no weights there")
            if len(tries) == 2:
                raise ZeroDivisionError("in the adapter")
            return Probe()

        def scenario(server: Server) -> None:
            with pytest.raises(ConfigError, match="no weights there"):
                connect("native+memory://on-demand/late")
            with pytest.raises(PolicyError, match=r"cannot be loaded: ZeroDivisionError"):
                connect("native+memory://on-demand/late")
            with connect("native+memory://on-demand/late") as remote:
                remote.infer_one({"state": np.zeros(2, np.float32)})

        self.serve({"late": make}, scenario)

    def test_a_model_that_fails_its_warm_up_leaves_nothing_behind(self) -> None:
        from actlink import connect

        made: list[Probe] = []

        def make() -> Probe:
            made.append(Probe(act=lambda requests: 1 / 0))  # type: ignore[arg-type, return-value]
            return made[-1]

        def scenario(server: Server) -> None:
            for tries in (1, 2):
                with pytest.raises(PolicyError, match="warm-up"):
                    connect("native+memory://on-demand/late")
                assert [probe.closed for probe in made] == [1] * tries

        self.serve({"late": make}, scenario)

    def test_nothing_is_loaded_for_whoever_lacks_the_token(self) -> None:
        from actlink import connect

        made: list[Probe] = []

        def make() -> Probe:
            made.append(Probe())
            return made[-1]

        with Server({"late": make}, ["native+memory://on-demand"], ServerConfig(), tokens=["secret"]):
            with pytest.raises(UnauthorizedError):
                connect("native+memory://on-demand/late")
            assert not made
            connect("native+memory://on-demand/late", token="secret").close()
            assert len(made) == 1

    def test_a_module_that_exits_does_not_take_the_server_with_it(self) -> None:
        from actlink import connect

        def make() -> Probe:
            raise SystemExit("usage: ...")

        def scenario(server: Server) -> None:
            with pytest.raises(PolicyError, match="cannot be loaded: SystemExit"):
                connect("native+memory://on-demand/late")
            with connect("native+memory://on-demand/good") as remote:
                remote.infer_one({"state": np.zeros(2, np.float32)})

        self.serve({"good": Probe(), "late": make}, scenario)

    def test_a_server_that_ends_waits_for_no_loading_and_closes_what_comes_of_it(self, caplog: pytest.LogCaptureFixture) -> None:
        from actlink import connect

        gate, entered, made = threading.Event(), threading.Event(), list[Probe]()

        def make() -> Probe:
            entered.set()
            assert gate.wait(30)
            made.append(Probe())
            return made[0]

        server = Server({"late": make}, ["native+memory://on-demand"], ServerConfig()).start()
        with ThreadPoolExecutor(1) as pool:
            early = pool.submit(connect, "native+memory://on-demand/late", config=ClientConfig(connect_timeout_s=30))
            assert entered.wait(30)
            server.stop()
            assert not gate.is_set() and not made
            with pytest.raises((DrainingError, LinkError)):
                early.result(30)
        (loading,) = [thread for thread in threading.enumerate() if thread.name == "actlink-load-late"]
        gate.set()
        loading.join(30)
        assert [probe.closed for probe in made] == [1]
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_healthz_is_json_with_two_decimals() -> None:
    from actlink.serving import health
    from actlink.serving.statistics import Counters

    page = health.pages(lambda: Counters().statistics(0.0, ()), lambda: True)("/healthz")
    assert page is not None and page.body.endswith(b'"avg_latency_ms":0.00}\n')
    assert json.loads(page.body) == {"status": "ok", "requests": 0, "avg_latency_ms": 0.0}
