"""CURVE against libzmq both ways, and peers that must not come in."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_world import raw_peer, read_all, read_exactly

from actlink.address import Address, parse
from actlink.client import Credentials, connect
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError, ConfigError, LinkError, RemoteProtocolError, UnauthorizedError
from actlink.serving.access import Access
from actlink.serving.config import ServerConfig
from actlink.serving.listening import plan
from actlink.testing._transport_stage import HUNG_S, Stage
from actlink.transports import _curve, _zmtp, zmq
from actlink.transports._curve import ClientKeys, ClientOpening, CurveClient, CurveServer, ServerKeys, ServerOpening, Traffic

libzmq = pytest.importorskip("zmq", reason="pyzmq: CURVE NOT TESTED against libzmq")
pytest.importorskip("nacl", reason="PyNaCl: CURVE NOT TESTED")

URL = "act+zmq://127.0.0.1:0"
HUNG_MS = int(1000 * HUNG_S)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``server``, ``robot`` and ``stranger`` as zmq.auth makes them; ``known/`` has the public key of ``robot``."""
    from zmq import auth

    directory = tmp_path_factory.mktemp("keys")
    for name in ("server", "robot", "stranger"):
        auth.create_certificates(directory, name)
    (directory / "known").mkdir()
    (directory / "known" / "robot.key").write_bytes((directory / "robot.key").read_bytes())
    return directory


def papers(keys: Path, *, known: bool = False, own: str = "", server: str = "server") -> tuple[CurveServer, CurveClient]:
    mine = keys / f"{own}.key_secret" if own else None
    return CurveServer(keys / "server.key_secret", keys / "known" if known else None), CurveClient(keys / f"{server}.key", mine)


@contextlib.contextmanager
def echoing(given: tuple[CurveServer, CurveClient], **options: Any) -> Iterator[Stage]:
    stage = Stage(zmq, parse(URL), curve=given)
    stage.reply = lambda connection, frame: connection.send([frame])
    try:
        stage.start(**options)
        yield stage
    finally:
        stage.end()


@contextlib.contextmanager
def stock(kind: int, keys: Path, own: str, **options: Any) -> Iterator[Any]:
    """A socket of libzmq with the keys of ``own``."""
    from zmq import auth

    with libzmq.Context() as context, context.socket(kind) as sock:
        sock.curve_publickey, sock.curve_secretkey = auth.load_certificate(keys / f"{own}.key_secret")
        for name, value in {"LINGER": 0, "RCVTIMEO": HUNG_MS, "SNDTIMEO": HUNG_MS, **options}.items():
            sock.setsockopt(getattr(libzmq, name), value)
        yield sock


def public(keys: Path, name: str) -> bytes:
    from zmq import auth

    found: bytes = auth.load_certificate(keys / f"{name}.key")[0]
    return found


def endpoint(address: Address) -> str:
    return f"tcp://{address.host}:{address.port}"


SIZES = (0, 1, 200, 255, 256, 70_000, 3_000_000)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("kind", ["REQ", "DEALER"])
def test_libzmq_asks_us(kind: str, known: bool, keys: Path) -> None:
    heartbeats = {"HEARTBEAT_IVL": 20, "HEARTBEAT_TIMEOUT": HUNG_MS}  # it would wait no longer than 20 ms for an answer by itself
    with echoing(papers(keys, known=known)) as stage, stock(getattr(libzmq, kind), keys, "robot", **heartbeats) as sock:
        sock.curve_serverkey = public(keys, "server")
        sock.connect(endpoint(stage.where))
        for size in SIZES:
            data = os.urandom(size)
            sock.send(data)
            assert sock.recv() == data


