"""Who gets as far as a policy: real servers and clients, tokens and certificates good and bad."""

from __future__ import annotations

import base64
import logging
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_world import Probe, state

from actlink import address as addresses
from actlink import client
from actlink.client import Credentials, connect
from actlink.errors import ActlinkError, ConfigError, UnauthorizedError
from actlink.serving.config import ServerConfig
from actlink.serving.server import Server
from tls_world import Papers, issue

SECURE = ("native+tcps://127.0.0.1:0", "native+wss://127.0.0.1:0")
PLAIN = ("native+tcp://127.0.0.1:0", "native+ws://127.0.0.1:0")
TOKEN = "correct-horse-battery-staple"
HUNG_S = 20.0


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def guarded(papers: Papers) -> Iterator[tuple[Server, Probe]]:
    """A server that wants a token and a certificate; its policy counts."""
    probe = Probe()
    with Server({"m": probe}, SECURE, papers.serving(mutual=True, warm_up=False), tokens=[TOKEN]) as server:
        yield server, probe


class TestCredentials:
    def test_good_ones_get_in(self, guarded: tuple[Server, Probe], papers: Papers, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(TOKEN)
        server, _ = guarded
        for address in server.addresses:
            shown = papers.credentials("client", token_file=tmp_path / "token")
            with connect(address, credentials=shown) as policy:
                policy.infer_one({"state": state()})

    @pytest.mark.parametrize(
        ("token", "own", "ca", "error", "words"),
        [
            (None, "client", "ca", UnauthorizedError, "asks for a token"),
            ("", "client", "ca", UnauthorizedError, "asks for a token"),
            (TOKEN[:-1], "client", "ca", UnauthorizedError, "asks for a token"),
            (TOKEN + "x", "client", "ca", UnauthorizedError, "asks for a token"),
            (TOKEN.upper(), "client", "ca", UnauthorizedError, "asks for a token"),
            (f"Bearer {TOKEN}", "client", "ca", UnauthorizedError, "asks for a token"),
            (f"{TOKEN}\r\nX: y", "client", "ca", ConfigError, "token: expected letters"),
            (TOKEN, "", "ca", UnauthorizedError, "asks for a client's certificate: --tls-certificate"),
            (TOKEN, "strange_client", "ca", UnauthorizedError, "does not accept this client's certificate"),
            (TOKEN, "old_client", "ca", UnauthorizedError, "does not accept this client's certificate"),
            (TOKEN, "client", "other_ca", ConfigError, "an authority of its own.*--tls-ca FILE"),
            (TOKEN, "client", "", ConfigError, "--tls-ca FILE"),
        ],
    )
    @pytest.mark.parametrize("wire", range(len(SECURE)), ids=SECURE)
    def test_bad_ones_do_not(
        self,
        guarded: tuple[Server, Probe],
        papers: Papers,
        wire: int,
        token: str | None,
        own: str,
        ca: str,
        error: type[ActlinkError],
        words: str,
    ) -> None:
        server, probe = guarded
        before = len(probe.batches)
        with pytest.raises(error, match=words):
            connect(server.addresses[wire], token=token, credentials=papers.credentials(own, ca))
        assert len(probe.batches) == before

    @pytest.mark.parametrize(
        ("shown", "words"), [("elsewhere", "is not for '127.0.0.1'"), ("expired", "not valid now"), ("strange", "tls-ca")]
    )
    @pytest.mark.parametrize("listen", SECURE)
    def test_a_server_that_cannot_show_who_it_is_learns_no_token(self, listen: str, shown: str, words: str, papers: Papers) -> None:
        with Server({"m": Probe()}, [listen], papers.serving(shown)) as server, pytest.raises(ConfigError, match=words):
            connect(server.addresses[0], token=TOKEN, credentials=papers.credentials())

    def test_a_gateway_shows_its_own(self, guarded: tuple[Server, Probe], papers: Papers, tmp_path: Path) -> None:
        far, _ = guarded
        upstream = connect(far.addresses[0], token=TOKEN, credentials=papers.credentials("client"))
        with Server({"near": upstream}, [PLAIN[1]]) as near, connect(near.addresses[0]) as policy:
            policy.infer_one({"state": state()})


def test_a_thousand_wrong_tokens(caplog: pytest.LogCaptureFixture) -> None:
    """None is let in, none reaches the policy, none is in the log; the right one still works afterwards."""
    caplog.set_level(logging.DEBUG)
    probe = Probe()
    with Server({"m": probe}, PLAIN, ServerConfig(warm_up=False), tokens=[TOKEN]) as server:
        wrong = list(wrong_tokens(1000))
        assert len(set(wrong)) == 1000 and TOKEN not in wrong
        accepted = 0
        for index, token in enumerate(wrong):
            try:
                connect(server.addresses[index % 2], token=token).close()
                accepted += 1
            except UnauthorizedError:
                pass
        assert (accepted, probe.batches) == (0, [])
        for token in (*wrong, TOKEN):
            assert len(token) < 8 or token not in caplog.text, "a token in the log"
        with connect(server.addresses[0], token=TOKEN) as policy:
            policy.infer_one({"state": state()})
    print(f"\n{len(wrong)} wrong tokens: {accepted} accepted, {len(probe.batches) - 1} policy calls before the right one")


def wrong_tokens(count: int) -> Iterator[str]:
    """Near misses first, then anything."""
    letters = random.Random(7)
    for index in range(len(TOKEN)):
        yield TOKEN[:index]
        yield TOKEN[:index] + ("X" if TOKEN[index] != "X" else "Y") + TOKEN[index + 1 :]
        yield TOKEN[index:][::-1]
        yield TOKEN + "é" * (index + 1)
    for _ in range(count - 4 * len(TOKEN)):
        yield "".join(letters.choices("abcdefghijklmnopqrstuvwxyz-", k=letters.randint(8, 40)))


class TestHeaders:
    """The credential of a WebSocket's opening, and what a browser gives away there."""

    @pytest.mark.parametrize(
        ("scheme", "token", "let_in"),
        [
            ("Bearer", TOKEN, True),
            ("bearer", TOKEN, True),
            ("Api-Key", TOKEN, True),
            ("Bearer ", f"  {TOKEN}  ", True),
            ("Basic", TOKEN, False),
            ("Digest", TOKEN, False),
            ("Bearer", base64.b64encode(TOKEN.encode()).decode(), False),
            ("Bearer", "", False),
        ],
    )
    def test_bearer_and_api_key(self, scheme: str, token: str, let_in: bool) -> None:
        """Of a client that shows its token nowhere else; the hello is the native one."""
        probe = Probe()
        with Server({"m": probe}, [PLAIN[1]], ServerConfig(warm_up=False), tokens=[TOKEN]) as server:
            assert admitted(server.addresses[0], {"Authorization": f"{scheme} {token}"}) is let_in
        assert probe.batches == []

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "http://evil.example", "Host": "evil.example"}, 403),
            ({"Origin": "http://evil.example:PORT", "Host": "evil.example:PORT"}, 403),
            ({"Host": "evil.example:PORT"}, 403),
            ({"Origin": "http://127.0.0.1.evil.example", "Host": "127.0.0.1.evil.example"}, 403),
            ({"Origin": "http://localhost.evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "file://"}, 403),
            ({"Origin": "https://viewer.example:444"}, 403),
            ({"Origin": "http://viewer.example"}, 403),
            ({"Origin": "chrome-extension://abcdefgh"}, 403),
            ({"Origin": "http://evil.example", "Host": "localhost:PORT"}, 403),
            ({}, 101),
            ({"Origin": "http://127.0.0.1:3000"}, 101),
            ({"Origin": "http://localhost:PORT", "Host": "localhost:PORT"}, 101),
            ({"Origin": "https://viewer.example", "Host": "gpu-box"}, 101),
        ],
    )
    def test_pages_of_strangers_are_refused(self, headers: dict[str, str], status: int) -> None:
        probe = Probe()
        listen = f"{PLAIN[1]}?origins=https://viewer.example&hosts=gpu-box"
        with Server({"m": probe}, [listen], ServerConfig(warm_up=False)) as server:
            port = addresses.parse(server.addresses[0]).port
            shown = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
            sock, got = opening(server.addresses[0], shown)
            sock.close()
            assert got == status
        assert probe.batches == []


