"""The client against a real server over every transport that the native wire runs on, and against sockets that misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from actlink import ActionChunk, Field, Request, Spec, connect
from actlink.client import ClientConfig, RemotePolicy, open_policy, read_token
from actlink.errors import (
    ActlinkError,
    ConfigError,
    ConnectError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    SpecError,
    SupersededError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.policies._base import Policy, Result
from actlink.serving.server import Server, ServerConfig
from hurried import runs_out

SPEC = Spec(
    {"state": Field((3,)), "images.top": Field((4, 5, 3), "uint8", required=False), "prompt": Field((), "str", required=False)},
    Field((2,)),
    action_horizon=4,
    accepts_prefix=True,
    max_batch_size=8,
)
PATIENT = ClientConfig(connect_timeout_s=30.0, timeout_s=30.0, reconnect_s=30.0)


class Telling(Policy):
    """Answers with what it was asked: row i is (step, sum of the state) + memory, so that a mix-up shows."""

    def __init__(self, stateful: bool = False) -> None:
        self.spec = Spec(SPEC.observation, SPEC.action, 4, accepts_prefix=True, max_batch_size=8, stateful=stateful)
        self.seen: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        """A request waits at the gate."""

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        if not self.gate.is_set():
            self.held.set()
        self.gate.wait(20)
        self.seen.extend(requests)
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Result:
        state = request.observation["state"]
        assert isinstance(state, np.ndarray)
        if state[0] == 666:
            return PolicyError("this state is not for me")
        count = (request.memory or 0) + 1
        row = np.array([request.step, state.sum() + (100 * (count - 1) if self.spec.stateful else 0)], np.float32)
        return ActionChunk(np.tile(row, (4, 1)), request.step, memory=count if self.spec.stateful else None)


@pytest.fixture(params=["native+tcp://127.0.0.1:0", "native+ws://127.0.0.1:0"])
def listen(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy() -> Telling:
    return Telling()


@pytest.fixture
def server(policy: Telling, listen: str) -> Iterator[Server]:
    with Server({"telling": policy}, [listen], ServerConfig()) as running:
        yield running


def state(*values: float) -> dict[str, np.ndarray]:
    return {"state": np.array(values, np.float32)}


def test_spec_and_chunk(server: Server) -> None:
    with connect(server.addresses[0]) as remote:
        assert remote.spec.observation == SPEC.observation
        chunk = remote.infer_one(state(1, 2, 3), step=7)
        assert chunk.step == 7
        np.testing.assert_array_equal(chunk.actions, np.tile(np.float32([7, 6]), (4, 1)))
        assert chunk.timing["round_trip_ms"] >= chunk.timing["infer_ms"] >= 0


def test_prefix_delay_image_and_prompt_reach_the_policy(server: Server, policy: Telling) -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    prefix = np.arange(6, dtype=np.float32).reshape(3, 2)
    with connect(server.addresses[0]) as remote:
        remote.infer_one({**state(0, 0, 0), "images.top": image, "prompt": "取"}, step=5, prefix=prefix, inference_delay=2)
    seen = policy.seen[-1]
    np.testing.assert_array_equal(seen.observation["images.top"], image)
    assert (seen.observation["prompt"], seen.inference_delay, seen.step) == ("取", 2, 5)
    assert seen.prefix is not None
    np.testing.assert_array_equal(seen.prefix, prefix)


def test_batch_over_sessions_keeps_order_and_isolates_errors(server: Server) -> None:
    requests = [Request(state(666 if i == 2 else i, 0, 0), step=i, session=f"s{i}") for i in range(5)]
    with connect(server.addresses[0]) as remote:
        results = remote.infer(requests)
        for i, result in enumerate(results):
            if i == 2:
                assert isinstance(result, PolicyError) and "not for me" in str(result)
            else:
                assert isinstance(result, ActionChunk)
                assert (result.session, result.step, result.actions[0, 1]) == (f"s{i}", i, i)
        remote.forget("s0")


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        ({}, "observation['state']: missing"),
        (state(1, 2), r"expected shape (3,), got (2,)"),
        ({"state": np.array([1, 2, np.nan])}, "observation['state'][2]: expected finite"),
        ({**state(1, 2, 3), "images.top": np.zeros((4, 5, 3))}, "observation['images.top']: expected uint8"),
    ],
)
def test_bad_observation_is_refused_before_it_is_sent(
    server: Server, policy: Telling, observation: dict[str, np.ndarray], says: str
) -> None:
    with connect(server.addresses[0]) as remote:
        before = len(policy.seen)
        with pytest.raises(SpecError) as caught:
            remote.infer_one(observation)
        assert says in str(caught.value)
        assert len(policy.seen) == before
        remote.infer_one(state(1, 2, 3))


def test_submit_runs_in_order(server: Server) -> None:
    with connect(server.addresses[0]) as remote:
        futures = [remote.submit(state(i, 0, 0), step=i) for i in range(10)]
        assert [int(f.result(20).actions[0, 1]) for f in futures] == list(range(10))


def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds; the test's own time limit ends it."""
    while not condition():
        threading.Event().wait(0.005)


