"""The LeRobot wire without a network: what the original's own classes write is read, and a robot gets what it expects."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import loading
from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Name, Record, Tensor
from actlink.dialects import _lerobot_messages as messages
from actlink.dialects._base import (
    Bye,
    Chunks,
    Done,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Ping,
    Poll,
    Pong,
    Reset,
    Say,
    Welcome,
)
from actlink.dialects._lerobot_images import resize
from actlink.errors import (
    ActlinkError,
    ConfigError,
    DrainingError,
    InternalError,
    LocalProtocolError,
    OverloadedError,
    PolicyError,
    RefusedError,
    RemoteProtocolError,
    SpecError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

lerobot = loading.load("dialects", "lerobot")

PAYLOADS = {
    name: base64.b64decode(data)
    for name, data in json.loads((Path(__file__).parent.parent / "data" / "lerobot" / "0.6.1.json").read_text()).items()
}
READY, SETUP, UPLOAD, ACTIONS = (
    f"/transport.AsyncInference/{name}" for name in ("Ready", "SendPolicyInstructions", "SendObservations", "GetActions")
)
OLD = "lerobot.scripts.server.helpers"
NEW = "lerobot.async_inference.helpers"
SPEC = Spec(
    {"state": Field((3,)), "images.front": Field((4, 6, 3), "uint8"), "prompt": Field((), "str", required=False)},
    Field((3,)),
    action_horizon=8,
)
NUMBERS = Spec({"state": Field((3,))}, Field((2,)), action_horizon=8)
MOTORS = {"a.pos": 1.5, "b.pos": -2.0, "c.pos": 3.25}


class Call:
    """A transport's handle."""

    attempts = 0
    lost = False


def served(spec: Spec = NUMBERS, **options: Any) -> Any:
    """A server's half whose connection has been opened."""
    server = lerobot.Server(lerobot.Config(**options))
    assert server.send(welcome(spec)) == []
    return server


def welcome(spec: Spec = NUMBERS, call: Any = None) -> Welcome:
    return Welcome("session", spec, call=call)


def setup(server: Any, data: bytes = PAYLOADS["setup"], spec: Spec = SPEC) -> Hello:
    """PolicySetup and the welcome that follows."""
    call = Call()
    (hello,) = server.receive(Frame((data,), route=SETUP, call=call))
    assert isinstance(hello, Hello) and hello.call is call
    (reply,) = server.send(welcome(spec, call))
    assert (reply.size, reply.call) == (0, call)
    return hello


def config_of(*, module: str = NEW, renames: Any = None, **changes: Any) -> bytes:
    state = {
        "policy_type": "act",
        "pretrained_name_or_path": "m",
        "lerobot_features": {"observation.state": {"dtype": "float32", "shape": (3,), "names": list(MOTORS)}},
        "actions_per_chunk": 5,
        "device": "cpu",
        **({} if renames is None else {"rename_map": renames}),
        **changes,
    }
    return messages.field(1, b"".join(safe_pickle.encode(Record(module, "RemotePolicyConfig", state=state))))


def observed(raw: Any = None, *, step: Any = 0, must_go: Any = True, module: str = NEW, **changes: Any) -> tuple[bytes, ...]:
    state = {"timestamp": 12.5, "timestep": step, "observation": MOTORS if raw is None else raw, "must_go": must_go, **changes}
    return messages.pieces(safe_pickle.encode(Record(module, "TimedObservation", state=state)))


def upload(server: Any, parts: tuple[bytes, ...]) -> Infer | None:
    """The request in an upload, if it makes one; the upload itself is answered with nothing, at once."""
    call = Call()
    events = server.receive(Frame(parts, route=UPLOAD, call=call))
    assert isinstance(events[0], Say)
    (reply,) = events[0].frames
    assert (reply.size, reply.text, reply.call) == (0, False, call)
    if len(events) == 1:
        return None
    (_, infer) = events
    assert isinstance(infer, Infer)
    return infer


def refused(server: Any, parts: tuple[bytes, ...]) -> str:
    (said,) = server.receive(Frame(parts, route=UPLOAD, call=Call()))
    (reply,) = said.frames
    assert (reply.text, reply.route) == (True, "FAILED_PRECONDITION")
    return bytes(reply.data).decode()


def answered(server: Any, step: int, actions: Any = ((1.0, 2.0),), call: Any = None) -> list[Record]:
    """The ``TimedAction``s of a chunk, as a client reads them."""
    (frame,) = server.send(Chunks((ActionChunk(np.asarray(actions, np.float32), step),), {}, call or Call()))
    return safe_pickle.decode(messages.read_data(frame.data, 1, "Actions"))  # type: ignore[no-any-return]


