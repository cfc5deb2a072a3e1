"""One connection to a server, as the client keeps it. Law: blocking; written requests are never written twice.

Knows the opening, reconnection with backoff, episodes, heartbeats while waiting, and the match of replies to requests.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actlink.clock import Clock
from actlink.dialects._base import (
    Bye,
    Chunks,
    ClientDialect,
    Done,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Ping,
    Pong,
    Reply,
    Reset,
    Welcome,
)
from actlink.errors import (
    ActlinkError,
    ConfigError,
    ConnectError,
    DrainingError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    RemoteProtocolError,
)
from actlink.policies._base import Result
from actlink.spec import Spec
from actlink.transports._base import Link
from actlink.transports._wire import Wire
from actlink.types import ActionChunk, Observation, Request


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How patient a client is."""

    connect_timeout_s: float = 10.0
    """Seconds for one attempt to connect and be welcomed."""
    timeout_s: float = 60.0
    """Seconds to wait for the answer to a request; also its budget on the server."""
    reconnect_s: float = 5.0
    """Seconds to keep trying to reach a server that has gone away, before a call fails."""
    backoff_first_s: float = 0.05
    """Pause before the second attempt; doubles from there."""
    backoff_limit_s: float = 2.0
    """Longest pause between two attempts."""


@dataclass(frozen=True, slots=True)
class PingResult:
    """One PING and its PONG."""

    round_trip_ms: float
    clock_offset_ms: float
    """Server's monotonic clock minus ours, assuming both ways take equally long; wrong by at most half the round trip."""


class Call:
    """A request that was written and whose answer is still to be read."""

    __slots__ = ("_episode", "_request", "_session", "_started_s", "number")

    def __init__(self, session: Upstream, request: Request, episode: int, number: int, started_s: float) -> None:
        self._session = session
        self._request = request
        self._episode = episode  # as the server counts
        self._started_s = started_s
        self.number = number

    def result(self) -> Result:
        try:
            reply = self._session.answer(self.number, self._started_s)
        except ActlinkError as error:
            return error
        if isinstance(reply, Failed):
            return reply.error
        if not isinstance(reply, Chunks) or len(reply.results) != 1:
            return RemoteProtocolError(f"expected one chunk, got {type(reply).__name__}")
        (result,) = reply.results
        if isinstance(result, ActlinkError):
            return result
        return self._checked(result, reply.timing)

    def _checked(self, chunk: ActionChunk, server_timing: Mapping[str, float]) -> Result:
        request = self._request
        if (chunk.episode, chunk.step) != (self._episode, request.step):
            return RemoteProtocolError(
                f"asked for a chunk at step {request.step} of episode {self._episode}, got one at step {chunk.step} of episode "
                f"{chunk.episode}"
            )
        try:
            actions = self._session.spec.check_actions(chunk.actions)
        except ActlinkError as error:
            return RemoteProtocolError(f"the server's chunk does not fit its own spec: {error}")
        timing = {**server_timing, **chunk.timing, "round_trip_ms": 1e3 * (self._session.clock.now() - self._started_s)}
        return ActionChunk(actions, request.step, request.episode, request.session, None, timing)


