"""What one peer may say, and what it is told."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving_world import SPEC, Client, Probe, Wire, World, run, state

from actlink.dialects._base import (
    Bye,
    Chunks,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Poll,
    Reply,
    Reset,
    ServerDialect,
    Welcome,
)
from actlink.errors import (
    DrainingError,
    InternalError,
    RemoteProtocolError,
    SpecError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.serving.config import ServerConfig
from actlink.serving.peer import Peer

QUIET = ServerConfig(warm_up=False)


class TestHello:
    def test_the_welcome_carries_the_spec_and_the_limits(self) -> None:
        async def scenario(world: World) -> None:
            welcome = await Client(world).hello()
            assert welcome.spec == SPEC
            assert welcome.limits == {"max_frame_bytes": 1 << 26}
            assert welcome.heartbeat_s == QUIET.heartbeat_s
            assert welcome.server.startswith("actlink ")
            assert len(welcome.session) >= 16

        run(scenario, Probe())

    def test_nothing_comes_before_it(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines(handshake=True))
            client.peer.received(line(["infer", 1, 0]))
            assert "expected a hello first" in await client.closed()
            assert "state" not in str(client.wire.frames)

        run(scenario, probe := Probe())
        assert probe.batches == []

    def test_a_second_one_is_an_error(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines(handshake=True))
            client.peer.received(line(["hello"]))
            client.peer.received(line(["hello"]))
            assert "expected one hello, got a second" in await client.closed()

        run(scenario, Probe())

    def test_who_does_not_say_it_in_time_is_turned_away(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, handshake_s=0.001)
            assert "expected a hello within 0.001 s" in await client.closed()

        run(scenario, Probe())

    def test_a_welcome_peer_may_be_silent(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, handshake_s=0.01)
            await client.hello()
            impatient = Client(world, handshake_s=0.02)  # by its end the first one's time would be over, too
            await impatient.closed()
            assert client.wire.reason is None
            assert isinstance(await client.infer(), Chunks)

        run(scenario, Probe())

    def test_whoever_has_said_it_may_wait_as_long_as_a_model_takes_to_load(self) -> None:
        gate, entered = threading.Event(), threading.Event()

        def make() -> Probe:
            entered.set()
            assert gate.wait(30)
            return Probe()

        async def scenario(world: World) -> None:
            client = Client(world, handshake_s=0.01)
            client.say(Hello(model="second", call=1))
            assert await asyncio.to_thread(entered.wait, 30)
            await Client(world, handshake_s=0.02).closed()  # by its end the first one's time would be over, too
            gate.set()
            assert isinstance(await client.reply(), Welcome)

        run(scenario, Probe(), make)


class TestModels:
    def test_the_hello_names_one_else_the_connection_else_the_first(self) -> None:
        async def scenario(world: World) -> None:
            assert (await Client(world).hello()).spec.name == "probe"
            assert (await Client(world).hello(model="second")).spec.name == "other"
            assert (await Client(world, model="second").hello()).spec.name == "other"
            assert (await Client(world, listener_model="second").hello()).spec.name == "other"
            assert (await Client(world, model="second").hello(model="first")).spec.name == "probe"

        run(scenario, Probe(), Probe(replace(SPEC, name="other")))

    def test_an_unknown_one_is_refused_without_a_list(self) -> None:
        async def scenario(world: World) -> None:
            error = await Client(world).refused(model="third")
            assert isinstance(error, UnknownModelError)
            assert "third" in str(error) and "second" not in str(error)

        run(scenario, Probe(), Probe())


class TestTokens:
    TOKENS = ("correct horse", "battery staple")

    def test_one_of_them_is_enough_in_the_hello_or_from_the_connection(self) -> None:
        async def scenario(world: World) -> None:
            for token in self.TOKENS:
                await Client(world).hello(token=token)
                await Client(world, token=token).hello()

        run(scenario, Probe(), tokens=self.TOKENS)

    def test_none_or_a_wrong_one_is_refused_and_never_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(world: World) -> None:
            for token in (None, "", "wrong guess", "correct hors", "pässe"):
                assert isinstance(await Client(world).refused(token=token), UnauthorizedError)
            assert isinstance(await Client(world, token="wrong guess").refused(), UnauthorizedError)
            await Client(world).hello(token=self.TOKENS[0])

        with caplog.at_level(logging.DEBUG):
            run(scenario, probe := Probe(), tokens=self.TOKENS)
        assert probe.batches == []
        assert "turned away" in caplog.text
        assert not any(secret in caplog.text for secret in (*self.TOKENS, "wrong guess"))

    def test_an_unknown_model_tells_nothing_to_who_has_no_token(self) -> None:
        async def scenario(world: World) -> None:
            assert isinstance(await Client(world).refused(model="third"), UnauthorizedError)

        run(scenario, Probe(), tokens=self.TOKENS)


class TestObservations:
    @pytest.mark.parametrize(
        ("observation", "message"),
        [
            ({"images.top": np.zeros((4, 4, 3), np.uint8)}, "observation['state']: missing; expected float32 (2,)"),
            ({"state": state(1, 2, 3)}, "observation['state']: expected shape (2,), got (3,)"),
            ({"state": np.zeros(2, np.complex64)}, "observation['state']: expected float32 (2,), got complex64"),
            ({"state": state(1, np.nan)}, "observation['state'][1]: expected finite float32 values, got nan"),
            ({"state": state(), "images.top": np.zeros((4, 4, 3), np.float32)}, "observation['images.top']: expected uint8"),
            (
                {"state": state(), "images.top": np.zeros((4, 5, 3), np.uint8)},
                "observation['images.top']: expected shape (4, 4, 3)",
            ),
            ({"state": state(), "prompt": state()}, "observation['prompt']: expected a string"),
            ({"state": "no"}, "observation['state']: expected float32 (2,), got a str"),
        ],
    )
    def test_what_does_not_fit_is_named_and_the_session_goes_on(self, observation: Any, message: str) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            if any(getattr(value, "dtype", None) == np.complex64 for value in observation.values()):
                # No wire of ours can say it; others might.
                client.peer._handle(Infer((Lane(observation, 0),), 0, None, 1), 0.0, 0.0)
            else:
                client.ask(observation)
            reply = await client.reply()
            assert isinstance(reply, Failed) and not reply.fatal
            assert isinstance(reply.error, SpecError) and message in str(reply.error)
            assert isinstance(await client.infer(), Chunks)

        probe = Probe()
        assert run(scenario, probe).counters.errors == {"spec": 1}
        assert len(probe.batches) == 1

    def test_unknown_keys_are_ignored_counted_and_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            for _ in range(3):
                assert isinstance(await client.infer({"state": state(), "velocity": state(), "images.wrist": state()}), Chunks)
            assert world.counters.unknown_keys == 6

        run(scenario, probe := Probe())
        assert set(probe.batches[0][0].observation) == {"state"}
        noted = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
        assert noted == ["test:1: sends what the policy does not know, ignored: images.wrist, velocity"]


class TestBadBytes:
    def test_garbage_closes_this_connection_with_a_reason_and_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(world: World) -> None:
            bad, good = await world.client(), await world.client()
            bad.peer.received(Frame((b"GET / HTTP/1.1\r\n",)))
            reply = await bad.reply()
            assert isinstance(reply, Failed) and reply.fatal and isinstance(reply.error, RemoteProtocolError)
            await bad.closed()
            bad.peer.received(Frame((b"more of it",)))
            assert bad.wire.frames == []
            assert isinstance(await good.infer(), Chunks)

        run(scenario, Probe())
        assert len([record for record in caplog.records if "test:1: turned away" in record.getMessage()]) == 1

    def test_open_requests_of_such_a_peer_are_dropped(self) -> None:
        async def scenario(world: World) -> None:
            client, other = await world.client(), await world.client()
            probe.gate.clear()
            other.ask()
            await probe.busy()
            client.ask({"state": state(13, 13)})
            client.peer.received(Frame((b"\xc1",)))
            assert world.counters.open_calls == 1
            probe.gate.set()
            await other.reply()

        run(scenario, probe := Probe())
        assert len(probe.batches) == 1


class Lines(ServerDialect):
    """JSON lines without call numbers: [kind, ...]. Breaks on demand."""

    transports = ()

    def __init__(self, *, handshake: bool = False, newest_wins: bool = False) -> None:
        self.handshake = handshake  # type: ignore[misc]
        self.newest_wins = newest_wins  # type: ignore[misc]
        self.broken: set[type] = set()

    def receive(self, frame: Frame) -> list[Event]:
        kind, *rest = json.loads(bytes(frame.data))
        if kind == "hello":
            from actlink.dialects._base import Hello

            return [Hello()]
        if kind == "bug":
            raise KeyError("a bug in the dialect")
        if kind == "poll":
            return [Poll(0.0, Frame((b"",)))]
        if kind == "reset":
            return [Reset()]
        if kind == "bye":
            return [Bye()]
        return [Infer((Lane({"state": np.array(rest, np.float32)}),))]

    def send(self, reply: Reply) -> list[Frame]:
        if type(reply) in self.broken:
            raise KeyError("a bug in the dialect")
        if isinstance(reply, Chunks):
            return [line([[chunk.step, float(chunk.actions[0, 0])] for chunk in reply.results])]  # type: ignore[union-attr]
        if isinstance(reply, Failed):
            return [line([reply.error.code])]
        return []


def line(value: object) -> Frame:
    return Frame((json.dumps(value).encode(),))


def said(client: Client) -> list[Any]:
    """Everything the peer has been sent so far."""
    return [json.loads(bytes(frame.data)) for frame in client.wire.frames]


async def answers(client: Client, count: int) -> list[Any]:
    while len(client.wire.frames) < count:
        client.wire.news.clear()
        await asyncio.wait_for(client.wire.news.wait(), 30)
    return said(client)


class TestWiresWithoutHandshakeOrNumbers:
    def test_they_are_welcome_at_once_and_the_session_counts_steps_and_episodes(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            for _ in range(2):
                client.peer.received(line(["infer", 1, 0]))
            client.peer.received(line(["reset"]))
            client.peer.received(line(["infer", 2, 0]))
            # The reset overtakes: what was asked before it is not answered with a chunk any more.
            assert await answers(client, 3) == [["superseded"], ["superseded"], [[0, 2.0]]]

        run(scenario, Probe())

    def test_answers_keep_their_order_even_if_one_is_known_earlier(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            probe.gate.clear()
            client.peer.received(line(["infer", 1, 0]))
            client.peer.received(line(["infer", 1, 2, 3]))
            client.peer.received(line(["infer", 3, 0]))
            assert said(client) == []
            probe.gate.set()
            assert await answers(client, 3) == [[[0, 1.0]], ["spec"], [[2, 3.0]]]

        run(scenario, probe := Probe())

    def test_the_newest_observation_wins_where_the_wire_says_so(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines(newest_wins=True))
            probe.gate.clear()
            for value in range(4):
                client.peer.received(line(["infer", value, 0]))
                if value == 0:
                    await probe.busy()
            probe.gate.set()
            assert await answers(client, 4) == [[[0, 0.0]], ["superseded"], ["superseded"], [[3, 3.0]]]

        run(scenario, probe := Probe())

    def test_without_a_token_they_are_turned_away_at_the_door(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            assert "asks for a token" in await client.closed()
            assert said(client) == [["unauthorized"]]
            assert Client(world, dialect=Lines(), token="secret").wire.reason is None

        run(scenario, Probe(), tokens=["secret"])

    def test_their_sessions_end_with_the_connection(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            client.peer.closed("gone")
            assert world.counters.sessions == 0

        run(scenario, probe := Probe())
        assert len(probe.forgotten) == 1


class TestOurBugs:
    def test_one_in_reading_closes_the_connection_with_a_word_and_a_traceback_in_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            client.peer.received(line(["bug"]))
            assert "the server failed while reading a frame" in await client.closed()
            assert said(client) == [["internal"]]

        run(scenario, Probe())
        (record,) = [record for record in caplog.records if record.exc_info]
        assert "a bug in the dialect" in str(record.exc_info)

    def test_one_in_writing_is_told_instead_of_the_answer(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=(dialect := Lines()))
            dialect.broken = {Chunks}
            client.peer.received(line(["infer", 1, 0]))
            assert await answers(client, 1) == [["internal"]]
            dialect.broken = {Chunks, Failed}
            client.peer.received(line(["infer", 1, 0]))
            assert "the server failed" in await client.closed()

        assert run(scenario, Probe()).counters.errors["internal"] >= 2

    def test_a_welcome_that_cannot_be_written_closes_the_connection(self) -> None:
        async def scenario(world: World) -> None:
            dialect = Lines()
            dialect.broken = {Welcome}
            assert "the server failed" in await Client(world, dialect=dialect).closed()

        run(scenario, Probe())

    def test_one_in_the_session_is_told_and_the_session_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            with monkeypatch.context() as patch:
                patch.setattr(Peer, "_infer", lambda *arguments: {}["no such key"])
                client.ask()
            reply = await client.reply()
            assert isinstance(reply, Failed) and isinstance(reply.error, InternalError) and not reply.fatal
            assert isinstance(await client.infer(), Chunks)

        run(scenario, Probe())

    def test_an_event_that_no_session_knows(self) -> None:
        async def scenario(world: World) -> None:
            client = Client(world, dialect=Lines())
            client.peer.received(line(["poll"]))
            assert said(client) == [["local_protocol"]]

        run(scenario, Probe())


class TestDraining:
    def test_new_work_and_new_peers_are_refused_and_the_rest_is_answered(self) -> None:
        async def scenario(world: World) -> None:
            client, late = await world.client(), Client(world)
            probe.gate.clear()
            accepted = client.ask()
            await probe.busy()
            world.host.draining = True
            refused = client.ask()
            reply = await client.reply()
            assert isinstance(reply, Failed) and reply.call == refused and isinstance(reply.error, DrainingError)
            assert not reply.fatal
            assert isinstance(await late.refused(), DrainingError)
            probe.gate.set()
            reply = await client.reply()
            assert isinstance(reply, Chunks) and reply.call == accepted

        run(scenario, probe := Probe())

    def test_goodbye_answers_what_is_open(self) -> None:
        async def scenario(world: World) -> None:
            client = await world.client()
            probe.gate.clear()
            client.ask()
            await probe.busy()
            client.peer.goodbye()
            reply = await client.reply()
            assert isinstance(reply, Failed) and isinstance(reply.error, DrainingError)
            assert await client.closed() == "the server is shutting down"
            assert world.counters.open_calls == 0

        run(scenario, probe := Probe())


class Episodes(Probe):
    """Remembers how often it was asked, and answers with that."""

    def __init__(self) -> None:
        super().__init__(replace(SPEC, stateful=True), self.count)

    def count(self, requests: Sequence[Any]) -> Sequence[Any]:
        from actlink.policies._base import answer

        return [answer(one, np.full((1, 2), (one.memory or 0) + 1, np.float32), (one.memory or 0) + 1) for one in requests]


async def counted(client: Client, episode: int = 0) -> int:
    reply = await client.infer(episode=episode)
    assert isinstance(reply, Chunks), reply
    (chunk,) = reply.results
    return int(chunk.actions[0, 0])  # type: ignore[union-attr]


class TestResume:
    def test_a_broken_connection_does_not_end_the_session(self) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            first.peer.closed("reset by peer")
            again = Client(world)
            welcome = await again.hello(resume=first.session)
            assert (welcome.session, welcome.episode) == (first.session, 1)
            assert await counted(again, 1) == 3
            assert world.counters.sessions == 1

        run(scenario, Episodes())

    def test_it_is_taken_over_from_a_connection_that_is_only_half_dead(self) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            again = Client(world)
            assert (await again.hello(resume=first.session)).session == first.session
            assert first.wire.reason == "another connection continues this session"
            first.peer.closed("at last")
            assert await counted(again, 1) == 3
            assert world.counters.sessions == 1

        run(scenario, Episodes())

    @pytest.mark.parametrize("config", [replace(QUIET, resume_s=0.0), replace(QUIET, resume_sessions=0)])
    def test_not_where_that_is_off(self, config: ServerConfig) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            first.peer.closed("reset by peer")
            assert (await Client(world).hello(resume=first.session)).session != first.session

        run(scenario, probe := Episodes(), config=config)
        assert probe.forgotten

    def test_not_after_a_bye(self) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            first.say(Bye())
            await first.closed()
            assert (await Client(world).hello(resume=first.session)).session != first.session

        run(scenario, Episodes())

    def test_not_by_guessing(self) -> None:
        async def scenario(world: World) -> None:
            for guess in ("", "1", "../etc", "f" * 32):
                welcome = await Client(world).hello(resume=guess)
                assert welcome.session != guess and welcome.episode == 0

        run(scenario, Episodes())

    def test_not_with_another_model(self) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            first.peer.closed("reset by peer")
            assert (await Client(world).hello(resume=first.session, model="second")).session != first.session
            assert (await Client(world).hello(resume=first.session)).session == first.session

        run(scenario, Episodes(), Episodes())

    def test_only_so_many_are_kept(self) -> None:
        async def scenario(world: World) -> None:
            first, second = await self.played(world), await self.played(world)
            first.peer.closed("")
            second.peer.closed("")
            assert (await Client(world).hello(resume=first.session)).session != first.session
            assert (await Client(world).hello(resume=second.session)).session == second.session

        run(scenario, Episodes(), config=replace(QUIET, resume_sessions=1))

    def test_only_so_long(self) -> None:
        async def scenario(world: World) -> None:
            first = await self.played(world)
            first.peer.closed("")
            await Client(world, handshake_s=0.01).closed()  # ten times as long
            assert (await Client(world).hello(resume=first.session)).session != first.session

        run(scenario, probe := Episodes(), config=replace(QUIET, resume_s=0.001))
        assert probe.forgotten

    async def played(self, world: World) -> Client:
        """A client in episode 1, after two requests; its session id is at hand."""
        client = Client(world)
        client.session = (await client.hello()).session  # type: ignore[attr-defined]
        client.say(Reset(1, 99))
        await client.reply()
        assert [await counted(client, 1), await counted(client, 1)] == [1, 2]
        return client


def test_a_connection_that_is_closed_is_not_written_to() -> None:
    async def scenario(world: World) -> None:
        client = await world.client()
        client.peer.closed("gone")
        client.peer.received(Frame((b"late",)))
        assert isinstance(client.wire, Wire) and client.wire.frames == []

    run(scenario, Probe())
