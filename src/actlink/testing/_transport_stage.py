"""A listener on a loop of its own thread, for the examiner of transports. Law: waits for events, never for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError
from actlink.transports._base import Connection, Link, Listener, Pages
from actlink.transports._curve import CurveClient, CurveServer
from actlink.transports._tls import TlsClient, TlsServer

HUNG_S = 20.0
"""Nothing takes this long; what does is stuck."""

T = TypeVar("T")

Tls: TypeAlias = "tuple[TlsServer, TlsClient]"
"""What both sides of an address that is TLS need."""


class Recorder:
    """A receiver that notes what it is told, and answers with ``reply`` if it has one."""

    def __init__(self, connection: Connection, reply: Callable[[Connection, Frame], None] | None) -> None:
        self.connection = connection
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.ends: queue.Queue[str] = queue.Queue()
        self.late = 0
        """Frames delivered after the end."""
        self._reply = reply
        self._ended = False

    def received(self, frame: Frame) -> None:
        self.late += self._ended
        self.frames.put(frame)
        if self._reply is not None:
            self._reply(self.connection, frame)

    def closed(self, reason: str) -> None:
        self._ended = True
        self.ends.put(reason)

    def next_frame(self) -> Frame:
        return take(self.frames, "the server to receive a frame")

    def end(self) -> str:
        return take(self.ends, "the receiver to be told that its peer has gone")


def take(source: queue.Queue[T], what: str) -> T:
    """The next item; ``AssertionError`` naming ``what`` was waited for."""
    try:
        return source.get(timeout=HUNG_S)
    except queue.Empty:
        raise AssertionError(f"waited {HUNG_S:g} s for {what}") from None


class Stage:
    """One transport, one listener, any number of links."""

    def __init__(
        self,
        transport: ModuleType,
        address: Address,
        pages: Pages | None = None,
        tls: Tls | None = None,
        curve: tuple[CurveServer, CurveClient] | None = None,
    ) -> None:
        self.transport = transport
        self.asked = address
        self._pages = pages
        given = {"tls": tls, "curve": curve}
        self._server_papers: dict[str, Any] = {name: pair[0] for name, pair in given.items() if pair is not None}
        self._client_papers: dict[str, Any] = {name: pair[1] for name, pair in given.items() if pair is not None}
        self.arrivals: queue.Queue[Recorder] = queue.Queue()
        self.greet: Callable[[Connection], None] | None = None
        """Called within ``opened``."""
        self.reply: Callable[[Connection, Frame], None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links: list[Link] = []
        self._listener: Listener | None = None

    def start(self, **limits: Any) -> Address:
        """Start a listener; where clients find it."""
        if not self._thread.is_alive():
            self._thread.start()
        listener = self.another(self.asked, **limits)
        self.wait(listener.start(self.opened))
        self._listener = listener
        return self.where

    def another(self, address: Address, **limits: Any) -> Listener:
        """A listener that is not started."""
        listener: Listener = self.transport.Listener(address, self.transport.Config(**limits), self._pages, **self._server_papers)
        return listener

    @property
    def where(self) -> Address:
        assert self._listener is not None
        host, colon, port = self._listener.bound.rpartition(":")
        return self.asked.with_port(int(port)) if colon and host and self.asked.port is not None else self.asked

    @property
    def listener(self) -> Listener:
        assert self._listener is not None
        return self._listener

    def link(self, address: Address | None = None, **limits: Any) -> Link:
        """A connected client."""
        config = self.transport.Config(**limits)
        link: Link = self.transport.connect(address or self.where, config, timeout_s=HUNG_S, **self._client_papers)
        self._links.append(link)
        return link

    def pair(self, **limits: Any) -> tuple[Link, Recorder]:
        """A client and its receiver."""
        return self.link(**limits), self.arrival()

    def arrival(self) -> Recorder:
        return take(self.arrivals, "the listener to open a connection")

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop and wait."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(HUNG_S)

    def on_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        async def work() -> T:
            return call(*arguments)

        return self.wait(work())

    def end(self) -> None:
        """Whatever happened, leave nothing running."""
        for link in self._links:
            link.close()
        if self._listener is not None:
            self.wait(self._listener.close())
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(HUNG_S)
        self._loop.close()

    def opened(self, connection: Connection) -> Recorder:
        """What the listener calls for each peer."""
        recorder = Recorder(connection, self.reply)
        self.arrivals.put(recorder)
        if self.greet is not None:
            self.greet(connection)
        return recorder


@contextlib.contextmanager
def stage(transport: ModuleType, address: Address, tls: Tls | None = None) -> Iterator[Stage]:
    one = Stage(transport, address, tls=tls)
    try:
        yield one
    finally:
        one.end()


def raised_by(call: Callable[[], object], what: str) -> ActlinkError:
    """The error of ours that ``call`` raises; ``AssertionError`` naming ``what`` it did if there is none."""
    try:
        call()
    except ActlinkError as error:
        return error
    raise AssertionError(f"{what}: expected an error, got none")


class Relay:
    """Between one client and a TCP listener: passes every byte on by itself, and can tear the connection. Lives on the loop."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Address:
        """Where a client reaches the target through the relay."""
        self._server = await asyncio.start_server(self._accept, self._target.host, 0)
        return self._target.with_port(int(self._server.sockets[0].getsockname()[1]))

    async def tear(self) -> None:
        """Reset both connections."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers = [writer]
        back, forth = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers = [writer, forth]
        self._tasks = [asyncio.create_task(_pass_on(reader, forth)), asyncio.create_task(_pass_on(back, writer))]


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(4096):
            for i in range(len(piece)):
                target.write(piece[i : i + 1])
                await asyncio.sleep(0)  # the next byte leaves after the listener had its chance to read this one
        target.write_eof()
