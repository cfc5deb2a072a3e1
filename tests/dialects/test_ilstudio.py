"""The IL-Studio wire: batched and plain observations, replies in the programs' shape, silence where the wire has no word."""

from __future__ import annotations

import logging
import pickle
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.client import connect
from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Record
from actlink.dialects import _ilstudio_actions as actions
from actlink.dialects import ilstudio
from actlink.dialects._base import Bye, Chunks, Done, Failed, Frame, Hello, Infer, Lane, Reset, Say, Welcome
from actlink.errors import LocalProtocolError, PolicyError, RemoteProtocolError
from actlink.policies._base import Policy, Result, answer
from actlink.serving.server import Server
from actlink.spec import Field, Spec
from actlink.testing.dialects import check_dialect
from actlink.types import ActionChunk, Request

IMAGE = Field((4, 6, 3), "uint8")
SPEC = Spec(
    {"state": Field((14,)), "images.top": IMAGE, "images.wrist": IMAGE, "prompt": Field((), "str", required=False)},
    Field((7,)),
    action_horizon=5,
    control_space="ee",
    control_type="delta",
)
STATE = np.arange(14, dtype=np.float32)
PICTURES = np.arange(2 * 3 * 4 * 6, dtype=np.uint8).reshape(2, 3, 4, 6)
CHUNK = np.arange(35, dtype=np.float32).reshape(5, 7)


def frame(value: Any) -> Frame:
    return Frame((b"".join(safe_pickle.encode(value)),))


def meta(module: str = "benchmark.base", **fields: Any) -> Frame:
    return frame(Record(module, "MetaObs", (), fields))


def server(spec: Spec = SPEC, **options: Any) -> ilstudio.Server:
    one = ilstudio.Server(ilstudio.Config(**options))
    assert one.send(Welcome("s", spec)) == []
    return one


def lanes(one: ilstudio.Server, **fields: Any) -> Sequence[Lane]:
    *resets, event = one.receive(meta(**fields))
    assert isinstance(event, Infer) and all(isinstance(each, Reset) for each in resets), event
    return event.lanes


def said(frames: Sequence[Frame]) -> Any:
    (one,) = frames
    return pickle.loads(one.data)


def is_refused(one: ilstudio.Server, value: Frame) -> None:
    (event,) = one.receive(value)
    assert isinstance(event, Say), event
    assert said(event.frames) == []


