"""How stream sockets are set up on both sides. Law: small frames leave at once; a dead peer is noticed, a silent one stays.

Buffer sizes are left to the system: it tunes them to the link, and fixed ones measured no better. Within one machine there is no
congestion, yet the controllers made for networks (cubic, bbr) take the scheduler's delays for a queue and hold back: a frame of
2.76 MB then waits for acknowledgements half-way and takes up to twice as long. There the plain one, reno, is asked for.
"""

from __future__ import annotations

import contextlib
import socket

_IDLE_S, _INTERVAL_S, _PROBES = 30, 10, 3


def for_stream(sock: socket.socket) -> None:
    """No delay for small writes, keepalive, and one minute until unanswered bytes mean that the peer is gone.

    ``sock`` is connected. Does nothing to Unix sockets; an option that the system does not know is left out.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _IDLE_S),
        ("TCP_KEEPALIVE", _IDLE_S),  # the name of the same on macOS
        ("TCP_KEEPINTVL", _INTERVAL_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (_IDLE_S + _INTERVAL_S * _PROBES)),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_CONGESTION") and sock.getsockname()[0] == sock.getpeername()[0]:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
