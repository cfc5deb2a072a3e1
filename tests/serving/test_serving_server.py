"""The whole server over real sockets, with the real client: start, serve, drain, end."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving_world import SPEC, Probe, state

from actlink import address as addresses
from actlink import connect, serve
from actlink.client import ClientConfig, RemotePolicy
from actlink.dialects._base import Frame
from actlink.errors import (
    ActlinkError,
    ConfigError,
    DrainingError,
    LinkError,
    PolicyError,
    SpecError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.serving.config import ServerConfig
from actlink.serving.server import Server
from actlink.transports import tcp
from actlink.transports._base import Connection, Receiver

TCP, WS = "native+tcp://127.0.0.1:0", "native+ws://127.0.0.1:0"
ALL = (TCP, WS, "http://127.0.0.1:0")
IMPATIENT = ClientConfig(reconnect_s=0.0)


def get(address: str, path: str) -> tuple[int, bytes]:
    """A plain GET at the place of ``address``."""
    connection = http.client.HTTPConnection(address.split("://")[1].split("/")[0], timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def until(condition: object, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until ``condition()`` holds; the test's own time limit ends it."""
    while not condition():  # type: ignore[operator]
        assert process is None or process.poll() is None, process.communicate()
        threading.Event().wait(0.005)


class Starting:
    """A server whose start is under way in another thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._pool = ThreadPoolExecutor(1)
        self.started = self._pool.submit(server.start)

    def __enter__(self) -> Starting:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self._pool.shutdown()


@contextmanager
def busy(policy: RemotePolicy, probe: Probe) -> Iterator[object]:
    """A request of ``policy`` that waits in ``infer``; gives its future."""
    probe.gate.clear()
    future = policy.submit({"state": state()})
    assert probe.entered.acquire(timeout=30)
    try:
        yield future
    finally:
        probe.gate.set()


class TestServing:
    @pytest.mark.parametrize("listen", [TCP, WS])
    def test_a_client_gets_chunks(self, listen: str) -> None:
        with Server({"probe": Probe()}, [listen]) as server, connect(server.addresses[0]) as policy:
            assert policy.served == SPEC
            chunk = policy.infer_one({"state": state(3, 4)}, step=5)
            np.testing.assert_array_equal(chunk.actions, np.tile(state(3, 4), (3, 1)))
            assert chunk.step == 5 and chunk.timing["infer_ms"] >= 0
            statistics = server.statistics()
            assert (statistics.requests, statistics.answered, statistics.sessions) == (1, 1, 1)
            assert statistics.uptime_s > 0

    def test_bad_observations_are_the_clients_error_and_nobody_elses(self) -> None:
        with Server({"probe": Probe()}, [TCP]) as server, connect(server.addresses[0]) as policy:
            with pytest.raises(SpecError, match="missing"):
                policy.infer_one({})
            assert len(policy.infer_one({"state": state()})) == 3

    def test_several_models(self) -> None:
        with Server({"a": Probe(), "b": Probe(replace(SPEC, name="other"))}, [TCP, WS]) as server:
            for address in server.addresses:
                with connect(address) as first, connect(f"{address}/b") as second:
                    assert (first.spec.name, second.spec.name) == ("probe", "other")
                with pytest.raises(UnknownModelError):
                    connect(f"{address}/c")

    def test_tokens(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("open sesame\n")
        with Server({"m": Probe()}, [TCP, WS], ServerConfig(token_file=path), tokens=["more"]) as server:
            for address in server.addresses:
                for token in (None, "open"):
                    with pytest.raises(UnauthorizedError):
                        connect(address, token=token)
                with connect(address, token_file=path) as policy, connect(address, token="more"):
                    policy.infer_one({"state": state()})

    def test_a_gateway_is_a_server_whose_policy_is_a_client(self) -> None:
        with (
            Server({"far": (probe := Probe())}, [TCP]) as far,
            Server({"near": connect(far.addresses[0])}, [WS]) as near,
            connect(near.addresses[0]) as one,
            connect(near.addresses[0]) as other,
        ):
            assert one.infer_one({"state": state(1, 1)}).actions[0, 0] == 1
            assert other.infer_one({"state": state(2, 2)}).actions[0, 0] == 2
            first, second = (batch[0].session for batch in probe.batches[-2:])
            assert first != second
            one.close()
            until(lambda: far.statistics().sessions == 2)  # the gateway's own, and the other's

    def test_it_closes_its_policies_and_frees_its_port(self) -> None:
        probe = Probe()
        with Server({"probe": probe}, [TCP]) as server:
            address = server.addresses[0]
        assert probe.closed == 1
        with Server({"probe": Probe()}, [address]) as again:
            assert again.addresses == (address,)


class TestHealth:
    def test_pages_on_the_websocket_port_and_on_a_plain_one(self) -> None:
        with Server({"probe": Probe()}, ALL) as server, connect(server.addresses[0]) as policy:
            policy.infer_one({"state": state()})
            for address in server.addresses[1:]:
                status, body = get(address, "/healthz")
                health = json.loads(body)
                assert status == 200 and health["status"] == "ok" and health["requests"] == 1
                assert health["avg_latency_ms"] >= 0
                assert get(address, "/readyz")[0] == 200
                assert get(address, "/secrets")[0] == 404

    def test_not_ready_before_the_warm_up_is_over_but_healthy(self) -> None:
        probe = Probe()
        probe.gate.clear()
        with Starting(Server({"probe": probe}, ALL)) as starting:
            assert probe.entered.acquire(timeout=30)
            pages = starting.server.addresses[2]
            assert get(pages, "/healthz")[0] == 200
            assert get(pages, "/readyz")[0] == 503
            assert not starting.server.ready
            with connect(starting.server.addresses[0]) as policy:  # early birds wait
                early = policy.submit({"state": state()})
                probe.gate.set()
                assert len(early.result(30)) == 3
            starting.started.result(30)
            assert get(pages, "/readyz")[0] == 200
            assert starting.server.ready

    def test_healthy_while_the_policy_hangs(self) -> None:
        with (
            Server({"probe": (probe := Probe())}, ALL) as server,
            connect(server.addresses[0]) as policy,
        ):
            probe.entered = threading.Semaphore(0)
            with busy(policy, probe) as future:
                assert get(server.addresses[2], "/healthz")[0] == 200
                assert policy.url
                with connect(server.addresses[1]) as other:
                    assert other.ping().round_trip_ms >= 0
            assert len(future.result(30)) == 3  # type: ignore[attr-defined]

    def test_a_line_in_the_log_now_and_then(self) -> None:
        lines: list[str] = []
        enough = threading.Event()

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "p95" in record.getMessage():
                    lines.append(record.getMessage())
                    if len(lines) == 2:
                        enough.set()

        logger = logging.getLogger("actlink.serving")
        level, handler = logger.level, Listener()
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            with Server({"probe": Probe()}, [TCP], ServerConfig(log_every_s=0.01)):
                assert enough.wait(30)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        assert "sessions 0, requests 0" in lines[0]


class TestStarting:
    def test_a_port_in_use(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            probe = Probe()
            with pytest.raises(ConfigError, match=str(port)):
                Server({"probe": probe}, [WS, f"native+tcp://127.0.0.1:{port}"]).start()
            assert probe.batches == []
            assert probe.closed == 1

    def test_a_policy_that_fails_its_warm_up(self) -> None:
        def act(requests: object) -> list[object]:
            raise ValueError("bad weights")

        server = Server({"probe": Probe(act=act)}, [TCP])  # type: ignore[arg-type]
        with pytest.raises(PolicyError, match=r"warm-up with 1 observation.* failed: ValueError: bad weights"):
            server.start()
        with pytest.raises(LinkError):
            connect(server.addresses[0])

    def test_a_server_runs_once(self) -> None:
        server = Server({"probe": Probe()}, [TCP])
        with server:
            pass
        with pytest.raises(ConfigError, match="runs once"):
            server.start()

    def test_what_ends_a_server_in_a_thread_of_its_own_is_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(Server):
            async def _drain(self) -> None:
                raise ZeroDivisionError("at the end")

        with Broken({"probe": Probe()}, [TCP]):
            pass
        assert [record.getMessage() for record in caplog.records if record.exc_info] == ["the server has failed"]

    def test_serve_outside_the_main_thread_leaves_signals_alone(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        server, ready = Server({"probe": Probe()}, [TCP]), threading.Event()
        thread = threading.Thread(target=server.serve, args=(ready.set,))
        thread.start()
        assert ready.wait(30)
        assert signal.getsignal(signal.SIGTERM) is before
        server.drain()
        thread.join(30)
        assert not thread.is_alive()

    def test_plain_functions_need_a_spec_and_policies_do_not(self) -> None:
        with pytest.raises(ConfigError, match="has its own spec"):
            serve(Probe(), [TCP], spec=SPEC)
        with pytest.raises(ConfigError, match="spec"):
            serve(lambda observation: np.zeros((1, 2)), [TCP])


class TestDraining:
    def test_what_was_accepted_is_answered_and_new_work_is_refused(self) -> None:
        probe = Probe()
        with Server({"probe": probe}, ALL, ServerConfig(warm_up=False)) as server:
            tcp, _, pages = server.addresses
            with connect(tcp, config=IMPATIENT) as policy, connect(tcp, config=IMPATIENT) as other:
                with busy(policy, probe) as future:
                    server.drain()
                    until(lambda: get(pages, "/readyz")[0] == 503)
                    assert get(pages, "/healthz")[0] == 200
                    with pytest.raises(DrainingError):
                        other.infer_one({"state": state()})
                    for address in server.addresses[:2]:
                        with pytest.raises(DrainingError):
                            connect(address, config=IMPATIENT)
                assert len(future.result(30)) == 3  # type: ignore[attr-defined]
        assert len(probe.batches) == 1
        assert probe.closed == 1

    def test_only_for_so_long(self) -> None:
        probe = Probe()
        with Server({"probe": probe}, [TCP], ServerConfig(warm_up=False, drain_s=0.05)) as server:
            policy = connect(server.addresses[0], config=IMPATIENT)
            with busy(policy, probe) as future:
                server.drain()
                with pytest.raises((DrainingError, LinkError)):
                    future.result(30)  # type: ignore[attr-defined]
            policy.close()

    def test_ending_at_once_does_not_wait_for_a_policy_that_hangs(self) -> None:
        probe = Probe()
        server = Server({"probe": probe}, [TCP], ServerConfig(warm_up=False, drain_s=1e9)).start()
        policy = connect(server.addresses[0], config=IMPATIENT)
        with busy(policy, probe) as future:
            server.drain()
            server.abort()
            server.stop()
            with pytest.raises((DrainingError, LinkError)):
                future.result(30)  # type: ignore[attr-defined]
        policy.close()

    def test_stopping_during_the_warm_up(self) -> None:
        probe = Probe()
        probe.gate.clear()
        with Starting(Server({"probe": probe}, [TCP], ServerConfig(drain_s=0.05))) as starting:
            assert probe.entered.acquire(timeout=30)
            starting.server.drain()
            probe.gate.set()
            starting.started.result(30)
            assert not starting.server.ready

    def test_stopping_twice_and_before_the_start_is_harmless(self) -> None:
        server = Server({"probe": Probe()}, [TCP])
        with server:
            pass
        server.stop()
        server.drain()
        early = Server({"probe": Probe()}, [TCP])
        early.drain()
        early.start()
        early.stop()


def test_a_peer_that_resets_its_connection_may_be_said_goodbye_to() -> None:
    class Silent(Receiver):
        def received(self, frame: Frame) -> None:
            arrived.set()

        def closed(self, reason: str) -> None:
            closed.set()

    async def scenario() -> None:
        connections: list[Connection] = []
        listener = tcp.Listener(addresses.parse(TCP), tcp.Config(), None)
        await listener.start(lambda connection: connections.append(connection) or Silent())  # type: ignore[func-returns-value]
        host, port = listener.bound.split(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(struct.pack(">I", 3) + b"bye")
            await asyncio.wait_for(arrived.wait(), 30)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connections[0].close()  # the reset has arrived, and the event loop has not seen it
        await asyncio.wait_for(closed.wait(), 30)
        await listener.close()

    arrived, closed = asyncio.Event(), asyncio.Event()
    asyncio.run(scenario())


PROGRAM = """
    import sys, threading
    import numpy as np
    from actlink import Field, Spec, serve
    from actlink.serving.server import ServerConfig

    def act(observation):
        if observation["state"][0] > 0:
            print("busy", flush=True)
            sys.stdin.readline() if observation["state"][0] == 1 else threading.Event().wait()
        return np.zeros((3, 2))

    serve(act, [sys.argv[1]], spec=Spec({"state": Field((2,))}, Field((2,))), config=ServerConfig(log_every_s=0))
    print("ended", flush=True)