class TestObservations:
    @pytest.mark.parametrize("timestep", [np.array([[64]]), np.array([64]), 64, np.int64(64), [64]])
    @pytest.mark.parametrize("language", ["pick", ["pick"]])
    def test_batches_of_one(self, timestep: Any, language: Any) -> None:
        (lane,) = lanes(server(), state=STATE[None], image=PICTURES[None], raw_lang=language, timestep=timestep)
        assert lane.step == 64
        checked = SPEC.check(lane.observation)
        np.testing.assert_array_equal(checked["state"], STATE)
        np.testing.assert_array_equal(checked["images.top"], PICTURES[0].transpose(1, 2, 0))
        np.testing.assert_array_equal(checked["images.wrist"], PICTURES[1].transpose(1, 2, 0))
        assert checked["prompt"] == "pick"

    def test_without_a_batch_axis(self) -> None:
        (lane,) = lanes(server(), state=STATE.astype(np.float64), image=PICTURES, raw_lang="pick", timestep=0)
        np.testing.assert_array_equal(SPEC.check(lane.observation)["images.wrist"], PICTURES[1].transpose(1, 2, 0))
        assert lane.step == 0

    def test_a_batch_of_some_arrays_has_one_row(self) -> None:
        (lane,) = lanes(server(), state=STATE[None], image=PICTURES)
        SPEC.check(lane.observation)

    def test_rows_become_lanes(self) -> None:
        states, pictures = np.stack([STATE, STATE + 100]), np.stack([PICTURES, 255 - PICTURES])
        found = lanes(server(), state=states, image=pictures, raw_lang=["a", "b"], timestep=np.array([[3], [3]]))
        assert [lane.step for lane in found] == [3, 3] and [lane.observation["prompt"] for lane in found] == ["a", "b"]
        for row, lane in enumerate(found):
            np.testing.assert_array_equal(lane.observation["state"], states[row])
            np.testing.assert_array_equal(lane.observation["images.wrist"], pictures[row, 1].transpose(1, 2, 0))

    def test_every_other_field_has_its_place(self) -> None:
        spec = Spec(
            {
                "state.ee": Field((7,)),
                "state.joint": Field((6,)),
                "environment_state": Field((3,)),
                "depth.top": Field((4, 6)),
                "point_cloud": Field((None, 3)),
            },
            Field((2,)),
        )
        depth, cloud = np.ones((1, 4, 6), np.float32), np.zeros((9, 3), np.float32)
        ee, joint, objects = np.arange(7.0), np.arange(6.0), np.arange(3.0)
        fields = {"state_ee": ee, "state_joint": joint, "state_obj": objects, "depth": depth, "pc": cloud}
        for batch in (False, True):
            given = {name: value[None] if batch else value for name, value in fields.items()}
            (lane,) = lanes(server(spec), **given, state=None, image=None, raw_lang="")
            assert lane.observation.keys() == spec.observation.keys()
            np.testing.assert_array_equal(lane.observation["state.ee"], ee)
            np.testing.assert_array_equal(lane.observation["state.joint"], joint)
            np.testing.assert_array_equal(lane.observation["environment_state"], objects)
            np.testing.assert_array_equal(lane.observation["depth.top"], depth[0])
            np.testing.assert_array_equal(lane.observation["point_cloud"], cloud)

    @pytest.mark.parametrize("module", ["benchmark.base", "__main__", "somewhere.else"])
    def test_the_class_may_live_anywhere(self, module: str) -> None:
        (event,) = server().receive(meta(module, state=STATE, image=PICTURES))
        assert isinstance(event, Infer)

    def test_pictures_with_channels_last_are_left_alone(self) -> None:
        last = PICTURES.transpose(0, 2, 3, 1)
        (lane,) = lanes(server(), state=STATE, image=last)
        np.testing.assert_array_equal(lane.observation["images.top"], last[0])

    def test_a_policy_without_cameras_ignores_pictures(self) -> None:
        (lane,) = lanes(server(Spec({"state": Field((14,))}, Field((2,)))), state=STATE, image=PICTURES, raw_lang="")
        assert lane.observation.keys() == {"state"}

    def test_missing_fields_and_unknown_ones(self) -> None:
        (lane,) = lanes(server(), state=STATE, something_new=[1, 2])
        assert lane.observation["prompt"] == "" and lane.step is None

    @pytest.mark.parametrize("timestep", [-1, np.array([[-1]]), 2**60])
    def test_nobody_counted(self, timestep: Any) -> None:
        assert [lane.step for lane in lanes(server(), state=STATE, timestep=timestep)] == [None]

    def test_step_0_begins_an_episode(self) -> None:
        one = server()
        kinds = [[type(event) for event in one.receive(meta(state=STATE, timestep=step))] for step in (0, 64, 0, -1, 0)]
        assert kinds == [[Infer], [Infer], [Reset, Infer], [Infer], [Reset, Infer]]
        assert one.send(Done(1)) == []

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (frame({"state": STATE}), "expected a MetaObs, got a dict"),
            (frame(None), "expected a MetaObs, got a NoneType"),
            (frame(Record("os", "system", ("true",))), "expected a MetaObs, got a system"),
            (frame(Record("benchmark.base", "MetaObs", (), [])), "expected a MetaObs"),
            (meta(), "expected at least one of state"),
            (meta(state=np.zeros((2, 2, 14))), "state: expected 1 axes, or one more for a batch, got the shape"),
            (meta(state="zero"), "state: expected an array of numbers, got a str"),
            (meta(state=[1, [2]]), "state: expected an array"),
            (meta(state=np.array([{}])), "state: expected an array of numbers"),
            (meta(state=np.zeros((2, 14)), image=PICTURES[None]), "expected the same number of rows everywhere, 1 to 256, got"),
            (meta(state=np.zeros((0, 14))), "expected the same number of rows"),
            (meta(state=np.zeros((1000, 14))), "expected the same number of rows"),
            (meta(state=STATE, image=PICTURES[:1]), "image: expected 2 rows, in this order: top, wrist; got 1"),
            (meta(state=STATE, image=PICTURES[0]), "image: expected 4 axes"),
            (meta(state=STATE, timestep="0"), "timestep: expected an integer"),
            (meta(state=STATE, timestep=np.array([1, 2])), "timestep: expected an integer"),
            (meta(state=STATE, timestep=0.5), "timestep: expected an integer"),
            (meta(state=STATE, raw_lang=["a", "b"]), "raw_lang: expected a string"),
            (meta(state=STATE, raw_lang=7), "raw_lang: expected a string"),
        ],
    )
    def test_misfits_are_answered_with_nothing_and_logged(self, value: Frame, says: str, caplog: pytest.LogCaptureFixture) -> None:
        one = server()
        is_refused(one, value)
        assert says in caplog.text
        assert lanes(one, state=STATE)

    @pytest.mark.parametrize("garbage", [b"", b"garbage", pickle.dumps(STATE)[:-1], b"GET / HTTP/1.1\r\n\r\n", pickle.dumps(1, 0)])
    def test_what_is_no_pickle_ends_the_connection(self, garbage: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            server().receive(Frame((garbage,)))
        assert server().send(Failed(RemoteProtocolError("garbage"), fatal=True)) == []


class TestReplies:
    def test_a_list_of_object_arrays_of_dicts(self) -> None:
        one = server()
        lanes(one, state=np.stack([STATE, STATE]), image=np.stack([PICTURES, PICTURES]))
        reply = said(one.send(Chunks((ActionChunk(CHUNK), ActionChunk(CHUNK + 100)))))
        assert type(reply) is list and len(reply) == 5
        for step, element in enumerate(reply):
            assert type(element) is np.ndarray and element.dtype == object and element.shape == (2,)
            for row, action in enumerate(element):
                assert list(action) == ["ctrl_space", "ctrl_type", "action", "gripper_continuous"]
                assert (action["ctrl_space"], action["ctrl_type"], action["gripper_continuous"]) == ("ee", "delta", False)
                assert action["action"].dtype == np.float32 and action["action"].flags.writeable
                np.testing.assert_array_equal(action["action"], CHUNK[step] + 100 * row)

    @pytest.mark.parametrize("rows", [1, 2, 7, 256])
    @pytest.mark.parametrize("steps", [1, 2, 50])
    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8"])
    def test_they_are_what_the_codec_writes(self, rows: int, steps: int, dtype: str) -> None:
        """Byte for byte, whatever the numbers are (also those that stand for the numbers in the mould)."""
        chunks = [np.random.default_rng(row).integers(0, 100, (steps + row % 2, 3)).astype(dtype) for row in range(rows)]
        chunks[0].view(np.uint8)[0] = 0xA5
        cut = [chunk[:steps] for chunk in chunks]
        assert actions.write(chunks, SPEC) == b"".join(safe_pickle.encode(actions.plain(cut, SPEC)))

    @pytest.mark.parametrize(("chunk_size", "rows"), [(None, 5), (-1, 5), (0, 5), (3, 3), (64, 5)])
    def test_chunks_are_cut(self, chunk_size: int | None, rows: int) -> None:
        one = server(chunk_size=chunk_size)
        lanes(one, state=STATE)
        assert len(said(one.send(Chunks((ActionChunk(CHUNK),))))) == rows

    def test_failures_are_empty_lists(self, caplog: pytest.LogCaptureFixture) -> None:
        one = server()
        lanes(one, state=STATE)
        assert said(one.send(Failed(PolicyError("the reason")))) == []
        assert "the reason" in caplog.text
        lanes(one, state=np.stack([STATE, STATE]))
        assert said(one.send(Chunks((ActionChunk(CHUNK), PolicyError("one row"))))) == []

    def test_a_peer_that_never_waits_is_told_to(self) -> None:
        one = server()
        for _ in range(64):
            one.receive(meta(state=STATE))
        for more in (meta(state=STATE), frame("nothing of the kind")):
            with pytest.raises(RemoteProtocolError, match="more than 64 messages without waiting"):
                one.receive(more)

    def test_answers_keep_the_order_of_the_questions(self) -> None:
        one = server()
        lanes(one, state=STATE)
        assert one.receive(frame("nothing of the kind")) == []
        lanes(one, state=STATE)
        first, second = one.send(Chunks((ActionChunk(CHUNK),)))
        assert len(pickle.loads(first.data)) == 5 and pickle.loads(second.data) == []
        assert len(said(one.send(Chunks((ActionChunk(CHUNK),))))) == 5

    def test_every_numpy_reads_them(self) -> None:
        """numpy 1.26.0 and older know no ``numpy._core``."""
        one = server()
        lanes(one, state=STATE)
        (reply,) = one.send(Chunks((ActionChunk(CHUNK),)))
        data = bytes(reply.data)
        assert b"numpy.core.multiarray" in data and b"numpy._core" not in data and data[:2] == b"\x80\x04"


def action(row: Any, **more: Any) -> dict[str, Any]:
    return {"ctrl_space": "ee", "ctrl_type": "delta", "action": row, "gripper_continuous": False, **more}


def objects(*items: Any) -> Any:
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def record(row: Any) -> Record:
    return Record("benchmark.base", "MetaAction", (), action(row))


class TestClient:
    @staticmethod
    def client(spec: Spec | None = SPEC) -> ilstudio.Client:
        one = ilstudio.Client(ilstudio.Config())
        one.prepare(spec)
        return one

    @staticmethod
    def infer(*steps: int | None) -> Infer:
        observation = {"state": STATE, "images.wrist": PICTURES[1].transpose(1, 2, 0), "images.top": PICTURES[0].transpose(1, 2, 0)}
        return Infer(tuple(Lane({**observation, "prompt": "pick"}, step) for step in steps), 2, None, 9)

    def test_says_what_the_programs_say(self) -> None:
        (sent,) = self.client().send(self.infer(64))
        heard = safe_pickle.decode(sent.data)
        assert isinstance(heard, Record) and (heard.module, heard.name, heard.args) == ("benchmark.base", "MetaObs", ())
        fields = heard.state
        assert list(fields) == ["state", "state_ee", "state_joint", "state_obj", "image", "depth", "pc", "raw_lang", "timestep"]
        assert fields["state"].shape == (1, 14) and fields["image"].shape == (1, 2, 3, 4, 6)
        np.testing.assert_array_equal(fields["image"][0], PICTURES)  # in the order of the spec
        assert fields["raw_lang"] == ["pick"] and fields["timestep"].tolist() == [[64]]
        assert fields["timestep"].dtype == np.int64 and fields["depth"] is None

    def test_says_nothing_where_the_wire_has_no_word(self) -> None:
        one = self.client()
        assert one.send(Reset()) == one.send(Hello()) == one.send(Bye()) == []

    @pytest.mark.parametrize(
        "reply",
        [
            [objects(action(row)) for row in CHUNK],
            [objects(record(row)) for row in CHUNK],
            [record(row) for row in CHUNK],
            [action(row) for row in CHUNK],
            [[action(row)] for row in CHUNK],
            [objects(action(row.astype(np.float64))) for row in CHUNK],
        ],
        ids=["arrays of dicts", "arrays of MetaAction", "MetaAction", "dicts", "lists of dicts", "float64"],
    )
    def test_reads_every_form(self, reply: Any) -> None:
        one = self.client()
        one.send(self.infer(64))
        (chunks,) = one.receive(frame(reply))
        assert isinstance(chunks, Chunks) and chunks.call == 9
        (chunk,) = chunks.results
        assert isinstance(chunk, ActionChunk) and (chunk.step, chunk.episode) == (64, 2)
        assert chunk.actions.dtype == np.float32
        np.testing.assert_array_equal(chunk.actions, CHUNK)

    def test_reads_lanes(self) -> None:
        one = self.client()
        one.send(self.infer(0, 0))
        (chunks,) = one.receive(frame([objects(action(row), action(row + 100)) for row in CHUNK]))
        assert isinstance(chunks, Chunks)
        first, second = chunks.results
        assert isinstance(first, ActionChunk) and isinstance(second, ActionChunk)
        np.testing.assert_array_equal(second.actions, first.actions + 100)

    def test_an_empty_list_is_a_failure(self) -> None:
        one = self.client()
        one.send(self.infer(0))
        (failed,) = one.receive(frame([]))
        assert isinstance(failed, Failed) and isinstance(failed.error, PolicyError) and failed.call == 9

    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (None, "expected a list of actions"),
            ({}, "expected a list of actions"),
            ([1, 2], "expected a MetaAction or a dict like it, got a int"),
            ([objects()], "for the same environments"),
            ([objects(action(CHUNK[0])), objects(action(CHUNK[0]), action(CHUNK[0]))], "for the same environments"),
            ([objects(action(CHUNK[0]), action(CHUNK[0]))], "expected actions for 1 environments, got them for 2"),
            ([action(None)], "MetaAction.action: expected an array"),
            ([action(CHUNK)], "MetaAction.action: expected an array"),
            ([action(CHUNK[0]), action(CHUNK[0][:3])], "as many entries in every action"),
            ([action(CHUNK[0], ctrl_space="joint", ctrl_type="abs")], "for joint abs control, the spec says ee delta"),
            ([Record("os", "system", ("true",))], "expected a MetaAction"),
        ],
    )
    def test_refuses_anything_else(self, reply: Any, says: str) -> None:
        one = self.client()
        one.send(self.infer(0))
        with pytest.raises(RemoteProtocolError, match=says):
            one.receive(frame(reply))

    def test_refuses_a_reply_to_nothing(self) -> None:
        with pytest.raises(RemoteProtocolError, match="nothing that was asked"):
            self.client().receive(frame([action(CHUNK[0])]))

    def test_what_the_wire_cannot_say_is_refused_here(self) -> None:
        one = self.client()
        with pytest.raises(LocalProtocolError, match=r"observation\['force'\]: the ilstudio wire has no place for it"):
            one.send(Infer((Lane({"state": STATE, "force": STATE}),)))
        pictures = {"images.top": np.zeros((4, 6, 3), np.uint8), "images.wrist": np.zeros((5, 6, 3), np.uint8)}
        with pytest.raises(LocalProtocolError, match="puts these into one array, and they differ"):
            one.send(Infer((Lane(pictures),)))


