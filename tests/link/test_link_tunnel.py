"""A link of packets between two network namespaces; skipped, with the reason, where the system does not permit one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actlink.errors import ConfigError
from actlink.link import tunnel
from actlink.link.faults import LinkConfig
from actlink.link.schedule import REORDER_S
from actlink.link.tunnel import Tunnel

HUNG_S = 60.0

permitted = pytest.mark.skipif(bool(tunnel.missing()), reason=f"no tunnel of packets here: {tunnel.missing()}")

TCP = """
import socket, sys
host, size = sys.argv[1], int(sys.argv[2])
if host == "far":
    listener = socket.create_server((sys.argv[3], 7))
    print("ready", flush=True)
    peer, _ = listener.accept()
    while piece := peer.recv(65536):
        peer.sendall(piece)
    peer.close()
else:
    import random, threading
    data = random.Random(1).randbytes(size)
    sock = socket.create_connection((sys.argv[3], 7), timeout=30)
    threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()
    back = b"".join(iter(lambda: sock.recv(65536), b""))
    print("same" if back == data else f"{len(back)} bytes of {len(data)}")
"""

UDP = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[1] == "far":
    sock.bind((sys.argv[2], 7))
    print("ready", flush=True)
    found = []
    while (datagram := sock.recv(100)) != b"end":
        found.append(int(datagram))
    print(found)
else:
    import time
    for n in range(200):
        sock.sendto(str(n).encode(), (sys.argv[2], 7))
        time.sleep(0.001)  # a sender's pace, far below the time by which a packet is held back
    for _ in range(10):  # some of them are lost; the first that is not overtakes next to nothing
        time.sleep(float(sys.argv[3]))
        sock.sendto(b"end", (sys.argv[2], 7))
"""


def both(link: Tunnel, program: str, far: list[str], near: list[str]) -> tuple[str, str]:
    """Output of ``program`` at the far and at the near end."""
    command = [sys.executable, "-c", program]
    other = subprocess.Popen(link.command(link.far, *command, "far", *far), stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        words = link.command(link.near, *command, "near", *near)
        done = subprocess.run(words, capture_output=True, text=True, timeout=HUNG_S, check=True)
        return other.communicate(timeout=HUNG_S)[0], done.stdout
    finally:
        other.kill()
        other.communicate()


def name() -> str:
    return f"act{os.getpid()}"


@permitted
def test_tcp_mends_what_the_link_does_to_its_packets() -> None:
    config = LinkConfig(delay_ms=1.0, jitter_ms=0.5, loss=0.01, duplicate=0.01, reorder=0.01, seed=5)
    with Tunnel(config, name=name(), network="10.77.4.0") as link:
        _, told = both(link, TCP, ["0", link.far_host], ["400000", link.far_host])
    assert told == "same\n"


@permitted
def test_datagrams_are_lost_doubled_and_reordered() -> None:
    config = LinkConfig(loss=0.1, duplicate=0.1, reorder=0.1, seed=5)
    with Tunnel(config, name=name(), network="10.77.4.4") as link:
        told, _ = both(link, UDP, [link.far_host], [link.far_host, str(2 * REORDER_S)])
    found = [int(n) for n in told.strip()[1:-1].split(",")]
    assert 150 <= len(set(found)) <= 195
    assert len(found) > len(set(found))
    assert found != sorted(found)


@permitted
def test_nothing_is_left_behind_and_a_name_in_use_is_an_error() -> None:
    with Tunnel(name=name(), network="10.77.4.8") as link:
        spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        assert link.near in spaces and link.far in spaces
        with pytest.raises(ConfigError, match="ip netns add"):
            Tunnel(name=name(), network="10.77.4.8").__enter__()
    # The second one took away what the first had made, as any caretaker of a name would; now there is nothing at all.
    assert name() not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


@permitted
def test_packets_know_no_reset() -> None:
    with pytest.raises(ConfigError, match="the proxy can reset"):
        Tunnel(LinkConfig(faults=("reset at 1 s",)))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel.shutil, "which", lambda name: None)
    monkeypatch.setattr(tunnel, "_TUN", tunnel.Path("/proc/self/status"))
    with pytest.raises(ConfigError, match=r"the program 'ip' is not there|network namespaces are Linux"):
        Tunnel()
