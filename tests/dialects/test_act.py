"""The ACT wire: every generation is answered and understood, one action per observation, and garbage costs an answer."""

from __future__ import annotations

import logging
import pickle
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.client import connect
from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Record
from actlink.dialects import act
from actlink.dialects._base import Bye, Chunks, Done, Event, Failed, Frame, Hello, Infer, Lane, Reply, Reset, Say, Welcome
from actlink.errors import ConfigError, LocalProtocolError, PolicyError, RemoteProtocolError, SpecError
from actlink.execution import ensemble
from actlink.policies._base import Policy, Result, answer
from actlink.serving.server import Server
from actlink.spec import Field, Spec
from actlink.testing.dialects import check_dialect
from actlink.transports import _zmtp
from actlink.types import ActionChunk, Request

STATE = Field((17,))
IMAGE = Field((4, 6, 3), "uint8")
SPEC = Spec({"state": STATE, "images.rgb_main": IMAGE, "images.rgb_left": IMAGE}, Field((16,)), action_horizon=20)
QPOS = np.arange(17, dtype=np.float32)
PICTURE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
IMAGES = {"rgb_main": PICTURE, "rgb_left": PICTURE[::-1]}
STEP = {"qpos": QPOS, "images": IMAGES}
ACTION = np.linspace(-1, 1, 16, dtype=np.float32)
CHUNKS = Chunks((ActionChunk(ACTION[None]),))


def server(spec: Spec = SPEC, **options: Any) -> act.Server:
    one = act.Server(act.Config(**options))
    assert one.send(Welcome("s", spec)) == []
    return one


def frame(value: object, protocol: int = 4) -> Frame:
    """As a stock client writes it."""
    return Frame((pickle.dumps(value, protocol=protocol),))


def said(frames: Sequence[Frame]) -> Any:
    """The one reply, as a stock client reads it."""
    (one,) = frames
    return pickle.loads(one.data)


def refused(one: act.Server, value: object) -> Any:
    (event,) = one.receive(value if isinstance(value, Frame) else frame(value))
    assert isinstance(event, Say), event
    return said(event.frames)


def asked(one: act.Server, value: object) -> Lane:
    (event,) = one.receive(frame(value))
    assert isinstance(event, Infer), event
    (lane,) = event.lanes
    return lane


