"""A policy on the other side of a wire. Law: calls take turns; a question is never asked twice of a policy that remembers.

No thread of its own but the one that ``submit`` needs. ``client.connect`` makes it; ``_upstream`` keeps each session's connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any

from actlink._upstream import Call, ClientConfig, PingResult, Upstream
from actlink.clock import Clock
from actlink.errors import ActlinkError, ConfigError, LinkClosedError, SupersededError
from actlink.policies._base import Policy, Result
from actlink.spec import Spec
from actlink.transports._wire import Wire
from actlink.types import ActionChunk, Array, Observation, Request

logger = logging.getLogger("actlink.client")

UNDER_WAY = 64
"""Requests of different sessions that may be under way at once: each has its own connection, whatever the server's batch is."""


class RemotePolicy(Policy):
    """A policy on the other side of a wire; made by ``connect``.

    One connection per ``Request.session``, kept open and reused; ``infer_one`` uses the session ``""``. After a lost
    connection the next call connects again, with exponential backoff, for at most ``reconnect_s``. A request whose answer was
    lost with the connection is sent once more where the policy is stateless; of a stateful one the caller learns of the loss and
    decides, and where the server has lost its memory, requests of that episode fail until ``reset``. Calls from several threads
    take turns.
    """

    def __init__(
        self, wire: Wire, spec: Spec | None, token: str | None, secured: Mapping[str, Any], config: ClientConfig, clock: Clock
    ) -> None:
        self._wire = wire
        self._given_spec = spec
        self._token = token
        self._secured = secured
        self._config = config
        self._clock = clock
        self._sessions: dict[str, Upstream] = {}
        self._episode = 0
        self._worker: ThreadPoolExecutor | None = None
        self._submissions = 0  # a number for all that is submitted between two resets
        self._turn = threading.RLock()  # held while a call is under way
        self._door = threading.Lock()  # held for a moment, so that nobody waits who only wants to hand something over
        self._warned: frozenset[str] = frozenset()
        self._closed = False

    @property
    def url(self) -> str:
        return str(self._wire.address)

    @property
    def deterministic(self) -> bool | None:
        """Whether the server says that equal requests get equal bits; None where it does not tell."""
        return self._session("").deterministic

    @property
    def served(self) -> Spec:
        """The spec as the server announced it; ``spec`` lets more requests be under way at once than it infers together."""
        return self._served

    def open(self) -> None:
        """Connect the default session now, in one attempt."""
        with self._turn:
            session = self._session("")
            session.open()
            self._take(session.spec)

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request. All are written before any answer is read; the failure of one leaves the others alone."""
        with self._turn:
            calls = [self._ask(request) for request in requests]
            results = [call if isinstance(call, ActlinkError) else call.result() for call in calls]
            return [self._once_more(*pair) for pair in zip(requests, results, strict=True)]

    def infer_one(
        self,
        observation: Observation,
        *,
        step: int = 0,
        prefix: Array | None = None,
        inference_delay: int = 0,
    ) -> ActionChunk:
        """The chunk for one observation taken at control step ``step``; raises what ``infer`` would return.

        ``prefix`` float32 ``(n, action_dim)`` and ``inference_delay`` (control steps) are for policies whose spec accepts them.
        """
        with self._turn:
            request = Request(observation, step, self._episode, "", prefix, inference_delay)
            (result,) = self.infer([request])
        if isinstance(result, ActlinkError):
            raise result
        return result

    def submit(
        self,
        observation: Observation,
        *,
        step: int = 0,
        prefix: Array | None = None,
        inference_delay: int = 0,
    ) -> Future[ActionChunk]:
        """``infer_one`` on a thread of this policy; returns at once. Submitted requests run in order, one at a time.

        What is not answered when ``reset`` is called ends with a ``SupersededError``.
        """
        with self._door:
            if self._closed:
                raise LinkClosedError(f"{self.url}: this client was closed")
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="actlink-client")
            return self._worker.submit(
                self._submitted, self._submissions, observation, step=step, prefix=prefix, inference_delay=inference_delay
            )

    def reset(self) -> None:
        """Begin a new episode: the server drops the policy's memory of this session. Chunks still under way are dropped."""
        with self._door:
            self._submissions += 1
        with self._turn:
            self._episode += 1
            self._session("").reset(self._episode)

    def ping(self) -> PingResult:
        """Measure the round trip to the server's event loop and the offset of its clock; inference is not involved."""
        with self._turn:
            return self._session("").ping()

    def wait_ready(self, timeout_s: float) -> None:
        """Return when the server welcomes us; tries again with exponential backoff, ``ConnectError`` after ``timeout_s``."""
        with self._turn:
            session = self._session("")
            session.reach(timeout_s)
            self._take(session.spec)

    def be(self, config: ClientConfig) -> None:
        """Be as patient as ``config`` says from now on: a first answer may take long, later ones may not."""
        with self._turn:
            self._config = config
            for session in self._sessions.values():
                session.be(config)

    def forget(self, session: str) -> None:
        """Close the connection that belongs to ``session``."""
        with self._turn:
            if session in self._sessions:
                self._sessions.pop(session).close()

    def close(self) -> None:
        """Say goodbye on every connection; a call that waits in another thread ends with ``LinkClosedError``."""
        with self._door:
            self._closed = True
            sessions, worker = list(self._sessions.values()), self._worker
        for session in sessions:
            session.close()
        if worker is not None:
            worker.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _session(self, name: str) -> Upstream:
        with self._door:
            if self._closed:
                raise LinkClosedError(f"{self.url}: this client was closed")
            if name not in self._sessions:
                self._sessions[name] = Upstream(self._wire, self._given_spec, self._token, self._secured, self._config, self._clock)
            return self._sessions[name]

    def _submitted(self, number: int, observation: Observation, **asked: Any) -> ActionChunk:
        with self._turn:
            if number == self._submissions:
                chunk = self.infer_one(observation, **asked)
            if number != self._submissions:
                raise SupersededError(f"{self.url}: a new episode began before the answer was there")
            return chunk

    def _once_more(self, request: Request, result: Result) -> Result:
        """A stateless policy may be asked again over a new connection; a stateful one may have counted the first time."""
        if not isinstance(result, LinkClosedError) or self.spec.stateful or self._closed:
            return result
        logger.info("%s: asking again over a new connection: %s", self.url, result)
        call = self._ask(request)
        return call if isinstance(call, ActlinkError) else call.result()

    def _ask(self, request: Request) -> Call | ActlinkError:
        try:
            session = self._session(request.session)
            session.ensure_open()
            self._expect_same(session.spec)
            self._warn_unknown(session.spec, request.observation)
            return session.ask(request, session.spec.check(request.observation))
        except ActlinkError as error:
            return error

    def _take(self, spec: Spec) -> None:
        self._served = spec
        self.spec = replace(spec, max_batch_size=max(spec.max_batch_size, UNDER_WAY))

    def _expect_same(self, spec: Spec) -> None:
        """A server that came back may serve something else by now."""
        if spec is not self._served and spec != self._served:
            raise ConfigError(
                f"{self.url}: the server came back with another policy ({spec.name} {spec.digest}); it was {self.spec.name} "
                f"{self.spec.digest}. Connect again if that is meant"
            )

    def _warn_unknown(self, spec: Spec, observation: Observation) -> None:
        unknown = spec.unknown(observation) - self._warned
        if unknown:
            self._warned |= unknown
            logger.warning("%s: not sent, the policy does not know: %s", self.url, ", ".join(sorted(unknown)))
