"""Whatever peers do in whatever order: every question gets exactly one answer, its own, or its peer is gone."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_world import SPEC, Client, Probe, World, run

from actlink.dialects._base import Bye, Chunks, Done, Failed, Frame, Ping, Pong, Reset
from actlink.serving.config import ServerConfig
from actlink.types import ActionChunk

CLIENTS = 3
MOMENTS = ["ask", "ask", "ask", "bad", "late", "reset", "ping", "leave", "open", "close", "turn"]


class Peer:
    """A client that remembers what it has asked."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.episode = 0
        self.asked: dict[int, tuple[str, int, float]] = {}  # call -> kind, episode, what the answer must say
        self.answered: list[int] = []

    def ask(self, number: float, **more: float) -> None:
        call = self.client.ask({"state": np.array([number, 0], np.float32)}, step=int(number), episode=self.episode, **more)
        self.asked[call] = ("chunks", self.episode, number)

    def say(self, kind: str, number: float) -> None:
        if kind == "ask":
            self.ask(number)
        elif kind == "late":
            self.ask(number, budget_ms=0.0)
        elif kind == "bad":
            self.asked[self.client.ask({}, episode=self.episode)] = ("failed", self.episode, number)
        elif kind == "ping":
            call = self.client.next_call()
            self.asked[call] = ("pong", self.episode, number)
            self.client.say(Ping(number, call))
        else:
            self.episode += 1
            call = self.client.next_call()
            self.asked[call] = ("done", self.episode, number)
            self.client.say(Reset(self.episode, call))

    def listen(self) -> None:
        """Take in what has come, and judge it."""
        frames, self.client.wire.frames = self.client.wire.frames, []
        for frame in frames:
            (reply,) = self.client.dialect.receive(Frame((frame.data,)))
            call = reply.call
            assert call in self.asked and call not in self.answered
            self.answered.append(call)
            kind, episode, number = self.asked[call]
            if isinstance(reply, Chunks):
                (chunk,) = reply.results
                assert isinstance(chunk, ActionChunk)
                assert kind == "chunks"
                assert (chunk.episode, chunk.step, chunk.actions[0, 0]) == (episode, number, number)
                assert episode == self.episode, "a chunk of an earlier episode was delivered"
            elif isinstance(reply, Failed):
                assert reply.error.code in ("spec", "deadline", "superseded", "overloaded") and kind in ("chunks", "failed")
            else:
                assert isinstance(reply, Pong if kind == "pong" else Done)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(0, CLIENTS - 1)), max_size=60))
def test_every_question_gets_its_answer(moments: list[tuple[str, int]]) -> None:
    async def scenario(world: World) -> None:
        peers = [Peer(await world.client()) for _ in range(CLIENTS)]
        for number, (kind, which) in enumerate(moments):
            if kind == "open":
                probe.gate.set()
            elif kind == "close":
                probe.gate.clear()
            elif kind == "turn":
                await asyncio.sleep(0)
            elif kind == "leave":
                peers[which].client.say(Bye())
                await peers[which].client.closed()
                peers[which] = Peer(await world.client())
            else:
                peers[which].say(kind, float(number))
            for peer in peers:
                peer.listen()
        probe.gate.set()
        for peer in peers:
            peer.listen()
            while len(peer.answered) < len(peer.asked):
                await peer.client.news()
                peer.listen()
        assert world.counters.open_calls == 0
        assert world.counters.sessions == CLIENTS

    probe = Probe(SPEC)
    world = run(scenario, probe, config=ServerConfig(warm_up=False, queue_per_session=3))
    assert world.counters.sessions == 0
    assert all(engine.waiting == engine.running == 0 for engine in world.engines.values())
