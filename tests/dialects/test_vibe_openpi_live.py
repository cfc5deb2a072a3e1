"""The vibe and openpi wires over real WebSockets, with a library that others wrote on the other side."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from test_openpi import pack_array
from test_vibe import decode, encode
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import actlink
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError, LinkClosedError, SpecError
from actlink.policies._base import Policy, Result, answer
from actlink.serving.server import Server, ServerConfig
from actlink.spec import Field, Spec
from actlink.types import Request

SPEC = Spec(
    {"state": Field((4,)), "images.top": Field((None, None, 3), "uint8", required=False)},
    Field((2,)),
    action_horizon=3,
    max_batch_size=8,
    stateful=True,
)
CONFIG = ServerConfig(log_every_s=0)


# What a dialect says of its connection's end, and of a new one for each episode, must be heard by server and client.
class Counting(Policy):
    """Row i of the chunk is (first entry of the state + i / 10, how often this session was asked)."""

    spec = SPEC

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        count = (request.memory or 0) + 1
        first = float(np.asarray(request.observation["state"])[0])
        if first == 666:
            raise ValueError("out of reach")
        rows = np.array([[first + i / 10, count] for i in range(3)], np.float32)
        return answer(request, rows, count)


@pytest.fixture
def server() -> Iterator[Server]:
    listen = [f"{one}://127.0.0.1:0" for one in ("vibe+ws", "openpi+ws", "native+ws")]
    with Server(
        {"counting": Counting()}, [*listen, "vibe+ws://127.0.0.1:0?chunk=1", "openpi+ws://127.0.0.1:0?keep_open=true"], CONFIG
    ) as made:
        yield made


def opened(server: Server, index: int, path: str = "", **options: Any) -> ClientConnection:
    address = server.addresses[index].partition("+")[2]
    return connect(address + path, proxy=None, max_size=None, **options)


def state(*first: float) -> Any:
    return np.array([[value, 0, 0, 0] for value in first], np.float32)


class TestVibe:
    def ask(self, link: ClientConnection, observation: dict[str, Any]) -> Any:
        link.send(encode(observation))
        reply = link.recv(30)
        assert isinstance(reply, bytes)
        action, latency_ms = decode([Frame((reply,))])
        assert latency_ms > 0
        return action

    def test_one_action_for_each_observation_and_a_query_at_each(self, server: Server) -> None:
        with opened(server, 0) as link:
            for count in (1, 2, 3):
                np.testing.assert_array_equal(self.ask(link, {"obs": state(5)[0]}), [5, count])
            np.testing.assert_array_equal(self.ask(link, {"state": state(5, 6)}), [[5, 4], [6, 1]])

    def test_whole_chunks(self, server: Server) -> None:
        with opened(server, 3) as link:
            assert self.ask(link, {"obs": state(5)[0]}).shape == (3, 2)
            assert self.ask(link, {"obs": state(5, 6)}).shape == (2, 3, 2)

    def test_a_message_above_one_mebibyte(self, server: Server) -> None:
        with opened(server, 0) as link:
            pictures = np.zeros((1024, 1024, 3), np.uint8)
            np.testing.assert_array_equal(self.ask(link, {"state": state(1)[0], "image": pictures}), [1, 1])

    def test_a_connection_is_a_session(self, server: Server) -> None:
        for _ in range(2):
            with opened(server, 0) as link:
                assert self.ask(link, {"obs": state(5)[0]})[1] == 1

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            (encode({"obs": np.zeros(3, np.float32)}), "observation['state']: expected shape (4,), got (3,)"),
            (encode({"speed": np.zeros(3)}), "observation['state']: missing; expected float32 (4,), got the keys: speed"),
            (encode({"obs": np.full(4, np.nan)}), "observation['state'][0]: expected finite float32 values"),
            (encode({"obs": state(666)[0]}), "policy failed: ValueError: out of reach"),
            (b"\xc1", "expected plain msgpack values"),
            ("text", "expected binary messages, got text"),
        ],
    )
    def test_an_error_closes_with_a_reason(self, message: Any, says: str, server: Server) -> None:
        with opened(server, 0) as link:
            link.send(message)
            with pytest.raises(ConnectionClosed) as caught:
                link.recv(30)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008
        assert says in caught.value.rcvd.reason

    def test_health_as_documented(self, server: Server) -> None:
        with opened(server, 0) as link:
            self.ask(link, {"obs": state(5)[0]})
        page = get(server, 0, "/healthz")
        head, _, body = page.partition(b"\r\n\r\n")
        assert b"200 OK" in head and b"Content-Type: application/json" in head
        assert body.startswith(b'{"status":"ok","requests":1,"avg_latency_ms":') and body.endswith(b"}\n")

    def test_any_path(self, server: Server) -> None:
        with opened(server, 0, "/infer/v2") as link:
            assert self.ask(link, {"obs": state(5)[0]})[1] == 1

    def test_our_client(self, server: Server) -> None:
        with actlink.connect(server.addresses[0], spec=SPEC) as policy:
            for _ in range(3):
                for count in (1, 2):
                    chunk = policy.infer_one({"state": state(7)[0]}, step=count - 1)
                    np.testing.assert_array_equal(chunk.actions, [[7, count]])
                    assert chunk.timing["server_ms"] > 0
                policy.reset()
            with pytest.raises(LinkClosedError, match="policy"):
                policy.infer_one({"state": state(666)[0]})
        with actlink.connect(server.addresses[3], spec=SPEC) as policy:
            assert policy.infer_one({"state": state(7)[0]}).actions.shape == (3, 2)


class TestOpenpi:
    def ask(self, link: ClientConnection, observation: dict[str, Any]) -> Any:
        link.send(msgpack.packb(observation, default=pack_array))
        reply = link.recv(30)
        if isinstance(reply, str):
            return reply
        actions = msgpack.unpackb(reply)["actions"]
        return np.frombuffer(actions[b"data"], actions[b"dtype"]).reshape(actions[b"shape"])

    def test_the_server_greets_and_answers(self, server: Server) -> None:
        with opened(server, 1) as link:
            assert list(msgpack.unpackb(link.recv(30))) == ["actlink"]
            np.testing.assert_array_equal(self.ask(link, {"observation/state": state(5)[0]})[:, 1], [1, 1, 1])
            picture = np.zeros((3, 600, 800), np.uint8)
            assert self.ask(link, {"state": state(5)[0], "images": {"top": picture}})[0, 1] == 2

    def test_an_error_is_a_text_and_1011(self, server: Server) -> None:
        with opened(server, 1) as link:
            link.recv(30)
            told = self.ask(link, {"state": np.zeros(3)})
            assert told == "spec: observation['state']: expected shape (4,), got (3,)"
            with pytest.raises(ConnectionClosed) as caught:
                link.recv(30)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1011

    def test_the_connection_may_be_kept(self, server: Server) -> None:
        with opened(server, 4) as link:
            link.recv(30)
            assert self.ask(link, {"state": np.zeros(3)}).startswith("spec: ")
            assert self.ask(link, {"state": state(5)[0]})[0, 1] == 1

    def test_health(self, server: Server) -> None:
        assert b"200 OK" in get(server, 1, "/healthz")

    def test_any_path(self, server: Server) -> None:
        with opened(server, 1, "/policy:8000") as link:  # what its client makes of a path and a port
            assert list(msgpack.unpackb(link.recv(30))) == ["actlink"]

    @pytest.mark.parametrize(("header", "welcome"), [("Api-Key sesame", True), ("Bearer sesame", True), ("Api-Key other", False)])
    def test_api_key(self, header: str, welcome: bool) -> None:
        with Server({"counting": Counting()}, ["openpi+ws://127.0.0.1:0"], CONFIG, tokens=["sesame"]) as made:
            try:
                with opened(made, 0, additional_headers={"Authorization": header}) as link:
                    assert isinstance(link.recv(30), bytes) is welcome
            except (ConnectionClosed, InvalidStatus):
                assert not welcome

    def test_our_client_tells_step_and_episode(self, server: Server) -> None:
        with actlink.connect(server.addresses[1]) as policy, actlink.connect(server.addresses[2]) as native:
            assert policy.spec == native.spec
            for episode in range(2):
                for step in (0, 3, 6):
                    given = {"state": state(episode)[0]}
                    one, other = policy.infer_one(given, step=step), native.infer_one(given, step=step)
                    np.testing.assert_array_equal(one.actions, other.actions)
                    assert (one.step, one.episode) == (other.step, other.episode)
                policy.reset()
                native.reset()

    def test_errors_keep_their_kind(self, server: Server) -> None:
        with actlink.connect(server.addresses[4]) as policy:
            with pytest.raises(SpecError, match=r"expected shape \(4,\)"):
                policy.infer_one({"state": np.zeros(3)})
            with pytest.raises(ActlinkError) as caught:
                policy.infer_one({"state": state(666)[0]})
            assert caught.value.code == "policy" and "out of reach" in str(caught.value)
            assert policy.infer_one({"state": state(5)[0]}).actions[0, 1] == 1


def get(server: Server, index: int, path: str) -> bytes:
    """A plain request over a plain socket, read to its end."""
    host, _, port = server.addresses[index].rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return b"".join(iter(lambda: link.recv(4096), b""))
