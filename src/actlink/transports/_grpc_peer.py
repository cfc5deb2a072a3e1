"""A gRPC peer and its calls, as the server sees them. Law: lives on the event loop, never waits; every call gets one answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from actlink.dialects._base import Frame
from actlink.transports._base import Connection, Limits, Opened, Receiver
from actlink.transports._receiving import hand_over, receiver_of

logger = logging.getLogger("actlink.transports")

_LONGEST_DETAILS = 1000
"""Letters of an error; they travel percent-encoded in a header of at most 8 KiB."""
_ON_THE_WAY_S = 0.05
"""A reply this close to the peer's deadline may come too late; gRPC does not say whether it was taken."""
_RETRIES = "grpc-previous-rpc-attempts"


class Call:
    """One call of a peer: the handle in ``Frame.call``."""

    def __init__(self, context: Any) -> None:
        self.attempts = _attempts(context)
        """How often the peer's gRPC has tried this very call before."""
        self.lost = False
        """Whether the peer gave up before it had the reply, or so close to its deadline that it may not have it."""
        self.reply = b""
        self.status = ""
        """Name of the gRPC status if the call has failed."""
        self.details = ""
        self.received_bytes = 0
        self._left_s = context.time_remaining
        self._done = asyncio.Event()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def answer(self, reply: bytes) -> None:
        """The first answer counts."""
        if not self.done:
            left_s = self._left_s()
            self.lost = left_s is not None and left_s < _ON_THE_WAY_S
            self.reply = reply
            self._done.set()

    def fail(self, status: str, details: str) -> None:
        if not self.done:
            self.status, self.details = status, details[:_LONGEST_DETAILS]
            self._done.set()

    async def wait(self) -> None:
        await self._done.wait()


class Peer(Connection):
    """The calls of one connection."""

    def __init__(self, name: str, token: str | None, limits: Limits, gone: Callable[[], object]) -> None:
        self.peer = _readable(name)
        self.token = token
        self._limits = limits
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._calls: set[Call] = set()
        self._uploading_bytes = 0
        self._ended = False
        self._verdict: tuple[str, str] | None = None
        self.idle_since_s: float | None = self._loop.time()
        """Since when no call is open; None while one is."""

    # Connection

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if frame.text and frame.call is None:
                self._verdict = (frame.route, str(frame.data, "utf-8", "replace"))
            for call in list(self._calls) if frame.call is None else [frame.call]:
                self._answer(call, frame)

    def close(self, reason: str = "", *, error: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        logger.log(logging.WARNING if error else logging.DEBUG, "%s: closing: %s", self.peer, reason or "the peer has finished")
        status, details = self._verdict or ("INTERNAL" if error else "FAILED_PRECONDITION", reason)
        self._verdict = status, details
        for call in list(self._calls):
            call.fail(status, details)
        self._gone()
        self._loop.call_soon(self._tell, reason)

    # What the listener says

    def open(self, opened: Opened) -> None:
        self._receiver = receiver_of(self, opened)

    def begin(self, call: Call) -> bool:
        """A call has come; False if it has its answer already."""
        if self._ended:
            call.fail(*(self._verdict or ("FAILED_PRECONDITION", "the connection has ended")))
            return False
        self._calls.add(call)
        self.idle_since_s = None
        return True

    def takes(self, call: Call, count: int) -> bool:
        """Count more bytes of an upload; False if the call was refused for it. All uploads of a peer share one limit."""
        if call.done:
            return False
        call.received_bytes += count
        self._uploading_bytes += count
        if self._uploading_bytes <= self._limits.max_frame_bytes:
            return True
        call.fail("RESOURCE_EXHAUSTED", f"uploads of more than {self._limits.max_frame_bytes} bytes")
        return False

    def received(self, frame: Frame) -> None:
        """A whole call has come."""
        self._uploading_bytes -= frame.call.received_bytes
        frame.call.received_bytes = 0
        if self._ended or self._receiver is None:
            return
        hand_over(self, self._receiver, frame)

    def end(self, call: Call) -> None:
        """The call is over, one way or another."""
        self._uploading_bytes -= call.received_bytes
        self._calls.discard(call)
        if not self._calls:
            self.idle_since_s = self._loop.time()

    def _answer(self, call: Call, frame: Frame) -> None:
        if call not in self._calls:
            call.lost = True  # the peer gave up meanwhile
        elif frame.text:
            call.fail(frame.route, str(frame.data, "utf-8", "replace"))
        elif frame.size > self._limits.max_frame_bytes:
            call.fail("INTERNAL", f"a reply of {frame.size} bytes is over the limit of {self._limits.max_frame_bytes}")
        else:
            call.answer(bytes(frame.data))

    def _tell(self, reason: str) -> None:
        if self._receiver is not None:
            self._receiver.closed(reason)


def present_peers() -> set[str] | None:
    """The peers connected to any gRPC server of this process, as ``context.peer()`` names them; None where gRPC does not tell.

    gRPC's bookkeeping of sockets (channelz) is meant to be read over gRPC; the functions below it are what that service calls.
    """
    try:
        from grpc._cython import cygrpc

        found: set[str] = set()
        for server in _pages(cygrpc.channelz_get_servers, "server"):
            sockets = _pages(partial(_sockets, cygrpc, int(server["ref"]["serverId"])), "socketRef")
            found |= {socket["name"].partition(" ")[2] for socket in sockets}
        return found  # a name is "chttp2 ipv4:127.0.0.1:50000"
    except (ImportError, AttributeError, KeyError, ValueError):
        return None


def _sockets(cygrpc: Any, server: int, start: int) -> bytes:
    page: bytes = cygrpc.channelz_get_server_sockets(server, start, 0)  # 0: as many as it likes
    return page


def _pages(ask: Callable[[int], bytes], key: str) -> list[dict[str, Any]]:
    """All entries of a listing that comes in pages."""
    found: list[dict[str, Any]] = []
    start = 0
    while True:
        page = json.loads(ask(start))
        entries = page.get(key, [])
        found += entries
        if page.get("end") or not entries:
            return found
        reference = entries[-1].get("ref", entries[-1])
        start = 1 + int(reference.get("serverId") or reference["socketId"])


def _attempts(context: Any) -> int:
    for key, value in context.invocation_metadata() or ():
        if key == _RETRIES:
            try:
                return int(value)
            except ValueError:
                return 0
    return 0


def _readable(name: str) -> str:
    """``ipv4:127.0.0.1:50000`` and ``ipv6:%5B::1%5D:50000`` as ``host:port``."""
    kind, _, rest = name.partition(":")
    return rest.replace("%5B", "[").replace("%5D", "]").replace("%25", "%") if kind in ("ipv4", "ipv6") else name
