"""Health pages, on a port of their own and on that of a WebSocket listener."""

from __future__ import annotations

import pytest
from wire_world import listening, raw_peer, read_all

from actlink.errors import ConfigError


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, b'{"status":"ok"}'),
        (b"GET /healthz?verbose=1 HTTP/1.0\r\n\r\n", 200, b'{"status":"ok"}'),
        (b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, b""),
        (b"GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, b"no such page\n"),
        (b"GET /boom HTTP/1.1\r\nHost: localhost\r\n\r\n", 500, b"the server failed; its log says why\n"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 405, b"only GET and HEAD\n"),
        (b"\x00\x00\x00\x05hello", 400, None),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, None),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n", 403, None),
    ],
)
def test_pages(scheme: str, data: bytes, status: int, body: bytes | None) -> None:
    with listening(f"native+{scheme}://127.0.0.1:0") as stage:
        with raw_peer(stage.listener) as sock:
            sock.sendall(data)
            answer = read_all(sock)
        head, _, got = answer.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"Connection: close" in head
        if body is not None:
            assert got == body
        if status == 200:
            assert b"Content-Type: application/json" in head and b"Content-Length: 15" in head
        assert stage.arrivals.empty()


def test_http_has_no_client() -> None:
    with listening("native+http://127.0.0.1:0") as stage, pytest.raises(ConfigError, match="ws or tcp"):
        stage.link()
