"""A bound address and its peers. Law: neither a peer nor a shortage of descriptors ever ends the listening."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from abc import abstractmethod
from pathlib import Path

from actlink.address import Address
from actlink.transports._base import Limits, Listener, Opened, Pages
from actlink.transports._buffers import Buffers
from actlink.transports._framing import Framing
from actlink.transports._peer import LINGER_S, Peer
from actlink.transports._ports import bind
from actlink.transports._socket_options import for_stream
from actlink.transports._tls import TlsServer, server_context
from actlink.transports._tls_framing import TlsFraming

logger = logging.getLogger("actlink.transports")

_FLUSH_S = 5.0
"""Seconds that ``close`` waits for peers to take what is queued for them."""
_RETRY_S = 0.2
"""Seconds between attempts to accept while the process is out of descriptors."""
_SPARE_SOCKETS = 64
"""Sockets beyond ``max_connections``: for peers in their opening, for health requests and for saying no."""


class StreamListener(Listener):
    """Listens with stream sockets; a final subclass says what is spoken on them."""

    def __init__(self, address: Address, limits: Limits, pages: Pages | None, tls: TlsServer | None = None) -> None:
        self._tls = server_context(tls, str(address)) if address.tls else None
        self._address = address
        self._limits = limits
        self._pages = pages
        self._buffers = Buffers()
        self._opened: Opened | None = None
        self._sockets: list[socket.socket] = []
        self._bound = ""
        self._accepting: list[asyncio.Task[None]] = []
        self._peers: set[Peer] = set()
        self._empty = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._swept_s = 0.0

    @abstractmethod
    def _framing(self) -> Framing:
        """The wire of one more peer."""

    @property
    def bound(self) -> str:
        return self._bound

    async def start(self, opened: Opened) -> None:
        self._opened = opened
        self._sockets = bind(self._address)
        self._bound = self._address.path or name_of(self._sockets[0].getsockname())
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._sockets]
        self._check_peers()

    async def stop_accepting(self) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting.clear()
        for sock in self._sockets:
            sock.close()
        if self._sockets and self._address.path:
            Path(self._address.path).unlink(missing_ok=True)
        self._sockets.clear()

    async def close(self) -> None:
        await self.stop_accepting()
        for peer in list(self._peers):
            peer.close("the server is shutting down")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_gone(), _FLUSH_S)
        for peer in list(self._peers):
            peer.abort()
        await self._all_gone()
        if self._sweep is not None:
            self._sweep.cancel()

    async def _all_gone(self) -> None:
        while self._peers:
            self._empty.clear()
            await self._empty.wait()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        short = False
        while True:
            try:
                sock, place = await loop.sock_accept(listening)
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS; or a peer that left before it was accepted
                if not short:
                    logger.error("%s: cannot accept a peer: %s", self._address, error)
                short = True
                await asyncio.sleep(_RETRY_S)
                continue
            short = False
            try:
                await self._greet(sock, place)
            except OSError:
                sock.close()  # the peer has left already

    async def _greet(self, sock: socket.socket, place: object) -> None:
        name = name_of(place) or f"{self._address.path}#{sock.fileno()}"
        if len(self._peers) >= self._limits.max_connections + _SPARE_SOCKETS:
            logger.warning("%s: turned away: %s", name, self._full())
            sock.close()
            return
        sock.setblocking(False)
        for_stream(sock)
        assert self._opened is not None
        peer = Peer(sock, name, self._secured(self._framing()), self._limits, self._admit, self._opened, self._gone)
        self._peers.add(peer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, sock)
        except BaseException:
            self._gone(peer)
            raise

    def _secured(self, framing: Framing) -> Framing:
        return framing if self._tls is None else TlsFraming(self._tls, framing, f"{self._address.dialect}+{self._address.scheme}")

    def _admit(self, _: Peer) -> str | None:
        return self._full() if sum(peer.admitted for peer in self._peers) >= self._limits.max_connections else None

    def _full(self) -> str:
        return f"the server is full: {self._limits.max_connections} connections are open"

    def _gone(self, peer: Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._buffers.clear()
            self._empty.set()

    def _check_peers(self) -> None:
        """Once a second or more often: see to the deadlines of all peers."""
        loop = asyncio.get_running_loop()
        every_s = min(LINGER_S, self._limits.handshake_s / 4, self._limits.frame_s / 4)
        now_s = loop.time()
        # If the loop itself was held up, what peers sent meanwhile is still unread: they get one more round.
        if now_s - self._swept_s < 2 * every_s + 0.1:
            for peer in list(self._peers):
                peer.check(now_s)
        self._swept_s = now_s
        self._sweep = loop.call_later(every_s, self._check_peers)


def name_of(place: object) -> str:
    """``host:port`` of a socket address; empty for Unix sockets."""
    if not isinstance(place, tuple):
        return ""
    host = str(place[0])
    return f"[{host}]:{place[1]}" if ":" in host else f"{host}:{place[1]}"