def one_under_way_and_one_behind(remote: RemotePolicy, server: Server, policy: Telling) -> tuple[Future[ActionChunk], ...]:
    """Both submitted; the policy works at the first until its gate is set."""
    policy.gate.clear()
    first = remote.submit(state(1, 0, 0))
    until(lambda: server.statistics().requests)
    return first, remote.submit(state(2, 0, 0), step=1)


def test_submit_does_not_wait_for_what_is_under_way(server: Server, policy: Telling) -> None:
    with connect(server.addresses[0]) as remote:
        first, second = one_under_way_and_one_behind(remote, server, policy)
        assert not first.done()
        policy.gate.set()
        assert [int(each.result(20).actions[0, 1]) for each in (first, second)] == [1, 2]


def test_what_was_submitted_before_a_reset_belongs_to_no_episode(server: Server, policy: Telling) -> None:
    with connect(server.addresses[0]) as remote:
        first, second = one_under_way_and_one_behind(remote, server, policy)
        resetting = threading.Thread(target=remote.reset)
        resetting.start()
        until(lambda: remote._submissions)
        policy.gate.set()
        resetting.join(20)
        for each in (first, second):
            with pytest.raises(SupersededError, match="a new episode began"):
                each.result(20)
        assert remote.submit(state(3, 0, 0)).result(20).actions[0, 1] == 3


def test_close_ends_a_call_that_is_connecting_again() -> None:
    port = free_port()
    patient = ClientConfig(reconnect_s=1000.0, backoff_limit_s=0.05)
    remote = connect_after_restart(f"native+tcp://127.0.0.1:{port}", Telling(), patient)
    with socket.create_server(("127.0.0.1", port)) as closing:
        waiting = remote.submit(state(1, 0, 0))
        for _ in range(2):
            closing.accept()[0].close()  # it is knocking
        closer = threading.Thread(target=remote.close, daemon=True)
        closer.start()
        closer.join(20)
        assert not closer.is_alive()
        with pytest.raises(LinkClosedError, match="this client was closed"):
            waiting.result(20)


def test_what_was_too_long_to_be_sent_is_not_waited_for() -> None:
    spec = Spec({"state": Field((3,)), "images.top": Field((None, None, 3), "uint8")}, Field((2,)), action_horizon=4)
    with Server({"m": Telling()}, ["ilstudio+tcp://127.0.0.1:0"], ServerConfig(warm_up=False)) as server:
        url = f"{server.addresses[0]}?max_frame_bytes=20000"
        with connect(url, spec=spec, config=PATIENT) as remote:
            assert remote.infer_one({**state(1, 0, 0), "images.top": np.zeros((4, 5, 3), np.uint8)}).actions[0, 1] == 1
            with pytest.raises(LocalProtocolError, match="at most 20000 are allowed"):
                remote.infer_one({**state(2, 0, 0), "images.top": np.zeros((200, 200, 3), np.uint8)}, step=1)
            assert remote.infer_one({**state(3, 0, 0), "images.top": np.zeros((4, 5, 3), np.uint8)}, step=2).actions[0, 1] == 3