class TestWhatTheOriginalWrites:
    def test_setup(self) -> None:
        server = served(SPEC)
        hello = setup(server)
        assert hello.model == "outputs/train/x"

    def test_observation(self) -> None:
        server = served(SPEC)
        setup(server)
        infer = upload(server, (PAYLOADS["upload"],))
        assert infer is not None
        (lane,) = infer.lanes
        assert lane.step == 7
        assert np.array_equal(lane.observation["state"], np.float32([1.5, -2, 3.25]))
        assert np.array_equal(lane.observation["images.front"], np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
        assert lane.observation["prompt"] == "grab"
        assert set(lane.observation) == {"state", "images.front", "prompt"}

    @pytest.mark.parametrize("name", ["actions_views", "actions_float64"])
    def test_actions(self, name: str) -> None:
        step, actions = messages.read_actions(messages.read_data(PAYLOADS[name], 1, "Actions"))
        assert step == 7
        assert np.array_equal(actions, np.arange(12).reshape(4, 3))

    @pytest.mark.parametrize(("height", "width"), [(20, 11), (37, 90), (64, 53), (1, 1)])
    def test_images_at_another_size(self, height: int, width: int) -> None:
        image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
        assert resize(image, height, width).tobytes() == PAYLOADS[f"resized_{height}_{width}"]

    def test_images_at_their_own_size_are_not_touched(self) -> None:
        image = np.zeros((4, 6, 3), np.uint8)
        assert resize(image, 4, 6) is image

    def test_ours_says_the_same_as_its_own(self) -> None:
        spec = Spec(
            {"state": Field((3,), names=tuple(MOTORS)), "images.top": Field((4, 6, 3), "uint8")}, Field((3,)), action_horizon=5
        )
        client = lerobot.Client(lerobot.Config(policy_device="cuda", task="grab"))
        client.prepare(spec)
        _, said = client.send(Hello(model="outputs/train/x", call=1))
        theirs = safe_pickle.decode(messages.read_data(PAYLOADS["setup"], 1, ""))
        ours = safe_pickle.decode(messages.read_data(said.data, 1, ""))
        assert (ours.module, ours.name) == (theirs.module, theirs.name)
        assert {**ours.state, "rename_map": None} == {**theirs.state, "rename_map": None}
        observation = {"state": np.float32([1.5, -2, 3.25]), "images.top": np.arange(72, dtype=np.uint8).reshape(4, 6, 3)}
        first, *_ = client.send(Infer((Lane(observation, 7),), call=2))
        mine, original = (safe_pickle.decode(messages.joined(parts)) for parts in (first.parts, (PAYLOADS["upload"],)))
        assert mine.state.keys() == original.state.keys()
        image = original.state["observation"].pop("top")
        assert np.array_equal(mine.state["observation"].pop("top"), image)
        assert mine.state["observation"] == original.state["observation"]
        assert (mine.state["timestep"], mine.state["must_go"]) == (7, True)


class TestSetup:
    def test_an_older_client_has_no_rename_map(self) -> None:
        server = served()
        assert setup(server, config_of(module=OLD), NUMBERS).model == "m"
        assert upload(server, observed(module=OLD))
        assert {(one.module, one.name) for one in answered(server, 0)} == {(OLD, "TimedAction")}

    def test_none_is_an_empty_rename_map(self) -> None:
        setup(served(), config_of(renames=None, rename_map=None), NUMBERS)

    def test_trailing_slashes_do_not_make_another_model(self) -> None:
        assert setup(served(), config_of(pretrained_name_or_path="outputs/x/"), NUMBERS).model == "outputs/x"

    def test_any_model_gives_everybody_the_listeners(self) -> None:
        assert setup(served(any_model=True), config_of(), NUMBERS).model == ""

    def test_what_was_refused_changes_nothing(self) -> None:
        server = served()
        call = Call()
        server.receive(Frame((config_of(actions_per_chunk=1),), route=SETUP, call=call))
        (failed,) = server.send(Failed(UnknownModelError("no model 'm'"), call=call))
        assert (failed.route, bytes(failed.data)) == ("FAILED_PRECONDITION", b"unknown_model: no model 'm'")
        upload(server, observed())
        assert len(answered(server, 0, np.zeros((8, 2)))) == 8

    def test_actions_per_chunk_truncates(self) -> None:
        server = served()
        setup(server, config_of(actions_per_chunk=3), NUMBERS)
        upload(server, observed())
        assert len(answered(server, 0, np.zeros((8, 2)))) == 3
        upload(server, observed(step=1))
        assert len(answered(server, 1, np.zeros((2, 2)))) == 2

    @pytest.mark.parametrize(
        "changes",
        [
            {"actions_per_chunk": 0},
            {"actions_per_chunk": "5"},
            {"actions_per_chunk": True},
            {"lerobot_features": [1]},
            {"lerobot_features": {"observation.state": {"names": []}}},
            {"lerobot_features": {"observation.state": {"names": [1]}}},
            {"pretrained_name_or_path": 7},
            {"device": "x" * 5000},
            {"rename_map": {"a": 1}},
            {"rename_map": "a"},
        ],
        ids=str,
    )
    def test_what_it_must_not_say(self, changes: dict[str, Any]) -> None:
        with pytest.raises(RemoteProtocolError):
            served().receive(Frame((config_of(**changes),), route=SETUP))

    @pytest.mark.parametrize("value", [None, 7, {"policy_type": "act"}, [], Record(NEW, "TimedObservation", state={})], ids=str)
    def test_what_is_no_setup(self, value: Any) -> None:
        data = messages.field(1, b"".join(safe_pickle.encode(value)))
        with pytest.raises(RemoteProtocolError, match="RemotePolicyConfig"):
            served().receive(Frame((data,), route=SETUP))

    def test_features_as_objects_say_nothing_about_names(self) -> None:
        feature = Record("lerobot.configs.types", "PolicyFeature", state={"shape": (3,), "type": Name("a", "b")})
        server = served()
        setup(server, config_of(lerobot_features={"observation.state": feature}), NUMBERS)
        assert upload(server, observed())


class TestObservations:
    def test_a_client_without_setup_gets_the_default_policy(self) -> None:
        infer = upload(served(), observed({**MOTORS, "task": "x"}))
        assert infer is not None
        assert infer.lanes[0].observation.keys() == {"state"}
        assert infer.lanes[0].observation["state"].tolist() == [1.5, -2, 3.25]

    def test_unless_the_listener_wants_one(self) -> None:
        server = served(require_setup=True)
        assert "SendPolicyInstructions" in refused(server, observed())
        setup(server, config_of(), NUMBERS)
        assert upload(server, observed())

    def test_without_a_default_policy_it_is_told(self) -> None:
        server = lerobot.Server(lerobot.Config())
        (said,) = server.receive(Frame((b"",), route=READY, call=1))
        assert isinstance(said, Say)
        assert "no policy has been chosen" in refused(server, observed())

    def test_the_state_is_in_the_order_of_the_features(self) -> None:
        server = served()
        features = {"observation.state": {"dtype": "float32", "shape": (3,), "names": ["c.pos", "a.pos", "b.pos"]}}
        setup(server, config_of(lerobot_features=features), NUMBERS)
        infer = upload(server, observed({**MOTORS, "current": 9.0}))
        assert infer is not None and infer.lanes[0].observation["state"].tolist() == [3.25, 1.5, -2]

    def test_or_in_that_of_the_policy_if_it_has_the_same_names(self) -> None:
        spec = replace(NUMBERS, observation={"state": Field((3,), names=("b.pos", "c.pos", "a.pos"))})
        server = served(spec)
        without = upload(server, observed())
        setup(server, config_of(), spec)
        with_features = upload(server, observed())
        for infer in (without, with_features):
            assert infer is not None and infer.lanes[0].observation["state"].tolist() == [-2, 3.25, 1.5]

    def test_the_policys_names_are_found_among_others(self) -> None:
        server = served(replace(NUMBERS, observation={"state": Field((2,), names=("c.pos", "a.pos"))}))
        infer = upload(server, observed())
        assert infer is not None and infer.lanes[0].observation["state"].tolist() == [3.25, 1.5]

    @pytest.mark.parametrize(
        "raw",
        [
            {"a": {"pos": 1.5}, "b": {"pos": -2}, "c": {"pos": {"now": 3.25}}},
            {"a": np.float32(1.5), "b": np.array(-2), "c": np.array([3.25]), "note": "text", "rest": None},
            {"observation.state": np.array([1.5, -2, 3.25])},
            {"x": 7.0, "observation.state": np.array([1.5, -2, 3.25], np.float32)},
        ],
        ids=["nested", "numpy", "whole", "whole beside another"],
    )
    def test_forms_of_a_state(self, raw: dict[str, Any]) -> None:
        infer = upload(served(), observed(raw))
        assert infer is not None and np.array_equal(infer.lanes[0].observation["state"], [1.5, -2, 3.25])

    def test_another_length_is_refused_with_both_sides_names(self) -> None:
        server = served(replace(NUMBERS, observation={"state": Field((2,), names=("x", "y"))}))
        words = refused(server, observed())
        assert words.startswith("spec: ")
        assert "2 entries (x, y)" in words and "3 (a.pos, b.pos, c.pos)" in words

    def test_a_motor_that_the_features_name_but_nobody_sends(self) -> None:
        server = served()
        setup(server, config_of(), NUMBERS)
        words = refused(server, observed({"a.pos": 1.0, "b.pos": 2.0}))
        assert "c.pos" in words and "a.pos, b.pos" in words

    def test_images_come_at_the_policys_size(self) -> None:
        spec = replace(SPEC, observation={**SPEC.observation, "images.front": Field((2, 9, 3), "uint8")})
        server = served(spec)
        setup(server, spec=spec)
        infer = upload(server, (PAYLOADS["upload"],))
        assert infer is not None and infer.lanes[0].observation["images.front"].shape == (2, 9, 3)

    def test_a_policy_that_takes_any_size_gets_the_image_as_it_is(self) -> None:
        spec = replace(SPEC, observation={**SPEC.observation, "images.front": Field((None, None, 3), "uint8")})
        server = served(spec)
        setup(server, spec=spec)
        infer = upload(server, (PAYLOADS["upload"],))
        assert infer is not None and infer.lanes[0].observation["images.front"].shape == (4, 6, 3)

    def test_other_cameras_are_refused_with_both_sides_names(self) -> None:
        spec = replace(SPEC, observation={"state": Field((3,)), "images.side": Field((4, 6, 3), "uint8")})
        server = served(spec)
        setup(server, spec=spec)
        words = refused(server, (PAYLOADS["upload"],))
        assert "wants the cameras side" in words and "sends front" in words and "rename_map" in words

    def test_a_camera_too_many_or_too_few_is_refused(self) -> None:
        image = np.zeros((4, 6, 3), np.uint8)
        assert "sends top" in refused(served(), observed({**MOTORS, "top": image}))
        assert "sends none" in refused(served(SPEC), observed())

    def test_an_optional_camera_may_be_absent(self) -> None:
        spec = replace(SPEC, observation={"state": Field((3,)), "images.front": Field((4, 6, 3), "uint8", required=False)})
        infer = upload(served(spec), observed())
        assert infer is not None and infer.lanes[0].observation.keys() == {"state"}

    def test_a_depth_camera_finds_its_place(self) -> None:
        spec = replace(NUMBERS, observation={"state": Field((3,)), "depth.wrist": Field((4, 6, 1))})
        infer = upload(served(spec), observed({**MOTORS, "wrist": np.ones((4, 6, 1), np.uint16)}))
        assert infer is not None and infer.lanes[0].observation["depth.wrist"].shape == (4, 6, 1)

    def test_an_image_that_is_none_is_left_to_the_spec(self) -> None:
        spec = replace(SPEC, observation={"state": Field((3,)), "images.top": Field((4, 6, 3), "uint8")})
        infer = upload(served(spec), observed({**MOTORS, "top": np.zeros((4, 6, 3), np.float32)}))
        assert infer is not None and infer.lanes[0].observation["images.top"].dtype == np.float32

    def test_numbers_beyond_float32_become_infinite_and_so_refused(self) -> None:
        infer = upload(served(), observed({**MOTORS, "a.pos": 1e300}))
        assert infer is not None
        with pytest.raises(SpecError):
            NUMBERS.check(infer.lanes[0].observation)

    @pytest.mark.parametrize(
        "changes",
        [
            {"step": -1},
            {"step": 2**100},
            {"step": 1.5},
            {"step": None},
            {"timestamp": "now"},
            {"timestamp": float("nan")},
            {"timestamp": None},
            {"raw": [1, 2]},
            {"raw": {1: 2.0}},
        ],
        ids=str,
    )
    def test_what_it_must_not_say(self, changes: dict[str, Any]) -> None:
        with pytest.raises(RemoteProtocolError):
            served().receive(Frame(observed(**changes), route=UPLOAD))

    def test_numbers_of_numpy_are_numbers(self) -> None:
        assert upload(served(), observed(step=np.int64(3), timestamp=np.float64(1), must_go=np.bool_(True)))


class TestWhatIsProcessed:
    def test_a_step_counts_once_its_actions_are_sent(self) -> None:
        server = served()
        assert upload(server, observed(step=0, must_go=False))
        assert upload(server, observed(step=0, must_go=False)) is None, "it is under way"
        answered(server, 0)
        assert upload(server, observed(step=0, must_go=False)) is None, "it is predicted"
        assert upload(server, observed(step=1, must_go=False))

    def test_after_a_failure_the_same_step_is_tried_again(self) -> None:
        """The original never would: a robot that stands still sends this step for ever."""
        server = served()
        assert upload(server, observed(step=4, must_go=True))
        (told,) = server.send(Failed(PolicyError("out of memory"), call=Call()))
        assert (told.text, told.route, bytes(told.data)) == (True, "INTERNAL", b"policy: out of memory")
        assert upload(server, observed(step=4, must_go=False))

    def test_must_go_goes(self) -> None:
        server = served()
        for _ in range(3):
            assert upload(server, observed(step=0, must_go=True))
            answered(server, 0)

    def test_ready_begins_anew(self) -> None:
        server = served()
        assert upload(server, observed(step=0))
        answered(server, 0)
        call = Call()
        (reset,) = server.receive(Frame((b"",), route=READY, call=call))
        assert isinstance(reset, Reset) and reset.call is call
        (done,) = server.send(Done(1, call))
        assert (done.size, done.call) == (0, call)
        assert upload(server, observed(step=0, must_go=False))

    def test_similar_observations_are_skipped_where_the_listener_says_so(self) -> None:
        server = served(similarity=1.0)
        assert upload(server, observed(step=0, must_go=False))
        answered(server, 0)
        assert upload(server, observed({**MOTORS, "a.pos": 1.6}, step=1, must_go=False)) is None
        assert upload(server, observed({**MOTORS, "a.pos": 1.6}, step=1, must_go=True))
        answered(server, 1)
        assert upload(server, observed({**MOTORS, "a.pos": 4.0}, step=2, must_go=False))

    def test_by_default_they_are_not(self) -> None:
        server = served()
        for step in range(3):
            assert upload(server, observed(step=step, must_go=False))
            answered(server, step)

    def test_similarity_does_not_ask_for_a_state(self) -> None:
        spec = replace(NUMBERS, observation={"prompt": Field((), "str")})
        server = served(spec, similarity=1.0)
        for step in range(2):
            assert upload(server, observed(step=step, must_go=False))
            answered(server, step)

    def test_nothing_grows_for_ever(self) -> None:
        server = served()
        for step in range(5000):
            server._progress.take(messages.Observed(NEW, 0.0, step, True, {}), None)
            if step % 100:
                server._progress.done(step)
        assert len(server._progress._predicted) <= 4096
        for step in range(5000, 6000):
            server._progress.take(messages.Observed(NEW, 0.0, step, True, {}), None)
        assert len(server._progress._under_way) <= 64


class TestAnswers:
    def test_actions_have_their_steps_and_times(self) -> None:
        server = served(fps=10.0)
        upload(server, observed(step=7))
        found = answered(server, 7, [[1, 2], [3, 4], [5, 6]])
        assert [one.state["timestep"] for one in found] == [7, 8, 9]
        assert [one.state["timestamp"] for one in found] == pytest.approx([12.5, 12.6, 12.7])
        assert [one.state["action"].tolist() for one in found] == [[1, 2], [3, 4], [5, 6]]
        assert all(one.state["action"].dtype == np.float32 for one in found)

    def test_a_reply_is_compact(self) -> None:
        """The original's rows each carry the whole chunk: 76 kB for this one."""
        server = served()
        upload(server, observed())
        (frame,) = server.send(Chunks((ActionChunk(np.zeros((50, 6), np.float32), 0),), {}, Call()))
        assert frame.size < 8_000

    def test_a_chunk_that_no_client_could_take_is_an_error(self) -> None:
        server = served()
        upload(server, observed())
        with pytest.raises(LocalProtocolError, match="actions_per_chunk"):
            server.send(Chunks((ActionChunk(np.zeros((100_000, 2), np.float32), 0),), {}, Call()))

    def test_a_poll_waits_as_the_listener_says(self) -> None:
        call = Call()
        (poll,) = served(obs_queue_timeout=1.5, inference_latency=0.25).receive(Frame((b"",), route=ACTIONS, call=call))
        assert isinstance(poll, Poll)
        assert (poll.wait_s, poll.least_s, poll.call, poll.empty_reply.size, poll.empty_reply.call) == (1.5, 0.25, call, 0, call)

    @pytest.mark.parametrize("why", ["lost", "attempts"])
    def test_a_reply_that_was_lost_is_sent_again(self, why: str) -> None:
        server = served()
        upload(server, observed())
        first, second = Call(), Call()
        answered(server, 0, call=first)
        setattr(first if why == "lost" else second, why, 1)
        (said,) = server.receive(Frame((b"",), route=ACTIONS, call=second))
        assert isinstance(said, Say)
        (frame,) = said.frames
        assert frame.size and frame.call is second
        (poll,) = server.receive(Frame((b"",), route=ACTIONS, call=Call()))
        assert isinstance(poll, Poll), "and only once"

    def test_nothing_is_sent_again_after_ready(self) -> None:
        server = served()
        upload(server, observed())
        first = Call()
        answered(server, 0, call=first)
        first.lost = True
        server.receive(Frame((b"",), route=READY, call=Call()))
        (poll,) = server.receive(Frame((b"",), route=ACTIONS, call=Call()))
        assert isinstance(poll, Poll)

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (PolicyError("x"), "INTERNAL"),
            (InternalError("x"), "INTERNAL"),
            (SpecError("x"), "FAILED_PRECONDITION"),
            (UnknownModelError("x"), "FAILED_PRECONDITION"),
            (DrainingError("x"), "FAILED_PRECONDITION"),
            (UnauthorizedError("x"), "UNAUTHENTICATED"),
            (OverloadedError("x"), "RESOURCE_EXHAUSTED"),
            (RemoteProtocolError("x"), "INVALID_ARGUMENT"),
            (LocalProtocolError("x"), "INTERNAL"),
        ],
    )
    def test_errors_are_told_and_come_back_as_themselves(self, error: ActlinkError, status: str) -> None:
        server, client = served(), asking()
        (told,) = server.send(Failed(error, call=3))
        assert (told.text, told.route, told.call) == (True, status, 3)
        (failed,) = client.receive(told)
        assert type(failed.error) is type(error) and str(failed.error) == "x"

    def test_an_error_in_place_of_a_chunk_is_told_too(self) -> None:
        (told,) = served().send(Chunks((PolicyError("x"),), {}, 3))
        assert (told.text, told.route) == (True, "INTERNAL")

    def test_what_the_wire_cannot_say(self) -> None:
        with pytest.raises(LocalProtocolError):
            served().send(Pong(0.0, 0.0, 0.0))

    def test_other_methods_are_unknown_and_cost_nothing(self) -> None:
        server = served()
        call = Call()
        (said,) = server.receive(Frame((b"",), route="/transport.LearnerService/Ready", call=call))
        (told,) = said.frames
        assert (told.text, told.route, told.call) == (True, "UNIMPLEMENTED", call)
        assert b"LearnerService" in bytes(told.data)