def test_conforms_with_other_specs() -> None:
    check_dialect(ilstudio, spec=SPEC)
    check_dialect(ilstudio, spec=Spec({"state": Field((None,))}, Field((7,), "int64"), action_horizon=1))


def test_mutated_messages_raise_one_error_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    source = random.Random(5)
    up = bytes(meta(state=STATE[None], image=PICTURES[None], raw_lang=["pick"], timestep=np.array([[64]])).data)
    down = bytes(frame([objects(action(row)) for row in CHUNK]).data)
    for _ in range(1500):
        changed = bytearray(up)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(len(changed))] = source.choice((0, 0x80, 0xFF, source.randrange(256)))
        try:
            events = server().receive(Frame((bytes(changed),)))
        except RemoteProtocolError:
            events = []
        assert all(isinstance(event, Infer | Say) for event in events)
        changed = bytearray(down)
        changed[source.randrange(len(changed))] = source.randrange(256)
        one = TestClient.client()
        one.send(TestClient.infer(0))
        try:
            one.receive(Frame((bytes(changed),)))
        except RemoteProtocolError:
            continue


class Nonce(Policy):
    """Every action is the observation's first entry, plus the row's number in the chunk."""

    def __init__(self, horizon: int = 4) -> None:
        self.spec = Spec({"state": Field((2,))}, Field((3,)), action_horizon=horizon, max_batch_size=8, name="nonce")
        self.seen: list[tuple[int, int]] = []

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        found: list[Result] = []
        for request in requests:
            self.seen.append((request.episode, request.step))
            value = float(np.asarray(request.observation["state"])[0])
            rows = np.repeat((value + np.arange(self.spec.action_horizon, dtype=np.float32))[:, None], 3, axis=1)
            found.append(PolicyError("not this one") if value == 666 else answer(request, rows))
        return found


