"""Length-prefixed frames: what peers do wrong is refused, said, and harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from wire_world import listening, raw_peer, read_all, read_exactly

from actlink.address import parse
from actlink.dialects._base import Frame
from actlink.errors import ConfigError, ConnectError, LinkClosedError, LinkTimeoutError, RemoteProtocolError
from actlink.testing._transport_stage import HUNG_S, Stage, raised_by
from actlink.transports import _ports, tcp
from actlink.transports._base import Connection
from actlink.transports._buffers import Buffers, Inbox
from actlink.transports._framing import Ended, Opened

URL = "native+tcp://127.0.0.1:0"


def frame_of(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def echo(connection: Connection, frame: Frame) -> None:
    connection.send([frame])


def still_serves(stage: Stage) -> None:
    """A well-behaved client gets its answer."""
    link = stage.link()
    link.send([Frame((b"well behaved",))], HUNG_S)
    assert bytes(link.receive(HUNG_S).data) == b"well behaved"


def framing() -> tcp._ServerFraming:
    one = tcp._ServerFraming(Inbox(Buffers()), 1000, "native+tcp")
    assert [type(happening) for happening in one.filled(0)] == [Opened]
    return one


def feed(one: tcp._ServerFraming, data: bytes) -> list[object]:
    happenings: list[object] = []
    while data:
        room = one.buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        happenings += one.filled(count)
        data = data[count:]
    return happenings


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 64, 1000])
def test_frames_are_the_same_however_they_arrive(chunk: int) -> None:
    frames = [b"", b"a", b"bc" * 100, b"", bytes(1000)]
    stream = b"".join(map(frame_of, frames))
    one = framing()
    received: list[object] = []
    for i in range(0, len(stream), chunk):
        received += feed(one, stream[i : i + chunk])
    assert [bytes(frame.data) for frame in received if isinstance(frame, Frame)] == frames
    assert one.idle


def test_length_over_the_limit_takes_no_memory() -> None:
    class Watched(Buffers):
        def take(self, size: int) -> memoryview:
            raise AssertionError(f"{size} bytes were taken")

    one = tcp._ServerFraming(Inbox(Watched()), 1000, "native+tcp")
    list(one.filled(0))
    (ended,) = feed(one, struct.pack(">I", 1001))
    assert isinstance(ended, Ended) and ended.error
    assert "1001" in ended.reason and "1000" in ended.reason


@pytest.mark.parametrize(
    ("greeting", "name", "answer"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 (gRPC)", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS", b""),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01", "ZeroMQ", b""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH", b""),
        (b"\xde\xad\xbe\xef" * 10, "frame of 3735928559 bytes", b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_foreign_greeting_is_named_and_closed_at_once(
    greeting: bytes, name: str, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(URL) as stage:
        stage.reply = echo
        with raw_peer(stage.listener) as sock:
            sock.sendall(greeting)
            received = read_all(sock)  # returns: the connection was closed
        assert received.startswith(answer) and bool(received) is bool(answer)
        assert name in stage.arrival().end()
        still_serves(stage)
    assert name in caplog.text


def test_http_client_is_told_where_it_has_come() -> None:
    with listening(URL) as stage, raw_peer(stage.listener) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"native+tcp" in read_all(sock)


def test_silent_peer_stays_and_the_one_that_stalls_in_a_frame_goes() -> None:
    with listening(URL, frame_s=0.05) as stage:
        stage.reply = echo
        with raw_peer(stage.listener) as silent:
            silent_recorder = stage.arrival()
            for stalled_bytes in (b"\x00", b"\x00\x00\x00", frame_of(bytes(100))[:50], frame_of(bytes(100_000))[:70_000]):
                with raw_peer(stage.listener) as stalled:
                    recorder = stage.arrival()
                    with contextlib.suppress(ConnectionError):  # it may be gone before its last byte has left
                        stalled.sendall(stalled_bytes)
                    assert "not finished within 0.05 s" in recorder.end()
                    assert read_all(stalled) == b""
                    assert recorder.frames.empty()
            assert silent_recorder.ends.empty()
            silent.sendall(frame_of(b"good morning"))
            assert read_exactly(silent, 16) == frame_of(b"good morning")


def test_frame_cut_short_by_the_end() -> None:
    with listening(URL) as stage:
        stage.reply = echo
        with raw_peer(stage.listener) as sock:
            recorder = stage.arrival()
            sock.sendall(frame_of(b"whole") + frame_of(bytes(1000))[:-1])
            sock.shutdown(socket.SHUT_WR)
            assert bytes(recorder.next_frame().data) == b"whole"
            assert "middle of a frame" in recorder.end()
        assert recorder.frames.empty()
        still_serves(stage)


def test_garbage_of_all_kinds_wedges_nothing() -> None:
    chance = random.Random(7)
    with listening(URL, max_frame_bytes=10_000) as stage:
        stage.reply = echo
        for _ in range(60):
            with raw_peer(stage.listener) as sock, contextlib.suppress(OSError):
                sock.sendall(chance.randbytes(chance.randrange(1, 300)))
                if chance.random() < 0.5:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                else:
                    sock.shutdown(socket.SHUT_WR)
                    read_all(sock)
        still_serves(stage)


def test_slow_reader_is_dropped_with_its_bytes_counted(caplog: pytest.LogCaptureFixture) -> None:
    with listening(URL, write_buffer_bytes=200_000) as stage, raw_peer(stage.listener) as sock:
        recorder = stage.arrival()

        async def flood() -> None:
            while recorder.ends.empty():
                recorder.connection.send([Frame((bytes(100_000),))])
                await asyncio.sleep(0)

        stage.wait(flood())
        reason = recorder.end()
        assert int(re.search(r"(\d+) bytes unsent", reason)[1]) > 200_000  # type: ignore[index]
        read_all(sock)  # ends: the connection is closed
    assert "reads too slowly" in caplog.text


def test_one_reply_larger_than_the_write_buffer_is_not_a_slow_reader() -> None:
    with listening(URL, write_buffer_bytes=1000) as stage:
        stage.reply = lambda connection, frame: connection.send([Frame((bytes(9_000_000),))])
        link = stage.link()
        link.send([Frame((b"x",))], HUNG_S)
        assert link.receive(HUNG_S).size == 9_000_000


def test_peer_over_the_limit_is_turned_away_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    with listening(URL, max_connections=1) as stage:
        stage.reply = echo
        link = stage.link()
        stage.arrival()
        with raw_peer(stage.listener) as sock:
            assert read_all(sock) == b""
        link.send([Frame((b"mine",))], HUNG_S)
        assert bytes(link.receive(HUNG_S).data) == b"mine"
    assert "the server is full: 1 connections are open" in caplog.text


def test_port_in_use_names_the_holder_and_how_to_find_it() -> None:
    with listening(URL) as stage:
        error = raised_by(lambda: stage.wait(tcp.Listener(stage.where, tcp.Config()).start(stage.opened)), "binding twice")
        port = stage.where.port
    assert isinstance(error, ConfigError)
    for part in (str(stage.where), f"this very process (pid {os.getpid()})", f"ss -ltnp 'sport = :{port}'"):
        assert part in str(error)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the holder of a port is found by /proc")
def test_port_held_by_another_process() -> None:
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        port = int(holder.stdout.readline())
        try:
            assert re.fullmatch(rf".*python.* \(pid {holder.pid}\)", _ports.holder_of(port))
            with pytest.raises(ConfigError, match=rf"pid {holder.pid}\)"):
                _ports.bind(parse(f"native+tcp://127.0.0.1:{port}"))
        finally:
            holder.stdin.close()
    assert _ports.holder_of(port) == ""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("native+tcp://192.0.2.1:8001", "192.0.2.1.*not an address of this machine"),
        ("native+tcp://no.such.host.invalid:8001", "no.such.host.invalid"),
        ("native+tcp://127.0.0.1", "no port"),
        ("native+tcps://127.0.0.1:8001", "TLS needs a certificate"),
        ("native+unix:///no/such/folder/socket", "No such file"),
    ],
)
def test_address_that_cannot_be_bound(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(tcp.Listener(parse(url), tcp.Config()).start(lambda connection: None))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("native+tcp://no.such.host.invalid:8001", ConnectError, "no.such.host.invalid.*spelling"),
        ("native+tcp://127.0.0.1:1", ConnectError, "native.tcp://127.0.0.1:1: connection refused.*port"),
        ("native+tcp://127.0.0.1", ConfigError, "no port"),
        ("native+unix:///no/such/socket", ConnectError, "no such socket"),
    ],
)
def test_connecting_in_vain_says_what_to_check(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tcp.connect(parse(url), tcp.Config())


def test_connecting_where_nobody_answers_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:  # its queue is full after the first
        port = deaf.getsockname()[1]
        with contextlib.ExitStack() as waiting:
            for _ in range(4):
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            with pytest.raises(ConnectError, match=r"no answer within 0.2 s.*firewall"):
                tcp.connect(parse(f"native+tcp://127.0.0.1:{port}"), tcp.Config(), timeout_s=0.2)


@pytest.mark.parametrize(("name", "value"), [("max_frame_bytes", 0), ("max_frame_bytes", 2**32), ("frame_s", -1.0)])
def test_config_that_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        tcp.Config(**{name: value})


def test_client_names_a_server_that_speaks_http() -> None:
    with listening("native+ws://127.0.0.1:0") as stage:
        link = tcp.connect(parse(f"native+tcp://127.0.0.1:{stage.where.port}"), tcp.Config())
        link.send([Frame((b"\x81hello",))], HUNG_S)
        with pytest.raises(RemoteProtocolError, match=r"speaks HTTP.*ws://"):
            link.receive(HUNG_S)
        with pytest.raises(LinkClosedError, match="HTTP"):
            link.send([Frame((b"again",))], HUNG_S)
        link.close()


def test_send_to_a_server_that_does_not_read_ends_in_time_and_for_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        link = tcp.connect(parse(f"native+tcp://127.0.0.1:{deaf.getsockname()[1]}"), tcp.Config())
        with pytest.raises(LinkTimeoutError, match="could not send"):
            link.send([Frame((bytes(60_000_000),))], 0.2)
        with pytest.raises(LinkClosedError, match="took too long"):
            link.send([Frame((b"x",))], 0.2)
        link.close()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals")
def test_a_write_that_is_interrupted_leaves_no_half_frame_behind() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening_socket:

            def begin_to_read() -> None:
                peer, _ = listening_socket.accept()
                peers.append(peer)
                peer.recv(1)  # the frame is under way, and its rest is not read
                signal.pthread_kill(main, signal.SIGUSR1)

            peers: list[socket.socket] = []
            thread = threading.Thread(target=begin_to_read)
            thread.start()
            link = tcp.connect(parse(f"native+tcp://127.0.0.1:{listening_socket.getsockname()[1]}"), tcp.Config())
            with pytest.raises(KeyboardInterrupt):
                link.send([Frame((bytes(tcp.Config().max_frame_bytes),))], HUNG_S)
                threading.Event().wait(HUNG_S)  # were it sent, the signal would still come
            thread.join()
            for _ in range(2):
                with pytest.raises(LinkClosedError, match="interrupted"):
                    link.send([Frame((b"next",))], HUNG_S)
            peers[0].close()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_server_that_dies_in_the_middle_of_a_reply() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = tcp.connect(parse(f"native+tcp://127.0.0.1:{server.getsockname()[1]}"), tcp.Config())
        sock, _ = server.accept()
        sock.sendall(frame_of(bytes(100))[:50])
        sock.close()
        with pytest.raises(LinkClosedError, match="middle of a frame"):
            link.receive(HUNG_S)
        link.close()


def test_socket_file_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.exists()
    with listening(f"native+unix://{path}") as stage:
        stage.reply = echo
        still_serves(stage)
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(ConfigError):
        asyncio.run(tcp.Listener(parse(f"native+unix://{path}"), tcp.Config()).start(lambda connection: None))  # type: ignore[arg-type, return-value]
    assert path.read_text() == "precious"


OUT_OF_DESCRIPTORS = """
import asyncio, resource, sys
from actlink.address import parse
from actlink.transports import tcp

class Echo:
    def __init__(self, connection): self.connection = connection
    def received(self, frame): self.connection.send([frame])
    def closed(self, reason): pass

async def main():
    listener = tcp.Listener(parse("native+tcp://127.0.0.1:0"), tcp.Config())
    await listener.start(Echo)
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(listener.bound, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close()

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of descriptors are set by setrlimit")
def test_shortage_of_descriptors_passes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout and server.stderr
        try:
            host, port = server.stdout.readline().strip().split(":")
            crowd = [socket.create_connection((host, int(port)), timeout=HUNG_S) for _ in range(60)]
            assert "cannot accept a peer: [Errno 24]" in server.stderr.readline()
            for sock in crowd:
                sock.close()
            with socket.create_connection((host, int(port)), timeout=HUNG_S) as late:
                late.settimeout(HUNG_S)
                late.sendall(frame_of(b"at last"))
                assert read_exactly(late, 11) == frame_of(b"at last")
            server.stdin.close()
            assert server.wait(HUNG_S) == 0
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGKILL)
