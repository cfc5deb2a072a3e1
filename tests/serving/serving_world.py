"""A server's inside without sockets: real engines, peers and native dialect; the connection is a list of frames."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from actlink.dialects import native
from actlink.dialects._base import Event, Failed, Frame, Hello, Infer, Lane, Reply, ServerDialect, Welcome
from actlink.errors import ActlinkError
from actlink.policies._base import Policy, Result, answer
from actlink.serving.access import Access
from actlink.serving.config import ServerConfig
from actlink.serving.models import Make, Models
from actlink.serving.peer import Peer
from actlink.serving.session import Host
from actlink.serving.statistics import Counters
from actlink.spec import Field, Spec
from actlink.transports._base import Connection
from actlink.types import Request

SPEC = Spec(
    observation={"state": Field((2,)), "images.top": Field((4, 4, 3), "uint8", required=False), "prompt": Field((), "str", False)},
    action=Field((2,)),
    action_horizon=3,
    max_batch_size=8,
    name="probe",
)


def state(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values or (1.0, 2.0), np.float32)


class Probe(Policy):
    """Answers with the state repeated; records what it is asked and does what a test wants it to."""

    def __init__(self, spec: Spec = SPEC, act: Callable[[Sequence[Request]], Sequence[Result]] | None = None) -> None:
        self.spec = spec
        self.batches: list[list[Request]] = []
        self.forgotten: list[str] = []
        self.closed = 0
        self.threads: set[str] = set()
        self.act = act or self.repeat
        self.gate = threading.Event()
        """Closed (``clear``), ``infer`` waits in it."""
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(requests))
        self.entered.release()
        assert self.gate.wait(30)
        return self.act(requests)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1

    def repeat(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [answer(request, np.tile(np.asarray(request.observation["state"]), (3, 1))) for request in requests]

    async def busy(self) -> None:
        """Return when ``infer`` has been entered once more."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


class Wire(Connection):
    """What a peer is sent."""

    def __init__(self, token: str | None = None, model: str = "") -> None:
        self.peer = "test:1"
        self.token = token
        self.model = model
        self.frames: list[Frame] = []
        self.reason: str | None = None
        self.error = False
        self.news = asyncio.Event()

    def send(self, frames: Sequence[Frame]) -> None:
        if self.reason is None:
            self.frames += frames
            self.news.set()

    def close(self, reason: str = "", *, error: bool = False) -> None:
        if self.reason is None:
            self.reason, self.error = reason, error
            self.news.set()


class Client:
    """The other end of a ``Peer``."""

    def __init__(self, world: World, dialect: ServerDialect | None = None, **wire: Any) -> None:
        handshake_s = wire.pop("handshake_s", 30.0)
        model = wire.pop("listener_model", "")
        self.wire = Wire(**wire)
        self.dialect = native.Client(native.Config())
        limits = {"max_frame_bytes": 1 << 26}
        server = dialect or native.Server(native.Config())
        self.peer = Peer(world.host, server, self.wire, model=model, limits=limits, handshake_s=handshake_s)
        self.calls = 0

    def say(self, event: Event) -> None:
        for frame in self.dialect.send(event):
            self.peer.received(Frame((frame.data,)))

    async def reply(self) -> Reply:
        """The next reply; fails if the connection was closed without one."""
        while not self.wire.frames:
            assert self.wire.reason is None, f"closed: {self.wire.reason}"
            await self.news()
        (reply,) = self.dialect.receive(Frame((self.wire.frames.pop(0).data,)))
        return reply

    async def closed(self) -> str:
        """Why the server closed the connection; then the transport says that it is closed."""
        while self.wire.reason is None:
            await self.news()
        self.peer.closed("")
        return self.wire.reason

    async def hello(self, **fields: Any) -> Welcome:
        self.say(Hello(call=self.next_call(), **fields))
        reply = await self.reply()
        assert isinstance(reply, Welcome), reply
        return reply

    async def refused(self, **fields: Any) -> ActlinkError:
        """The error that a hello is answered with; the connection is closed then."""
        self.say(Hello(call=self.next_call(), **fields))
        reply = await self.reply()
        assert isinstance(reply, Failed) and reply.fatal, reply
        await self.closed()
        return reply.error

    def ask(self, observation: Mapping[str, Any] | None = None, *, step: int = 0, episode: int = 0, **more: Any) -> int:
        """Write a request without waiting; gives its number."""
        budget_ms = more.pop("budget_ms", None)
        lane = Lane({"state": state()} if observation is None else observation, step, **more)
        return self.ask_lanes([lane], episode=episode, budget_ms=budget_ms)

    def ask_lanes(self, lanes: Sequence[Lane], *, episode: int = 0, budget_ms: float | None = None) -> int:
        call = self.next_call()
        self.say(Infer(tuple(lanes), episode, budget_ms, call))
        return call

    async def infer(self, observation: Mapping[str, Any] | None = None, **more: Any) -> Reply:
        self.ask(observation, **more)
        return await self.reply()

    async def news(self) -> None:
        """Return when the server has sent something from now on, or closed the connection."""
        self.wire.news.clear()
        await asyncio.wait_for(self.wire.news.wait(), 30)

    def next_call(self) -> int:
        self.calls += 1
        return self.calls


class World:
    """Engines and what their peers share."""

    def __init__(self, models: Mapping[str, Policy | Make], config: ServerConfig, tokens: Sequence[str]) -> None:
        self.counters = Counters()
        self.config = config
        self.models = Models(models, config, self.counters)
        self.engines = {name: self.models.engines_of(name).engines[0] for name in models if self.models.welcomes(name)}
        self.host = Host(self.models, config, self.counters, Access(tokens, config.allow, config.insecure))

    async def client(self, **wire: Any) -> Client:
        """A client that has been welcomed."""
        client = Client(self, **wire)
        await client.hello()
        return client


def run(
    scenario: Callable[[World], Coroutine[Any, Any, None]],
    *policies: Policy | Make,
    config: ServerConfig = ServerConfig(warm_up=False),  # noqa: B008 - frozen
    tokens: Sequence[str] = (),
) -> World:
    """Run ``scenario`` against engines for ``policies`` (models ``first``, ``second``; a function makes its own on demand)."""

    async def body() -> World:
        world = World(dict(zip(("first", "second"), policies, strict=False)), config, tokens)
        for engine in world.engines.values():
            engine.start()
            await engine.warm_up()
        try:
            await scenario(world)
        finally:
            for policy in policies:
                if isinstance(policy, Probe):
                    policy.gate.set()
            for guest in list(world.host.guests):
                guest.goodbye()
            world.host.close()
            for engine in world.models.engines:
                await engine.close(30)
        return world

    return asyncio.run(body())