class TestUploads:
    def test_pieces_are_put_together(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1200, 1000, 3), np.uint8)
        spec = replace(NUMBERS, observation={"images.top": Field((1200, 1000, 3), "uint8")})
        parts = observed({"top": image})
        assert [part[1] for part in parts] == [1, 3]
        infer = upload(served(spec), parts)
        assert infer is not None and np.array_equal(infer.lanes[0].observation["images.top"], image)

    def test_three_pieces(self) -> None:
        payload = bytes(range(256)) * 20_000
        parts = messages.pieces([payload])
        assert [part[1] for part in parts] == [1, 2, 3]
        assert messages.joined(parts) == payload

    def test_a_beginning_in_the_middle_starts_anew(self) -> None:
        part = [messages.field(2, data) for data in (b"old", b"n", b"ew")]
        assert bytes(messages.joined([b"\x08\x02" + part[0], b"\x08\x01" + part[1], b"\x08\x03" + part[2]])) == b"new"

    @pytest.mark.parametrize(
        "parts",
        [
            (),
            (b"",),
            (b"\x08\x00",),
            (b"\x08\x04",),
            (b"\x08\x01", b"\x08\x02"),
            (b"\x08\x03", b"\x08\x03"),
            (b"\x08\x03\x10\x01",),
            (b"\x0a\x01a",),
        ],
        ids=["none", "empty", "unknown", "no such state", "no end", "after the end", "number", "bytes"],
    )
    def test_what_is_no_upload(self, parts: tuple[bytes, ...]) -> None:
        with pytest.raises(RemoteProtocolError):
            messages.joined(parts)


