"""The LeRobot wire through a real server: clients side by side, failures that are told, and the native wire's very actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: the LeRobot wire is NOT TESTED with a network")

from actlink.client import connect  # noqa: E402
from actlink.codecs import safe_pickle  # noqa: E402
from actlink.codecs.safe_pickle import Record  # noqa: E402
from actlink.dialects import _lerobot_messages as messages  # noqa: E402
from actlink.errors import PolicyError, UnauthorizedError, UnknownModelError  # noqa: E402
from actlink.policies._base import Policy, Result, answer  # noqa: E402
from actlink.serving.server import Server, ServerConfig  # noqa: E402
from actlink.spec import Field, Spec  # noqa: E402
from actlink.types import Request  # noqa: E402

SPEC = Spec({"state": Field((3,)), "images.top": Field((4, 6, 3), "uint8", required=False)}, Field((2,)), action_horizon=4)
HELPERS = "lerobot.async_inference.helpers"
HUNG_S = 20.0


class Told(Policy):
    """Answers with the first numbers of the state, counted on; fails where the first is negative; waits where told to."""

    spec = SPEC

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.may_go = threading.Event()
        self.may_go.set()
        self.seen: list[int] = []

    def infer(self, requests: list[Request]) -> list[Result]:  # type: ignore[override]
        assert self.may_go.wait(HUNG_S)
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Result:
        state = np.asarray(request.observation["state"])
        self.seen.append(request.step)
        if state[0] < 0:
            return PolicyError("the arm is upside down")
        return answer(request, state[:2] + np.arange(4, dtype=np.float32)[:, None] + np.float32(self.offset))


class Robot:
    """A client by hand, with gRPC's own calls: what the stock one sends, when a test says so."""

    def __init__(self, where: str, **metadata: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.insecure_channel(where.partition("://")[2], options=options)
        self._metadata = tuple(metadata.items())

    def call(self, name: str, *parts: bytes, timeout_s: float = HUNG_S) -> bytes:
        method = self._channel.stream_unary(f"/transport.AsyncInference/{name}")
        reply: bytes = method(iter(parts), timeout=timeout_s, metadata=self._metadata)
        return reply

    def setup(self, model: str = "", **changes: Any) -> None:
        self.call("Ready", b"")
        features: dict[str, Any] = changes.pop("features", {})
        given = {"policy_type": "act", "features": features, "actions_per_chunk": 50, "device": "cuda", **changes}
        self.call("SendPolicyInstructions", messages.write_setup(HELPERS, model=model, **given))

    def observe(self, *state: float, step: int = 0, must_go: bool = True, **raw: Any) -> None:
        motors = {f"{n}.pos": value for n, value in enumerate(state)}
        timed = {"timestamp": 1.0, "timestep": step, "observation": {**motors, **raw, "task": ""}, "must_go": must_go}
        self.call("SendObservations", *messages.pieces(safe_pickle.encode(Record(HELPERS, "TimedObservation", state=timed))))

    def actions(self, timeout_s: float = HUNG_S) -> tuple[int, list[list[float]]] | None:
        data = messages.read_data(self.call("GetActions", b"", timeout_s=timeout_s), 1, "Actions")
        if not len(data):
            return None
        step, actions = messages.read_actions(data)
        return step, actions.tolist()

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def policy() -> Told:
    return Told()


@pytest.fixture
def where(policy: Told) -> Iterator[str]:
    with Server({"default": policy, "other": Told(100.0)}, ["lerobot+grpc://127.0.0.1:0?obs_queue_timeout=0.05"]) as server:
        yield server.addresses[0]


@pytest.fixture
def robot(where: str) -> Iterator[Robot]:
    made = Robot(where)
    yield made
    made.close()


def refusal(call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **more)
    return caught.value.code().name, caught.value.details()


class TestOneRobot:
    def test_from_ready_to_actions(self, robot: Robot) -> None:
        robot.setup()
        robot.observe(1, 2, 3, step=7)
        assert robot.actions() == (7, [[1, 2], [2, 3], [3, 4], [4, 5]])
        assert robot.actions() is None

    def test_without_ready_or_setup(self, robot: Robot) -> None:
        robot.observe(1, 2, 3)
        assert robot.actions() is not None

    def test_a_poll_with_nothing_under_way_ends_empty(self, robot: Robot) -> None:
        assert robot.actions() is None

    def test_a_poll_waits_for_an_inference_under_way(self, robot: Robot, policy: Told) -> None:
        """Longer than its own time, as the original's, which does the inference within the poll."""
        policy.may_go.clear()
        robot.observe(1, 2, 3)
        found: list[Any] = []
        polling = threading.Thread(target=lambda: found.append(robot.actions()))
        polling.start()
        polling.join(0.2)
        policy.may_go.set()
        polling.join(HUNG_S)
        assert found and found[0] is not None

    def test_a_model_by_name(self, robot: Robot) -> None:
        robot.setup("other")
        robot.observe(1, 2, 3)
        found = robot.actions()
        assert found is not None and found[1][0] == [101, 102]

    def test_a_model_that_is_not_served(self, robot: Robot) -> None:
        status, details = refusal(robot.setup, "outputs/train/x")
        assert (status, details) == ("FAILED_PRECONDITION", "unknown_model: no model 'outputs/train/x' is served here")
        robot.setup()

    def test_an_inference_that_fails_is_told_and_the_step_tried_again(self, robot: Robot) -> None:
        robot.setup()
        robot.observe(-1, 2, 3)
        assert refusal(robot.actions) == ("INTERNAL", "policy: the arm is upside down")
        robot.observe(1, 2, 3, must_go=False)
        assert robot.actions() is not None

    def test_an_observation_that_does_not_fit_is_told_at_once(self, robot: Robot) -> None:
        robot.setup()
        status, details = refusal(robot.observe, 1, 2)
        assert status == "FAILED_PRECONDITION" and "wants 3 entries; the robot sends 2" in details

    def test_one_that_only_the_spec_can_judge_is_told_at_the_poll(self, robot: Robot) -> None:
        robot.setup()
        robot.observe(float("nan"), 2, 3)
        status, details = refusal(robot.actions)
        assert status == "FAILED_PRECONDITION" and "finite" in details

    def test_garbage_is_told(self, robot: Robot) -> None:
        for method, data in (
            ("SendObservations", b"\x08\x03\x12\x01."),
            ("SendPolicyInstructions", b"\x0a\x02\x80\x04"),
            ("Ready", b"\x0a"),
        ):
            assert refusal(robot.call, method, data)[0] == "INVALID_ARGUMENT"
        assert refusal(robot.call, "StreamActions", b"")[0] == "UNIMPLEMENTED"
        robot.setup()
        robot.observe(1, 2, 3)
        assert robot.actions() is not None

    def test_only_the_newest_observation_is_processed(self, robot: Robot, policy: Told) -> None:
        robot.setup()
        policy.seen.clear()
        policy.may_go.clear()
        for step in range(5):
            robot.observe(step, 0, 0, step=step)
        policy.may_go.set()
        steps = [found[0] for _ in range(3) if (found := robot.actions()) is not None]
        assert steps[-1] == 4 and policy.seen in ([0, 4], [4])

    def test_a_poll_that_was_given_up_loses_nothing(self, robot: Robot, policy: Told) -> None:
        robot.setup()
        policy.may_go.clear()
        robot.observe(1, 2, 3)
        assert refusal(robot.actions, timeout_s=0.1)[0] == "DEADLINE_EXCEEDED"
        policy.may_go.set()
        found = next((one for _ in range(100) if (one := robot.actions()) is not None), None)
        assert found is not None and found[0] == 0

    def test_ready_drops_what_was_asked_before(self, robot: Robot, policy: Told) -> None:
        robot.setup()
        policy.may_go.clear()
        robot.observe(1, 2, 3)
        robot.call("Ready", b"")
        policy.may_go.set()
        assert robot.actions() is None

    def test_a_call_with_actions_lasts_as_long_as_the_listener_says(self, policy: Told) -> None:
        with Server({"default": policy}, ["lerobot+grpc://127.0.0.1:0?inference_latency=0.1"]) as server:
            robot = Robot(server.addresses[0])
            robot.setup()
            for step in range(2):
                robot.observe(1, 2, 3, step=step)
                begun_s = time.monotonic()
                assert robot.actions() is not None
                assert time.monotonic() - begun_s >= 0.09
            robot.close()

    def test_images_of_another_size(self, robot: Robot) -> None:
        shape = {"dtype": "image", "shape": (8, 12, 3), "names": ["height", "width", "channels"]}
        names = [f"{n}.pos" for n in range(3)]
        state = {"dtype": "float32", "shape": (3,), "names": names}
        robot.setup(features={"observation.state": state, "observation.images.top": shape})
        robot.observe(1, 2, 3, top=np.zeros((8, 12, 3), np.uint8))
        assert robot.actions() is not None


class TestSeveral:
    def test_two_robots_never_see_each_others_actions(self, where: str) -> None:
        robots = [Robot(where) for _ in range(2)]
        for robot in robots:
            robot.setup()
        for number, robot in enumerate(robots):
            robot.observe(10 * number, 0, 0, step=number)
        for number, robot in reversed(list(enumerate(robots))):
            found = robot.actions()
            assert found is not None and found == (number, [[10 * number + i, i] for i in range(4)])
        assert [robot.actions() for robot in robots] == [None, None]
        robots[0].observe(1, 2, 3, step=5)
        robots[1].call("Ready", b"")
        found = robots[0].actions()
        assert found is not None and found[0] == 5, "another robot's Ready took its work away"
        for robot in robots:
            robot.close()

    def test_many_at_once(self, where: str) -> None:
        wrong: list[Any] = []

        def work(number: int) -> None:
            robot = Robot(where)
            robot.setup()
            for step in range(30):
                robot.observe(number, step, 0, step=step)
                found = robot.actions()
                if found is None or (found[0], found[1][0]) != (step, [number, step]):
                    wrong.append((number, step, found))
            robot.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * HUNG_S)
        assert not any(thread.is_alive() for thread in threads)
        assert not wrong