class TestServer:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_a_step_is_an_observation(self, protocol: int) -> None:
        (event,) = server().receive(frame(STEP, protocol))
        assert isinstance(event, Infer) and event.call is None and event.episode is None
        (lane,) = event.lanes
        assert lane.step is None
        checked = SPEC.check(lane.observation)
        np.testing.assert_array_equal(checked["state"], QPOS)
        np.testing.assert_array_equal(checked["images.rgb_left"], PICTURE[::-1])

    @pytest.mark.parametrize(
        "qpos",
        [QPOS, QPOS.astype(np.float64), QPOS.tolist(), tuple(range(17)), QPOS.astype(np.int32)],
        ids=["float32", "float64", "list", "tuple", "int"],
    )
    def test_qpos_of_any_kind(self, qpos: Any) -> None:
        observation = asked(server(), {"qpos": qpos, "images": IMAGES}).observation
        np.testing.assert_array_equal(SPEC.check(observation)["state"], QPOS)

    def test_later_generations_say_a_command_that_means_nothing(self) -> None:
        assert asked(server(), {**STEP, "command": "step"}).observation.keys() == asked(server(), STEP).observation.keys()

    def test_the_reply_has_both_names_and_doubles(self) -> None:
        one = server()
        asked(one, STEP)
        reply = said(one.send(CHUNKS))
        assert reply["status"] == "OK" and reply.keys() == {"status", "action", "joint_positions"}
        for name in ("action", "joint_positions"):
            assert reply[name].dtype == np.float64 and reply[name].shape == (16,)
            np.testing.assert_array_equal(reply[name], ACTION)

    @pytest.mark.parametrize(
        ("request_", "reply"),
        [("RESET", {"status": "OK"}), ({"command": "reset_policy", "why": "new episode"}, {"status": "RESET_OK"})],
        ids=["string", "dict"],
    )
    def test_both_resets(self, request_: Any, reply: Any) -> None:
        one = server()
        (event,) = one.receive(frame(request_))
        assert isinstance(event, Reset) and event.episode is None
        assert said(one.send(Done(1))) == reply

    def test_ids_are_echoed_in_answers_and_errors(self) -> None:
        ids = {"episode_id": "e7", "step_id": 3, "timestamp": 1.5}
        one = server()
        asked(one, {**STEP, **ids})
        reply = said(one.send(CHUNKS))
        assert {key: reply[key] for key in ids} == ids
        asked(one, {**STEP, **ids})
        assert said(one.send(Failed(PolicyError("no")))) == {"status": "ERROR", "message": "no", **ids}
        assert refused(one, {"images": IMAGES, **ids}) == {"status": "ERROR", "message": "Missing key in data: 'qpos'", **ids}

    def test_ids_that_are_no_ids_stay_here(self) -> None:
        one = server()
        asked(one, {**STEP, "episode_id": [1] * 1000, "step_id": "x" * 1000, "timestamp": None})
        assert said(one.send(CHUNKS)).keys() == {"status", "action", "joint_positions", "timestamp"}

    def test_bare_replies_of_the_first_generation(self) -> None:
        one = server(bare=True)
        asked(one, STEP)
        reply = said(one.send(CHUNKS))
        assert isinstance(reply, np.ndarray) and reply.dtype == np.float64
        np.testing.assert_array_equal(reply, ACTION)
        one.receive(frame("RESET"))
        assert said(one.send(Done(1))) == "OK"
        assert refused(one, {"images": IMAGES}) is None

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"images": IMAGES}, "Missing key in data: 'qpos'"),
            ({"qpos": QPOS}, "Missing key in data: 'images'; expected rgb_main, rgb_left"),
            (
                {"qpos": QPOS, "images": {"rgb_main": PICTURE}},
                "Missing key in data: 'rgb_left'; expected images of rgb_main, rgb_left, got rgb_main",
            ),
            ({"qpos": QPOS, "images": {}}, "Missing key in data: 'rgb_main'; expected images of rgb_main, rgb_left, got nothing"),
            ({"qpos": QPOS[:8], "images": IMAGES}, "Expected qpos dim 17, but got 8."),
            ({"qpos": QPOS[None], "images": IMAGES}, "Expected qpos dim 17, but got an array of shape (1, 17)."),
            ({"qpos": "zero", "images": IMAGES}, "Expected qpos as an array of numbers, got a str"),
            ({"qpos": [1, [2]], "images": IMAGES}, "Expected qpos as an array of numbers, got a list"),
            ({"qpos": [1e400, "x"], "images": IMAGES}, "Expected qpos as an array of numbers, got a list"),
            ({"qpos": QPOS, "images": [PICTURE]}, "Expected images as a dict of arrays by camera, got a list"),
            ({"qpos": QPOS, "images": {**IMAGES, "rgb_left": None}}, "Expected images['rgb_left'] as an array of numbers"),
            (None, "Expected 'RESET' or a dict with 'qpos' and 'images', got a NoneType"),
            ("reset", "Expected 'RESET' or a dict"),
            ([], "Expected 'RESET' or a dict"),
        ],
    )
    def test_misfits_say_what_was_expected(self, wrong: Any, message: str, caplog: pytest.LogCaptureFixture) -> None:
        one = server()
        reply = refused(one, wrong)
        assert reply["status"] == "ERROR" and reply["message"].startswith(message), reply
        assert message in caplog.text
        asked(one, STEP)  # and the conversation goes on

    def test_names_of_the_entries_are_told_where_the_policy_has_them(self) -> None:
        names = tuple(f"joint_{i}" for i in range(3))
        reply = refused(server(Spec({"state": Field((3,), names=names)}, Field((2,)))), {"qpos": QPOS})
        assert reply["message"] == "Expected qpos dim 3, but got 17. Please send joint_0, joint_1, joint_2."

    @pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x80\x04", pickle.dumps(STEP)[:-1], pickle.dumps("RESET", 0)])
    def test_bad_pickles(self, garbage: bytes) -> None:
        reply = refused(server(), Frame((garbage,)))
        assert reply["status"] == "ERROR" and reply["message"].startswith("Pickle error: byte ")

    def test_no_object_is_anything(self) -> None:
        evil = Record("os", "system", ("true",))
        reply = refused(server(), Frame(tuple(safe_pickle.encode(evil))))
        assert reply["message"] == "Expected 'RESET' or a dict with 'qpos' and 'images', got a Record"

    def test_a_policy_without_state_or_cameras(self) -> None:
        assert asked(server(Spec({"images.rgb_main": IMAGE}, Field((2,)))), {"images": IMAGES}).observation.keys()
        assert asked(server(Spec({"state": STATE}, Field((2,)))), {"qpos": QPOS}).observation.keys() == {"state"}

    def test_what_else_the_policy_knows_travels_under_its_own_name(self) -> None:
        spec = Spec({"state": STATE, "prompt": Field((), "str"), "force": Field((3,))}, Field((2,)))
        observation = asked(server(spec), {"qpos": QPOS, "prompt": "lift", "force": [1, 2, 3], "unknown": 4}).observation
        assert observation["prompt"] == "lift" and observation.keys() == {"state", "prompt", "force"}

    def test_a_peer_that_never_waits_is_told_to(self) -> None:
        one = server()
        for _ in range(64):
            one.receive(frame(STEP))
        for more in (frame(STEP), frame("nothing of the kind")):
            with pytest.raises(RemoteProtocolError, match="more than 64 messages without waiting"):
                one.receive(more)

    def test_answers_keep_the_order_of_the_questions(self) -> None:
        """A DEALER need not wait for its replies."""
        one = server()
        asked(one, {**STEP, "step_id": 1})
        assert one.receive(frame({"images": IMAGES, "step_id": 2})) == []
        asked(one, {**STEP, "step_id": 3})
        assert one.receive(Frame((b"garbage",))) == []
        first, second = one.send(CHUNKS)
        third, fourth = one.send(Failed(PolicyError("no")))
        replies = [pickle.loads(each.data) for each in (first, second, third, fourth)]
        assert [reply.get("step_id") for reply in replies] == [1, 2, 3, None]
        assert [reply["status"] for reply in replies] == ["OK", "ERROR", "ERROR", "ERROR"]

    def test_execution_follows_the_options(self) -> None:
        one = act.Server(act.Config(k=0.1, weights="newest"))
        assert one.execution is not None and one.execution.strategy == "ensemble"
        assert one.execution.options == {"k": 0.1, "weights": "newest", "execution_horizon": 1}
        with pytest.raises(ConfigError, match="k: expected a finite number"):
            act.Config(k=float("nan"))


