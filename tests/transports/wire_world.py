"""A listener and raw sockets beside it, for tests of what peers do wrong."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from actlink import loading
from actlink.address import parse
from actlink.testing._transport_stage import HUNG_S, Stage, Tls
from actlink.transports._base import Listener, Page


def pages(path: str) -> Page | None:
    """Health pages of a server that is well."""
    if path == "/boom":
        raise RuntimeError("a page that fails")
    return Page(200, b'{"status":"ok"}') if path == "/healthz" else None


@contextlib.contextmanager
def listening(url: str, tls: Tls | None = None, **options: Any) -> Iterator[Stage]:
    """A stage whose listener is started, with health pages."""
    address = parse(url)
    stage = Stage(loading.load("transports", address.transport), address, pages=pages, tls=tls)
    try:
        stage.start(**options)
        yield stage
    finally:
        stage.end()


@contextlib.contextmanager
def raw_peer(listener: Listener) -> Iterator[socket.socket]:
    """A bare socket connected to the listener."""
    host, _, port = listener.bound.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HUNG_S) as sock:
        sock.settimeout(HUNG_S)
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side has finished; a hung one fails by the socket's timeout."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            received += piece
    return received


def read_exactly(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = sock.recv(count - len(received))
        assert piece, f"expected {count} bytes, got {len(received)} and the end"
        received += piece
    return received