class TestProtobuf:
    @pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2_097_152])
    def test_lengths(self, size: int) -> None:
        data = bytes(size)
        assert messages.read_data(messages.field(1, data), 1, "x") == data

    def test_unknown_fields_are_skipped_and_the_last_counts(self) -> None:
        known = messages.field(1, b"first") + messages.field(1, b"second")
        others = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + messages.field(9, b"more")
        assert messages.read_data(others + known + others, 1, "x") == b"second"

    @pytest.mark.parametrize(
        "message",
        [
            b"\x0a",
            b"\x0a\x05abcd",
            b"\x0a\xff",
            b"\x08" + b"\xff" * 10,
            b"\x00\x00",
            b"\x0b",
            b"\x0c",
            b"\x0f",
            b"\x21abc",
            b"\x08",
        ],
        ids=repr,
    )
    def test_what_is_no_message(self, message: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            messages.read_fields(message)

    def test_a_number_where_bytes_should_be(self) -> None:
        with pytest.raises(RemoteProtocolError, match="a number"):
            messages.read_data(b"\x08\x05", 1, "Actions")


def client_of(spec: Spec = NUMBERS, **options: Any) -> Any:
    client = lerobot.Client(lerobot.Config(**options))
    client.prepare(spec)
    return client


def asking(spec: Spec = NUMBERS, **options: Any) -> Any:
    """A client that has asked with call 3 at step 5, and whose observation was taken."""
    client = client_of(spec, **options)
    frames = client.send(Infer((Lane({"state": np.zeros(3, np.float32)}, 5),), 2, call=3))
    assert [frame.route for frame in frames] == [UPLOAD] + [ACTIONS] * lerobot.Config(**options).polls
    assert {frame.call for frame in frames} == {3}
    assert client.receive(Frame((b"",), call=3)) == []
    return client


def timed(*actions: Any, first: int = 5, module: str = NEW) -> bytes:
    rows = [
        Record(module, "TimedAction", state={"timestamp": 0.0, "timestep": first + i, "action": row})
        for i, row in enumerate(actions)
    ]
    return messages.field(1, b"".join(safe_pickle.encode(rows)))


class TestClient:
    def test_a_hello_is_ready_and_setup(self) -> None:
        client = client_of()
        ready, said = client.send(Hello(model="m", call=1))
        assert (ready.route, ready.size, said.route) == (READY, 0, SETUP)
        record = safe_pickle.decode(messages.read_data(said.data, 1, ""))
        assert (record.state["pretrained_name_or_path"], record.state["actions_per_chunk"]) == ("m", 8)
        assert client.receive(Frame((b"",), call=1)) == []
        (welcome,) = client.receive(Frame((b"",), call=1))
        assert isinstance(welcome, Welcome) and (welcome.spec, welcome.call) == (NUMBERS, 1)

    def test_two_connections_are_two_sessions(self) -> None:
        sessions = set()
        for _ in range(2):
            client = client_of()
            client.send(Hello(call=1))
            client.receive(Frame((b"",), call=1))
            sessions.add(client.receive(Frame((b"",), call=1))[0].session)
        assert len(sessions) == 2

    def test_options_of_the_setup(self) -> None:
        given = {"policy_type": "pi0", "pretrained_name_or_path": "own", "policy_device": "cuda", "actions_per_chunk": 4}
        _, said = client_of(**given, helpers=OLD).send(Hello(model="m", call=1))
        record = safe_pickle.decode(messages.read_data(said.data, 1, ""))
        given["device"] = given.pop("policy_device")
        assert record.module == OLD
        assert {key: record.state[key] for key in given} == given

    def test_a_robots_spec_has_no_horizon_so_the_documented_one_is_asked_for(self) -> None:
        _, said = client_of(replace(NUMBERS, action_horizon=1)).send(Hello(call=1))
        assert safe_pickle.decode(messages.read_data(said.data, 1, "")).state["actions_per_chunk"] == 50

    def test_a_hello_that_is_refused(self) -> None:
        client = client_of()
        client.send(Hello(call=1))
        client.receive(Frame((b"",), call=1))
        (failed,) = client.receive(Frame((b"unknown_model: none",), text=True, route="FAILED_PRECONDITION", call=1))
        assert isinstance(failed, Failed) and isinstance(failed.error, UnknownModelError)

    def test_a_reset_is_ready(self) -> None:
        client = client_of()
        (ready,) = client.send(Reset(4, 9))
        assert ready.route == READY
        (done,) = client.receive(Frame((b"",), call=9))
        assert isinstance(done, Done) and (done.episode, done.call) == (4, 9)

    def test_actions(self) -> None:
        client = asking()
        (chunks,) = client.receive(Frame((timed(Tensor(np.float32([1, 2])), Tensor(np.float32([3, 4]))),), call=3))
        (chunk,) = chunks.results
        assert (chunk.step, chunk.episode, chunks.call) == (5, 2, 3)
        assert chunk.actions.tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        "row",
        [
            Tensor(np.float64([1, 2])),
            Tensor(np.int64([1, 2])),
            np.float32([1, 2]),
            [1.0, 2],
            (1, 2),
        ],
        ids=lambda row: type(row).__name__,
    )
    def test_forms_of_an_action(self, row: Any) -> None:
        (chunks,) = asking().receive(Frame((timed(row),), call=3))
        assert chunks.results[0].actions.tolist() == [[1, 2]]

    @pytest.mark.parametrize(
        "data",
        [
            timed(),
            timed([1.0, 2], [3.0]),
            timed([[1.0, 2]]),
            timed(None),
            timed("ab"),
            timed([2**100, 1]),
            timed(np.array([1, None], object)),
            messages.field(1, b"".join(safe_pickle.encode(7))),
            messages.field(1, b"".join(safe_pickle.encode([7]))),
            messages.field(1, b"".join(safe_pickle.encode([Record(NEW, "Other", state={})]))),
            messages.field(1, b"\x80\x04"),
            b"\x08\x05",
            b"\x12\x00",
            b"\x0a",
        ],
    )
    def test_what_are_no_actions(self, data: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            asking().receive(Frame((data,), call=3))

    def test_actions_out_of_order(self) -> None:
        rows = [Record(NEW, "TimedAction", state={"timestamp": 0, "timestep": step, "action": [1.0]}) for step in (5, 7)]
        with pytest.raises(RemoteProtocolError, match="each control step"):
            asking().receive(Frame((messages.field(1, b"".join(safe_pickle.encode(rows))),), call=3))

    def test_it_polls_again_and_gives_up_in_the_end(self) -> None:
        client = asking(polls=3)
        assert client.receive(Frame((b"",), call=3)) == []
        assert client.receive(Frame((b"",), call=3)) == []
        (failed,) = client.receive(Frame((b"",), call=3))
        assert isinstance(failed.error, PolicyError) and "no actions" in str(failed.error)

    def test_actions_before_the_observation_was_taken_are_none(self) -> None:
        client = client_of()
        client.send(Infer((Lane({"state": np.zeros(3, np.float32)}, 5),), call=3))
        with pytest.raises(RemoteProtocolError):
            client.receive(Frame((timed([1.0, 2]),), call=3))

    def test_answers_to_nothing(self) -> None:
        with pytest.raises(RemoteProtocolError, match="not made"):
            client_of().receive(Frame((b"",), call=8))

    @pytest.mark.parametrize(
        ("status", "details", "kind"),
        [
            ("UNKNOWN", "Exception calling application: [Errno 2]", PolicyError),
            ("INTERNAL", "no", PolicyError),
            ("UNIMPLEMENTED", "Method not found!", RemoteProtocolError),
            ("UNAUTHENTICATED", "who?", UnauthorizedError),
            ("RESOURCE_EXHAUSTED", "Received message larger than max", RefusedError),
            ("FAILED_PRECONDITION", "nonsense: words", RefusedError),
            ("ABORTED", "", RefusedError),
        ],
    )
    def test_errors_of_other_servers(self, status: str, details: str, kind: type[ActlinkError]) -> None:
        (failed,) = asking().receive(Frame((details.encode(),), text=True, route=status, call=3))
        assert type(failed.error) is kind and details in str(failed.error)

    @pytest.mark.parametrize(
        "spec",
        [
            Spec({"state": Field((None,))}, Field((2,))),
            Spec({"force": Field((6,))}, Field((2,))),
            Spec({"state": Field((3, 3))}, Field((2,))),
        ],
        ids=["state of any length", "force", "matrix"],
    )
    def test_what_the_wire_cannot_carry(self, spec: Spec) -> None:
        with pytest.raises(ConfigError, match="carries"):
            client_of(spec)

    def test_what_is_optional_is_left_out(self) -> None:
        client_of(replace(NUMBERS, observation={**NUMBERS.observation, "force": Field((6,), required=False)}))

    def test_one_observation_at_a_time(self) -> None:
        lane = Lane({"state": np.zeros(3, np.float32)}, 0)
        with pytest.raises(LocalProtocolError):
            client_of().send(Infer((lane, lane), call=1))

    def test_it_has_no_other_words(self) -> None:
        client = client_of()
        assert client.send(Ping(0.0)) == client.send(Bye()) == []

    def test_without_a_spec_there_is_no_welcome(self) -> None:
        client = lerobot.Client(lerobot.Config())
        client.prepare(None)
        client.send(Hello(call=1))
        client.receive(Frame((b"",), call=1))
        with pytest.raises(LocalProtocolError, match="spec"):
            client.receive(Frame((b"",), call=1))


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0.0},
        {"fps": float("inf")},
        {"obs_queue_timeout": -1.0},
        {"inference_latency": float("nan")},
        {"similarity": -1.0},
        {"polls": 0},
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        lerobot.Config(**options)