def test_ping_measures_offset(server: Server) -> None:
    with connect(server.addresses[0]) as remote:
        result = remote.ping()
    assert result.round_trip_ms > 0
    assert abs(result.clock_offset_ms) <= max(50.0, result.round_trip_ms)  # the same clock on both sides


def test_memory_lives_until_reset(listen: str) -> None:
    with Server({"m": Telling(stateful=True)}, [listen], ServerConfig()) as server, connect(server.addresses[0]) as remote:
        assert [remote.infer_one(state(1, 0, 0)).actions[0, 1] for _ in range(3)] == [1, 101, 201]
        remote.reset()
        assert remote.infer_one(state(1, 0, 0)).actions[0, 1] == 1


def test_memory_survives_a_lost_connection(listen: str) -> None:
    with (
        Server({"m": Telling(stateful=True)}, [listen], ServerConfig()) as server,
        connect(server.addresses[0], config=PATIENT) as remote,
    ):
        remote.infer_one(state(1, 0, 0))
        remote._sessions[""]._drop()
        assert remote.infer_one(state(1, 0, 0)).actions[0, 1] == 101


def test_stateful_policy_is_not_asked_twice_and_says_what_was_lost() -> None:
    port = free_port()
    url = f"native+tcp://127.0.0.1:{port}"
    first, second = Telling(stateful=True), Telling(stateful=True)
    with connect_after_restart(url, first) as remote, Server({"m": second}, [url], ServerConfig()):
        with pytest.raises(LinkClosedError):
            for _ in range(2):  # the loss is noticed by the first or the second call
                remote.infer_one(state(1, 0, 0))
        with pytest.raises(LinkClosedError, match=r"lost its memory of episode 0; reset"):
            remote.infer_one(state(1, 0, 0))
        remote.reset()
        assert remote.infer_one(state(1, 0, 0)).actions[0, 1] == 1


def test_stateless_policy_survives_a_server_restart() -> None:
    port = free_port()
    url = f"native+tcp://127.0.0.1:{port}"
    with connect_after_restart(url, Telling()) as remote, Server({"m": Telling()}, [url], ServerConfig()):
        assert remote.infer_one(state(1, 2, 3)).actions[0, 1] == 6


def test_server_gone_is_a_connect_error_within_its_bound() -> None:
    url = f"native+tcp://127.0.0.1:{free_port()}"
    with connect_after_restart(url, Telling(), ClientConfig(reconnect_s=0.2)) as remote:
        with pytest.raises(LinkError):
            remote.infer_one(state(1, 2, 3))
        with pytest.raises(ConnectError, match=r"gave up after 0\.2 s"):
            remote.infer_one(state(1, 2, 3))


def test_wait_ready_meets_a_server_that_starts_later() -> None:
    url = f"native+tcp://127.0.0.1:{free_port()}"
    with connect_after_restart(url, Telling()) as remote:
        started: list[Server] = []
        timer = threading.Timer(0.3, lambda: started.append(Server({"m": Telling()}, [url], ServerConfig()).start()))
        timer.start()
        try:
            remote.wait_ready(20)
            assert remote.infer_one(state(1, 2, 3)).actions[0, 1] == 6
        finally:
            timer.join()
            for server in started:
                server.stop()


def test_nobody_there() -> None:
    with socket.socket() as held:  # bound, so that nobody else gets the port, and not listening
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
            connect(f"native+tcp://127.0.0.1:{held.getsockname()[1]}")