class TestWarning:
    @pytest.fixture(autouse=True)
    def afresh(self) -> None:
        client._warn_readable.cache_clear()

    def test_a_token_in_clear_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        host = own_address()
        with Server({"m": Probe()}, [f"tcp://{host}:0", f"ws://{host}:0"], tokens=[TOKEN]) as server:
            for address in (*server.addresses, server.addresses[0]):
                connect(address, token=TOKEN).close()
        assert caplog.text.count("crosses the network unencrypted") == 1
        assert host in caplog.text and TOKEN not in caplog.text

    def test_not_on_this_machine_nor_within_tls(self, caplog: pytest.LogCaptureFixture, papers: Papers) -> None:
        with Server({"m": Probe()}, [*PLAIN, *SECURE], papers.serving(), tokens=[TOKEN]) as server:
            for address in server.addresses:
                connect(
                    address, token=TOKEN, credentials=papers.credentials() if addresses.parse(address).tls else Credentials()
                ).close()
            with pytest.raises(ConfigError, match="not TLS, so nothing would be encrypted"):
                connect(server.addresses[0], credentials=papers.credentials())
        assert "unencrypted" not in caplog.text


def test_tokens_from_descriptors() -> None:
    with Server({"m": Probe()}, PLAIN, ServerConfig(token_fd=pipe(f"other\n{TOKEN}\n"))) as server:
        connect(server.addresses[0], credentials=Credentials(token_fd=pipe(TOKEN))).close()
        with pytest.raises(UnauthorizedError):
            connect(server.addresses[0], credentials=Credentials(token_fd=pipe("wrong")))


