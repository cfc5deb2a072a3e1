"""The proxy between a client and a server of every wire, and what its faults look like from the client."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actlink import address
from actlink.client import ClientConfig, connect
from actlink.clock import ManualClock, MonotonicClock
from actlink.errors import ConfigError, LinkError, LinkTimeoutError
from actlink.link.faults import LinkConfig
from actlink.link.proxy import Event, Proxy
from actlink.policies._open import open_policy
from actlink.serving.server import Server, ServerConfig
from actlink.testing.links import bad_link
from actlink.types import Runtime

HUNG_S = 20.0
ECHO = "scripted:echo?state=4&action=4&horizon=8"


@contextlib.contextmanager
def serving(listen: str) -> Iterator[str]:
    """An echo policy behind a real listener; its address."""
    with Server({"echo": open_policy(ECHO, Runtime(), {})}, [listen], ServerConfig()) as server:
        yield str(server.addresses[0])


@contextlib.contextmanager
def byte_echo() -> Iterator[str]:
    """A bare socket that sends back what it gets, as an address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            while piece := peer.recv(65536):
                peer.sendall(piece)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(HUNG_S)


def dial(link: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.address.port), timeout=HUNG_S)


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def dial_and_read(link: Proxy) -> bytes:
    """For a connection that is to be reset: the reset may arrive before ``connect`` has looked, and is then its error."""
    with dial(link) as sock:
        return read_all(sock)


@pytest.mark.parametrize("listen", ["ws://127.0.0.1:0", "tcp://127.0.0.1:0", "act+zmq://127.0.0.1:0", "ilstudio+tcp://127.0.0.1:0"])
def test_every_wire_passes(listen: str) -> None:
    with serving(listen) as server, bad_link(server, delay_ms=2.0, jitter_ms=1.0, loss=0.001) as link:
        policy = open_policy(ECHO, Runtime(), {})
        state = np.arange(4, dtype=np.float32)
        with connect(str(link.address), spec=policy.spec) as remote:
            for step in range(3):
                np.testing.assert_array_equal(remote.infer_one({"state": state}, step=step).actions[0], state)


def test_a_unix_socket_passes(tmp_path: Path) -> None:
    with serving(f"unix://{tmp_path}/server") as server:
        with (
            Proxy(address.parse(server), listen=address.parse(f"unix://{tmp_path}/link")) as link,
            connect(str(link.address)) as remote,
        ):
            assert remote.infer_one({"state": np.zeros(4, np.float32)}).step == 0
        assert not (tmp_path / "link").exists()


def test_delay_is_paid_both_ways() -> None:
    clock = MonotonicClock()
    with byte_echo() as server, bad_link(server, delay_ms=30.0) as link, dial(link) as sock:
        started_s = clock.now()
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert clock.now() - started_s >= 0.06


def test_every_byte_arrives_through_a_narrow_and_lossy_link() -> None:
    data = bytes(range(256)) * 2000
    with (
        byte_echo() as server,
        bad_link(server, bandwidth_mbit_s=200.0, jitter_ms=1.0, loss=0.0005, seed=3) as link,
        dial(link) as sock,
    ):
        writer = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        writer.start()
        assert read_all(sock) == data
        writer.join(HUNG_S)


def test_a_cut_link_is_silent_and_goes_on_when_mended() -> None:
    with byte_echo() as server, bad_link(server) as link, dial(link) as sock:
        sock.sendall(b"1")
        assert sock.recv(1) == b"1"
        link.cut()
        sock.sendall(b"2")
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        link.mend()
        sock.settimeout(HUNG_S)
        assert sock.recv(1) == b"2"


def test_a_client_of_ours_sees_a_cut_as_a_timeout_and_a_reset_as_a_link_error() -> None:
    observation = {"state": np.zeros(4, np.float32)}
    with serving("tcp://127.0.0.1:0") as server, bad_link(server) as link:
        with connect(str(link.address), config=ClientConfig(reconnect_s=0.0)) as remote:
            remote.infer_one(observation)
            link.cut()
            remote.be(ClientConfig(timeout_s=0.2, reconnect_s=0.0))  # not before: no answer is too late there
            with pytest.raises(LinkTimeoutError):
                remote.infer_one(observation)
            link.mend()
        with connect(str(link.address), config=ClientConfig(reconnect_s=0.0)) as remote:
            remote.infer_one(observation)
            link.cut()
            remote.be(ClientConfig(connect_timeout_s=0.2, reconnect_s=0.0))  # it asks again, over a connection that stays silent
            waiting = remote.submit(observation)
            link.reset()
            with pytest.raises(LinkError):
                waiting.result(HUNG_S)


def test_a_reset_by_the_schedule_takes_every_connection_and_refuses_new_ones() -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    clock = ManualClock()  # the schedule begins once both connections stand
    config = LinkConfig(faults=("reset from 0.02 s for 60 s",))
    with byte_echo() as server, Proxy(address.parse(server), config, log=events.put, clock=clock) as link:
        with dial(link) as one, dial(link) as other:
            assert [events.get(timeout=HUNG_S).what for _ in range(2)] == ["open", "open"]
            clock.advance(0.02)
            for sock in (one, other):
                with pytest.raises(ConnectionResetError):
                    read_all(sock)
        with pytest.raises(ConnectionResetError):
            dial_and_read(link)
    told = [events.get_nowait().what for _ in range(events.qsize())]
    assert [what for what in told if what in ("reset", "refused")] == ["reset", "reset", "refused"]


def test_a_reset_by_one_side_is_one_for_the_other() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, bad_link(f"tcp://127.0.0.1:{listener.getsockname()[1]}") as link, dial(link) as sock:
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_a_server_that_is_not_there_is_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as held:  # bound, so that nobody else gets the port, and not listening
        held.bind(("127.0.0.1", 0))
        with bad_link(f"tcp://127.0.0.1:{held.getsockname()[1]}") as link, pytest.raises(ConnectionResetError):
            dial_and_read(link)
    assert "cannot be reached" in caplog.text


def test_the_log_tells_of_every_piece_and_its_arrival() -> None:
    events: list[Event] = []
    with byte_echo() as server, bad_link(server, delay_ms=5.0, log=events.append) as link, dial(link) as sock:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"abc"
    told = {(event.direction, event.n): event for event in events if event.what == "piece"}
    assert {key: event.size for key, event in told.items()} == {("up", 0): 3, ("down", 0): 3}
    assert [event.arrival_s for event in told.values()] == pytest.approx([event.at_s + 0.005 for event in told.values()])
    assert [event.what for event in events].count("end") == 2


@pytest.mark.parametrize("what", [{"duplicate": 0.1}, {"reorder": 0.1}])
def test_what_a_byte_stream_does_not_know_is_refused(what: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(what))}.*--tun"):
        bad_link("tcp://127.0.0.1:1", **what)
    with pytest.raises(ConfigError, match="--tun"):
        bad_link("tcp://127.0.0.1:1", faults=[f"{next(iter(what))} 0.1 from 1 s for 1 s"])