MUTANTS = 3000


def test_whatever_else_comes_is_refused() -> None:
    """Changed, cut and foreign frames, at both halves: understood, or ``RemoteProtocolError``."""
    source = random.Random(5)
    server, client = served(SPEC), client_of(SPEC)
    setup(server)
    frames = [
        (READY, b""),
        (SETUP, PAYLOADS["setup"]),
        (UPLOAD, PAYLOADS["upload"]),
        (ACTIONS, b""),
        ("", PAYLOADS["actions_views"]),
        ("", PAYLOADS["actions_float64"]),
        ("", timed(Tensor(np.float32([1, 2, 3])))),
    ]
    outcomes = {"understood": 0, "refused": 0}
    for number in range(MUTANTS):
        route, data = frames[number % len(frames)]
        mutant = _mutated(data, source)
        try:
            if route:
                server.receive(Frame((mutant,), route=route, call=Call()))
            else:
                client.send(Infer((Lane({"state": np.zeros(3, np.float32)}, 5),), call=number))
                client.receive(Frame((b"",), call=number))
                client.receive(Frame((mutant,), call=number))
        except RemoteProtocolError:
            outcomes["refused"] += 1
        else:
            outcomes["understood"] += 1
    assert min(outcomes.values()) > MUTANTS // 20, outcomes


def _mutated(data: bytes, source: random.Random) -> bytes:
    if not data:
        return source.randbytes(source.randint(0, 12))
    changed = bytearray(data)
    for _ in range(source.randint(1, 3)):
        changed[source.randrange(len(changed))] = source.choice((0, 0x7F, 0x80, 0xFF, source.randrange(256)))
    return bytes(changed[: source.randrange(len(changed))] if source.random() < 0.2 else changed)