"""


@contextmanager
def program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A user's script around ``serve``, in a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PROGRAM))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"native+tcp://127.0.0.1:{free.getsockname()[1]}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, str(script), address], text=True, **pipes)  # type: ignore[call-overload]
    try:
        yield process, address
    finally:
        process.kill()
        process.communicate()


def reached(address: str, process: subprocess.Popen[str]) -> RemotePolicy:
    """A client of a server that is still starting."""
    while True:
        assert process.poll() is None, process.communicate()
        try:
            return connect(address, config=IMPATIENT)
        except LinkError:
            threading.Event().wait(0.02)


def refused(address: str) -> bool:
    """Whether new peers are turned away."""
    try:
        connect(address, config=IMPATIENT).close()
    except (DrainingError, LinkError):
        return True
    return False


@pytest.mark.skipif(os.name != "posix", reason="signals")
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_drains(self, tmp_path: Path, number: int) -> None:
        with program(tmp_path) as (process, address), reached(address, process) as policy, reached(address, process) as other:
            future = policy.submit({"state": state(1, 0)})
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "busy\n"
            process.send_signal(number)
            until(lambda: refused(address), process)
            with pytest.raises(DrainingError):
                other.infer_one({"state": state(0, 0)})
            process.stdin.write("\n")
            process.stdin.flush()
            assert len(future.result(30)) == 3
            assert process.wait(30) == 0
            assert process.stdout.read() == "ended\n"

    def test_the_second_ends_at_once_although_the_policy_hangs(self, tmp_path: Path) -> None:
        with program(tmp_path) as (process, address), reached(address, process) as policy:
            future = policy.submit({"state": state(2, 0)})
            assert process.stdout is not None
            assert process.stdout.readline() == "busy\n"
            process.send_signal(signal.SIGTERM)
            until(lambda: refused(address), process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 128 + signal.SIGTERM
            with pytest.raises(ActlinkError):
                future.result(30)
