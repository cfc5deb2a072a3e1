"""A bad link between clients and a server, as a proxy for connections. Law: bytes arrive once and in order, or a reset does.

It works for every wire that runs over TCP or a Unix socket, without rights. What a link does to a byte stream is time, of which
``Schedule.arrival`` says how much, and resets; a packet that comes twice or too late is mended by TCP before anybody sees it, so
asking for one here is an error. Not the same as a real bad link: a connection is accepted at once even where the way to the server
is cut (it then stays silent), and a large transfer pays a whole time-out for a lost segment, where TCP may need a round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from actlink.address import Address
from actlink.clock import Clock, MonotonicClock
from actlink.errors import ConfigError
from actlink.link._streams import Connection, Room, Stream
from actlink.link.faults import Direction, LinkConfig, Weather, spoken
from actlink.link.schedule import Schedule
from actlink.transports._ports import bind

logger = logging.getLogger("actlink.link")

PIECE_BYTES = 65536
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened on the link; ``n`` and ``size`` are those of a piece of a byte stream."""

    what: str
    """``open``, ``piece``, ``end``, ``reset``, ``refused``."""
    at_s: float
    """Seconds since the link was opened."""
    connection: int
    direction: str = ""
    n: int = 0
    size: int = 0
    arrival_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Proxy:
    """Listens at ``listen`` and leads to ``target`` through a link like ``config``; a context manager with a thread of its own."""

    def __init__(
        self,
        target: Address,
        config: LinkConfig | None = None,
        *,
        listen: Address | None = None,
        log: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``ConfigError`` for conditions that a byte stream does not know."""
        config = config or LinkConfig()
        self._weather = Weather(config)
        if strange := self._weather.has("duplicate", "reorder"):
            raise ConfigError(
                f"{spoken(strange)}: a connection's bytes are neither doubled nor reordered, whatever happens to its packets; "
                "give packets a link of their own (actlink link --tun)"
            )
        self._target = target
        self._listen = listen or target.with_port(0)
        self._log = log or (lambda event: None)
        self._clock = clock or MonotonicClock()
        self._numbers = itertools.count()
        self._connections: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self.address = self._listen
        """Where clients reach the server through the link; known once it is open."""

    def __enter__(self) -> Proxy:
        sockets = bind(self._listen)
        if self._listen.port is not None:
            self.address = self._listen.with_port(int(sockets[0].getsockname()[1]))
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(sockets, ready)), name="link", daemon=True)
        self._thread.start()
        if not ready.wait(START_S):
            raise ConfigError(f"{self.address}: the link did not open within {START_S:g} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._on_loop(self._stop.set)
        if self._thread is not None:
            self._thread.join(START_S)
        if self._listen.path:
            Path(self._listen.path).unlink(missing_ok=True)

    def cut(self) -> None:
        """Nothing passes from now on, in either direction, until ``mend``; beside whatever the schedule says."""
        self._on_loop(self._open.clear)

    def mend(self) -> None:
        """What waited passes."""
        self._on_loop(self._open.set)

    def reset(self) -> None:
        """Reset every connection now."""
        self._on_loop(self._reset_all)

    def _on_loop(self, action: Callable[[], Any]) -> None:
        """Run ``action`` on the loop, and wait until it is done."""
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(run)
            done.wait(START_S)

    async def _serve(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._started_s = self._clock.now()
        servers = [await asyncio.start_server(self._accept, sock=sock, limit=PIECE_BYTES) for sock in sockets]
        resets = asyncio.create_task(self._resets())
        ready.set()
        await self._stop.wait()
        resets.cancel()
        for server in servers:
            server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(resets, *self._tasks, return_exceptions=True)

    def _now_s(self) -> float:
        return self._clock.now() - self._started_s

    async def _resets(self) -> None:
        moment_s = -1.0
        while (moment_s := self._weather.next_reset(moment_s)) != float("inf"):
            while (left_s := moment_s - self._now_s()) > 0:  # by the link's clock, whatever the loop's says
                await asyncio.sleep(left_s)
            self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._connections.values()):
            self._log(Event("reset", self._now_s(), connection.number))
            connection.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(next(self._numbers), (reader, writer))
        try:
            await self._join(connection)
        except OSError:  # one side was reset: so is the other
            connection.reset()
        except asyncio.CancelledError:  # the link is closed
            connection.reset()
        finally:
            self._connections.pop(connection.number, None)
            self._tasks.discard(task)

    async def _join(self, connection: Connection) -> None:
        if self._weather.at(self._now_s(), "up").reset or (far := await self._reach(connection.number)) is None:
            self._log(Event("refused", self._now_s(), connection.number))
            connection.reset()
            return
        connection.far = far
        self._connections[connection.number] = connection
        self._log(Event("open", self._now_s(), connection.number))
        up = self._carry(connection, connection.near, far, "up")
        await asyncio.gather(up, self._carry(connection, far, connection.near, "down"))
        connection.close()

    async def _reach(self, number: int) -> Stream | None:
        """The connection to the server; None where there is none to be had."""
        await self._open.wait()
        try:
            if self._target.path:
                return await asyncio.open_unix_connection(self._target.path, limit=PIECE_BYTES)
            return await asyncio.open_connection(self._target.host, self._target.port, limit=PIECE_BYTES)
        except OSError as error:
            logger.warning("connection %d: the server cannot be reached: %s", number, error)
            return None

    async def _carry(self, connection: Connection, source: Stream, target: Stream, direction: Direction) -> None:
        """Everything from ``source`` to ``target``, each piece at its time; the end of the stream as well."""
        schedule = Schedule(self._weather, direction, str(connection.number))
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        room = Room()
        delivery = asyncio.create_task(self._deliver(connection, target[1], pieces, room))
        try:
            for n in itertools.count():
                piece = await source[0].read(PIECE_BYTES)
                now_s = self._now_s()
                arrival_s = schedule.arrival(n, now_s, len(piece))
                what = "piece" if piece else "end"
                self._log(Event(what, now_s, connection.number, direction, n, len(piece), arrival_s))
                pieces.put_nowait((arrival_s, piece))
                if not piece:
                    break
                await room.take(len(piece), schedule.window_bytes(now_s))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self, connection: Connection, writer: asyncio.StreamWriter, pieces: asyncio.Queue[tuple[float, bytes]], room: Room
    ) -> None:
        try:
            while True:
                arrival_s, piece = await pieces.get()
                await asyncio.sleep(max(0.0, arrival_s - self._now_s()))
                await self._open.wait()
                if not piece:
                    break
                writer.write(piece)
                await writer.drain()
                room.give(len(piece))
            if writer.can_write_eof() and not writer.transport.is_closing():
                writer.write_eof()
        except OSError:
            connection.reset()
            room.give(room.taken)
            raise
