"""WebSocket over real sockets: openings, refusals, health pages, closing, and the `websockets` library at either end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from test_ws_frames import FIN, frame
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as library_connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as library_serve
from wire_world import listening, raw_peer, read_all, read_exactly

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.errors import ConnectError, LinkClosedError, RemoteProtocolError
from actlink.testing._transport_stage import HUNG_S, Stage
from actlink.transports import _ws_frames as ws
from actlink.transports import websocket
from actlink.transports._base import Connection
from hurried import runs_out

URL = "native+ws://127.0.0.1:0"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3


def echo(connection: Connection, given: Frame) -> None:
    connection.send([given])


def request(path: str = "/", method: str = "GET", version: str = "1.1", **changes: str | None) -> bytes:
    """An opening; ``changes`` replace or (None) remove headers, written with underscores."""
    headers: dict[str, str | None] = {
        "Host": "127.0.0.1:8000",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def opened(stage: Stage, tries: int = 1) -> Iterator[socket.socket]:
    """A raw peer that is past the opening; several ``tries`` where its deadline is one that a slow machine may miss."""
    with contextlib.ExitStack() as peers:
        for _ in range(tries):
            sock = peers.enter_context(raw_peer(stage.listener))
            sock.sendall(request())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += read_exactly(sock, 1)
            if head.startswith(b"HTTP/1.1 101 "):
                break
        assert head.startswith(b"HTTP/1.1 101 ") and ACCEPT in head
        yield sock


def answer_to(stage: Stage, data: bytes) -> bytes:
    with raw_peer(stage.listener) as sock:
        sock.sendall(data)
        return read_all(sock)


def close_frame(data: bytes) -> tuple[int, str]:
    """Code and reason of the close frame at the end of ``data``."""
    assert data[0] == FIN | ws.CLOSE and data[1] == len(data) - 2 < 126
    return int.from_bytes(data[2:4], "big"), data[4:].decode()


# Openings


def test_opening_carries_model_and_token() -> None:
    with listening(URL) as stage:
        for header, token in (("Bearer s3cret", "s3cret"), ("Api-Key abc", "abc"), ("Basic eDp5", None), (None, None)):
            with raw_peer(stage.listener) as sock:
                sock.sendall(request("/my%20model/", Authorization=header))
                connection = stage.arrival().connection
                assert (connection.model, connection.token) == ("my model", token)
        link = websocket.connect(Address("native", "ws", port=stage.where.port, model="grüße"), websocket.Config(), token="s3cret")
        connection = stage.arrival().connection
        assert (connection.model, connection.token) == ("grüße", "s3cret")
        link.close()


def test_opening_with_frames_right_behind_it() -> None:
    with listening(URL) as stage, raw_peer(stage.listener) as sock:
        stage.reply = echo
        sock.sendall(request() + frame(FIN | ws.BINARY, b"hasty"))
        assert read_exactly(sock, 13) == b"HTTP/1.1 101 "
        assert bytes(stage.arrival().next_frame().data) == b"hasty"


@pytest.mark.parametrize(
    ("opening", "status", "words"),
    [
        (request(Sec_WebSocket_Version="8"), 426, "version 13"),
        (request(Sec_WebSocket_Key=None), 400, "Sec-WebSocket-Key"),
        (request(Sec_WebSocket_Key="c2hvcnQ="), 400, "Sec-WebSocket-Key"),
        (request(Sec_WebSocket_Key="not base64 at all!!!!!!="), 400, "Sec-WebSocket-Key"),
        (request(Connection="close"), 400, "Connection: Upgrade"),
        (request(Host=None), 400, "Host"),
        (request(version="1.0"), 400, "HTTP/1.1"),
        (request(version="3.0"), 400, "HTTP/1.1"),
        (request(method="POST"), 400, "GET"),
        (request(X_Bad="a\x01b"), 400, "not a header"),
        (request().replace(b"Upgrade: w", b"Upgrade w"), 400, "not a header"),
        (request().replace(b"Host: ", b"Host: one\r\nHost: "), 400, "two Host"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 400, "at most 128 headers"),
        (b"GET /" + b"x" * 20_000, 400, "longer than 16384 bytes"),
        (b"GET http://[bad HTTP/1.1\r\n\r\n", 400, "not a path"),
        (b"HELLO\r\n\r\n", 400, "does not speak HTTP"),
    ],
)
def test_bad_opening_is_answered_and_closed(opening: bytes, status: int, words: str) -> None:
    with listening(URL) as stage:
        answer = answer_to(stage, opening)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and words.encode() in answer
        assert stage.arrivals.empty()


@pytest.mark.parametrize(
    ("greeting", "name"),
    [
        (b"\x00\x00\x00\x05hello", "does not speak HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "speaks TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f", "speaks ZeroMQ"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 (gRPC)"),
        (b"RFB 003.008\n", "got the line 'RFB 003.008'"),
        (b"OPTIONS rtsp://robot RTSP/1.0\r\nCSeq: 1\r\n", "got 'OPTIONS rtsp://robot RTSP/1.0'"),
        (b"GET / HTTP/1.1\n", "got the line 'GET / HTTP/1.1'"),
    ],
)
def test_foreign_greeting_is_named_and_closed_at_once(greeting: bytes, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with listening(URL) as stage:
        assert answer_to(stage, greeting).startswith(b"HTTP/1.1 400 ")
    assert name in caplog.text


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 101),
        ("ROBOT.local:8000", None, 101),  # listed in the option ``hosts``
        ("robot.local", "https://robot.local", 101),
        ("robot.local:8000", "https://robot.example", 403),
        ("gpu-box:8000", None, 403),
        ("evil.example:8000", None, 403),
        ("evil@127.0.0.1", None, 400),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 101),
        ("127.0.0.1:8000", "http://127.0.0.1:3000", 101),
        ("localhost:8000", "http://localhost:8000", 101),
        ("[::1]:8000", "http://[::1]:8000", 101),
        ("127.0.0.1:8000", "https://friend.example", 101),  # listed in the option ``origins``
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "https://friend.example:444", 403),
        ("127.0.0.1:8000", "null", 403),
        ("127.0.0.1:8000", "", 403),
        ("127.0.0.1:8000", "http://[", 403),
        ("127.0.0.1:8000", "http://127.0.0.1.evil.example", 403),
        ("127.0.0.1:8000", "http://localhost:8000", 403),
        ("evil.example:8000", "http://evil.example:8000", 403),  # a name made to resolve to this machine
        ("evil.example:8000", "http://127.0.0.1:8000", 403),
        ("localhost.evil.example", "http://localhost.evil.example", 403),
    ],
)
def test_web_pages_of_other_hosts_are_refused(host: str, origin: str | None, status: int) -> None:
    with listening(URL, origins=("https://friend.example",), hosts=("robot.local",)) as stage, raw_peer(stage.listener) as sock:
        sock.sendall(request(Host=host, Origin=origin))
        assert read_exactly(sock, 13) == f"HTTP/1.1 {status} ".encode()
        if status == 403:
            assert b"the option '%s'" % (b"origins" if origin is not None and "evil" not in host else b"hosts") in read_all(sock)
            assert stage.arrivals.empty()


def test_opening_that_stalls_is_given_up() -> None:
    with listening(URL, handshake_s=0.05) as stage, opened(stage, tries=100) as patient:
        for start in (b"", b"GE", request()[:-2]):
            assert b"not finished within 0.05 s" in answer_to(stage, start)
        patient.sendall(frame(FIN | ws.PING, b"still here"))
        assert read_exactly(patient, 12) == bytes((FIN | ws.PONG, 10)) + b"still here"


def test_opening_byte_by_byte() -> None:
    with listening(URL) as stage, raw_peer(stage.listener) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request():
            sock.send(bytes((byte,)))
        assert read_exactly(sock, 13) == b"HTTP/1.1 101 "


# Health pages on the same port


def test_health_is_told_while_the_server_is_full() -> None:
    with listening(URL, max_connections=1) as stage, opened(stage):
        assert b"503 Service Unavailable" in answer_to(stage, request())
        assert b"the server is full: 1 connections are open" in answer_to(stage, request())
        assert answer_to(stage, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").endswith(b'{"status":"ok"}')
        with pytest.raises(ConnectError, match=r"503 Service Unavailable: the server is full"):
            stage.link()


# Frames


def test_fragments_with_a_ping_between_them() -> None:
    with listening(URL) as stage, opened(stage) as sock:
        stage.reply = echo
        sock.sendall(frame(ws.TEXT, b"gr\xc3") + frame(FIN | ws.PING, b"?") + frame(FIN | ws.CONTINUATION, b"\xbc\xc3\x9fe"))
        received = stage.arrival().next_frame()
        assert received.text and bytes(received.data) == "grüße".encode()
        assert read_exactly(sock, 3) == bytes((FIN | ws.PONG, 1)) + b"?"


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (frame(FIN | ws.BINARY, b"x", masked=False), ws.PROTOCOL_ERROR, "must be masked"),
        (frame(FIN | 0x40 | ws.BINARY, b"x"), ws.PROTOCOL_ERROR, "reserved"),
        (frame(FIN | ws.PING, bytes(126)), ws.PROTOCOL_ERROR, "125"),
        (frame(FIN | ws.TEXT, b"\xff"), ws.INVALID_DATA, "UTF-8"),
        (frame(FIN | ws.BINARY, size=1001), ws.TOO_BIG, "1001 bytes; at most 1000"),
        (frame(ws.BINARY, bytes(600)) + frame(FIN | ws.CONTINUATION, bytes(401)), ws.TOO_BIG, "1001 bytes; at most 1000"),
    ],
)
def test_broken_rule_is_said_in_the_close_frame(data: bytes, code: int, reason: str) -> None:
    with listening(URL, max_frame_bytes=1000) as stage, opened(stage) as sock:
        sock.sendall(data + frame(FIN | ws.BINARY, b"never delivered"))
        got = close_frame(read_all(sock))
        assert got[0] == code and reason in got[1]
        recorder = stage.arrival()
        assert reason in recorder.end()
        assert recorder.frames.empty()


def test_message_that_stalls_between_fragments_is_given_up() -> None:
    with listening(URL, frame_s=0.05) as stage, opened(stage) as sock:
        sock.sendall(frame(ws.BINARY, b"half"))
        code, reason = close_frame(read_all(sock))
        assert code == ws.POLICY_VIOLATION and "not finished within" in reason


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (struct.pack("!H", 1000) + b"bye", struct.pack("!H", 1000)),
        (struct.pack("!H", 4242), struct.pack("!H", 4242)),
        (b"", b""),
    ],
)
def test_close_is_answered(sent: bytes, answered: bytes) -> None:
    with listening(URL) as stage, opened(stage) as sock:
        sock.sendall(frame(FIN | ws.CLOSE, sent))
        assert read_all(sock) == bytes((FIN | ws.CLOSE, len(answered))) + answered
        stage.arrival().end()


@pytest.mark.parametrize(
    ("close", "expected"),
    [
        (lambda connection: connection.close(), (1000, "")),
        (lambda connection: connection.close("the server is shutting down"), (1001, "the server is shutting down")),
        (lambda connection: connection.close("no", error=True), (1008, "no")),
        (lambda connection: connection.close("ü" * 100, error=True), (1008, "ü" * 61)),
    ],
)
def test_server_closes_with_a_code(close: Callable[[Connection], None], expected: tuple[int, str]) -> None:
    with listening(URL) as stage, opened(stage) as sock:
        stage.on_loop(close, stage.arrival().connection)
        assert close_frame(read_all(sock)) == expected


# Against the library that most peers use


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 1024, 1025, 65536, 600_001, 3_000_003])
def test_library_at_the_client(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    with listening(URL) as stage:
        stage.reply = echo
        with library_connect(f"ws://127.0.0.1:{stage.where.port}/some/model", max_size=None) as client:
            client.send(data[:size])
            assert client.recv() == data[:size]
            client.send("grüße" * 10)
            assert client.recv() == "grüße" * 10
            client.send([data[:size], b"more"])
            assert client.recv() == data[:size] + b"more"
            client.ping().wait(HUNG_S)
        assert stage.arrival().end() == "closed by the peer"


def test_library_hears_why_it_is_closed() -> None:
    with listening(URL) as stage, library_connect(f"ws://127.0.0.1:{stage.where.port}") as client:
        stage.on_loop(lambda: stage.arrival().connection.close("wrong token", error=True))
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "wrong token")


@contextlib.contextmanager
def library_server(handle: Callable[[ServerConnection], None]) -> Iterator[Address]:
    with library_serve(handle, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Address("native", "ws", port=server.socket.getsockname()[1])
        server.shutdown()
        thread.join()


def library_echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.ping()
        connection.send(message)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 1024, 1025, 65536, 600_001, 3_000_003])
def test_library_at_the_server(size: int) -> None:
    """Parts of all lengths, so that masking goes on in the middle of a key, and from one piece into the next."""
    data = bytes(range(256)) * (size // 256 + 1)
    with library_server(library_echo) as address:
        link = websocket.connect(address, websocket.Config())
        cuts = sorted({0, min(1, size), size // 3, size // 2, size})
        parts = tuple(memoryview(data)[start:end] for start, end in itertools.pairwise(cuts))
        for _ in range(2):
            link.send([Frame(parts)], HUNG_S)
            assert bytes(link.receive(HUNG_S).data) == data[:size]
        link.send([Frame((b"gr\xc3", b"\xbc\xc3\x9fe"), text=True)], HUNG_S)
        reply = link.receive(HUNG_S)
        assert reply.text and bytes(reply.data) == "grüße".encode()
        link.close()


def test_library_closes_with_a_reason() -> None:
    with library_server(lambda connection: connection.close(4001, "out of order")) as address:
        link = websocket.connect(address, websocket.Config())
        with pytest.raises(LinkClosedError, match=r"out of order \(4001\)"):
            link.receive(HUNG_S)
        with pytest.raises(LinkClosedError, match="out of order"):
            link.send([Frame((b"x",))], HUNG_S)


# Servers that are none


@contextlib.contextmanager
def answering(answer: bytes | Callable[[bytes], bytes]) -> Iterator[Address]:
    """A server that reads one request and writes ``answer``."""

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            sock.settimeout(HUNG_S)
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += read_exactly(sock, 1)
            with contextlib.suppress(OSError):  # who is told enough may leave before the last word
                sock.sendall(answer if isinstance(answer, bytes) else answer(asked))
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Address("native", "ws", port=server.getsockname()[1])
        thread.join()


def accepting(headers: bytes = b"", frames: bytes = b"", key: bytes = b"") -> Callable[[bytes], bytes]:
    """An answer that opens the WebSocket, with ``headers`` added, ``frames`` behind, or the answer to another ``key``."""

    def answer(asked: bytes) -> bytes:
        asked_key = key or next(line for line in asked.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))[19:]
        accept = base64.b64encode(hashlib.sha1(asked_key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = b"HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " + accept
        return head + b"\r\n" + headers + b"\r\n" + frames

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\nbad token", ConnectError, "401 Unauthorized: bad token"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", ConnectError, "404 Not Found$"),
        (b"HTTP/1.1 400\r\n\r\nuse native+tcp://\r\n", ConnectError, r"400 : use native\+tcp://"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere\r\n\r\n", ConnectError, "302 Found"),
        (b"SSH-2.0-OpenSSH\r\n", RemoteProtocolError, "does not speak WebSocket"),
        (b"\x00\x00\x00\x05hello", RemoteProtocolError, "does not speak WebSocket"),
        (b"HTTP/1.1 101 " + b"x" * 20_000, RemoteProtocolError, "does not speak WebSocket"),
        (b"HTTP/1.1 101 Sw\r\nbad header\r\n\r\n", RemoteProtocolError, "not a header"),
        (b"HTTP/1.1 101 Sw\r\nUpgrade: websocket\r\n\r\n", RemoteProtocolError, "does not open"),
        (accepting(key=b"of somebody else"), RemoteProtocolError, "does not open"),
        (accepting(b"Sec-WebSocket-Extensions: permessage-deflate\r\n"), RemoteProtocolError, "does not open"),
        (b"HTTP/1.1 10", ConnectError, "closed the connection"),
        (b"", ConnectError, "closed the connection"),
    ],
)
def test_answers_that_open_nothing(answer: bytes | Callable[[bytes], bytes], error: type[Exception], message: str) -> None:
    with answering(answer) as address, pytest.raises(error, match=message):
        websocket.connect(address, websocket.Config(), timeout_s=HUNG_S)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (frame(FIN | ws.BINARY, b"x"), RemoteProtocolError, "must not mask"),
        (frame(FIN | ws.BINARY, size=5000, masked=False), RemoteProtocolError, "5000 bytes; at most 1000"),
        (frame(FIN | ws.TEXT, b"\xff", masked=False), RemoteProtocolError, "UTF-8"),
        (frame(FIN | ws.BINARY, b"x", size=9, masked=False), LinkClosedError, "middle of a message"),
        (frame(FIN | ws.CLOSE, b"", masked=False), LinkClosedError, "closed the connection$"),
    ],
)
def test_frames_that_a_server_must_not_send(frames: bytes, error: type[Exception], message: str) -> None:
    with answering(accepting(frames=frames)) as address:
        link = websocket.connect(address, websocket.Config(max_frame_bytes=1000))
        with pytest.raises(error, match=message):
            link.receive(HUNG_S)
        with pytest.raises(LinkClosedError):
            link.send([Frame((b"x",))], HUNG_S)
        link.close()


def test_tcp_server_tells_a_websocket_client_its_address() -> None:
    with listening("native+tcp://127.0.0.1:0") as stage, pytest.raises(ConnectError, match=r"400 Bad Request.*native\+tcp://"):
        websocket.connect(Address("native", "ws", port=stage.where.port), websocket.Config())


def test_opening_with_a_deaf_server_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = Address("native", "ws", port=deaf.getsockname()[1])
        error = runs_out(
            lambda timeout_s: websocket.connect(address, websocket.Config(), timeout_s=timeout_s),
            "no WebSocket opening within {} s",
        )
    assert isinstance(error, ConnectError)