def pipe(text: str) -> int:
    ours, theirs = os.pipe()
    os.write(theirs, text.encode())
    os.close(theirs)
    return ours


def own_address() -> str:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network: the warning is NOT TESTED")
        return str(sock.getsockname()[0])


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = sock.recv(count - len(found))
        assert piece, f"the end after {found!r}"
        found += piece
    return found


def opening(url: str, headers: dict[str, str]) -> tuple[socket.socket, int]:
    """A WebSocket's opening by hand; the socket and the status of the answer."""
    address = addresses.parse(url)
    assert address.port is not None
    sock = socket.create_connection((address.host, address.port), timeout=HUNG_S)
    key = base64.b64encode(bytes(16)).decode()
    fixed = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"}
    lines = [f"{name}: {value}" for name, value in {"Host": f"127.0.0.1:{address.port}", **fixed, **headers}.items()]
    sock.sendall("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(sock, 1)
    return sock, int(head.split(b" ")[1])


def admitted(url: str, headers: dict[str, str]) -> bool:
    """Whether a native hello without a token is welcomed on a connection opened with ``headers``."""
    from actlink.dialects import native
    from actlink.dialects._base import Frame, Hello, Welcome
    from actlink.transports import _ws_frames as ws

    sock, status = opening(url, headers)
    dialect = native.Client(native.Config())
    (frame,) = dialect.send(Hello(call=1))
    data = b"".join(bytes(part) for part in frame.parts)
    with sock:
        assert status == 101
        sock.sendall(ws.header(ws.BINARY, len(data), bytes(4)) + data)  # a mask of zeros
        size = exactly(sock, 2)[1]
        if size >= 126:
            size = int.from_bytes(exactly(sock, 2 if size == 126 else 8), "big")
        body = exactly(sock, size)
    (reply,) = dialect.receive(Frame((body,)))
    return isinstance(reply, Welcome)
