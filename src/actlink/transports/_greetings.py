"""Who speaks a foreign wire. Law: a guess from a peer's first four bytes, made only where they are no frame of ours."""

from __future__ import annotations

_WORDS = {
    # What the first four bytes are: (what the peer speaks, what to do about it)
    b"GET ": "HTTP",
    b"POST": "HTTP",
    b"HEAD": "HTTP",
    b"PUT ": "HTTP",
    b"DELE": "HTTP",
    b"PATC": "HTTP",
    b"OPTI": "HTTP",
    b"CONN": "HTTP",
    b"HTTP": "HTTP",
    b"PRI ": "HTTP/2 (gRPC)",
    b"SSH-": "SSH",
    b"\xff\x00\x00\x00": "ZeroMQ",
}


def recognise(start: bytes) -> str:
    """What the peer speaks whose first bytes are ``start``; empty where they say nothing."""
    if start[:2] in (b"\x16\x03", b"\x15\x03"):  # the beginning of a handshake, an alert
        return "TLS"
    if start[:1] == b"\xff" and len(start) >= 4 and start[1:4] == b"\x00\x00\x00":
        return "ZeroMQ"
    return _WORDS.get(start[:4], "")
