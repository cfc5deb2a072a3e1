"""The client half: a policy behind an address. Law: blocking I/O, no thread of its own but the one that ``submit`` needs.

::

    with connect("native+tcp://gpu-box:8001") as policy:
        chunk = policy.infer_one({"state": state})      # chunk.actions: (action_horizon, action_dim)

A remote policy is a policy: it can be evaluated, wrapped and served like any other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from actlink import address as addresses
from actlink import documents
from actlink._upstream import Call, ClientConfig, PingResult, Upstream
from actlink.clock import Clock, MonotonicClock
from actlink.credentials import Credentials, tokens
from actlink.errors import ActlinkError, ConfigError, LinkClosedError
from actlink.policies._base import Policy, Result
from actlink.policies._open import open_policy as open_local_policy
from actlink.spec import Spec
from actlink.transports._curve import CurveClient
from actlink.transports._tls import TlsClient
from actlink.transports._wire import Wire, wire_of
from actlink.types import ActionChunk, Array, Observation, Request, Runtime

__all__ = [
    "ClientConfig",
    "Credentials",
    "PingResult",
    "RemotePolicy",
    "connect",
    "given_spec",
    "needs_spec",
    "open_policy",
    "read_token",
]

logger = logging.getLogger("actlink.client")

UNDER_WAY = 64
"""Requests of different sessions that may be under way at once: each has its own connection, whatever the server's batch is."""


def connect(
    url: str,
    *,
    spec: Spec | None = None,
    token: str | None = None,
    token_file: str | Path | None = None,
    credentials: Credentials = Credentials(),  # noqa: B008 - frozen
    config: ClientConfig | None = None,
    clock: Clock | None = None,
) -> RemotePolicy:
    """The policy served at ``url`` (``dialect+transport://host:port/model?option=value`` or ``host:port``).

    Connects at once: ``ConnectError`` if nobody answers, ``UnauthorizedError`` and its like if the server says no,
    ``ConfigError`` for a wrong address, file, or a server that is not the one asked for. ``spec`` is for wires that do not announce
    one. ``token_file`` is short for ``credentials=Credentials(token_file=...)``, which also has what TLS may need.
    """
    if token_file is not None:
        credentials = replace(credentials, token_file=Path(token_file))
    named = credentials.token()
    if token is not None and named is not None:
        raise ConfigError("give a token or the file that has it, not both")
    wire = wire_of(addresses.parse(url))
    token = named if token is None else token
    if token is not None and not token.isprintable():
        raise ConfigError("token: expected letters, digits and signs alone, got others among them")
    secured = _secured(wire, credentials)
    if token is not None and not (secured or wire.address.loopback):
        _warn_readable(wire.address.host)
    policy = RemotePolicy(wire, spec, token, secured, config or ClientConfig(), clock or MonotonicClock())
    try:
        policy.open()
    except BaseException:
        policy.close()
        raise
    return policy


def _secured(wire: Wire, given: Credentials) -> Mapping[str, Any]:
    """What the transport is told besides; ``ConfigError`` for papers that nobody would look at: nothing would be encrypted."""
    address = wire.address
    if address.tls:
        return {"tls": TlsClient(given.tls_ca, given.tls_certificate, given.tls_key)}
    if given.tls_ca is not None or given.tls_certificate is not None:
        raise ConfigError(f"{address}: this address is not TLS, so nothing would be encrypted; write wss://, tcps:// or grpcs://")
    if given.curve_server_key is None:
        return {}
    if address.path or not wire.transport.Listener.speaks_curve:
        raise ConfigError(f"{address}: only zmq:// addresses speak CURVE; nothing would be encrypted")
    return {"curve": CurveClient(given.curve_server_key, given.curve_key)}


@cache
def _warn_readable(host: str) -> None:
    """Once for each host."""
    logger.warning(
        "the token for %s crosses the network unencrypted, and whoever sees the traffic can use it: connect with wss://, tcps:// "
        "or grpcs://, or through an SSH tunnel",
        host,
    )