class TestClient:
    @staticmethod
    def client(spec: Spec | None = SPEC, **options: Any) -> act.Client:
        one = act.Client(act.Config(**options))
        one.prepare(spec)
        return one

    @staticmethod
    def infer(step: int = 3) -> Infer:
        return Infer((Lane({"state": QPOS, "images.rgb_main": PICTURE}, step),), 2, None, 9)

    def test_says_what_stock_servers_read(self) -> None:
        one = self.client()
        message = said(one.send(self.infer()))
        assert message.keys() == {"qpos", "images"} and message["images"].keys() == {"rgb_main"}
        np.testing.assert_array_equal(message["qpos"], QPOS)
        assert said(one.send(Reset(1, 4))) == "RESET"
        assert one.send(Hello()) == one.send(Bye()) == []

    def test_says_commands_and_ids_to_later_servers(self) -> None:
        one = self.client(commands=True)
        message = said(one.send(self.infer()))
        assert (message["command"], message["episode_id"], message["step_id"]) == ("step", 2, 3)
        assert said(one.send(Reset(1, 4))) == {"command": "reset_policy"}

    @pytest.mark.parametrize(
        "reply",
        [
            ACTION.astype(np.float64),
            ACTION,
            {"joint_positions": ACTION.astype(np.float64), "status": "OK"},
            {"action": ACTION, "status": "OK", "step_id": 3, "episode_id": 2},
            {"action": ACTION, "joint_positions": ACTION, "status": "OK"},
        ],
        ids=["v0", "float32", "v1", "v3", "ours"],
    )
    def test_reads_actions_of_every_generation(self, reply: Any) -> None:
        one = self.client()
        one.send(self.infer())
        (chunks,) = one.receive(frame(reply))
        assert isinstance(chunks, Chunks) and chunks.call == 9
        (chunk,) = chunks.results
        assert isinstance(chunk, ActionChunk)
        assert (chunk.step, chunk.episode, chunk.actions.dtype, chunk.actions.shape) == (3, 2, np.float32, (1, 16))
        np.testing.assert_array_equal(chunk.actions[0], ACTION)

    @pytest.mark.parametrize("reply", ["OK", {"status": "OK"}, {"status": "RESET_OK"}])
    def test_reads_resets_of_every_generation(self, reply: Any) -> None:
        one = self.client()
        one.send(Reset(5, 4))
        (done,) = one.receive(frame(reply))
        assert isinstance(done, Done) and (done.episode, done.call) == (5, 4)

    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (None, "its wire does not say why"),
            ({"status": "ERROR", "message": "Missing key in data: 'qpos'"}, "Missing key in data: 'qpos'"),
            ({"status": "ERROR"}, "did not say why"),
        ],
    )
    def test_reads_errors_of_every_generation(self, reply: Any, says: str) -> None:
        for question in (self.infer(), Reset(1, 9)):
            one = self.client()
            one.send(question)
            (failed,) = one.receive(frame(reply))
            assert isinstance(failed, Failed) and says in str(failed.error) and failed.call == 9

    @pytest.mark.parametrize(
        "reply",
        [
            "OK",
            {"status": "OK"},
            {"action": None},
            {"action": "left"},
            {"action": np.zeros((2, 2, 2))},
            {"action": np.zeros(0)},
            {"action": np.array([{}])},
            [1.0, 2.0],
            {"action": ACTION, "step_id": 4},
        ],
    )
    def test_refuses_what_is_no_action(self, reply: Any) -> None:
        one = self.client(commands=True)
        one.send(self.infer())
        with pytest.raises(RemoteProtocolError):
            one.receive(frame(reply))

    def test_refuses_a_reply_to_nothing(self) -> None:
        with pytest.raises(RemoteProtocolError, match="nothing that was asked"):
            self.client().receive(frame({"action": ACTION}))
        one = self.client()
        one.send(Reset())
        with pytest.raises(RemoteProtocolError, match="acknowledgement"):
            one.receive(frame({"action": ACTION}))

    def test_what_the_wire_cannot_say_is_refused_here(self) -> None:
        lane = Lane({"state": QPOS}, 0)
        with pytest.raises(LocalProtocolError, match="one observation per message"):
            self.client().send(Infer((lane, lane)))
        with pytest.raises(LocalProtocolError, match="uses the name for something else"):
            self.client().send(Infer((Lane({"qpos": QPOS}),)))