class Upstream:
    """One connection and what must survive it: the server's name for us and the episode."""

    def __init__(
        self, wire: Wire, spec: Spec | None, token: str | None, secured: Mapping[str, Any], config: ClientConfig, clock: Clock
    ) -> None:
        """``secured``: what only some transports are told, for TLS or CURVE."""
        self.clock = clock
        self._secured = secured
        self._wire = wire
        self._given_spec = spec
        self._token = token
        self._config = config
        self._numbers = itertools.count(1)
        self._link: Link | None = None
        self._dialect: ClientDialect | None = None
        self._welcome: Welcome | None = None
        self._resume = ""
        self._waiting: dict[Any, Reply | None] = {}  # call -> its reply, in the order of asking
        self._unheard: set[Any] = set()  # calls whose reply nobody wants
        self._peer_episode: int | None = None  # the caller's episode that the server is in; None = a fresh session
        self._wire_episode = 0  # the same, as the server counts
        self._forgotten: int | None = None  # the caller's episode of which a stateful policy has lost its memory
        self._was_open = False
        self._introduced = False  # on this connection: before its welcome nothing can be asked, not even for a sign of life

    def be(self, config: ClientConfig) -> None:
        """As patient as ``config`` says, from the next call on."""
        self._config = config

    @property
    def spec(self) -> Spec:
        if self._welcome is None:
            raise ConnectError(f"{self._wire.address}: not connected")
        return self._welcome.spec

    @property
    def deterministic(self) -> bool | None:
        """Whether the server runs every request alone; None where it does not tell."""
        return self._welcome.deterministic if self._welcome else None

    # Opening

    def ensure_open(self) -> None:
        """Connect if there is no connection: one attempt the first time, with backoff up to ``reconnect_s`` afterwards."""
        if self._link is None:
            if self._was_open:
                self.reach(self._config.reconnect_s)
            else:
                self.open()

    def reach(self, timeout_s: float) -> None:
        """Connect, trying again while the server is away or draining; the last error after ``timeout_s``."""
        give_up_s = self.clock.now() + timeout_s
        pause_s = self._config.backoff_first_s
        while not self._alive():
            try:
                self.open()
                break
            except (LinkError, DrainingError) as error:
                # Jitter keeps a fleet from knocking in step after a server restart.
                wake_s = self.clock.now() + pause_s * random.uniform(0.5, 1.0)
                if wake_s >= give_up_s:
                    raise ConnectError(f"{self._wire.address}: gave up after {timeout_s:g} s: {error}") from error
                self.clock.wait_until(wake_s)
                pause_s = min(2 * pause_s, self._config.backoff_limit_s)

    def open(self) -> None:
        """One attempt: connect, introduce ourselves, wait for the welcome."""
        self._drop()
        self._introduced = False
        wire = self._wire
        self._link = wire.transport.connect(
            wire.address, wire.transport_config, token=self._token, timeout_s=self._config.connect_timeout_s, **self._secured
        )
        self._dialect = wire.dialect.Client(wire.dialect_config)
        try:
            self._introduce()
        except BaseException:
            self._drop()
            raise
        self._was_open = self._introduced = True

    def _introduce(self) -> None:
        assert self._dialect is not None
        if self._given_spec is None and self._dialect.announces_spec is False:
            raise ConfigError(f"{self._wire.address}: this wire announces no spec; give one (--spec FILE or --like POLICY)")
        self._dialect.prepare(self._given_spec)
        number = next(self._numbers)
        hello = Hello(token=self._token, model=self._wire.address.model, resume=self._resume, call=number)
        said = self._write([hello])
        if self._dialect.handshake or said:
            self._waiting.setdefault(number)  # where the server speaks first, its greeting is the answer
            reply = self._await(number, self.clock.now() + self._config.connect_timeout_s, "a welcome")
        else:
            reply = Welcome(session="", spec=self._given_spec or Spec())
        if isinstance(reply, Failed):
            raise reply.error
        if not isinstance(reply, Welcome):
            raise RemoteProtocolError(f"{self._wire.address}: expected a welcome, got {type(reply).__name__}")
        # A server that names no session knows none from before.
        if not reply.session or (reply.session, reply.episode) != (self._resume, self._wire_episode):
            self._forgotten = self._peer_episode if reply.spec.stateful else None
            self._peer_episode = None
        self._welcome, self._resume, self._wire_episode = reply, reply.session, reply.episode

    # Asking

    def ask(self, request: Request, observation: Observation) -> Call:
        """Write the request with ``observation``, after the reset its episode may need; the answer is read later."""
        started_s = self.clock.now()
        if self._forgotten is not None and self._forgotten == request.episode:
            raise LinkClosedError(
                f"{self._wire.address}: the server has lost its memory of episode {request.episode}; reset to begin a new one"
            )
        events: list[Event] = []
        if self._peer_episode is None:
            self._peer_episode = request.episode  # a fresh session has nothing to forget
        elif request.episode != self._peer_episode and self._renewed():
            self.ensure_open()
            self._peer_episode = request.episode
        elif request.episode != self._peer_episode:
            events.append(self._next_episode(request.episode))
        number = next(self._numbers)
        lane = Lane(observation, request.step, request.prefix, request.inference_delay)
        events.append(Infer((lane,), self._wire_episode, 1e3 * self._config.timeout_s, number))
        self._write(events)
        return Call(self, request, self._wire_episode, number, started_s)

    def answer(self, number: int, started_s: float) -> Reply:
        """The reply to ``number``; a reply that does not come in time costs the connection, so that it cannot come late."""
        try:
            return self._await(number, started_s + self._config.timeout_s, "an answer")
        except ActlinkError:
            self._drop()
            raise

    def reset(self, episode: int) -> None:
        if self._link is None:
            return  # the next request tells the server, which may still know us
        if self._renewed():
            return
        reset = self._next_episode(episode)
        if not self._write([reset]):
            return  # the wire has no word for it
        self._unheard.discard(reset.call)
        reply = self.answer(reset.call, self.clock.now())
        if isinstance(reply, Failed):
            raise reply.error
        if not isinstance(reply, Done):
            raise RemoteProtocolError(f"expected the end of a reset, got {type(reply).__name__}")

    def ping(self) -> PingResult:
        self.ensure_open()
        number = next(self._numbers)
        sent_s = self.clock.now()
        if not self._write([Ping(sent_s, number)]):
            raise ConfigError(f"{self._wire.address}: the {self._wire.address.dialect} wire has no ping")
        reply = self.answer(number, sent_s)
        received_s = self.clock.now()
        if not isinstance(reply, Pong):
            raise RemoteProtocolError(f"expected a pong, got {type(reply).__name__}")
        offset_s = ((reply.received_s - sent_s) + (reply.now_s - received_s)) / 2
        return PingResult(1e3 * (received_s - sent_s - (reply.now_s - reply.received_s)), 1e3 * offset_s)

    def close(self) -> None:
        link, dialect = self._link, self._dialect
        if link is not None and dialect is not None:
            with contextlib.suppress(ActlinkError):  # it is going away anyway
                link.send(dialect.send(Bye()), 1.0)
        self._drop()

    def _renewed(self) -> bool:
        """Let go of the connection where only that ends an episode; the next request opens another."""
        if self._dialect is None or not self._dialect.reset_reconnects:
            return False
        self._drop()
        self._peer_episode, self._resume, self._wire_episode = None, "", 0
        return True

    def _next_episode(self, episode: int) -> Reset:
        self._wire_episode += 1
        self._peer_episode = episode
        reset = Reset(self._wire_episode, next(self._numbers))
        self._unheard.add(reset.call)
        return reset

    def _alive(self) -> bool:
        if self._link is None:
            return False
        try:
            self.ping()
        except ConfigError:
            return True  # a wire without ping: the next request will tell
        except ActlinkError:
            return False
        return True

    # Frames

    def _write(self, events: Sequence[Event]) -> bool:
        """Write what the wire has words for, and expect a reply to each; False if it has none."""
        if self._link is None or self._dialect is None:
            raise LinkClosedError(f"{self._wire.address}: the connection was lost")
        frames: list[Frame] = []
        for event in events:
            written = self._dialect.send(event)
            frames += written
            if written:
                self._waiting[getattr(event, "call", None)] = None
        try:
            self._link.send(frames, self._config.timeout_s)
        except LinkError:
            self._drop()
            raise
        return bool(frames)

    def _await(self, number: int, deadline_s: float, what: str) -> Reply:
        """Read until the reply to ``number`` is there; a peer silent for two heartbeats counts as dead before ``deadline_s``."""
        asked_alive = None
        heard_s = self.clock.now()
        while (reply := self._waiting.get(number)) is None:
            now_s = self.clock.now()
            heartbeat_s = self._welcome.heartbeat_s if self._welcome and self._introduced else 0.0
            if now_s >= deadline_s:
                raise LinkTimeoutError(f"{self._wire.address}: no answer in time; expected {what}")
            if heartbeat_s and now_s - heard_s >= 2 * heartbeat_s:
                raise LinkTimeoutError(f"{self._wire.address}: no sign of life for {now_s - heard_s:.1f} s; expected {what}")
            if heartbeat_s and now_s - heard_s >= heartbeat_s and asked_alive is None:
                asked_alive = next(self._numbers)
                self._unheard.add(asked_alive)
                self._write([Ping(now_s, asked_alive)])
            next_look_s = min(deadline_s, heard_s + heartbeat_s * (1 if asked_alive is None else 2)) if heartbeat_s else deadline_s
            if self._read(max(0.0, next_look_s - now_s)):
                heard_s, asked_alive = self.clock.now(), None
        del self._waiting[number]
        return reply

    def _read(self, timeout_s: float) -> bool:
        """Take in one frame; False if none came in time."""
        link, dialect = self._link, self._dialect
        if link is None or dialect is None:
            raise LinkClosedError(f"{self._wire.address}: the connection was lost")
        try:
            frame = link.receive(timeout_s)
        except LinkTimeoutError:
            return False
        for reply in dialect.receive(frame):
            if isinstance(reply, Failed) and reply.call is None and dialect.numbered:
                raise reply.error
            self._file(reply, reply.call if dialect.numbered else self._oldest())
        return True

    def _oldest(self) -> Any:
        """The call that the next reply of a wire without call numbers answers."""
        return next((call for call, reply in self._waiting.items() if reply is None), None)

    def _file(self, reply: Reply, call: Any) -> None:
        if call in self._unheard:
            self._unheard.discard(call)
            self._waiting.pop(call, None)
        elif call in self._waiting:  # others answer calls that nobody waits for any more
            self._waiting[call] = reply

    def _drop(self) -> None:
        link, self._link = self._link, None
        self._dialect = None
        self._waiting.clear()
        self._unheard.clear()
        if link is not None:
            link.close()
