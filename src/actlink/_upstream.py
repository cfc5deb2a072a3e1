"""What outlives a client's connections: the server's name for us, the episode. Law: blocking; questions are never written twice.

Knows the opening, reconnection with backoff and episodes; ``_exchange`` is what happens over one connection.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actlink._exchange import Exchange
from actlink.clock import Clock
from actlink.dialects._base import Chunks, Done, Event, Failed, Hello, Infer, Lane, Ping, Pong, Reply, Reset, Welcome
from actlink.errors import (
    ActlinkError,
    ConfigError,
    ConnectError,
    DrainingError,
    LinkClosedError,
    LinkError,
    LocalProtocolError,
    RemoteProtocolError,
)
from actlink.policies._base import Result
from actlink.spec import Spec
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

    __slots__ = ("_episode", "_exchange", "_number", "_request", "_session", "_started_s")

    def __init__(
        self, session: Upstream, exchange: Exchange, request: Request, episode: int, number: int, started_s: float
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._request = request
        self._episode = episode  # as the server counts
        self._number = number
        self._started_s = started_s

    def result(self) -> Result:
        try:
            reply = self._session.answer(self._exchange, self._number, self._started_s)
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
    """One session with a server, over one connection at a time; ``close`` may be called from any thread."""

    def __init__(
        self, wire: Wire, spec: Spec | None, token: str | None, secured: Mapping[str, Any], config: ClientConfig, clock: Clock
    ) -> None:
        """``secured``: what only some transports are told, for TLS or CURVE."""
        self.clock = clock
        self._secured = secured
        self._wire = wire
        self._where = str(wire.address)
        self._given_spec = spec
        self._token = token
        self._config = config
        self._numbers = itertools.count(1)
        self._exchange: Exchange | None = None
        self._welcome: Welcome | None = None
        self._resume = ""
        self._peer_episode: int | None = None  # the caller's episode that the server is in; None = a fresh session
        self._wire_episode = 0  # the same, as the server counts
        self._forgotten: int | None = None  # the caller's episode of which a stateful policy has lost its memory
        self._was_open = False
        self._closed = False

    def be(self, config: ClientConfig) -> None:
        """As patient as ``config`` says, from the next call on."""
        self._config = config

    @property
    def spec(self) -> Spec:
        if self._welcome is None:
            raise ConnectError(f"{self._where}: not connected")
        return self._welcome.spec

    @property
    def deterministic(self) -> bool | None:
        """Whether the server runs every request alone; None where it does not tell."""
        return self._welcome.deterministic if self._welcome else None

    # Opening

    def ensure_open(self) -> Exchange:
        """Connect if there is no connection: one attempt the first time, with backoff up to ``reconnect_s`` afterwards."""
        if (standing := self._standing()) is not None:
            return standing
        return self.reach(self._config.reconnect_s) if self._was_open else self.open()

    def reach(self, timeout_s: float) -> Exchange:
        """Connect, trying again while the server is away or draining; the last error after ``timeout_s``."""
        give_up_s = self.clock.now() + timeout_s
        pause_s = self._config.backoff_first_s
        while (standing := self._alive()) is None:
            try:
                return self.open()
            except (LinkError, DrainingError) as error:
                self._stay_closed()
                # Jitter keeps a fleet from knocking in step after a server restart.
                wake_s = self.clock.now() + pause_s * random.uniform(0.5, 1.0)
                if wake_s >= give_up_s:
                    raise ConnectError(f"{self._where}: gave up after {timeout_s:g} s: {error}") from error
                self.clock.wait_until(wake_s)
                pause_s = min(2 * pause_s, self._config.backoff_limit_s)
        return standing

    def open(self) -> Exchange:
        """One attempt: connect, introduce ourselves, wait for the welcome."""
        self._drop()
        self._stay_closed()
        wire = self._wire
        dialect = wire.dialect.Client(wire.dialect_config)
        link = wire.transport.connect(
            wire.address, wire.transport_config, token=self._token, timeout_s=self._config.connect_timeout_s, **self._secured
        )
        self._exchange = exchange = Exchange(link, dialect, self._where, self.clock, self._numbers)
        try:
            self._stay_closed()  # another thread may have closed us while this one was connecting
            self._introduce(exchange)
        except BaseException:
            exchange.close()
            raise
        self._was_open = True
        return exchange

    def _introduce(self, exchange: Exchange) -> None:
        dialect = exchange.dialect
        if self._given_spec is None and dialect.announces_spec is False:
            raise ConfigError(f"{self._where}: this wire announces no spec; give one (--spec FILE or --like POLICY)")
        dialect.prepare(self._given_spec)
        number = next(self._numbers)
        hello = Hello(token=self._token, model=self._wire.address.model, resume=self._resume, call=number)
        said = exchange.write([hello], self._config.timeout_s, number)
        if dialect.handshake or said:
            reply = exchange.await_greeting(number, self.clock.now() + self._config.connect_timeout_s, "a welcome")
        else:
            reply = Welcome(session="", spec=self._given_spec or Spec())
        if isinstance(reply, Failed):
            raise reply.error
        if not isinstance(reply, Welcome):
            raise RemoteProtocolError(f"{self._where}: expected a welcome, got {type(reply).__name__}")
        # A server that names no session knows none from before.
        if not reply.session or (reply.session, reply.episode) != (self._resume, self._wire_episode):
            self._forgotten = self._peer_episode if reply.spec.stateful else None
            self._peer_episode = None
        self._welcome, self._resume, self._wire_episode = reply, reply.session, reply.episode
        exchange.heartbeat_s = reply.heartbeat_s

    # Asking

    def ask(self, request: Request, observation: Observation) -> Call:
        """Write the request with ``observation``, after the reset its episode may need; the answer is read later."""
        started_s = self.clock.now()
        if self._forgotten is not None and self._forgotten == request.episode:
            raise LinkClosedError(
                f"{self._where}: the server has lost its memory of episode {request.episode}; reset to begin a new one"
            )
        exchange, events = self._connected(), list[Event]()
        before = self._peer_episode, self._wire_episode
        if self._peer_episode is None:
            self._peer_episode = request.episode  # a fresh session has nothing to forget
        elif request.episode != self._peer_episode and self._renewed():
            exchange, self._peer_episode = self.ensure_open(), request.episode
            before = None, self._wire_episode
        elif request.episode != self._peer_episode:
            events.append(self._next_episode(request.episode))
        number = next(self._numbers)
        lane = Lane(observation, request.step, request.prefix, request.inference_delay)
        events.append(Infer((lane,), self._wire_episode, 1e3 * self._config.timeout_s, number))
        try:
            exchange.write(events, self._config.timeout_s, number)
        except LocalProtocolError:
            self._peer_episode, self._wire_episode = before  # nothing was written: what the server has not heard of has not begun
            raise
        return Call(self, exchange, request, self._wire_episode, number, started_s)

    def answer(self, exchange: Exchange, number: int, started_s: float) -> Reply:
        """The reply to ``number``; a reply that does not come in time costs the connection, so that it cannot come late."""
        try:
            return exchange.wait(number, started_s + self._config.timeout_s, "an answer")
        except ActlinkError:
            exchange.close()
            raise

    def reset(self, episode: int) -> None:
        """Begin ``episode`` (as the caller counts) on the server, unless there is no connection: the next request tells it then."""
        exchange = self._standing()
        if exchange is None or self._renewed():
            return
        before = self._peer_episode, self._wire_episode
        reset = self._next_episode(episode)
        try:
            said = exchange.write([reset], self._config.timeout_s, reset.call)
        except LocalProtocolError:
            self._peer_episode, self._wire_episode = before
            raise
        if not said:
            return  # the wire has no word for it
        reply = self.answer(exchange, reset.call, self.clock.now())
        if isinstance(reply, Failed):
            raise reply.error
        if not isinstance(reply, Done):
            raise RemoteProtocolError(f"expected the end of a reset, got {type(reply).__name__}")

    def ping(self) -> PingResult:
        exchange = self.ensure_open()
        number = next(self._numbers)
        sent_s = self.clock.now()
        if not exchange.write([Ping(sent_s, number)], self._config.timeout_s, number):
            raise ConfigError(f"{self._where}: the {self._wire.address.dialect} wire has no ping")
        reply = self.answer(exchange, number, sent_s)
        received_s = self.clock.now()
        if not isinstance(reply, Pong):
            raise RemoteProtocolError(f"expected a pong, got {type(reply).__name__}")
        offset_s = ((reply.received_s - sent_s) + (reply.now_s - received_s)) / 2
        return PingResult(1e3 * (received_s - sent_s - (reply.now_s - reply.received_s)), 1e3 * offset_s)

    def close(self) -> None:
        """For good; a call that waits in another thread, or is about to connect again, ends with ``LinkClosedError``."""
        self._closed = True
        exchange = self._exchange
        if exchange is not None:
            exchange.say_goodbye()

    # Connections come and go

    def _standing(self) -> Exchange | None:
        """The connection, as far as is known."""
        return None if self._exchange is None or self._exchange.closed else self._exchange

    def _connected(self) -> Exchange:
        exchange = self._standing()
        if exchange is None:
            raise LinkClosedError(f"{self._where}: the connection was lost")
        return exchange

    def _alive(self) -> Exchange | None:
        """The connection, if the server answers over it."""
        exchange = self._standing()
        if exchange is not None:
            try:
                self.ping()
            except ConfigError:
                pass  # a wire without ping: the next request will tell
            except ActlinkError:
                return None
        return exchange

    def _drop(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def _stay_closed(self) -> None:
        if self._closed:
            raise LinkClosedError(f"{self._where}: this client was closed")

    # Episodes

    def _renewed(self) -> bool:
        """Let go of the connection where only that ends an episode; the next request opens another."""
        exchange = self._standing()
        if exchange is None or not exchange.dialect.reset_reconnects:
            return False
        self._drop()
        self._peer_episode, self._resume, self._wire_episode = None, "", 0
        return True

    def _next_episode(self, episode: int) -> Reset:
        self._wire_episode += 1
        self._peer_episode = episode
        return Reset(self._wire_episode, next(self._numbers))