def test_conforms_with_other_options() -> None:
    check_dialect(act, config=act.Config(commands=True))
    check_dialect(act, spec=Spec({"state": Field((None,))}, Field((7,)), action_horizon=1))
    check_dialect(act, spec=SPEC)


def test_mutated_messages_cost_an_answer_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    source = random.Random(5)
    stock = [pickle.dumps(value, protocol) for value in (STEP, "RESET", {**STEP, "step_id": 1}) for protocol in (2, 4, 5)]
    replies = [pickle.dumps(value) for value in ({"action": ACTION, "status": "OK"}, ACTION, "OK", None)]
    for _ in range(1500):
        changed = bytearray(source.choice(stock))
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(len(changed))] = source.choice((0, 0x80, 0xFF, source.randrange(256)))
        events: list[Event] = server().receive(Frame((bytes(changed),)))
        assert [type(event) for event in events] in ([Say], [Infer], [Reset])
        changed = bytearray(source.choice(replies))
        changed[source.randrange(len(changed))] = source.randrange(256)
        one = TestClient.client()
        one.send(TestClient.infer())
        try:
            heard: list[Reply] = one.receive(Frame((bytes(changed),)))
        except RemoteProtocolError:
            continue
        assert [type(reply) for reply in heard] in ([Chunks], [Failed])


class Ramp(Policy):
    """Row i of the chunk for a state s is s + i / 8 in every entry; for a state of zeros, exact zeros."""

    def __init__(self) -> None:
        self.spec = Spec({"state": Field((2,))}, Field((3,)), action_horizon=5, max_batch_size=8, name="ramp")
        self.steps: list[int] = []

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        self.steps += [request.step for request in requests]
        return [answer(request, self.chunk(float(np.asarray(request.observation["state"])[0]))) for request in requests]

    @staticmethod
    def chunk(state: float) -> Any:
        rows = state + (np.arange(5, dtype=np.float32) / 8 if state else np.zeros(5, np.float32))
        return np.repeat(rows[:, None], 3, axis=1).astype(np.float32)


