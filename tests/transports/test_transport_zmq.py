"""ZeroMQ's wire against libzmq both ways, and against peers that do it wrong."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_world import listening, raw_peer, read_all, read_exactly

from actlink.address import Address, parse
from actlink.dialects._base import Frame
from actlink.errors import ConnectError, LinkClosedError, LinkTimeoutError, RemoteProtocolError
from actlink.testing._transport_stage import HUNG_S, Stage, raised_by
from actlink.testing.transports import check_transport
from actlink.transports import _zmtp, zmq
from actlink.transports._base import Connection
from actlink.transports._buffers import Buffers, Inbox
from actlink.transports._framing import Ended, Opened, Reply
from hurried import runs_out

libzmq = pytest.importorskip("zmq", reason="pyzmq: ZeroMQ NOT TESTED against libzmq")

URL = "act+zmq://127.0.0.1:0"
HELLO = _zmtp.greeting(server=False) + _zmtp.ready(b"REQ")
HUNG_MS = int(1000 * HUNG_S)


def echo(connection: Connection, frame: Frame) -> None:
    connection.send([frame])


@contextlib.contextmanager
def echoing(url: str = URL, **options: Any) -> Iterator[Stage]:
    with listening(url, **options) as stage:
        stage.reply = echo
        yield stage


@contextlib.contextmanager
def stock(kind: int, **options: int) -> Iterator[Any]:
    """A socket of libzmq."""
    with libzmq.Context() as context, context.socket(kind) as sock:
        for name, value in {"LINGER": 0, "RCVTIMEO": HUNG_MS, "SNDTIMEO": HUNG_MS, **options}.items():
            sock.setsockopt(getattr(libzmq, name), value)
        yield sock


def endpoint(address: Address) -> str:
    return f"ipc://{address.path}" if address.path else f"tcp://{address.host}:{address.port}"


def still_serves(stage: Stage) -> None:
    with stock(libzmq.REQ) as sock:
        sock.connect(endpoint(stage.where))
        sock.send(b"well behaved")
        assert sock.recv() == b"well behaved"


@contextlib.contextmanager
def greeted(stage: Stage, hello: bytes = HELLO) -> Iterator[socket.socket]:
    """A raw peer that has opened as it should."""
    with raw_peer(stage.listener) as sock:
        sock.sendall(hello)
        answer = _zmtp.greeting(server=True) + _zmtp.ready(b"ROUTER")
        assert read_exactly(sock, len(answer)) == answer
        yield sock


def message(body: bytes, *, delimited: bool = True) -> bytes:
    return b"".join(_zmtp.message((body,), len(body), delimited=delimited))


@pytest.mark.parametrize("url", [URL, "act+ipc://{tmp}/socket"])
def test_conforms(url: str, tmp_path: Path) -> None:
    check_transport(zmq, parse(url.format(tmp=tmp_path)))


class TestStockClients:
    @pytest.mark.parametrize("url", [URL, "act+ipc://{tmp}/socket"])
    def test_req(self, url: str, tmp_path: Path) -> None:
        with echoing(url.format(tmp=tmp_path)) as stage, stock(libzmq.REQ) as sock:
            sock.connect(endpoint(stage.where))
            for size in (0, 1, 255, 256, 70_000, 3_000_000):
                sock.send(bytes(size))
                assert sock.recv() == bytes(size)

    def test_dealer_is_answered_as_it_asks(self) -> None:
        with echoing() as stage, stock(libzmq.DEALER) as sock:
            sock.connect(endpoint(stage.where))
            for parts in ([b"bare"], [b"", b"like a REQ"], [b"bare again"]):
                sock.send_multipart(parts)
                assert sock.recv_multipart() == parts

    def test_connects_before_the_server_is_there(self) -> None:
        with echoing() as first:
            where = first.where
        with stock(libzmq.REQ, RECONNECT_IVL=5) as sock:
            sock.connect(endpoint(where))
            sock.send(b"early")
            with echoing(str(where)):
                assert sock.recv() == b"early"

    def test_heartbeats_are_answered(self) -> None:
        with echoing() as stage, greeted(stage) as sock:
            sock.sendall(_zmtp.command(b"PING", b"\x00\x0acontext"))
            answer = _zmtp.command(b"PONG", b"context")
            assert read_exactly(sock, len(answer)) == answer

    def test_several_parts_cost_the_connection_and_nothing_else(self) -> None:
        with echoing() as stage, stock(libzmq.DEALER) as sock:
            with sock.get_monitor_socket(libzmq.EVENT_DISCONNECTED) as monitor:
                sock.connect(endpoint(stage.where))
                sock.send_multipart([b"a", b"b", b"c"])
                assert monitor.poll(HUNG_MS)
                assert "several parts" in stage.arrival().end()
            sock.disable_monitor()
            still_serves(stage)

    def test_other_sockets_are_turned_away(self, caplog: pytest.LogCaptureFixture) -> None:
        with echoing() as stage, stock(libzmq.PUSH) as sock:
            with sock.get_monitor_socket(libzmq.EVENT_DISCONNECTED | libzmq.EVENT_HANDSHAKE_FAILED_PROTOCOL) as monitor:
                sock.connect(endpoint(stage.where))
                assert monitor.poll(HUNG_MS)
            sock.disable_monitor()
            still_serves(stage)


class TestStockServers:
    @pytest.mark.parametrize("kind", ["REP", "ROUTER"])
    def test_client_asks_and_is_answered(self, kind: str) -> None:
        with stock(getattr(libzmq, kind)) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            link = zmq.connect(parse(f"act+zmq://127.0.0.1:{port}"), zmq.Config())
            for size in (0, 300, 1_000_000):
                link.send([Frame((bytes(size),))], HUNG_S)
                server.send_multipart(server.recv_multipart())
                assert link.receive(HUNG_S).size == size
            link.close()

    def test_two_questions_at_once(self) -> None:
        with stock(libzmq.REP) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            link = zmq.connect(parse(f"act+zmq://127.0.0.1:{port}"), zmq.Config())
            link.send([Frame((b"1",)), Frame((b"2",))], HUNG_S)
            for expected in (b"1", b"2"):
                server.send(server.recv())
                assert bytes(link.receive(HUNG_S).data) == expected
            link.close()

    def test_lost_reply_costs_one_connection_and_no_more(self) -> None:
        """A REQ socket would refuse to send again."""
        with stock(libzmq.REP) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            address = parse(f"act+zmq://127.0.0.1:{port}")
            link = zmq.connect(address, zmq.Config())
            link.send([Frame((b"lost",))], HUNG_S)
            assert isinstance(raised_by(lambda: link.receive(0.01), "no reply"), LinkTimeoutError)
            link.close()
            assert server.recv() == b"lost"
            server.send(b"too late")
            link = zmq.connect(address, zmq.Config())
            link.send([Frame((b"again",))], HUNG_S)
            assert server.recv() == b"again"
            server.send(b"here")
            assert bytes(link.receive(HUNG_S).data) == b"here"
            link.close()

    def test_pings_of_the_server_are_answered(self) -> None:
        """libzmq drops a peer that does not."""
        with stock(libzmq.REP, HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=HUNG_MS) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            link = zmq.connect(parse(f"act+zmq://127.0.0.1:{port}"), zmq.Config())
            with pytest.raises(LinkTimeoutError):
                link.receive(0.2)  # takes in and answers what comes meanwhile
            link.send([Frame((b"alive",))], HUNG_S)
            server.send(server.recv())
            assert bytes(link.receive(HUNG_S).data) == b"alive"
            link.close()

    def test_another_kind_of_socket(self) -> None:
        with stock(libzmq.PUB) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            with pytest.raises((RemoteProtocolError, ConnectError)):
                zmq.connect(parse(f"act+zmq://127.0.0.1:{port}"), zmq.Config(), timeout_s=HUNG_S)


class TestOpening:
    @pytest.mark.parametrize(
        ("greeting", "name", "answer"),
        [
            (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP", b"HTTP/1.1 400 Bad Request\r\n"),
            (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP", b"HTTP/1.1 400 Bad Request\r\n"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 (gRPC)", b""),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS", b""),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH", b""),
            (b"\x00\x00\x01\x00\x80\x04", "does not speak ZeroMQ", b""),
            (b"\xde\xad\xbe\xef" * 10, "does not speak ZeroMQ", b""),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_foreign_greeting_is_named_and_closed_at_once(
        self, greeting: bytes, name: str, answer: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with echoing() as stage:
            with raw_peer(stage.listener) as sock:
                sock.sendall(greeting)
                received = read_all(sock)  # returns: the connection was closed
            ours = _zmtp.greeting(server=True)
            assert received.startswith(ours + answer) and (len(received) > len(ours)) is bool(answer)
            still_serves(stage)
        assert name in caplog.text

    @pytest.mark.parametrize(
        ("hello", "says"),
        [
            (_zmtp.greeting(server=False, mechanism=b"CURVE"), "the security mechanism CURVE; NULL is spoken here"),
            (b"\xff" + bytes(8) + b"\x7f\x01" + bytes(53), "version 1"),
            (_zmtp.greeting(server=False) + _zmtp.ready(b"SUB"), "expected a REQ or DEALER socket at the other end, got SUB"),
            (_zmtp.greeting(server=False) + _zmtp.command(b"READY", b"\x0bSocket-Type\x00\x00\x01\x00"), "cut off"),
            (_zmtp.greeting(server=False) + _zmtp.command(b"READY", b"\xff"), "cut off"),
            (_zmtp.greeting(server=False) + _zmtp.command(b"HELLO"), "expected READY after the greeting, got HELLO"),
            (_zmtp.greeting(server=False) + message(b"x", delimited=False), "expected READY after the greeting, got a message"),
            (_zmtp.greeting(server=False) + _zmtp.command(b"ERROR", _zmtp.reason("no")), "turned away: no"),
            (_zmtp.greeting(server=False) + b"\x04\x00", "a command without its whole name"),
            (_zmtp.greeting(server=False) + b"\x06" + struct.pack(">Q", 5000), "5000 bytes announced; at most 4096"),
        ],
    )
    def test_wrong_opening_is_refused_with_a_reason(self, hello: bytes, says: str, caplog: pytest.LogCaptureFixture) -> None:
        with echoing() as stage:
            with raw_peer(stage.listener) as sock:
                sock.sendall(hello)
                read_all(sock)
            assert stage.arrivals.empty()
            still_serves(stage)
        assert says in caplog.text

    def test_unfinished_opening_has_a_deadline(self, caplog: pytest.LogCaptureFixture) -> None:
        with echoing(handshake_s=0.05) as stage:
            for start in (b"", HELLO[:1], HELLO[:64], HELLO[:-1]):
                with raw_peer(stage.listener) as sock:
                    sock.sendall(start)
                    read_all(sock)
        assert caplog.text.count("the opening was not finished within 0.05 s") == 4

    def test_client_learns_that_the_server_is_full(self) -> None:
        with echoing(max_connections=1) as stage:
            link = stage.link()
            with pytest.raises(ConnectError, match="closed the connection during ZeroMQ's opening"):
                stage.link()
            link.send([Frame((b"still here",))], HUNG_S)
            assert bytes(link.receive(HUNG_S).data) == b"still here"

    def test_client_names_another_wire(self) -> None:
        with listening("native+tcp://127.0.0.1:0") as stage, pytest.raises((ConnectError, RemoteProtocolError)):
            zmq.connect(parse(f"act+zmq://{stage.listener.bound}"), zmq.Config(), timeout_s=HUNG_S)

    def test_client_gives_up_on_a_silent_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = parse(f"act+zmq://127.0.0.1:{silent.getsockname()[1]}")
            error = runs_out(
                lambda timeout_s: zmq.connect(address, zmq.Config(), timeout_s=timeout_s), "got no ZeroMQ greeting within {} s"
            )
            assert isinstance(error, ConnectError)
        with pytest.raises(ConnectError, match="connection refused"):
            zmq.connect(address, zmq.Config(), timeout_s=HUNG_S)

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not ZeroMQ"),
            (b"\x00" * 64, "speaks something else, not ZeroMQ"),
            (_zmtp.greeting(server=True) + _zmtp.ready(b"SUB"), "expected a REP or ROUTER socket"),
            (_zmtp.greeting(server=True) + message(b"x"), "expected READY after the greeting, got a message"),
            (_zmtp.greeting(server=True, mechanism=b"PLAIN"), "mechanism PLAIN"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_client_refuses_a_wrong_opening(self, answer: bytes, says: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = parse(f"act+zmq://127.0.0.1:{server.getsockname()[1]}")
            with _answering(server, answer), pytest.raises(RemoteProtocolError, match=re.escape(says)):
                zmq.connect(address, zmq.Config(), timeout_s=HUNG_S)


@contextlib.contextmanager
def _answering(server: socket.socket, answer: bytes) -> Iterator[None]:
    """Sends ``answer`` to the first who connects."""
    import threading

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            sock.sendall(answer)
            read_all(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(HUNG_S)


class TestMessages:
    def test_any_split_gives_the_same(self) -> None:
        stream = HELLO + message(b"first") + message(bytes(300), delimited=False) + _zmtp.command(b"PING", b"\0\0x") + message(b"")
        whole = [_shown(one) for one in _fed(stream)]
        assert whole[2:] == [b"first", bytes(300), "reply", b""]
        for at in range(1, len(stream)):
            assert [_shown(one) for one in _fed(stream[:at], stream[at:])] == whole

    def test_length_over_the_limit_takes_no_memory(self) -> None:
        class Watched(Buffers):
            def take(self, size: int) -> memoryview:
                assert size <= _zmtp.COMMAND_BYTES, f"{size} bytes were taken"
                return super().take(size)

        *_, ended = _fed(HELLO + b"\x01\x00\x02" + struct.pack(">Q", 8 << 30), buffers=Watched())
        assert isinstance(ended, Ended) and ended.error and "8589934592 bytes announced" in ended.reason

    def test_a_started_message_has_a_deadline_and_a_silent_peer_has_none(self) -> None:
        with echoing(frame_s=0.05) as stage:
            with greeted(stage) as silent:
                recorder = stage.arrival()
                for started in (b"\x01", _zmtp.DELIMITER, message(bytes(100))[:50]):
                    with greeted(stage) as stalled:
                        its_recorder = stage.arrival()
                        stalled.sendall(started)
                        assert "not finished within 0.05 s" in its_recorder.end()
                        read_all(stalled)
                assert recorder.ends.empty()
                silent.sendall(message(b"good morning"))
                assert read_exactly(silent, 16) == message(b"good morning")
            still_serves(stage)

    def test_the_end_in_the_middle_of_a_message(self) -> None:
        with echoing() as stage:
            with greeted(stage) as sock:
                recorder = stage.arrival()
                sock.sendall(message(bytes(100))[:50])
            assert recorder.end()
            assert recorder.frames.empty()

    def test_malformed_envelopes_harm_nobody_else(self) -> None:
        """A thousand of them: several parts, no delimiter, sizes beyond everything, flags and commands that do not exist."""
        wrong = [
            b"\x01\x01a\x00\x01b",
            _zmtp.DELIMITER + _zmtp.DELIMITER + b"\x00\x01b",
            b"\x02" + struct.pack(">Q", 8 << 30),
            b"\x01\x00\x02" + struct.pack(">Q", 2**63 - 1),
            b"\x08\x00",
            b"\xff" * 10,
            b"\x05\x00",
            b"\x04\x05\x09PING",
            b"\x06" + struct.pack(">Q", 1 << 40),
            b"GET / HTTP/1.1\r\n\r\n",
        ]
        with echoing() as stage:
            before = _virtual_kib()
            for number in range(1000):
                with greeted(stage, _zmtp.greeting(server=False) + _zmtp.ready(b"DEALER")) as sock:
                    recorder = stage.arrival()
                    sock.sendall(wrong[number % len(wrong)])
                    assert recorder.end()
                    assert recorder.frames.empty()
            still_serves(stage)
            grown = _virtual_kib() - before
        print(f"1000 malformed envelopes: virtual memory {grown / 1024:+.1f} MiB")
        assert grown <= 64 * 1024

    def test_last_words_of_the_server_reach_our_client(self) -> None:
        with listening(URL) as stage:
            link, recorder = stage.pair()
            stage.on_loop(lambda: recorder.connection.close("maintenance", error=True))
            with pytest.raises(LinkClosedError, match="maintenance"):
                link.receive(HUNG_S)

    def test_a_ping_for_whose_answer_no_time_is_left_costs_nothing(self) -> None:
        opening = _zmtp.greeting(server=True) + _zmtp.ready(b"REP") + _zmtp.command(b"PING", b"\0\0x")
        with socket.create_server(("127.0.0.1", 0)) as server, _answering(server, opening):
            link = zmq.connect(parse(f"act+zmq://127.0.0.1:{server.getsockname()[1]}"), zmq.Config(), timeout_s=HUNG_S)
            with pytest.raises(LinkTimeoutError):
                link.receive(0.0)  # the ping has come with the opening
            link.send([Frame((b"still connected",))], HUNG_S)
            link.close()

    @pytest.mark.parametrize("answer", [b"\x08\x00", b"\x01\x01a\x00\x01b", _zmtp.DELIMITER * 2, b"\x02" + b"\x7f" * 8])
    def test_client_refuses_a_malformed_reply(self, answer: bytes) -> None:
        opening = _zmtp.greeting(server=True) + _zmtp.ready(b"REP")
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = parse(f"act+zmq://127.0.0.1:{server.getsockname()[1]}")
            with _answering(server, opening + answer):
                link = zmq.connect(address, zmq.Config(), timeout_s=HUNG_S)
                with pytest.raises(RemoteProtocolError):
                    link.receive(HUNG_S)
                with pytest.raises((LinkClosedError, RemoteProtocolError)):
                    link.receive(HUNG_S)


def _fed(*pieces: bytes, buffers: Buffers | None = None) -> list[object]:
    """What a server's framing says to the pieces, one after the other."""
    one = zmq._ServerFraming(Inbox(buffers or Buffers()), 1000, "act+zmq")
    happenings: list[object] = list(one.filled(0))
    for piece in pieces:
        while piece and not any(isinstance(each, Ended) for each in happenings):
            room = one.buffer()
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            happenings += one.filled(count)
            piece = piece[count:]
    return happenings


def _shown(happening: object) -> object:
    if isinstance(happening, Frame):
        return bytes(happening.data)
    return {Reply: "reply", Opened: "opened", Ended: "ended"}[type(happening)]  # type: ignore[index]


def _virtual_kib() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here: memory NOT MEASURED")
    found = re.search(r"VmSize:\s+(\d+) kB", status.read_text())
    assert found
    return int(found[1])
