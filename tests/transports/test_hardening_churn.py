"""Thousands of peers that come and go, more than are let in, no descriptor left: everything is given back in the end."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from pathlib import Path

import pytest
from hardening_world import HUNG_S, MIB, PORTS, Child, child, has_ended, opening, peers

from actlink import connect
from actlink.errors import ActlinkError

pytest.importorskip("grpc", reason="grpcio is not installed: churn at the ports is NOT TESTED")

CONNECTS = 5000
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close() tears the connection instead of ending it."""


def visit(server: Child, port: str, number: int) -> None:
    """One peer that comes, says nothing, half or all of its opening, and goes; every other one abruptly."""
    address = server.addresses[port]
    with socket.create_connection((address.host, address.port), timeout=HUNG_S) as sock:
        said = opening(port, address)
        sock.sendall(said[: (0, len(said) // 2, len(said))[number % 3]])
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_after_thousands_of_peers_nothing_is_left(tmp_path: Path) -> None:
    ports = list(PORTS)
    with child(tmp_path) as server:
        for number in range(200):
            visit(server, ports[number % 4], number // 4)
        server.serves()
        server.settled(lambda: server.known()["sessions"] == 0)
        before = server.descriptors(), server.threads(), server.memory(), server.known()
        for number in range(CONNECTS):
            visit(server, ports[number % 4], number // 4)
        server.serves()
        took_s = server.settled(
            lambda: server.descriptors() <= before[0] + 2 and server.threads() <= before[1] + 2 and server.known()["sessions"] == 0
        )
        after = server.descriptors(), server.threads(), server.memory(), server.known()
        print(
            f"{CONNECTS} peers, half of them abrupt, {after[3]['total'] - before[3]['total']} sessions;",
            f"settled after {took_s:.2f} s:",
            f"descriptors {before[0]} -> {after[0]}, threads {before[1]} -> {after[1]},",
            f"memory +{(after[2] - before[2]) / MIB:.2f} MiB",
        )
        assert after[0] - before[0] <= 2
        assert after[1] - before[1] <= 2
        assert after[3]["total"] > before[3]["total"] + CONNECTS // 20
        assert after[2] - before[2] < 32 * MIB


@pytest.mark.parametrize("port", ["tcp", "ws"])
def test_the_cap_turns_away_and_lets_in_again(tmp_path: Path, port: str) -> None:
    with child(tmp_path, "?max_connections=20", [port]) as server, contextlib.ExitStack() as stack:
        server.settled(lambda: server.known()["sessions"] == 0)
        where = str(server.addresses[port])
        let_in = [stack.enter_context(connect(where)) for _ in range(20)]
        refused = 0
        for _ in range(30):
            with pytest.raises(ActlinkError):
                connect(where)
            refused += 1
        assert server.known()["sessions"] == len(let_in) == 20
        stack.close()
        server.settled(lambda: server.known()["sessions"] == 0)
        print(f"{port}: {len(let_in)} let in, {refused} turned away; then served in {server.serves([port]):.3f} s")


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors of another process are limited on Linux only: NOT TESTED")
@pytest.mark.parametrize("port", PORTS)
def test_without_descriptors_it_waits_and_serves_again(tmp_path: Path, port: str) -> None:
    import resource

    limit = 256
    with child(tmp_path, "?max_connections=1000") as server:
        server.settled(lambda: server.known()["sessions"] == 0)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with peers(server.addresses[port], 300) as socks:
            server.settled(lambda: server.descriptors() >= limit - 8)
            assert server.process.poll() is None
            open_then = server.descriptors()
            ended = sum(map(has_ended, socks))
        took_s = server.settled(lambda: server.descriptors() < limit // 2)
        others = [name for name in PORTS if name != port]
        answered_s = server.serves([port]) + server.serves(others)
        print(
            f"{port}: 300 peers at a limit of {limit} descriptors, {open_then} open, {ended} turned away; "
            f"after their end free again in {took_s:.2f} s, and each port answered in {answered_s:.2f} s"
        )
        if port != "grpc":
            assert server.log().count("cannot accept a peer") <= 3, "once for each shortage, not for each attempt"