class TestOurClient:
    def test_it_gets_the_native_wires_actions(self, policy: Told) -> None:
        listen = ["lerobot+grpc://127.0.0.1:0", "native+tcp://127.0.0.1:0"]
        config = ServerConfig(deterministic=True)
        source = np.random.default_rng(0)
        with Server({"default": policy}, listen, config) as server:
            ours, native = connect(server.addresses[0], spec=SPEC), connect(server.addresses[1])
            with ours, native:
                for step in range(20):
                    seen = {
                        "state": source.random(3, np.float32),
                        "images.top": source.integers(0, 256, (4, 6, 3), np.uint8),
                    }
                    first, second = ours.infer_one(seen, step=step), native.infer_one(seen, step=step)
                    assert np.array_equal(first.actions, second.actions) and first.actions.dtype == second.actions.dtype

    def test_resets_errors_and_models(self, where: str) -> None:
        with connect(f"{where}/other", spec=SPEC) as policy:
            assert policy.infer_one({"state": np.zeros(3, np.float32)}).actions[0].tolist() == [100, 100]
            policy.reset()
            with pytest.raises(PolicyError, match="upside down"):
                policy.infer_one({"state": np.float32([-1, 0, 0])})
            assert policy.infer_one({"state": np.zeros(3, np.float32)}, step=9).step == 9
        with pytest.raises(UnknownModelError, match="nosuch"):
            connect(f"{where}/nosuch", spec=SPEC)

    def test_a_token(self, policy: Told) -> None:
        with Server({"default": policy}, ["lerobot+grpc://127.0.0.1:0"], tokens=["sesame"]) as server:
            (where,) = server.addresses
            with connect(where, spec=SPEC, token="sesame") as client:
                assert len(client.infer_one({"state": np.zeros(3, np.float32)})) == 4
            for token in (None, "simsim"):
                with pytest.raises(UnauthorizedError):
                    connect(where, spec=SPEC, token=token)
            stranger = Robot(where)
            assert refusal(stranger.call, "GetActions", b"")[0] == "UNAUTHENTICATED"
            stranger.close()

    def test_a_draining_server_says_so(self, policy: Told) -> None:
        with Server({"default": policy}, ["lerobot+grpc://127.0.0.1:0"]) as server:
            robot = Robot(server.addresses[0])
            robot.setup()
            policy.may_go.clear()
            robot.observe(1, 2, 3)  # still to be answered: the server stays until then
            server.drain()
            while server.ready:
                pass
            try:  # either call may be the one that is told
                robot.observe(1, 2, 3, step=1)
                status, details = refusal(robot.actions)
            except grpc.RpcError as error:
                status, details = error.code().name, error.details()
            policy.may_go.set()
            robot.close()
        assert status == "FAILED_PRECONDITION" and "shut" in details
