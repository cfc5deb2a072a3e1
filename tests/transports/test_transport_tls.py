"""TLS below the wires: the same promises as without it, and peers that do not speak it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_world import listening, raw_peer, read_all

from actlink import loading
from actlink.address import Address, parse
from actlink.dialects._base import Frame
from actlink.errors import (
    ActlinkError,
    ConfigError,
    ConnectError,
    LinkClosedError,
    LinkError,
    RemoteProtocolError,
    UnauthorizedError,
)
from actlink.testing._transport_stage import HUNG_S, Stage
from actlink.testing.transports import check_transport
from actlink.transports import http, tcp, websocket
from actlink.transports._tls import TlsClient, TlsServer, client_context, server_context
from actlink.transports._tls_records import RECORD_BYTES, joined
from hurried import runs_out
from tls_world import Papers, issue

SCHEMES = {"tcps": tcp, "wss": websocket}
NO_TLS = r"does not speak TLS|does it speak TLS"


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("papers"))


@pytest.mark.parametrize(("scheme", "host"), [("tcps", "127.0.0.1"), ("tcps", "localhost"), ("wss", "127.0.0.1")])
def test_within_tls_a_transport_keeps_its_promises(scheme: str, host: str, papers: Papers) -> None:
    check_transport(SCHEMES[scheme], parse(f"native+{scheme}://{host}:0"), text=scheme == "wss", tls=papers.tls)


def test_pages_over_https(papers: Papers) -> None:
    for scheme in ("wss", "https"):
        with listening(f"native+{scheme}://127.0.0.1:0", tls=papers.tls) as stage, secure_peer(stage, papers) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_all(sock).endswith(b'{"status":"ok"}')


def test_a_peer_that_speaks_tls_slowly_and_one_that_stops(papers: Papers) -> None:
    with listening("native+tcps://127.0.0.1:0", tls=papers.tls, handshake_s=0.3) as stage:
        for greeting in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"):
            with raw_peer(stage.listener) as sock:
                sock.sendall(greeting)
                assert read_all(sock) == b""
        assert echoed_in_time(stage, b"unharmed") == b"unharmed"


def echoed_in_time(stage: Stage, data: bytes) -> bytes:
    """What a client gets back; several tries where its handshake has a deadline that a slow machine may miss."""
    stage.reply = lambda connection, frame: connection.send([frame])
    for _ in range(100):
        with contextlib.suppress(LinkError):
            link = stage.link()
            link.send([Frame((data,))], HUNG_S)
            return bytes(link.receive(HUNG_S).data)
    raise AssertionError("no handshake was in time")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_garbage_within_and_instead_of_tls(scheme: str, papers: Papers, caplog: pytest.LogCaptureFixture) -> None:
    """Closed at once, said in the log, and everybody else is served on."""
    with listening(f"native+{scheme}://127.0.0.1:0", tls=papers.tls) as stage:
        for garbage in (b"\x16\x03\x01\x00\x05hello", b"\x00\x00\x00\x05hello", b"SSH-2.0-x\r\n", b"\xff" + bytes(9), bytes(200)):
            with raw_peer(stage.listener) as sock:
                sock.sendall(garbage)
                assert read_all(sock)[:1] in (b"", b"\x15")
        with secure_peer(stage, papers) as sock:
            sock.sendall(b"\xff\xff\xff\xff garbage")
            read_all(sock)
        with secure_peer(stage, papers) as sock:  # a record that was tampered with
            socket.socket.sendall(sock, b"\x17\x03\x03\x00\x20" + bytes(32))
            with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
                read_all(sock)
        link, _ = stage.pair()
        link.close()
    for words in ("this peer speaks plain SSH", "does not speak TLS", "TLS: "):
        assert words in caplog.text


def test_the_end_of_a_peer(papers: Papers, caplog: pytest.LogCaptureFixture) -> None:
    """It may say goodbye in TLS or not, between frames or within one."""
    caplog.set_level("DEBUG")
    with listening("native+tcps://127.0.0.1:0", tls=papers.tls) as stage:
        for data, polite, reason in ((b"", True, ""), (b"\0\0\0\x09ab", True, "in the middle of a frame"), (b"", False, "")):
            with secure_peer(stage, papers) as sock:
                sock.sendall(data)
                recorder = stage.arrival()
                if polite:
                    with contextlib.suppress(OSError):
                        sock.unwrap()
            assert reason in recorder.end()


class TestOneSideOnly:
    """One side speaks TLS, the other does not: both learn of it at once."""

    @pytest.mark.parametrize(
        ("scheme", "plain", "error", "words"),
        [
            ("tcps", "tcp", RemoteProtocolError, "speaks TLS; connect with tcps://"),
            ("wss", "tcp", RemoteProtocolError, "speaks TLS"),
            ("wss", "ws", ConnectError, r"400 Bad Request: .*native\+wss://"),
            ("tcps", "ws", ConnectError, r"400 Bad Request: .*native\+tcps://"),
        ],
    )
    def test_a_plain_client(self, scheme: str, plain: str, error: type[ActlinkError], words: str, papers: Papers) -> None:
        with listening(f"native+{scheme}://127.0.0.1:0", tls=papers.tls) as stage, pytest.raises(error, match=words):
            transport = loading.load("transports", Address("native", plain).transport)
            link = transport.connect(Address("native", plain, port=stage.where.port), transport.Config())
            link.send([Frame((b"hello",))], HUNG_S)
            link.receive(HUNG_S)

    def test_a_plain_client_of_another_tls_server(self) -> None:
        with (
            listening_once(b"\x15\x03\x01\x00\x02\x02\x16") as port,
            pytest.raises(RemoteProtocolError, match="connect with wss://"),
        ):
            websocket.connect(Address("native", "ws", port=port), websocket.Config())

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("plain", ["tcp", "ws"])
    def test_a_plain_server(self, scheme: str, plain: str, papers: Papers, caplog: pytest.LogCaptureFixture) -> None:
        transport = SCHEMES[scheme]
        with listening(f"native+{plain}://127.0.0.1:0") as stage, pytest.raises((RemoteProtocolError, ConnectError), match=NO_TLS):
            transport.connect(Address("native", scheme, port=stage.where.port), transport.Config(), tls=papers.tls[1])
        assert "speaks TLS" in caplog.text

    def test_a_deaf_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            address = Address("native", "tcps", port=deaf.getsockname()[1])
            error = runs_out(
                lambda timeout_s: tcp.connect(address, tcp.Config(), timeout_s=timeout_s), "no TLS handshake within {} s"
            )
            assert isinstance(error, ConnectError)


class TestFiles:
    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda p: None, "TLS needs a certificate: --tls-certificate"),
            (lambda p: TlsServer(p.directory / "none"), "tls_certificate .*none: No such file"),
            (lambda p: TlsServer(p.directory), "tls_certificate .*: Is a directory"),
            (lambda p: TlsServer(p.server_certificate), "expected a private key in PEM.*--tls-key names the file"),
            (lambda p: TlsServer(p.server_key), "tls_certificate .*: expected a certificate in PEM"),
            (lambda p: TlsServer(p.server_certificate, p.server_certificate), "tls_key .*: expected a private key in PEM"),
            (lambda p: TlsServer(p.server_certificate, p.client_key), "does not belong to the certificate"),
            (lambda p: TlsServer(p.server, None, p.server_key), "tls_client_ca .*: expected a certificate in PEM"),
            (lambda p: TlsServer(written(p, "CERTIFICATE", "PRIVATE KEY")), "cannot be used"),
            (
                lambda p: TlsServer(written(p, "CERTIFICATE", "ENCRYPTED PRIVATE KEY")),
                "has a passphrase; write it without: openssl",
            ),
            (lambda p: TlsServer(p.server, None, written(p, "CERTIFICATE")), "tls_client_ca .*: cannot be used"),
        ],
    )
    def test_what_is_wrong_with_them_is_said(self, make: Callable[[Papers], TlsServer | None], words: str, papers: Papers) -> None:
        with pytest.raises(ConfigError, match=words):
            server_context(make(papers), "native+tcps://127.0.0.1:1")

    def test_of_a_client_too(self, papers: Papers) -> None:
        for tls in (TlsClient(papers.directory / "none"), TlsClient(papers.ca, papers.client_certificate)):
            with pytest.raises(ConfigError, match=r"tls_ca|tls_certificate"):
                tcp.connect(parse("native+tcps://127.0.0.1:1"), tcp.Config(), tls=tls)

    def test_key_and_certificate_may_be_apart(self, papers: Papers) -> None:
        tls = (TlsServer(papers.server_certificate, papers.server_key), papers.tls[1])
        with listening("native+tcps://127.0.0.1:0", tls=tls) as stage:
            stage.pair()

    def test_nothing_old_is_spoken(self, papers: Papers) -> None:
        for context in (server_context(papers.tls[0], ""), client_context(papers.tls[1])):
            assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert client_context(TlsClient()).check_hostname and client_context(TlsClient()).verify_mode == ssl.CERT_REQUIRED

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here: the command of docs/access.md is NOT TESTED")
    def test_the_command_in_the_guide_makes_what_is_needed(self, tmp_path: Path) -> None:
        guide = (Path(__file__).parents[2] / "docs" / "access.md").read_text(encoding="utf-8")
        start = guide.index("openssl req -x509")
        command = guide[start : guide.index("```", start)].replace("gpu-box", "localhost")
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
        tls = TlsServer(tmp_path / "server.pem", tmp_path / "server.key"), TlsClient(tmp_path / "server.pem")
        with listening("native+tcps://localhost:0", tls=tls) as stage:
            stage.pair()
            with pytest.raises(ConfigError, match=r"signed by itself.*--tls-ca"):
                tcp.connect(stage.where, tcp.Config(), tls=TlsClient())


class TestGrpc:
    """gRPC has its own TLS; what it is told, and what is told of it, is the same."""

    def echo(self, stage: Stage) -> bytes:
        stage.reply = lambda connection, frame: connection.send([Frame((frame.data,), call=frame.call)])
        link = stage.link()
        link.send([Frame((b"hello",), route="/a/b", call=1)], HUNG_S)
        return bytes(link.receive(HUNG_S).data)

    @pytest.mark.parametrize("mutual", [False, True])
    def test_calls_within_tls(self, mutual: bool, papers: Papers) -> None:
        tls = TlsServer(papers.server, None, papers.ca if mutual else None), TlsClient(papers.ca, papers.client if mutual else None)
        with listening("lerobot+grpcs://127.0.0.1:0", tls=tls) as stage:
            assert self.echo(stage) == b"hello"

    @pytest.mark.parametrize(
        ("server", "client", "error", "words"),
        [
            ("strange", {}, ConfigError, "nobody whom this client trusts"),
            ("elsewhere", {}, ConfigError, "its certificate is not for '127.0.0.1'"),
            ("expired", {}, ConfigError, "is not valid now"),
            ("server", {"ca": None}, ConfigError, "--tls-ca"),
            ("server mutual", {}, (UnauthorizedError, ConnectError), "--tls-certificate"),
            (
                "server mutual",
                {"certificate": "strange_client"},
                (UnauthorizedError, ConnectError),
                "certificate|does not speak gRPC",
            ),
        ],
    )
    def test_refusals(
        self, server: str, client: dict[str, str | None], error: type[ActlinkError], words: str, papers: Papers
    ) -> None:
        name, _, mutual = server.partition(" ")
        chosen = {"ca": "ca", **client}
        files = {field: getattr(papers, value) for field, value in chosen.items() if value is not None}
        tls = TlsServer(getattr(papers, name), None, papers.ca if mutual else None), TlsClient(**files)
        with listening("lerobot+grpcs://127.0.0.1:0", tls=tls) as stage:
            with pytest.raises(error, match=words):
                stage.link()
            assert stage.arrivals.empty()

    def test_one_side_only(self, papers: Papers) -> None:
        grpc = loading.load("transports", "grpc")
        with listening("lerobot+grpcs://127.0.0.1:0", tls=papers.tls) as stage, pytest.raises(ConnectError, match="grpcs://"):
            grpc.connect(Address("lerobot", "grpc", port=stage.where.port), grpc.Config())
        with listening("lerobot+grpc://127.0.0.1:0") as stage, pytest.raises((RemoteProtocolError, ConnectError), match=NO_TLS):
            grpc.connect(Address("lerobot", "grpcs", port=stage.where.port), grpc.Config(), tls=papers.tls[1])

    def test_a_certificate_is_wanted(self) -> None:
        grpc = loading.load("transports", "grpc")
        with pytest.raises(ConfigError, match="TLS needs a certificate"):
            grpc.Listener(parse("lerobot+grpcs://127.0.0.1:0"), grpc.Config())


def test_a_client_shows_its_certificate_or_is_told_to(papers: Papers) -> None:
    server = TlsServer(papers.server, None, papers.ca)
    cases = {"": "asks for a client's certificate", "strange_client": "does not accept", "old_client": "does not accept"}
    for scheme, transport in SCHEMES.items():
        with listening(f"native+{scheme}://127.0.0.1:0", tls=(server, TlsClient(papers.ca, papers.client))) as stage:
            stage.pair()
            for own, words in cases.items():
                tls = TlsClient(papers.ca, getattr(papers, own) if own else None)
                with pytest.raises(UnauthorizedError, match=words):
                    transport.connect(stage.where, transport.Config(), tls=tls).receive(HUNG_S)
            assert stage.arrivals.empty(), "a peer without a good certificate was opened"


def test_a_link_that_was_refused_stays_closed(papers: Papers) -> None:
    server = TlsServer(papers.server, None, papers.ca)
    with listening("native+tcps://127.0.0.1:0", tls=(server, TlsClient(papers.ca))) as stage:
        link = stage.link()
        with pytest.raises(UnauthorizedError):
            link.receive(HUNG_S)
        with pytest.raises(LinkClosedError, match="asks for a client's certificate"):
            link.receive(HUNG_S)


def test_http_has_no_client_within_tls_either(papers: Papers) -> None:
    with pytest.raises(ConfigError, match="ws or tcp"):
        http.connect(parse("native+https://127.0.0.1:1"), http.Config(), tls=papers.tls[1])


def test_small_pieces_share_a_record() -> None:
    pieces = [memoryview(bytes(size)) for size in (1, 0, 5, RECORD_BYTES + 1, 3, RECORD_BYTES - 3, 1, 0)]
    assert [len(piece) for piece in joined(pieces)] == [6, RECORD_BYTES + 1, RECORD_BYTES, 1]
    data = [memoryview(bytes((n,)) * n) for n in range(1, 250)]
    assert b"".join(joined(data)) == b"".join(data)


def written(papers: Papers, *kinds: str) -> Path:
    """A file that looks like PEM and holds nothing of use."""
    path = papers.directory / f"written_{'_'.join(kinds)}.pem"
    path.write_text("".join(f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n" for kind in kinds))
    return path


@contextlib.contextmanager
def secure_peer(stage: Stage, papers: Papers):  # type: ignore[no-untyped-def]
    """A bare socket within TLS."""
    with raw_peer(stage.listener) as sock, client_context(papers.tls[1]).wrap_socket(sock, server_hostname="localhost") as secure:
        yield secure


@contextlib.contextmanager
def listening_once(answer: bytes):  # type: ignore[no-untyped-def]
    """A server that answers the first bytes of one peer; its port."""
    import threading

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            sock.recv(4096)
            sock.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(HUNG_S)
