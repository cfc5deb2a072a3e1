"""Peers that write a byte now and then, and peers that never read: gone by their deadlines, bounded, and nobody else's burden."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hardened_server import SPEC, repeat
from hardening_world import HUNG_S, MIB, Child, child, has_ended, opening, peers, prefixed, read_to_the_end, upgrade, ws_frame

from actlink import loading
from actlink.address import Address, parse
from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Record
from actlink.dialects._base import Frame
from actlink.policies._callable import CallablePolicy
from actlink.serving.server import Server
from actlink.transports import _zmtp

pytest.importorskip("grpc", reason="grpcio is not installed: slow peers of the ports are NOT TESTED")

DEADLINES = "?handshake_s=2&frame_s=2"
SHORT = "?handshake_s=0.5&frame_s=0.5"
PER_STAGE = 10
EVERY_S = 0.1
"""So slow that the shortest of them is not over by the deadline."""
BODY = bytes(1000)

# What such a peer says at once, and what it says byte by byte.
STAGES: dict[str, tuple[str, Callable[[Address], bytes], Callable[[Address], bytes]]] = {
    "tcp: no hello": ("tcp", lambda where: b"", lambda where: b""),
    "tcp: the first frame": ("tcp", lambda where: b"", lambda where: prefixed(BODY)),
    "tcp: a later frame": ("tcp", lambda where: opening("tcp", where), lambda where: prefixed(BODY)),
    "ws: the request": ("ws", lambda where: b"", lambda where: upgrade(where).ljust(2000, b"x")),
    "ws: the hello": ("ws", upgrade, lambda where: ws_frame(BODY)),
    "ws: a later frame": ("ws", lambda where: opening("ws", where), lambda where: ws_frame(BODY)),
    "ws: empty fragments": ("ws", lambda where: opening("ws", where), lambda where: b"\x02\x80abcd" + b"\0\x80abcd" * 200),
    "zmq: the greeting": ("zmq", lambda where: b"", lambda where: _zmtp.greeting(server=False)),
    "zmq: READY": ("zmq", lambda where: _zmtp.greeting(server=False), lambda where: _zmtp.ready(b"REQ").ljust(500, b"x")),
    "zmq: a message": (
        "zmq",
        lambda where: opening("zmq", where),
        lambda where: b"".join(map(bytes, _zmtp.message([BODY], 1000, delimited=True))),
    ),
    "grpc: the preface": ("grpc", lambda where: b"", lambda where: opening("grpc", where)),
    "grpc: SETTINGS": (
        "grpc",
        lambda where: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        lambda where: b"\0\4\0\4\0\0\0\0\0" + bytes(1024),
    ),
}


@contextlib.contextmanager
def tricklers(server: Child) -> Iterator[dict[str, list[tuple[socket.socket, bytes]]]]:
    with contextlib.ExitStack() as stack:
        made = {}
        for stage, (port, begin, rest) in STAGES.items():
            address = server.addresses[port]
            socks = stack.enter_context(peers(address, PER_STAGE))
            for sock in socks:
                sock.sendall(begin(address))
            made[stage] = [(sock, rest(address)) for sock in socks]
        yield made


def test_trickling_peers_are_gone_by_their_deadline(tmp_path: Path) -> None:
    with child(tmp_path, DEADLINES) as server, tricklers(server) as left:
        assert sum(map(len, left.values())) == PER_STAGE * len(STAGES) >= 100
        begun_s, spoken, gone_s, served_s = time.monotonic(), 0, {}, []
        while left:
            for stage, ones in left.items():
                for sock, rest in ones:
                    with contextlib.suppress(ConnectionError):
                        sock.send(rest[spoken : spoken + 1])
                left[stage] = [(sock, rest) for sock, rest in ones if not has_ended(sock)]
                if not left[stage]:
                    gone_s[stage] = time.monotonic() - begun_s
            left = {stage: ones for stage, ones in left.items() if ones}
            spoken += 1
            served_s.append(server.serves())
            assert time.monotonic() - begun_s < HUNG_S, f"still there: { {stage: len(ones) for stage, ones in left.items()} }"
            select.select([], [], [], EVERY_S)
        for stage, at_s in sorted(gone_s.items()):
            print(f"{stage}: {PER_STAGE} of {PER_STAGE} gone within {at_s:.2f} s; their deadline is 2 s")
        print(f"meanwhile {len(served_s)} good clients of each port, the slowest four took {max(served_s) * 1000:.0f} ms")
        assert server.settled(lambda: server.known()["sessions"] == 0) < HUNG_S
        assert len(gone_s) == len(STAGES)


# Peers that never read

CAP = MIB
FRAME = bytes(64 * 1024)
READERS = 50
MOST = 64 * MIB
"""What one such peer sends at most; beyond it nobody has stopped it."""


@contextlib.contextmanager
def echoing(place: Path, url: str) -> Iterator[tuple[Child, Address]]:
    """A server that sends every frame back, in a process of its own."""
    command = [sys.executable, "-m", "actlink.testing.echo", url]
    with (place / "log").open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            yield Child(process, place / "log", ()), parse(url.partition("?")[0]).with_port(port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(HUNG_S) == 0
        finally:
            process.kill()


def echoed(address: Address) -> None:
    """A good client's exchange."""
    transport = loading.load("transports", address.transport)
    link = transport.connect(address, transport.Config(), timeout_s=HUNG_S)
    link.send([Frame((FRAME,))], HUNG_S)
    assert bytes(link.receive(HUNG_S).data) == FRAME
    link.close()