class TestServed:
    """Through a real server, with our client."""

    @pytest.mark.parametrize("weights", ["oldest", "newest"])
    def test_actions_are_those_of_the_ensemble_bit_for_bit(self, weights: str) -> None:
        policy = Ramp()
        expected = ensemble.Strategy(ensemble.Config(k=0.3, weights=weights), policy.spec)  # type: ignore[arg-type]
        with (
            Server({"ramp": policy}, [f"act+zmq://127.0.0.1:0?k=0.3&weights={weights}"]) as one,
            connect(one.addresses[0], spec=policy.spec) as remote,
        ):
            for episode in range(2):
                expected.reset()
                for step in range(12):
                    state = np.array([step % 5, episode], np.float32)
                    expected.replan(step)
                    expected.add(ActionChunk(Ramp.chunk(float(state[0])), step), step)
                    np.testing.assert_array_equal(remote.infer_one({"state": state}, step=step).actions[0], expected.action(step))
                remote.reset()
        assert policy.steps[-24:] == [*range(12)] * 2  # a query at every step, counted from 0 in every episode

    def test_zero_is_an_action_and_nothing_ends_at_step_1000(self) -> None:
        policy = Ramp()
        with Server({"ramp": policy}, ["act+zmq://127.0.0.1:0"]) as one, connect(one.addresses[0], spec=policy.spec) as remote:
            for step in range(1005):
                action = remote.infer_one({"state": np.zeros(2, np.float32)}, step=step).actions
                assert not action.any()
            half = remote.infer_one({"state": np.array([8, 0], np.float32)}, step=1005).actions
        assert 1.5 < half[0, 0] < 1.7  # one of five chunks says 8, the zeros of the others count

    def test_clients_have_episodes_of_their_own(self) -> None:
        policy = Ramp()
        with (
            Server({"ramp": policy}, ["act+zmq://127.0.0.1:0"]) as one,
            connect(one.addresses[0], spec=policy.spec) as first,
            connect(one.addresses[0], spec=policy.spec) as second,
        ):
            for step in range(4):
                for remote, state in ((first, 1.0), (second, 100.0)):
                    action = remote.infer_one({"state": np.array([state, 0], np.float32)}, step=step).actions[0, 0]
                    assert state <= action <= state + 0.5
            first.reset()
            assert first.infer_one({"state": np.array([7, 0], np.float32)}, step=0).actions[0, 0] == 7
            assert second.infer_one({"state": np.array([100, 0], np.float32)}, step=4).actions[0, 0] > 100

    def test_an_error_leaves_the_episode_as_it_was(self) -> None:
        policy = Ramp()
        with Server({"ramp": policy}, ["act+zmq://127.0.0.1:0"]) as one:
            wrong = Spec({"state": Field((3,))}, policy.spec.action)
            told = pytest.raises(PolicyError, match=r"Expected qpos dim 2, but got 3\.")
            with connect(one.addresses[0], spec=wrong) as remote, told:
                remote.infer_one({"state": np.zeros(3, np.float32)})
            with connect(one.addresses[0], spec=policy.spec) as remote:
                remote.infer_one({"state": np.ones(2, np.float32)})
                with pytest.raises(SpecError):
                    remote.infer_one({"state": np.full(2, np.nan, np.float32)}, step=1)
                assert remote.infer_one({"state": np.ones(2, np.float32)}, step=1).step == 1

    def test_a_gateway_to_another_act_server(self) -> None:
        policy = Ramp()
        with (
            Server({"ramp": policy}, ["act+zmq://127.0.0.1:0"]) as one,
            Server({"ramp": connect(one.addresses[0], spec=policy.spec)}, ["native+tcp://127.0.0.1:0"]) as gateway,
            connect(gateway.addresses[0]) as remote,
        ):
            assert remote.infer_one({"state": np.array([2, 0], np.float32)}).actions[0, 0] == 2


def test_the_document_shows_what_is_sent() -> None:
    """docs/dialects/act.md shows the beginning of a conversation in hexadecimal."""
    page = (Path(__file__).parents[2] / "docs" / "dialects" / "act.md").read_text(encoding="utf-8")
    shown = re.search(r"^    ff 00 .*?(?=^A body)", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    data = b""
    for line in shown[0].splitlines():
        words = re.match(r"    ((?:[0-9a-f]{2} ?)+)(?: +\+ (\d+) times 00)?(?:  |$)", line)
        data += bytes.fromhex(words[1]) + bytes(int(words[2] or 0)) if words else b""
    reset = pickle.dumps("RESET", 4)
    message = b"".join(_zmtp.message((reset,), len(reset), delimited=True))
    assert data == _zmtp.greeting(server=False) + _zmtp.ready(b"REQ") + message
