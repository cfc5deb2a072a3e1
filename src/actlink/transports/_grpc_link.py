"""The client's side of gRPC: blocking, one call at a time. Law: gRPC's failures leave here as ours.

Frames of equal ``call`` are the steps of one: they run in order, and the first that fails or brings bytes is the last. Replies
carry the ``call`` of their frame; a failed step's reply is ``text`` with the name of its status as ``route``.
"""

from __future__ import annotations

import contextlib
import queue
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.errors import ConfigError, ConnectError, LinkClosedError, LinkError, LinkTimeoutError, LocalProtocolError
from actlink.transports import _base
from actlink.transports._blocking import BlockingSocket, Deadline
from actlink.transports._tls import TlsClient, client_context

_NEVER_MS = 2**31 - 1
_PROBE_S = 1.0


class Channel:
    """A connection of its own: gRPC would let equal channels of a process share one, and with it one session."""

    def __init__(self, address: Address, max_bytes: int, tls: TlsClient) -> None:
        import grpc

        host = f"[{address.host}]" if ":" in address.host else address.host
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),  # what was sent is never sent twice behind our back
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", max_bytes),
            ("grpc.client_idle_timeout_ms", _NEVER_MS),
        )
        place = f"{host}:{address.port}"
        if address.tls:
            self.grpc = grpc.secure_channel(place, _credentials(tls), options=options)
        else:
            self.grpc = grpc.insecure_channel(place, options=options)
        self._connectivity = grpc.ChannelConnectivity
        self._changed = threading.Condition()
        self._ready = self._failed = False
        self.lost = threading.Event()
        """Set once the connection that was made has ended; gRPC would make another, to a server that does not know us."""
        self.grpc.subscribe(self._noted, try_to_connect=True)

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the connection stands; False as soon as an attempt has failed, or after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failed, timeout_s)
            return self._ready

    def close(self) -> None:
        self.grpc.unsubscribe(self._noted)
        self.grpc.close()

    def _noted(self, state: Any) -> None:
        with self._changed:
            if state is self._connectivity.READY:
                self._ready = True
            elif self._ready:
                self.lost.set()
            elif state in (self._connectivity.TRANSIENT_FAILURE, self._connectivity.SHUTDOWN):
                self._failed = True
            self._changed.notify_all()


def _credentials(tls: TlsClient) -> Any:
    """What gRPC wants to know for TLS; ``ConfigError`` names the file that is wrong."""
    client_context(tls)  # says what is wrong; gRPC would not
    import grpc

    system = ssl.get_default_verify_paths().cafile
    authorities = tls.ca or (Path(system) if system else None)
    own = tls.certificate and tls.certificate.read_bytes()
    key = own if tls.key is None else tls.key.read_bytes()
    return grpc.ssl_channel_credentials(authorities and authorities.read_bytes(), key, own)


def connect_channel(address: Address, max_bytes: int, timeout_s: float, tls: TlsClient | None = None) -> Channel:
    """A channel whose connection stands; ``ConnectError`` says what to check."""
    tls = tls or TlsClient()
    if not address.port:
        raise ConfigError(f"{address}: no port to connect to")
    channel = Channel(address, max_bytes, tls)
    if channel.wait_ready(timeout_s):
        return channel
    channel.close()
    probe = BlockingSocket(address, timeout_s, tls)  # says precisely why if nobody is there, or nobody to be trusted
    try:
        if address.tls:
            with contextlib.suppress(LinkError):
                probe.receive_into(memoryview(bytearray(1)), Deadline(_PROBE_S))  # says if our certificate is not wanted
    finally:
        probe.shut("only asked who is there")
    hint = ", or connect with grpcs:// if it speaks gRPC within TLS"
    if address.tls:
        hint = ""
        if tls.certificate is None:
            hint = ", or give a certificate if it asks its clients for one: --tls-certificate FILE and --tls-key FILE"
    raise ConnectError(f"{address}: something listens there, but it does not speak gRPC; check the port{hint}")


class Link(_base.Link):
    """A client's connection."""

    def __init__(self, address: Address, channel: Channel, max_bytes: int, token: str | None) -> None:
        self._where = str(address)
        self._channel = channel
        self._max_bytes = max_bytes
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._lock = threading.RLock()
        self._waiting: deque[Frame] = deque()
        self._running: Any = None
        self._replies: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._why_closed = ""

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        for frame in frames:
            if frame.size > self._max_bytes:
                raise LocalProtocolError(f"{self._where}: a call of {frame.size} bytes; at most {self._max_bytes} are allowed")
        with self._lock:
            if self._channel.lost.is_set():
                self._end("the server closed the connection")
            if self._why_closed:
                raise LinkClosedError(f"{self._where}: {self._why_closed}")
            self._waiting += frames
            if self._running is None:
                self._start_next()

    def receive(self, timeout_s: float | None) -> Frame:
        try:
            frame = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            raise LinkTimeoutError(f"{self._where}: nothing came within {timeout_s} s") from None
        if frame is None:
            self._replies.put(None)  # for whoever asks again
            self._shut()
            raise LinkClosedError(f"{self._where}: {self._why_closed}")
        return frame

    def close(self) -> None:
        self._end("closed on this side")
        self._shut()

    def _start_next(self) -> None:
        """Begin the next step, if there is one."""
        self._running = None
        if not self._waiting or self._why_closed:
            return
        frame = self._waiting.popleft()
        messages = [bytes(part) for part in frame.parts] or [b""]
        channel = self._channel.grpc
        if len(messages) == 1:
            self._running = channel.unary_unary(frame.route).future(messages[0], metadata=self._metadata)
        else:
            self._running = channel.stream_unary(frame.route).future(iter(messages), metadata=self._metadata)
        self._running.add_done_callback(lambda done: self._finished(frame, done))

    def _finished(self, frame: Frame, done: Any) -> None:
        """On a thread of gRPC: a step is over."""
        status = done.code().name
        with self._lock:
            if self._why_closed:
                return
            if status in ("UNAVAILABLE", "CANCELLED"):
                self._end(f"connection lost: {done.details()}")
                return
            if status == "OK":
                reply = Frame((done.result(),), route=frame.route, call=frame.call)
            else:
                reply = Frame(((done.details() or "").encode(),), text=True, route=status, call=frame.call)
            if frame.call is not None and (reply.text or reply.size):
                self._waiting = deque(one for one in self._waiting if one.call != frame.call)
            self._replies.put(reply)
            self._start_next()

    def _end(self, why: str) -> None:
        with self._lock:
            if not self._why_closed:
                self._why_closed = why
                self._waiting.clear()
                self._replies.put(None)

    def _shut(self) -> None:
        """Give the connection up; on a thread of the caller's, which gRPC's own must not do."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.cancel()
        with contextlib.suppress(ValueError):  # it was closed before
            self._channel.close()