def test_timeout_drops_the_connection_and_the_next_call_works(server: Server, policy: Telling) -> None:
    with connect(server.addresses[0], config=ClientConfig(timeout_s=0.2)) as remote:
        policy.gate.clear()
        with pytest.raises(ActlinkError) as caught:
            remote.infer_one(state(1, 0, 0))
        assert caught.value.infrastructure
        policy.gate.set()
        remote.be(PATIENT)
        remote.wait_ready(20)
        assert remote.infer_one(state(2, 0, 0)).actions[0, 1] == 2


def test_close_wakes_a_waiting_call(server: Server, policy: Telling) -> None:
    remote = connect(server.addresses[0])
    policy.gate.clear()
    waiting = remote.submit(state(1, 0, 0))
    assert policy.held.wait(20)  # one that had not begun would be cancelled
    closer = threading.Thread(target=remote.close)
    closer.start()
    try:
        with pytest.raises(LinkError):
            waiting.result(20)
    finally:
        policy.gate.set()
        closer.join(20)
    assert not closer.is_alive()
    with pytest.raises(LinkClosedError, match="closed"):
        remote.infer_one(state(1, 0, 0))


def test_token_and_model(policy: Telling, listen: str, tmp_path: object) -> None:
    from pathlib import Path

    token_file = Path(str(tmp_path)) / "token"
    token_file.write_text("s3cret\n")
    with Server({"telling": policy}, [listen], ServerConfig(token_file=token_file)) as server:
        url = server.addresses[0]
        with connect(url, token_file=token_file) as remote:
            remote.infer_one(state(1, 2, 3))
        for wrong in (None, "", "s3cre", "s3cret2"):
            with pytest.raises(UnauthorizedError):
                connect(url, token=wrong)
        with pytest.raises(UnknownModelError):
            connect(f"{url}/other", token="s3cret")
        with connect(f"{url}/telling", token="s3cret") as remote:
            remote.infer_one(state(1, 2, 3))
    with pytest.raises(ConfigError, match="not both"):
        connect(url, token="x", token_file=token_file)


def test_read_token_says_what_is_wrong(tmp_path: object) -> None:
    from pathlib import Path

    empty = Path(str(tmp_path)) / "empty"
    empty.write_text("\n")
    with pytest.raises(ConfigError, match="expected a token"):
        read_token(empty)
    with pytest.raises(ConfigError, match="missing"):
        read_token(empty.with_name("missing"))


def test_options_of_a_remote_policy_are_refused() -> None:
    with pytest.raises(ConfigError, match="belong to the server"):
        open_policy("127.0.0.1:1", options={"horizon": "3"})


@pytest.mark.parametrize("url", ["nosuch+tcp://h:1", "native+nosuch://h:1", "native+tcp://h:1?bogus=1", "native+http://h:1"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(ConfigError):
        connect(url)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", LinkError),  # closes at once
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", (RemoteProtocolError, LinkError)),
        (struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1", RemoteProtocolError),
        (struct.pack(">I", 100) + b"\x80", LinkError),  # truncated, then closed
        (struct.pack(">I", 2**31), RemoteProtocolError),  # announces more than we take
        (struct.pack(">I", 1) + b"\x80", RemoteProtocolError),
    ],
)
def test_hostile_server(answer: bytes, expected: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):  # the client may have left before the last word
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(20)
                while peer.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(expected):
                connect(f"native+tcp://127.0.0.1:{listening.getsockname()[1]}", config=PATIENT)
        finally:
            thread.join(20)


def test_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"native+tcp://127.0.0.1:{listening.getsockname()[1]}"
        error = runs_out(lambda timeout_s: connect(url, config=ClientConfig(connect_timeout_s=timeout_s)), "expected a welcome")
    assert isinstance(error, LinkTimeoutError)


def connect_after_restart(url: str, policy: Telling, config: ClientConfig = PATIENT):  # type: ignore[no-untyped-def]
    """A client that was connected to a server at ``url`` which has gone away since."""
    with Server({"m": policy}, [url], ServerConfig()):
        remote = connect(url, config=config)
        remote.infer_one(state(1, 0, 0))
    return remote


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