def test_we_ask_libzmq(keys: Path) -> None:
    with stock(libzmq.REP, keys, "server") as sock:
        sock.curve_server = True
        port = sock.bind_to_random_port("tcp://127.0.0.1")

        def serve() -> None:
            for _ in SIZES:
                sock.send(sock.recv())

        thread = threading.Thread(target=serve)
        thread.start()
        link = zmq.connect(Address("act", "zmq", port=port), zmq.Config(), curve=papers(keys, own="robot")[1])
        for size in SIZES:
            data = os.urandom(size)
            link.send([Frame((data[: size // 2], data[size // 2 :]))], HUNG_S)
            assert bytes(link.receive(HUNG_S).data) == data
        link.close()
        thread.join(HUNG_S)


def test_we_ask_ourselves(keys: Path) -> None:
    with echoing(papers(keys, known=True, own="robot"), max_frame_bytes=10_000) as stage:
        link, recorder = stage.pair(max_frame_bytes=10_000)
        for size in (0, 10_000):
            link.send([Frame((bytes(size),))], HUNG_S)
            assert link.receive(HUNG_S).size == size
        stage.on_loop(recorder.connection.close, "the reason")
        with pytest.raises(LinkError, match="the reason"):
            link.receive(HUNG_S)


@pytest.mark.parametrize(
    ("client", "error", "words"),
    [
        ({"own": "stranger"}, UnauthorizedError, "this client's key is not among those that may come"),
        ({}, UnauthorizedError, "this client's key is not among those that may come"),
        ({"own": "robot", "server": "stranger"}, UnauthorizedError, "the client has another key for this server"),
        (None, ConfigError, "asks for CURVE; give its public key: --curve-server-key"),
    ],
)
def test_who_must_not_come_in(client: dict[str, str] | None, error: type[ActlinkError], words: str, keys: Path) -> None:
    with echoing(papers(keys, known=True)) as stage:
        curve = None if client is None else papers(keys, **client)[1]  # type: ignore[arg-type]
        with pytest.raises(error, match=words):
            zmq.connect(stage.where, zmq.Config(), curve=curve)
        assert stage.arrivals.empty()


def test_a_stranger_with_libzmq_gets_no_answer(keys: Path) -> None:
    with echoing(papers(keys, known=True)) as stage:
        for own, server in (("stranger", "server"), ("robot", "stranger")):
            with stock(libzmq.REQ, keys, own, RCVTIMEO=300) as sock:
                sock.curve_serverkey = public(keys, server)
                sock.connect(endpoint(stage.where))
                sock.send(b"let me in")
                with pytest.raises(libzmq.Again):
                    sock.recv()
        assert stage.arrivals.empty()


def test_a_server_that_does_not_encrypt_is_not_told_anything(keys: Path) -> None:
    plain = Stage(zmq, parse(URL))
    try:
        with pytest.raises(ConfigError, match="does not encrypt"):
            zmq.connect(plain.start(), zmq.Config(), curve=papers(keys)[1])
    finally:
        plain.end()


class TestOpening:
    """Both halves without a socket between them."""

    def opened(self) -> tuple[Traffic, Traffic]:
        client, server = self.halves()
        assert server.hear(word(client.initiate(word(server.hear(word(client.hello()))), b"who I am"))) is None
        assert server.metadata == b"who I am"
        assert client.ready(word(server.ready(b"who you are"))) == b"who you are"
        return client.traffic(), server.traffic()

    def halves(self) -> tuple[ClientOpening, ServerOpening]:
        secret = os.urandom(32)
        return ClientOpening(ClientKeys(_curve._public(secret), os.urandom(32))), ServerOpening(ServerKeys(secret, None))

    def test_what_one_says_the_other_hears(self) -> None:
        client, server = self.opened()
        for ours, theirs in ((client, server), (server, client)):
            delimiter, body = (theirs.opened(part(frame)) for frame in ours.message(b"body", delimited=True))
            assert isinstance(delimiter, _zmtp.Part) and delimiter.more and not len(delimiter.body)
            assert isinstance(body, _zmtp.Part) and not body.more and bytes(body.body) == b"body"
            assert theirs.opened(part(ours.command(b"PING", b"x"))) == _zmtp.Command(b"PING", b"x")

    def test_nothing_is_heard_twice_or_from_elsewhere(self) -> None:
        client, server = self.opened()
        frame = client.sealed(0, b"once")
        server.opened(part(frame))
        others, _ = self.opened()
        changed = bytearray(client.sealed(0, b"x"))
        changed[-1] ^= 1
        for wrong in (
            part(frame),
            part(bytes(changed)),
            part(others.sealed(0, b"x")),
            part(server.sealed(0, b"our own")),
            part(client.sealed(1, b"more than a delimiter")),
            part(client.sealed(2, b"\x09PING")),
            part(_zmtp.frame(b"\x07MESSAGE")),
            part(_zmtp.frame(b"in clear")),
            _zmtp.Command(b"PING", b"in clear"),
        ):
            with pytest.raises(RemoteProtocolError):
                server.opened(wrong)

    def test_the_words_come_in_order(self) -> None:
        client, server = self.halves()
        hello = word(client.hello())
        with pytest.raises(RemoteProtocolError, match="expected HELLO"):
            server.hear(_zmtp.Command(b"INITIATE", b""))
        welcome = word(server.hear(hello))
        for wrong in (hello, _zmtp.Command(b"READY", b""), _zmtp.Command(b"INITIATE", bytes(300))):
            with pytest.raises(RemoteProtocolError, match="INITIATE"):
                server.hear(wrong)
        for wrong in (hello, _zmtp.Command(b"WELCOME", b""), _zmtp.Command(b"ERROR", b"\x02no")):
            with pytest.raises(RemoteProtocolError, match=r"WELCOME|turned away: no"):
                client.initiate(wrong, b"")
        server.hear(word(client.initiate(welcome, b"")))

    def test_mutants_of_every_word_are_refused(self) -> None:
        """A bit flipped, bytes lost or added: never anything but ``RemoteProtocolError``."""
        chance = random.Random(11)
        refused = 0
        for _ in range(300):
            client, server = self.halves()
            target = chance.randrange(4)
            try:
                hello = word(mutated(client.hello(), chance, target == 0))
                welcome = word(mutated(server.hear(hello) or b"\x04\x00", chance, target == 1))
                initiate = word(mutated(client.initiate(welcome, b"me"), chance, target == 2))
                assert server.hear(initiate) is None
                client.ready(word(mutated(server.ready(b"you"), chance, target == 3)))
            except RemoteProtocolError:
                refused += 1
        assert refused > 270, "only the padding of HELLO and its minor version mean nothing"


def test_garbage_at_the_port(keys: Path) -> None:
    with echoing(papers(keys)) as stage:
        ours = _zmtp.greeting(server=False, mechanism=_curve.MECHANISM)
        for garbage in (_zmtp.ready(b"REQ"), _zmtp.command(b"HELLO", bytes(194)), _zmtp.frame(b"x"), b"\xff" * 300):
            with raw_peer(stage.listener) as sock:
                sock.sendall(ours + garbage)
                assert read_exactly(sock, 64) == _zmtp.greeting(server=True, mechanism=_curve.MECHANISM)
                assert b"ERROR" in read_all(sock)
        link, _ = stage.pair()
        link.send([Frame((b"unharmed",))], HUNG_S)
        assert bytes(link.receive(HUNG_S).data) == b"unharmed"


class TestFiles:
    def test_keys_are_those_of_zmq_auth(self, keys: Path) -> None:
        for name, kind in (("server.key", "public-key"), ("server.key_secret", "public-key"), ("server.key_secret", "secret-key")):
            from zmq import auth

            written = auth.load_certificate(keys / name)[kind == "secret-key"]
            assert _curve.read_key(keys / name, kind, "x") == libzmq.utils.z85.decode(written)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "No such file"),
            ("", "expected a line 'secret-key"),
            ('secret-key = "short"', "expected a line"),
            (f'secret-key = "{"~" * 40}"', "expected a line"),
            (f'secret-key = "{"#" * 40}"', "is not Z85"),
        ],
    )
    def test_what_is_wrong_with_one_is_said(self, content: str | None, words: str, tmp_path: Path) -> None:
        path = tmp_path / "key"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match=f"curve_key {path}: .*{words}"):
            zmq.Listener(parse(URL), zmq.Config(), curve=CurveServer(path))

    def test_an_empty_directory_lets_nobody_in_by_mistake(self, keys: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"curve_clients .*: expected a directory with public keys"):
            _curve.server_keys(CurveServer(keys / "server.key_secret", tmp_path))


class TestOptions:
    def test_known_clients_open_a_wide_address_and_a_key_alone_does_not(self, keys: Path) -> None:
        access = Access((), (), insecure=False)
        plan(["act+zmq://0.0.0.0:0"], access, None, papers(keys, known=True)[0])
        with pytest.raises(ConfigError, match="--curve-clients"):
            plan(["act+zmq://0.0.0.0:0"], access, None, papers(keys)[0])
        with pytest.raises(ConfigError, match="no address is a zmq"):
            plan(["act+ipc:///tmp/x", "native+tcp://127.0.0.1:0"], access, None, papers(keys)[0])

    def test_a_key_where_nothing_is_encrypted_is_a_mistake(self, keys: Path) -> None:
        with pytest.raises(ConfigError, match="only zmq:// addresses speak CURVE"):
            connect("native+tcp://127.0.0.1:1", credentials=Credentials(curve_server_key=keys / "server.key"))
        with pytest.raises(ConfigError, match="curve_clients: expected the server's secret key"):
            ServerConfig(curve_clients=keys)


def word(data: bytes | None) -> _zmtp.Command:
    """The command in a frame, by the reader that a connection uses."""
    from actlink.transports._buffers import Buffers, Inbox

    assert data is not None
    inbox = Inbox(Buffers())
    left = memoryview(data)
    reader = _zmtp.Reader(inbox, 1 << 20)
    while len(left):
        count = min(len(left), len(inbox.buffer()))
        inbox.buffer()[:count] = left[:count]
        inbox.filled(count)
        left = left[count:]
        found = reader.read()
    if not isinstance(found, _zmtp.Command):
        raise RemoteProtocolError("no command")
    return found


def part(frame: bytes) -> _zmtp.Part:
    """The part in a frame."""
    head = 9 if frame[0] & _zmtp.LONG else 2
    return _zmtp.Part(memoryview(bytearray(frame[head:])), False)


def mutated(frame: bytes, chance: random.Random, wanted: bool) -> bytes:
    """The same command with its body changed, if ``wanted``."""
    if not wanted:
        return frame
    found = word(frame)
    body = bytearray(found.body)
    kind = chance.randrange(3)
    if kind == 0:
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del body[chance.randrange(len(body)) :]
    else:
        body += os.urandom(chance.randrange(1, 9))
    return _zmtp.command(found.name, bytes(body))
