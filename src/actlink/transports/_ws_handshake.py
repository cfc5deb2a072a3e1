"""The opening of a WebSocket (RFC 6455 section 4), both sides. Law: sans-I/O; no extension and no subprotocol is ever agreed on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from urllib.parse import quote

from actlink.address import Address
from actlink.errors import ConnectError, RemoteProtocolError
from actlink.transports._http import Head, answer
from actlink.transports._sites import Sites, host_of

_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SHOWN = 300


def wants_upgrade(request: Head) -> bool:
    """Whether the request asks for a WebSocket, rightly or not; anything else is a plain request."""
    return request.lists("upgrade", "websocket")


def refusal(request: Head, sites: Sites) -> tuple[bytes, str] | None:
    """The answer that turns an upgrade request down, and why; None if it may go on."""
    version = request.header("sec-websocket-version")
    if request.method != "GET" or request.first[2] != "HTTP/1.1" or not request.lists("connection", "upgrade"):
        return _refuse(400, "not a WebSocket opening: expected GET over HTTP/1.1 with 'Connection: Upgrade'")
    if version != "13":
        return _refuse(
            426, f"expected WebSocket version 13, got {version[:20]!r}", {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"}
        )
    if not _is_key(request.header("sec-websocket-key")):
        return _refuse(400, "expected 16 bytes in base64 as Sec-WebSocket-Key")
    if not host_of(request.header("host")):
        return _refuse(400, "expected a Host header")
    foreign = sites.refusal(request)
    return None if foreign is None else _refuse(403, foreign)


def accept(request: Head) -> bytes:
    """The response that opens the WebSocket."""
    token = _accept_token(request.header("sec-websocket-key"))
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {token}\r\n\r\n"
    ).encode()


def credential(request: Head) -> str | None:
    """What follows ``Bearer`` or ``Api-Key`` in the Authorization header."""
    scheme, _, value = request.header("authorization").partition(" ")
    return value.strip() or None if scheme.lower() in ("bearer", "api-key") else None


def new_key() -> str:
    """A fresh Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def upgrade_request(address: Address, key: str, token: str | None) -> bytes:
    """The request of a client."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"GET /{quote(address.model)} HTTP/1.1", f"Host: {host}:{address.port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def check_response(response: Head, key: str, body: bytes, where: str) -> None:
    """``ConnectError`` with the server's own words if it refused, ``RemoteProtocolError`` if it is no WebSocket."""
    version, status, phrase = response.first
    if status != "101":
        words = body.decode("utf-8", "replace").strip()[:_SHOWN]
        raise ConnectError(f"{where}: the server answered {status} {phrase}" + (f": {words}" if words else ""))
    if not (
        version == "HTTP/1.1"
        and response.lists("upgrade", "websocket")
        and response.lists("connection", "upgrade")
        and response.header("sec-websocket-accept") == _accept_token(key)
        and not response.header("sec-websocket-extensions")
        and not response.header("sec-websocket-protocol")
    ):
        raise RemoteProtocolError(f"{where}: the server's answer does not open a WebSocket")


def _refuse(status: int, why: str, headers: dict[str, str] | None = None) -> tuple[bytes, str]:
    return answer(status, f"{why}\n".encode(), headers=headers), why


def _accept_token(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_SALT).digest()).decode()


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode(), validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
