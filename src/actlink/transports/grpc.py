"""gRPC calls by full method name, bodies as bytes: no generated code, no protobuf.

A frame from a peer is one call: ``route`` is its method (``/transport.AsyncInference/Ready``), ``parts`` are its messages (one; or
several where the method streams up), ``call`` answers that very call. A frame to a peer with ``text`` ends the call with an error:
``route`` is the name of a gRPC status, the part says why. A frame to a peer without ``call`` answers every call that is open.

Peers are told apart by their connection, which gRPC does not close in our sight: a sweep asks gRPC's own bookkeeping (channelz) who
is still connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.errors import ConfigError
from actlink.transports import _base
from actlink.transports._base import Limits, Opened, Pages
from actlink.transports._grpc_link import Link, connect_channel
from actlink.transports._grpc_peer import Call, Peer, present_peers
from actlink.transports._ports import holder_of
from actlink.transports._tls import TlsClient, TlsServer, server_context

logger = logging.getLogger("actlink.transports")

REQUIRES = ("grpc",)
EXTRA = "grpc"

_SWEEP_S = 1.0
"""Seconds between two looks for peers that have gone."""
_FLUSH_S = 5.0
"""Seconds that ``close`` waits for peers to take their last replies."""
_HELD_UP_S = 0.1
"""A timer that comes so much later than it was set for says that the loop was held up."""
_CALLS_PER_PEER = 128
_SPARE_SOCKETS = 64
"""Connections beyond ``max_connections``: for peers that have not called yet, and for saying no to a call."""
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of a ``grpc`` address."""

    idle_s: float = 0.0
    """Seconds after which a peer without an open call is forgotten; 0 = when its connection closes."""

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        if not self.idle_s >= 0:
            raise ConfigError(f"idle_s: expected 0 or more, got {self.idle_s}")


class Listener(_base.Listener):
    """Accepts calls of any method at a TCP port."""

    carries_token = True

    def __init__(self, address: Address, config: Config, pages: Pages | None = None, tls: TlsServer | None = None) -> None:
        self._address = address
        self._credentials = _credentials(tls, str(address)) if address.tls else None
        self._config = config
        self._pages = pages
        self._opened: Opened | None = None
        self._server: Any = None
        self._bound = ""
        self._accepting = False
        self._peers: dict[str, Peer] = {}
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def bound(self) -> str:
        return self._bound

    async def start(self, opened: Opened) -> None:
        import grpc

        self._opened = opened
        server = grpc.aio.server(options=self._options())
        server.add_generic_rpc_handlers((_methods(self._answer),))
        self._bound = _bind(server, self._address, self._credentials)
        await server.start()
        self._server, self._accepting = server, True
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._look)

    async def stop_accepting(self) -> None:
        self._accepting = False

    async def close(self) -> None:
        self._accepting = False
        if self._server is None:
            return
        for peer in list(self._peers.values()):
            peer.close("the server is shutting down")
        await self._server.stop(_FLUSH_S)
        self._server = None
        if self._sweep is not None:
            self._sweep.cancel()
        await asyncio.sleep(0)  # receivers are told in the next round of the loop

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", 0),  # else two servers share a port and each gets half of the peers
            ("grpc.enable_channelz", 1),
            ("grpc.max_receive_message_length", self._config.max_frame_bytes),
            ("grpc.max_send_message_length", self._config.max_frame_bytes),
            ("grpc.max_concurrent_streams", _CALLS_PER_PEER),
            ("grpc.max_allowed_incoming_connections", self._config.max_connections + _SPARE_SOCKETS),
            ("grpc.server_handshake_timeout_ms", max(1, int(1000 * self._config.handshake_s))),
            ("grpc.keepalive_time_ms", 60_000),  # finds out about machines that vanished
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_ping_strikes", 0),  # clients may do the same
        ]

    # Calls

    async def _answer(self, method: str, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """One call from its first byte to its reply."""
        if method == _HEALTH and self._pages is not None:
            page = self._pages("/readyz")
            return _SERVING if page is not None and page.status == 200 else _NOT_SERVING
        peer, why_not = self._peer(context)
        if peer is None:
            return await _refuse(context, *why_not)
        call = Call(context)
        if peer.begin(call):
            try:
                parts = await self._upload(peer, call, messages)
                if parts is not None:
                    peer.received(Frame(parts, route=method, call=call))
                await call.wait()
            except asyncio.CancelledError:  # the peer has given up, or has gone
                call.lost = True
                raise
            finally:
                peer.end(call)
        if call.status:
            return await _refuse(context, call.status, call.details)
        return call.reply

    async def _upload(self, peer: Peer, call: Call, messages: AsyncIterator[bytes]) -> tuple[bytes, ...] | None:
        """The messages of the call; None if they are too much or too late, and the call has its answer."""
        limits = self._config
        deadline = _Deadline(call, limits.frame_s, asyncio.current_task())
        parts: list[bytes] = []
        try:
            async for message in messages:
                parts.append(message)
                if not peer.takes(call, len(message)):
                    return None
        except asyncio.CancelledError:
            if not call.done:
                raise
            return None
        finally:
            deadline.cancel()
        return tuple(parts)

    def _peer(self, context: Any) -> tuple[Peer | None, tuple[str, str]]:
        """Whose call it is; None and why if nobody new is let in."""
        name = context.peer()
        token = _bearer(context)
        peer = self._peers.get(name)
        if peer is not None:
            if token != peer.token:
                return None, ("UNAUTHENTICATED", "unauthorized: the calls of one connection carry one token")
            return peer, ("", "")
        if not self._accepting or self._opened is None:
            return None, ("FAILED_PRECONDITION", "draining: the server is shutting down")
        if len(self._peers) >= self._config.max_connections:
            self._forget_departed()
        if len(self._peers) >= self._config.max_connections:
            why = f"the server is full: {self._config.max_connections} connections are open"
            logger.warning("%s: turned away: %s", name, why)
            return None, ("RESOURCE_EXHAUSTED", f"overloaded: {why}")
        peer = self._peers[name] = Peer(name, token, self._config, lambda: self._peers.pop(name, None))
        peer.open(self._opened)
        return peer, ("", "")

    # Peers that have gone

    def _look(self) -> None:
        self._forget_departed()
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._look)

    def _forget_departed(self) -> None:
        if not self._peers:
            return
        present = present_peers()
        now_s = asyncio.get_running_loop().time()
        for name, peer in list(self._peers.items()):
            if present is not None and name not in present:
                peer.close("the peer closed the connection")
            elif self._config.idle_s and peer.idle_since_s is not None and now_s - peer.idle_since_s > self._config.idle_s:
                peer.close(f"no call for {self._config.idle_s:g} s")