class Peer:
    """A client in a few lines of socket and pickle, as IL-Studio's is."""

    def __init__(self, one: Server) -> None:
        host, _, port = one.addresses[0].partition("://")[2].rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def say(self, data: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(data)))
        self.socket.sendall(data)

    def hear(self) -> Any:
        (size,) = struct.unpack(">I", self.read(4))
        return pickle.loads(self.read(size))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def ask(self, **fields: Any) -> Any:
        self.say(bytes(meta(**fields).data))
        return self.hear()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class TestServed:
    """Through a real server."""

    def test_episodes_by_timestep(self) -> None:
        policy = Nonce()
        with Server({"p": policy}, ["ilstudio+tcp://127.0.0.1:0"]) as one, Peer(one) as peer:
            for step in (0, 4, 8, 0, 4):
                (first, *_) = peer.ask(state=np.array([[step, 0.0]]), timestep=np.array([[step]]))
                assert first[0]["action"].tolist() == [step] * 3
            for _ in range(2):
                peer.ask(state=np.zeros((1, 2)))
        assert policy.seen[-7:] == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4), (1, 5), (1, 6)]

    def test_a_failure_is_an_empty_list_and_the_connection_stays(self) -> None:
        with Server({"p": Nonce()}, ["ilstudio+tcp://127.0.0.1:0"]) as one, Peer(one) as peer:
            assert peer.ask(state=np.array([[666.0, 0]])) == []
            assert peer.ask(state=np.zeros((1, 5))) == []  # a wrong shape is refused, never padded
            assert len(peer.ask(state=np.zeros((1, 2)))) == 4
            peer.say(pickle.dumps({"state": 1}))
            assert peer.hear() == []

    def test_garbage_ends_this_connection_and_no_other(self) -> None:
        with Server({"p": Nonce()}, ["ilstudio+tcp://127.0.0.1:0"]) as one, Peer(one) as good:
            for garbage in (b"", b"garbage", b"\x80\x04."):
                with Peer(one) as bad:
                    bad.say(garbage)
                    with pytest.raises(EOFError):
                        bad.hear()
            assert len(good.ask(state=np.zeros((1, 2)))) == 4

    def test_our_client(self) -> None:
        policy = Nonce()
        with (
            Server({"p": policy}, ["ilstudio+tcp://127.0.0.1:0?chunk_size=3"]) as one,
            connect(one.addresses[0], spec=policy.spec) as remote,
        ):
            chunk = remote.infer_one({"state": np.array([5, 0], np.float32)}, step=7)
            assert chunk.step == 7 and chunk.actions[:, 0].tolist() == [5, 6, 7]
            with pytest.raises(PolicyError, match="its log does"):
                remote.infer_one({"state": np.array([666, 0], np.float32)}, step=8)
            remote.reset()
            remote.infer_one({"state": np.array([5, 0], np.float32)}, step=0)
        assert policy.seen[-1] == (1, 0)

    def test_clients_are_not_confused(self) -> None:
        with Server({"p": Nonce()}, ["ilstudio+tcp://127.0.0.1:0"]) as one:
            peers = [Peer(one) for _ in range(4)]
            for question in range(25):
                for number, peer in enumerate(peers):
                    peer.say(bytes(meta(state=np.array([[100 * number + question, 0.0]])).data))
                for number, peer in enumerate(peers):
                    assert peer.hear()[0][0]["action"][0] == 100 * number + question
            for peer in peers:
                peer.socket.close()


MIRROR = """
import pickle, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from benchmark import base
observation = pickle.loads(sys.stdin.buffer.read())
assert type(observation) is base.MetaObs, type(observation)
steps = []
for row in observation.state[0][:3]:
    element = np.empty(len(observation.state), object)
    element[:] = [base.MetaAction("ee", "delta", np.float32([row] * 7)) for _ in observation.state]
    steps.append(element)
sys.stdout.buffer.write(pickle.dumps(steps))
"""


def test_stock_classes_read_our_client_and_are_read_by_it() -> None:
    """Python's own pickle and real dataclasses, in a process of their own."""
    compat = str(Path(__file__).parents[2] / "compat")
    one = TestClient.client()
    (sent,) = one.send(TestClient.infer(0, 0))
    ran = subprocess.run([sys.executable, "-c", MIRROR, compat], input=bytes(sent.data), capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
    (chunks,) = one.receive(Frame((ran.stdout,)))
    assert isinstance(chunks, Chunks) and len(chunks.results) == 2
    (first, _) = chunks.results
    assert isinstance(first, ActionChunk) and first.actions[:, 0].tolist() == [0, 1, 2]