def flood(socks: list[socket.socket], frame: bytes, each_round: Callable[[], None]) -> int:
    """All of them send and none reads, until the server has dropped each; how many it dropped."""
    for sock in socks:
        sock.setblocking(False)
    unsent = {sock: [frame, 0] for sock in socks}
    dropped, end_s = 0, time.monotonic() + 4 * HUNG_S
    while unsent and time.monotonic() < end_s:
        _, writable, _ = select.select([], list(unsent), [], 0.05)
        for sock in writable:
            data, total = unsent[sock]
            try:
                count = sock.send(data)
            except BlockingIOError:
                continue
            except ConnectionError:
                dropped += 1
                del unsent[sock]
                continue
            unsent[sock] = [data[count:] or frame, total + count]
            assert total < MOST, "nobody stops this peer"
        each_round()
    return dropped


OPENINGS: dict[str, Callable[[Address], bytes]] = {
    "native+tcp": lambda where: b"",
    "native+ws": upgrade,
    "act+zmq": lambda where: opening("zmq", where),
}
FRAMES = {
    "native+tcp": prefixed(FRAME),
    "native+ws": ws_frame(FRAME),
    "act+zmq": b"".join(map(bytes, _zmtp.message([FRAME], len(FRAME), delimited=True))),
}


@pytest.mark.parametrize("wire", OPENINGS)
def test_peers_that_never_read_are_dropped_at_the_cap(tmp_path: Path, wire: str) -> None:
    with echoing(tmp_path, f"{wire}://127.0.0.1:0?write_buffer_bytes={CAP}") as (server, address):
        echoed(address)
        before, highest, rounds = server.memory(), 0, 0

        def look() -> None:
            nonlocal highest, rounds
            highest = max(highest, server.memory())
            rounds += 1
            if rounds % 20 == 1:
                echoed(address)

        with peers(address, READERS, receive_bytes=4096) as socks:
            for sock in socks:
                sock.sendall(OPENINGS[wire](address))
            dropped = flood(socks, FRAMES[wire], look)
        grown = highest - before
        said = (tmp_path / "log").read_text().count("reads too slowly")
        print(f"{wire}: {dropped} of {READERS} dropped, {said} of them named in the log; memory at most +{grown / MIB:.1f} MiB")
        assert dropped == said == READERS
        assert grown < READERS * (CAP + 2 * len(FRAME)) + 16 * MIB
        echoed(address)


# Peers that have sent nothing wrong

OBSERVED = Record("benchmark.base", "MetaObs", (), {"state": np.zeros(4, np.float32)})


def pickled(value: object) -> bytes:
    return b"".join(map(bytes, safe_pickle.encode(value)))


def zmq_message(data: bytes) -> bytes:
    return b"".join(map(bytes, _zmtp.message([data], len(data), delimited=True)))


SILENT: dict[str, tuple[Callable[[Address], bytes], bytes, bytes, bytes]] = {
    # What is said until the peer is welcome, how it hears of that, the beginning of a frame, a question
    "ilstudio+tcp": (lambda where: b"", b"", b"\0\0\1", prefixed(pickled(OBSERVED))),
    "act+zmq": (lambda where: opening("zmq", where), b"READY", b"\0", zmq_message(pickled("RESET"))),
    "vibe+ws": (upgrade, b" 101 ", b"\x82", ws_frame(b"?", 9)),
    "openpi+ws": (upgrade, b" 101 ", b"\x82", ws_frame(b"?", 9)),
    "native+ws": (lambda where: opening("ws", where), b" 101 ", b"\x82", ws_frame(b"?", 9)),
}


@contextlib.contextmanager
def let_in(address: Address, begin: bytes, welcome: bytes) -> Iterator[socket.socket]:
    """A peer that has said its opening in time; several tries, since a slow machine may miss the deadline."""
    for _ in range(20):
        with peers(address, 1) as (sock,):
            sock.sendall(begin)
            heard = b""
            with contextlib.suppress(ConnectionError):
                while welcome not in heard and (piece := sock.recv(65536)):
                    heard += piece
            if welcome in heard:
                yield sock
                return
    raise AssertionError("no opening was in time")


@pytest.mark.parametrize("wire", SILENT)
def test_a_silent_peer_stays(wire: str) -> None:
    """Longer than the deadlines, which a peer beside it that has begun a frame shows to have passed; and it is still served."""
    begin, welcome, half, question = SILENT[wire]
    with Server({"echo": CallablePolicy(repeat, SPEC)}, [f"{wire}://127.0.0.1:0{SHORT}"]) as server:
        address = parse(server.addresses[0])
        with let_in(address, begin(address), welcome) as silent:
            for _ in range(3):
                with peers(address, 1) as (half_way,):
                    half_way.sendall(begin(address) + half)
                    read_to_the_end(half_way)
            assert not has_ended(silent)
            silent.sendall(question)
            assert silent.recv(1), "an answer"
            assert not has_ended(silent)
