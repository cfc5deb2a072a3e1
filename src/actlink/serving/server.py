"""The server: listeners, engines and the life between start and shutdown. Law: inference never runs on the event loop.

::

    serve(policy)                                            # until Ctrl-C
    with Server({"mine": policy}, ["native+tcp://127.0.0.1:0"]) as server:
        ...                                                  # server.addresses, server.statistics()
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

from actlink import credentials
from actlink.address import Address
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._callable import CallablePolicy, as_policy
from actlink.serving import health, listening, signals
from actlink.serving.access import Access
from actlink.serving.config import ServerConfig
from actlink.serving.listening import Listening
from actlink.serving.models import Make, Models
from actlink.serving.peer import Peer, Stranger
from actlink.serving.session import Host
from actlink.serving.statistics import Counters, EngineStatistics, Statistics
from actlink.spec import Spec
from actlink.transports._base import Connection, Listener, Receiver
from actlink.types import Array, Observation, Runtime

__all__ = ["DEFAULT_LISTEN", "Server", "ServerConfig", "Statistics", "serve"]

logger = logging.getLogger("actlink.serving")

DEFAULT_LISTEN = ("native+ws://127.0.0.1:8000",)

HURRY_S = 0.2
"""How long closing may take once the server is told to end at once."""

DRAIN_LOOK_S = 0.01
"""How often a draining server looks whether everything is answered."""


def serve(
    policy: Policy | Callable[[Observation], Array],
    listen: Sequence[str | Address] = DEFAULT_LISTEN,
    *,
    spec: Spec | None = None,
    config: ServerConfig = ServerConfig(),  # noqa: B008 - frozen
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
) -> None:
    """Serve ``policy`` until SIGTERM or Ctrl-C; then answer what was accepted, close the policy and return.

    ``policy`` is a ``Policy``, or a function from an observation to actions ``(action_horizon, action_dim)`` with its ``spec``.
    ``ConfigError`` for a wrong address or option, ``PolicyError`` if the policy cannot take an observation of zeros.
    """
    policy = _as_policy(policy, spec)
    if runtime.deterministic:
        config = replace(config, deterministic=True)
    Server({policy.spec.name or "default": policy}, listen, config).serve()


class Server:
    """Serves one or more policies at one or more addresses; runs once.

    ``models`` maps the names that peers may ask for to policies; the first is the default. A function without arguments in place
    of a policy is called when a peer first asks for that model; it is never the default. Several policies under one name (the same
    weights on several devices) share that model's sessions: each stays where it began. The server owns the policies from now on:
    it calls them on their engines' threads and closes them in the end. ``tokens`` add to those of ``config.token_file``.
    """

    def __init__(
        self,
        models: Mapping[str, Policy | Sequence[Policy] | Make],
        listen: Sequence[str | Address] = DEFAULT_LISTEN,
        config: ServerConfig = ServerConfig(),  # noqa: B008 - frozen
        *,
        tokens: Sequence[str] = (),
    ) -> None:
        """``ConfigError`` if something is wrong with the addresses, the token file or the certificates."""
        if not models:
            raise ConfigError("models: expected at least one, got none")
        known = [*tokens, *credentials.tokens(config.token_file, config.token_fd)]
        self._access = Access(known, config.allow, config.insecure)
        self._listening = listening.plan(listen, self._access, config.tls, config.curve)
        for one in self._listening:
            if one.address.model and one.address.model not in models:
                raise ConfigError(f"{one.address}: no model {one.address.model!r}; there are: {', '.join(models)}")
        self._config = config
        self._counters = Counters()
        self._models = Models(models, config, self._counters)
        self._host = Host(self._models, config, self._counters, self._access)
        self._listeners: list[Listener] = []
        self._ready = False
        self._started_s = time.monotonic()
        self._stops = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._warm_up: asyncio.Future[None] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, with the ports really bound; known once it runs."""
        return tuple(one.at(listener.bound) for one, listener in zip(self._listening, self._listeners, strict=False))

    @property
    def ready(self) -> bool:
        """Whether warm-up is over and the server is not shutting down."""
        return self._ready and not self._host.draining

    def statistics(self) -> Statistics:
        """The numbers so far; from any thread."""
        engines = tuple(
            EngineStatistics(each.name, each.device, each.sessions, each.running, each.waiting, each.batches, each.batched)
            for each in self._models.engines
        )
        return self._counters.statistics(time.monotonic() - self._started_s, engines)

    # Running

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Listen, warm up, call ``ready``, and serve until ``drain``; raises what prevents it from starting."""
        if self._loop is not None:
            raise ConfigError("a server runs once; make another")
        self._loop = asyncio.get_running_loop()
        self._drained, self._aborted = asyncio.Event(), asyncio.Event()
        self._note_stops()
        self._models.start()
        try:
            await self._listen()
            if await self._warmed_up():
                self._open(ready)
            await self._drained.wait()
            await self._drain()
        finally:
            await self._close()

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        """``run`` in this thread. In the main thread SIGTERM and Ctrl-C drain; the second signal ends at once (``SystemExit``)."""
        with signals.counted(self._stop) as received:
            asyncio.run(self.run(ready))
        if len(received) > 1:
            raise SystemExit(128 + received[-1])

    def start(self) -> Server:
        """``run`` in a thread of its own; returns when the server is ready, raises what prevents it from starting."""
        done, failures = threading.Event(), list[BaseException]()

        def body() -> None:
            try:
                asyncio.run(self.run(done.set))
            except BaseException as error:
                failures.append(error)
                if done.is_set():  # nobody waits to be told any more
                    logger.exception("the server has failed")
            finally:
                done.set()

        self._thread = threading.Thread(target=body, name="actlink-server", daemon=True)
        self._thread.start()
        done.wait()
        if failures:
            self._thread.join()
            raise failures[0]
        return self

    def drain(self) -> None:
        """Begin the end, from any thread: no new work, what was accepted is answered, then ``run`` returns."""
        self._stop(1)

    def abort(self) -> None:
        """End at once, from any thread; what is unanswered stays so."""
        self._stop(2)

    def stop(self) -> None:
        """Drain a server that was started with ``start``, and wait for its end."""
        self.drain()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _stop(self, urgency: int) -> None:
        self._stops = max(self._stops, urgency)
        if self._loop is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # it may have ended this very moment
                self._loop.call_soon_threadsafe(self._note_stops)

    def _note_stops(self) -> None:
        if self._stops and not self._drained.is_set():
            logger.info("stopping: no new work; %d requests are still to be answered", self._counters.open_calls)
            self._host.draining = True
            self._drained.set()
        if self._stops > 1 and not self._aborted.is_set():
            logger.info("ending at once")
            self._aborted.set()

    # Stages of the life

    async def _listen(self) -> None:
        for one in self._listening:
            listener = one.listener(health.pages(self.statistics, lambda: self.ready))
            await listener.start(lambda connection, one=one: self._opened(one, connection))  # type: ignore[misc]
            self._listeners.append(listener)

    async def _warmed_up(self) -> bool:
        """True once every engine has warmed up; False if the server is told to stop before that (they go on meanwhile)."""
        self._warm_up = asyncio.ensure_future(self._models.warm_up())
        drained = asyncio.ensure_future(self._drained.wait())
        waiting: list[asyncio.Future[Any]] = [self._warm_up, drained]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        if self._warm_up.done():
            self._warm_up.result()
        return self._warm_up.done()

    def _open(self, ready: Callable[[], None] | None) -> None:
        self._ready = True
        logger.info("ready at %s", ", ".join(self.addresses))
        self._log_later(health.Resources())
        if ready is not None:
            ready()

    def _opened(self, one: Listening, connection: Connection) -> Receiver:
        assert one.wire is not None
        refusal = self._access.refusal(connection.peer)
        if refusal is not None:
            logger.warning("%s: turned away: %s", connection.peer, refusal)
            connection.close(refusal, error=True)
            return Stranger()
        limits = {"max_frame_bytes": one.transport_config.max_frame_bytes}
        dialect = one.wire.dialect.Server(one.wire.dialect_config)
        return Peer(
            self._host,
            dialect,
            connection,
            model=one.address.model,
            limits=limits,
            handshake_s=one.transport_config.handshake_s,
            carries_token=one.carries_token,
        )

    async def _drain(self) -> None:
        """Wait for the answers still owed. Peers that come now are told in their wire's manner, and the pages say "not ready"."""
        end_s = time.monotonic() + self._config.drain_s
        while self._counters.open_calls and time.monotonic() < end_s and not self._aborted.is_set():
            await asyncio.sleep(DRAIN_LOOK_S)

    async def _close(self) -> None:
        self._host.draining = True
        if self._warm_up is not None:
            self._warm_up.cancel()
        ending = asyncio.ensure_future(self._end())
        aborted = asyncio.ensure_future(self._aborted.wait())
        waiting: list[asyncio.Future[Any]] = [ending, aborted]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([ending], timeout=HURRY_S)
        aborted.cancel()
        if ending.done():
            ending.result()
        ending.cancel()

    async def _end(self) -> None:
        for listener in self._listeners:
            await listener.stop_accepting()
        for guest in list(self._host.guests):
            guest.goodbye()
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        self._host.close()
        await self._models.close()

    def _log_later(self, resources: health.Resources) -> None:
        if self._config.log_every_s and self._loop is not None:
            self._loop.call_later(self._config.log_every_s, self._log, resources)

    def _log(self, resources: health.Resources) -> None:
        logger.info("%s", health.log_line(self.statistics(), resources))
        self._log_later(resources)


def _as_policy(policy: Policy | Callable[[Observation], Array], spec: Spec | None) -> Policy:
    if spec is None:
        return as_policy(policy, "serve")
    if isinstance(policy, Policy):
        raise ConfigError("serve: the policy has its own spec; leave spec out")
    return CallablePolicy(policy, replace(spec, max_batch_size=1))  # one at a time: a batch would only make the first wait