def open_policy(
    reference: str,
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
    options: Mapping[str, str] | None = None,
    *,
    spec: Spec | None = None,
    token: str | None = None,
    credentials: Credentials = Credentials(),  # noqa: B008 - frozen
    config: ClientConfig | None = None,
) -> Policy:
    """The policy that ``reference`` names: an address, or anything ``policies._open.open_policy`` knows.

    ``spec`` is for addresses whose wire announces none.
    """
    if not addresses.is_address(reference):
        return open_local_policy(reference, runtime, options or {})
    if options:
        raise ConfigError(f"{reference}: policy options belong to the server that loads the policy; got {', '.join(options)}")
    return connect(reference, spec=spec, token=token, credentials=credentials, config=config)


def needs_spec(reference: str) -> bool:
    """Whether ``reference`` is an address whose wire may not tell what the policy needs and gives."""
    return addresses.is_address(reference) and wire_of(addresses.parse(reference)).dialect.Client.announces_spec is not True


def given_spec(file: str | Path | None, like: str | None) -> Spec | None:
    """The spec that the user states: in a YAML file, or as that of a local policy; None if neither is given."""
    if file is not None and like is not None:
        raise ConfigError("give a file with the spec or a policy that has it (--spec or --like), not both")
    if file is not None:
        return documents.read_spec(str(file), "spec")
    if like is None:
        return None
    policy = open_local_policy(like)
    policy.close()
    return replace(policy.spec, digest="")  # its form, not its weights


def read_token(path: str | Path) -> str:
    """The first token in a file, without surrounding blanks; ``ConfigError`` if there is none."""
    return tokens(Path(path), None)[0]


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
        self._lock = threading.RLock()
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
        with self._lock:
            session = self._session("")
            session.open()
            self._take(session.spec)

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request. All are written before any answer is read; the failure of one leaves the others alone."""
        with self._lock:
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
        with self._lock:
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
        """``infer_one`` on a thread of this policy; returns at once. Submitted requests run in order, one at a time."""
        with self._lock:
            if self._closed:
                raise LinkClosedError(f"{self.url}: this client was closed")
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="actlink-client")
            return self._worker.submit(self.infer_one, observation, step=step, prefix=prefix, inference_delay=inference_delay)

    def reset(self) -> None:
        """Begin a new episode: the server drops the policy's memory of this session. Chunks still under way are dropped."""
        with self._lock:
            self._episode += 1
            self._session("").reset(self._episode)

    def ping(self) -> PingResult:
        """Measure the round trip to the server's event loop and the offset of its clock; inference is not involved."""
        with self._lock:
            return self._session("").ping()

    def wait_ready(self, timeout_s: float) -> None:
        """Return when the server welcomes us; tries again with exponential backoff, ``ConnectError`` after ``timeout_s``."""
        with self._lock:
            session = self._session("")
            session.reach(timeout_s)
            self._take(session.spec)

    def be(self, config: ClientConfig) -> None:
        """Be as patient as ``config`` says from now on: a first answer may take long, later ones may not."""
        with self._lock:
            self._config = config
            for session in self._sessions.values():
                session.be(config)

    def forget(self, session: str) -> None:
        """Close the connection that belongs to ``session``."""
        with self._lock:
            if session in self._sessions:
                self._sessions.pop(session).close()

    def close(self) -> None:
        """Say goodbye on every connection; a call that waits in another thread ends with ``LinkClosedError``."""
        self._closed = True
        for session in list(self._sessions.values()):
            session.close()
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _session(self, name: str) -> Upstream:
        if self._closed:
            raise LinkClosedError(f"{self.url}: this client was closed")
        if name not in self._sessions:
            self._sessions[name] = Upstream(self._wire, self._given_spec, self._token, self._secured, self._config, self._clock)
        return self._sessions[name]

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