def connect(
    address: Address, config: Config, *, token: str | None = None, timeout_s: float = 10.0, tls: TlsClient | None = None
) -> Link:
    """Connect; ``ConnectError`` says what to check. ``token`` goes with every call as ``authorization: Bearer``."""
    return Link(address, connect_channel(address, config.max_frame_bytes, timeout_s, tls), config.max_frame_bytes, token)


def _methods(answer: Any) -> Any:
    """A handler of every method; gRPC's own handlers are made for names known beforehand."""
    import grpc

    class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            async def behaviour(messages: AsyncIterator[bytes], context: Any) -> bytes:
                reply: bytes = await answer(details.method, messages, context)
                return reply

            # A call with one message is a stream of one: on the wire there is no difference.
            return grpc.stream_unary_rpc_method_handler(behaviour)

    return Methods()


def _credentials(tls: TlsServer | None, where: str) -> Any:
    """What gRPC wants to know for TLS; ``ConfigError`` names the file that is wrong."""
    server_context(tls, where)  # says what is wrong; gRPC would not
    import grpc

    assert tls is not None
    pair = ((tls.key or tls.certificate).read_bytes(), tls.certificate.read_bytes())
    authorities = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    return grpc.ssl_server_credentials((pair,), authorities, require_client_auth=authorities is not None)


def _bind(server: Any, address: Address, credentials: Any) -> str:
    """``host:port`` that is bound; ``ConfigError`` if the address cannot be had."""
    if address.port is None:
        raise ConfigError(f"{address}: no port to listen at")
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        place = f"{host}:{address.port}"
        port = server.add_insecure_port(place) if credentials is None else server.add_secure_port(place, credentials)
    except RuntimeError as error:
        holder = holder_of(address.port) if address.port else ""
        by = f" by {holder}" if holder else ""
        hint = f"port {address.port} is already in use{by}, or {address.host!r} is not an address of this machine"
        raise ConfigError(f"{address}: {hint}; find out more: ss -ltnp 'sport = :{address.port}'") from error
    return f"{host}:{port}"


def _bearer(context: Any) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            kind, _, token = value.partition(" ")
            return token.strip() if kind.lower() in ("bearer", "api-key") else None
    return None


class _Deadline:
    """Ends an upload that takes too long. While the loop is held up, what came meanwhile is unread: it gets another round."""

    def __init__(self, call: Call, frame_s: float, task: asyncio.Task[Any] | None) -> None:
        self._call, self._frame_s, self._task = call, frame_s, task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(frame_s, self._passed)

    def cancel(self) -> None:
        self._timer.cancel()

    def _passed(self) -> None:
        if self._loop.time() - self._timer.when() > _HELD_UP_S:
            self._timer = self._loop.call_later(_HELD_UP_S, self._passed)
            return
        self._call.fail("ABORTED", f"the upload was not finished within {self._frame_s:g} s")
        if self._task is not None:
            self._task.cancel()


async def _refuse(context: Any, status: str, details: str) -> bytes:
    import grpc

    with contextlib.suppress(asyncio.InvalidStateError):
        await context.abort(grpc.StatusCode[status], details)
    return b""
