"""Peers that speak another wire: closed at the first wrong bytes, named in the log, and no burden."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hardening_world import MIB, PORTS, Child, child, native_hello, peers, prefixed, read_to_the_end, tls_hello

from actlink.transports import _zmtp

pytest.importorskip("grpc", reason="grpcio is not installed: hostile peers of the ports are NOT TESTED")

COUNT = 50
PATIENT = "?handshake_s=1000"
"""Whoever is closed is closed for what it says, not for the time it takes."""

GREETINGS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": tls_hello(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "ZeroMQ": _zmtp.greeting(server=False),
    "MQTT": b"\x10\x0f\0\4MQTT\4\2\0\x3c\0\3abc",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "VNC": b"RFB 003.008\n",
    "frames": prefixed(native_hello()),
    "noise": b"\xff" * 100,
}
OWN = {"ws": "HTTP", "tcp": "frames", "zmq": "ZeroMQ", "grpc": "HTTP/2"}
NAMED = ("HTTP", "HTTP/2", "TLS", "SSH", "ZeroMQ")
"""Those that our log knows by name; gRPC's port is gRPC's own, and says nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child(tmp_path_factory.mktemp("server"), PATIENT) as made:
        yield made


def greet(server: Child, port: str, greeting: str, count: int) -> float:
    """That many peers at once; seconds from the first wrong byte until the last of them is closed."""
    with peers(server.addresses[port], count) as socks:
        begun_s = time.monotonic()
        for sock in socks:
            sock.sendall(GREETINGS[greeting])
        for sock in socks:
            read_to_the_end(sock)
        return time.monotonic() - begun_s


@pytest.mark.parametrize("port", PORTS)
def test_foreign_greetings_are_closed_at_once(server: Child, port: str) -> None:
    foreign = [name for name in GREETINGS if name != OWN[port]]
    assert len(foreign) == 9
    for name in foreign:
        greet(server, port, name, COUNT)
    before = server.memory()
    took_s = {name: greet(server, port, name, COUNT) for name in foreign}
    grown = server.memory() - before
    answered_s = server.serves()
    worst = max(took_s, key=lambda name: took_s[name])
    print(
        f"{port}: {9 * COUNT} foreign peers, {COUNT} at once closed within {took_s[worst]:.3f} s ({worst}); +{grown / MIB:.2f} MiB"
    )
    print(f"then one good request at each port in {answered_s:.3f} s")
    assert grown < 16 * MIB


def test_the_log_names_them(tmp_path: Path) -> None:
    ours = [port for port in PORTS if port != "grpc"]
    with child(tmp_path, ports=ours) as server:
        for port in ours:
            for name in NAMED:
                if name != OWN[port]:
                    greet(server, port, name, 1)
                    spoken = server.addresses[port]
                    says = f"this peer speaks {name}"
                    assert any(
                        says in line and f"this port speaks {spoken.dialect}+{spoken.scheme}" in line
                        for line in server.log().splitlines()
                    ), (port, name, server.log()[-500:])
