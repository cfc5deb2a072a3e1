"""The vibe wire, frame by frame: as the original's clients write it, and as our client finds the original's servers."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from actlink import address
from actlink.dialects import vibe
from actlink.dialects._base import Bye, Chunks, Failed, Frame, Hello, Infer, Lane, Ping, Reply, Reset, Welcome
from actlink.errors import ConfigError, LocalProtocolError, PolicyError, RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.testing.dialects import check_dialect
from actlink.transports._wire import wire_of
from actlink.types import ActionChunk

IMAGE = Field((6, 8, 3), "uint8")
CARTPOLE = Spec({"state": Field((4,))}, Field((1,), "int64", range=(0, 1)))
ARM = Spec({"state": Field((14,)), "images.top": IMAGE}, Field((14,)), action_horizon=5)
TWO = Spec({"images.left": IMAGE, "images.right": IMAGE}, Field((2,)))


def encode(observation: dict[str, Any], **changes: Any) -> bytes:
    """As the original's example client does it."""
    meta: dict[bytes, Any] = {}
    payload: dict[bytes, Any] = {}
    for key, array in observation.items():
        array = np.ascontiguousarray(array)
        payload[key.encode()] = array.tobytes()
        meta[key.encode()] = {b"dtype": array.dtype.str, b"shape": list(array.shape)}
    payload[b"__meta__"] = meta
    return msgpack.packb({**payload, **changes}, use_bin_type=True)  # type: ignore[no-any-return]


def decode(frames: list[Frame]) -> tuple[Any, float]:
    """As the original's example client does it."""
    (frame,) = frames
    reply = msgpack.unpackb(bytes(frame.data), raw=True)
    meta = reply[b"__meta__"]
    dtype, shape = meta[b"action"][b"dtype"].decode(), tuple(meta[b"action"][b"shape"])
    return np.frombuffer(reply[b"action"], dtype=dtype).reshape(shape), meta.get(b"latency_ms", 0.0)


def server(spec: Spec = ARM, **options: Any) -> vibe.Server:
    made = vibe.Server(vibe.Config(**options))
    assert made.send(Welcome("s", spec)) == []
    return made


def heard(half: vibe.Server, data: bytes) -> tuple[Lane, ...]:
    (event,) = half.receive(Frame((data,)))
    assert isinstance(event, Infer) and event.call is None and event.episode is None
    return event.lanes


def chunk(rows: int = 1, dim: int = 14, dtype: str = "float32", step: int = 0) -> ActionChunk:
    return ActionChunk((np.arange(rows * dim).reshape(rows, dim) + step).astype(dtype))


@pytest.mark.parametrize("config", [vibe.Config(), vibe.Config(chunk=True)])
@pytest.mark.parametrize("spec", [ARM, TWO, CARTPOLE, Spec({"prompt": Field((), "str"), "count": Field((), "int64")}, Field((1,)))])
def test_conformance(config: vibe.Config, spec: Spec) -> None:
    check_dialect(vibe, config=config, spec=spec)


@pytest.mark.parametrize(("text", "chunk"), [("", False), ("?chunk=1", True), ("?chunk=0", False), ("?chunk=true", True)])
def test_the_option_in_an_address(text: str, chunk: bool) -> None:
    wire = wire_of(address.parse(f"vibe+ws://127.0.0.1{text}"))
    assert wire.address.port == 8000
    assert (vibe.Server(wire.dialect_config).execution is None) is chunk
    with pytest.raises(ConfigError, match="chunk"):
        wire_of(address.parse("vibe+ws://127.0.0.1?chunk=2"))


class TestRequests:
    def test_one_value_is_called_obs(self) -> None:
        (lane,) = heard(server(CARTPOLE), encode({"obs": np.arange(4.0)}))
        np.testing.assert_array_equal(lane.observation["state"], np.arange(4))
        assert lane.step is None

    def test_one_image_is_called_obs(self) -> None:
        spec = Spec({"images.top": IMAGE}, Field((2,)))
        (lane,) = heard(server(spec), encode({"obs": np.ones((6, 8, 3), np.uint8)}))
        assert list(lane.observation) == ["images.top"]

    def test_obs_is_the_only_thing_that_is_required(self) -> None:
        spec = Spec({"images.top": Field((6, 8, 3), "uint8", required=False), "state": Field((4,))}, Field((2,)))
        assert list(heard(server(spec), encode({"obs": np.zeros(4)}))[0].observation) == ["state"]

    def test_obs_stays_obs_where_it_could_be_anything(self) -> None:
        assert list(heard(server(TWO), encode({"obs": np.zeros((6, 8, 3), np.uint8)}))[0].observation) == ["obs"]

    @pytest.mark.parametrize(
        "names", [("state", "image"), ("state", "top"), ("state", "images.top"), ("observation/state", "images/top")]
    )
    def test_state_and_camera(self, names: tuple[str, str]) -> None:
        given = {names[0]: np.zeros(14, np.float32), names[1]: np.ones((6, 8, 3), np.uint8)}
        (lane,) = heard(server(), encode(given))
        assert list(lane.observation) == ["state", "images.top"]

    def test_cameras_by_name(self) -> None:
        given = {name: np.ones((6, 8, 3), np.uint8) for name in ("right", "images.left", "image")}
        (lane,) = heard(server(TWO), encode(given))
        assert list(lane.observation) == ["images.right", "images.left", "image"]  # two cameras: "image" is neither

    def test_two_names_of_one_thing(self) -> None:
        image = np.ones((6, 8, 3), np.uint8)
        with pytest.raises(RemoteProtocolError, match="mean the same here, send one of them: image, top"):
            heard(server(), encode({"state": np.zeros(14), "image": image, "top": image}))

    @pytest.mark.parametrize("dtype", ["float32", "<f4", "=f4", "f4", "f", "single"])
    @pytest.mark.parametrize("use_bin_type", [True, False])
    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("key", [str, str.encode])
    def test_spellings(self, dtype: str, use_bin_type: bool, nested: bool, key: Any) -> None:
        meta: Any = {key("obs"): {key("dtype"): dtype, key("shape"): [4]}}
        if nested:
            meta = msgpack.packb(meta)
        array = np.array([1.5, -2, 3e10, 0], np.float32)
        data = msgpack.packb({key("__meta__"): meta, key("obs"): array.tobytes()}, use_bin_type=use_bin_type)
        (lane,) = heard(server(CARTPOLE), data)
        np.testing.assert_array_equal(lane.observation["state"], array)

    def test_big_endian(self) -> None:
        (lane,) = heard(server(CARTPOLE), encode({"obs": np.arange(4, dtype=">f8")}))
        np.testing.assert_array_equal(CARTPOLE.check(lane.observation)["state"], np.arange(4))

    def test_a_prompt_as_numpy_writes_texts(self) -> None:
        spec = Spec({"state": Field((4,)), "prompt": Field((), "str"), "gain": Field(())}, Field((2,)))
        given = {"state": np.zeros(4), "prompt": np.array("put it down – 放下"), "gain": np.array(2.0)}
        (lane,) = heard(server(spec), encode(given))
        assert spec.check(lane.observation)["prompt"] == "put it down – 放下"
        assert spec.check(lane.observation)["gain"] == 2.0

    def test_nothing_that_is_known(self) -> None:
        assert heard(server(), encode({}))[0].observation == {}
        assert list(heard(server(), encode({"speed": np.zeros(3)}))[0].observation) == ["speed"]


class TestBatches:
    def test_one_axis_more_everywhere_is_a_batch(self) -> None:
        state = np.arange(42, dtype=np.float32).reshape(3, 14)
        image = np.arange(3 * 6 * 8 * 3, dtype=np.uint8).reshape(3, 6, 8, 3)
        lanes = heard(server(), encode({"state": state, "image": image, "speed": np.zeros(2), "task": np.array("go")}))
        assert len(lanes) == 3
        for index, lane in enumerate(lanes):
            np.testing.assert_array_equal(lane.observation["state"], state[index])
            np.testing.assert_array_equal(lane.observation["images.top"], image[index])
            assert lane.observation["task"] == "go" and len(lane.observation["speed"]) == 2

    def test_a_picture_is_no_batch_of_rows(self) -> None:
        spec = Spec({"images.top": IMAGE}, Field((2,)))
        assert len(heard(server(spec), encode({"obs": np.ones((6, 8, 3), np.uint8)}))) == 1

    @pytest.mark.parametrize("first", ["state", "image"])
    def test_one_axis_more_in_one_of_them_is_none(self, first: str) -> None:
        given = {"state": np.zeros((1, 14)), "image": np.zeros((6, 8, 3), np.uint8)}
        ordered = {first: given.pop(first), **given}
        (lane,) = heard(server(), encode(ordered))
        assert np.shape(lane.observation["state"]) == (1, 14)  # for the spec to refuse

    def test_rows_differ(self) -> None:
        with pytest.raises(RemoteProtocolError, match=r"state 3, images\.top 2"):
            heard(server(), encode({"state": np.zeros((3, 14)), "image": np.zeros((2, 6, 8, 3), np.uint8)}))

    @pytest.mark.parametrize("rows", [0, 257])
    def test_number_of_rows(self, rows: int) -> None:
        with pytest.raises(RemoteProtocolError, match="1 to 256"):
            heard(server(CARTPOLE), encode({"obs": np.zeros((rows, 4))}))

    def test_a_batch_of_one_is_answered_as_a_batch(self) -> None:
        half = server()
        heard(half, encode({"state": np.zeros((1, 14)), "image": np.zeros((1, 6, 8, 3), np.uint8)}))
        heard(half, encode({"state": np.zeros(14), "image": np.zeros((6, 8, 3), np.uint8)}))
        assert decode(half.send(Chunks((chunk(),))))[0].shape == (1, 14)
        assert decode(half.send(Chunks((chunk(),))))[0].shape == (14,)


def test_the_bytes_of_the_document() -> None:
    """docs/dialects/vibe.md shows a request in hexadecimal; the values are its own."""
    page = (Path(__file__).parent.parent.parent / "docs" / "dialects" / "vibe.md").read_text(encoding="utf-8")
    shown = re.search(r"^    82 .*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    values = np.arange(4, dtype="<f4")
    words = re.findall(r"\b[0-9a-f]{2}\b(?=[ \n])|<16 bytes>", re.sub(r"   +(map|bin|str) .*|   +bin: .*", "", shown[0]) + "\n")
    data = b"".join(values.tobytes() if word == "<16 bytes>" else bytes.fromhex(word) for word in words)
    assert data == encode({"obs": values})


class TestReplies:
    def test_one_action(self) -> None:
        half = server()
        heard(half, encode({"state": np.zeros(14)}))
        action, latency_ms = decode(half.send(Chunks((chunk(),), {"infer_ms": 1.0, "server_ms": 2.5})))
        np.testing.assert_array_equal(action, np.arange(14))
        assert action.dtype.str == "<f4" and latency_ms == 2.5

    def test_the_bytes(self) -> None:
        half = server(CARTPOLE)
        heard(half, encode({"obs": np.zeros(4)}))
        (frame,) = half.send(Chunks((ActionChunk(np.array([[1]])),), {"server_ms": 0.5}))
        assert bytes(frame.data) == (
            b"\x82\xc4\x06action\xc4\x04\x01\0\0\0\xc4\x08__meta__\x82\xc4\x06action\x82\xc4\x05dtype\xa3<i4\xc4\x05shape\x90"
            b"\xc4\x0alatency_ms\xcb\x3f\xe0\0\0\0\0\0\0"
        )
        assert not frame.text

    @pytest.mark.parametrize(("rows", "shape"), [(None, ()), (1, (1,)), (3, (3,))])
    def test_discrete(self, rows: int | None, shape: tuple[int, ...]) -> None:
        half = server(CARTPOLE)
        heard(half, encode({"obs": np.zeros(4 if rows is None else (rows, 4))}))
        action, _ = decode(half.send(Chunks((chunk(1, 1, "int64"),) * (rows or 1))))
        assert action.shape == shape and action.dtype.str == "<i4"

    def test_whole_chunks(self) -> None:
        half = server(chunk=True)
        heard(half, encode({"state": np.zeros(14)}))
        assert decode(half.send(Chunks((chunk(5),))))[0].shape == (5, 14)
        heard(half, encode({"state": np.zeros((2, 14))}))
        assert decode(half.send(Chunks((chunk(5), chunk(5)))))[0].shape == (2, 5, 14)
        discrete = server(CARTPOLE, chunk=True)
        heard(discrete, encode({"obs": np.zeros(4)}))
        assert decode(discrete.send(Chunks((chunk(5, 1, "int64"),))))[0].shape == (5,)

    def test_an_error_is_the_end(self) -> None:
        half = server()
        heard(half, encode({"state": np.zeros((2, 14))}))
        assert half.ended is None
        assert half.send(Failed(PolicyError("out of reach"))) == []
        assert str(half.ended) == "out of reach"

    def test_an_error_of_one_row_is_the_end_for_all(self) -> None:
        half = server()
        heard(half, encode({"state": np.zeros((2, 14))}))
        assert half.send(Chunks((chunk(), PolicyError("out of reach")))) == []
        assert str(half.ended) == "out of reach"


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (msgpack.packb([]), "expected a map, got a list"),
            (msgpack.packb({}), "expected a map '__meta__'"),
            (encode({}, __meta__=b"\xc1"), "differ"),
            (msgpack.packb({"__meta__": b"\xc1"}), "0xC1"),
            (msgpack.packb({"__meta__": [1]}), "got a list"),
            (msgpack.packb({"__meta__": {}, "obs": b""}), "raw bytes of an array, and"),
            (msgpack.packb({"__meta__": {"obs": {"dtype": "f4"}}, "obs": b""}), "raw bytes of an array, and"),
            (msgpack.packb({"__meta__": {"obs": {"dtype": "f4", "shape": [4]}}, "obs": [1, 2]}), "got a list"),
            (msgpack.packb({"__meta__": {"obs": {"dtype": "f4", "shape": [4]}}, "obs": b"1234"}), "'obs': f4 .* 16 bytes, got 4"),
            (msgpack.packb({"__meta__": {"obs": {"dtype": "O", "shape": [1]}}, "obs": b"12345678"}), "'obs': expected a dtype"),
            (msgpack.packb({"__meta__": {"obs": {"dtype": 4, "shape": [1]}}, "obs": b"1"}), "'obs': dtype: expected a text"),
            (msgpack.packb({"__meta__": {}, **{str(i): b"" for i in range(257)}}), "at most 256 arrays"),
            (msgpack.packb({"type": "hello"}), "expected a map '__meta__'"),
        ],
    )
    def test_by_the_server(self, data: bytes, says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            server().receive(Frame((data,)))

    def test_text(self) -> None:
        for half in (server(), client()):
            with pytest.raises(RemoteProtocolError, match="got text"):
                half.receive(Frame((b"hello",), text=True))

    def test_before_a_model_is_bound(self) -> None:
        with pytest.raises(RemoteProtocolError, match="no model"):
            vibe.Server(vibe.Config()).receive(Frame((encode({"obs": np.zeros(4)}),)))

    @pytest.mark.parametrize("half", ["server", "client"])
    def test_changed_frames_are_understood_or_refused(self, half: str) -> None:
        source = random.Random(11)
        up = encode({"state": np.zeros(14, np.float32), "image": np.zeros((6, 8, 3), np.uint8), "prompt": np.array("go")})
        asked = server()
        asked.receive(Frame((up,)))
        down = bytes(asked.send(Chunks((chunk(),), {"server_ms": 1.0}))[0].data)
        refused = 0
        for _ in range(5000):
            changed = bytearray(up if half == "server" else down)
            for _ in range(source.randint(1, 4)):
                changed[source.randrange(len(changed))] = source.randrange(256)
            try:
                (server() if half == "server" else client()).receive(Frame((bytes(changed),)))
            except RemoteProtocolError:
                refused += 1
        assert refused > 500


def client(spec: Spec = ARM) -> vibe.Client:
    """One that has asked at step 7 of episode 3."""
    made = vibe.Client(vibe.Config())
    made.prepare(spec)
    made.send(Infer((Lane(spec.zeros(), 7),), 3))
    return made


class TestClient:
    def test_it_writes_what_the_original_reads(self) -> None:
        half = vibe.Client(vibe.Config())
        half.prepare(ARM)
        state = np.arange(14, dtype=np.float32)
        image = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)[:, ::-1]
        (frame,) = half.send(Infer((Lane({"state": state, "images.top": image}, 0),), 0))
        message = msgpack.unpackb(bytes(frame.data), raw=True)
        assert message[b"__meta__"] == {
            b"state": {b"dtype": b"<f4", b"shape": [14]},
            b"image": {b"dtype": b"|u1", b"shape": [6, 8, 3]},
        }
        assert message[b"state"] == state.tobytes() and message[b"image"] == image.tobytes()

    def test_a_lone_value_is_obs(self) -> None:
        half = vibe.Client(vibe.Config())
        half.prepare(CARTPOLE)
        (frame,) = half.send(Infer((Lane({"state": np.zeros(4, np.float32)}, 0),), 0))
        assert sorted(msgpack.unpackb(bytes(frame.data), raw=True)) == [b"__meta__", b"obs"]

    @pytest.mark.parametrize(
        "spec", [TWO, Spec({"image": Field((3,)), "images.top": IMAGE, "prompt": Field((), "str")}, Field((2,)))]
    )
    def test_otherwise_the_spec_names_things(self, spec: Spec) -> None:
        half = vibe.Client(vibe.Config())
        half.prepare(spec)
        (frame,) = half.send(Infer((Lane(spec.zeros(), 0),), 0))
        names = [key.decode() for key in msgpack.unpackb(bytes(frame.data), raw=True)]
        assert names == [*spec.observation, "__meta__"]

    def answered(self, action: Any, spec: Spec = ARM, **meta: Any) -> ActionChunk:
        described = {b"action": {b"dtype": action.dtype.str, b"shape": list(action.shape)}, **meta}
        reply = self.read({b"action": action.tobytes(), b"__meta__": described}, spec)
        assert isinstance(reply, Chunks)
        (found,) = reply.results
        assert isinstance(found, ActionChunk) and (found.step, found.episode) == (7, 3)
        return found

    def read(self, message: dict[bytes, Any], spec: Spec = ARM) -> Reply:
        (reply,) = client(spec).receive(Frame((msgpack.packb(message),)))
        return reply

    @pytest.mark.parametrize(
        ("shape", "dtype", "spec", "rows"),
        [
            ((14,), "<f4", ARM, (1, 14)),
            ((5, 14), "<f8", ARM, (5, 14)),
            ((), "<i4", CARTPOLE, (1, 1)),
            ((5,), "<i4", CARTPOLE, (5, 1)),
            ((5, 1), "<i4", CARTPOLE, (5, 1)),
            ((1,), "<f4", Spec({"state": Field((3,))}, Field((1,))), (1, 1)),
        ],
    )
    def test_it_reads_every_shape(self, shape: tuple[int, ...], dtype: str, spec: Spec, rows: tuple[int, int]) -> None:
        assert self.answered(np.zeros(shape, dtype), spec).actions.shape == rows

    def test_timing(self) -> None:
        action = np.zeros(14, np.float32)
        described = {b"action": {b"dtype": "<f4", b"shape": [14]}, b"latency_ms": 3}
        reply = self.read({b"action": action.tobytes(), b"__meta__": described})
        assert isinstance(reply, Chunks) and reply.timing == {"server_ms": 3.0}

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            ({b"__meta__": {}}, "expected an 'action', got the keys: none.*openpi"),
            ({b"action": bytes(16), b"__meta__": {b"action": {b"dtype": "f4", b"shape": [2, 2, 1]}}}, "at most two axes"),
            ({b"action": bytes(4), b"__meta__": {b"action": {b"dtype": "<U1", b"shape": []}}}, "at most two axes"),
            (
                {b"action": bytes(4), b"__meta__": {b"action": {b"dtype": "f4", b"shape": [1]}, b"latency_ms": "now"}},
                "'latency_ms': expected a finite number",
            ),
            (
                {b"action": bytes(4), b"__meta__": {b"action": {b"dtype": "f4", b"shape": [1]}, b"latency_ms": float("nan")}},
                "expected a finite number",
            ),
        ],
    )
    def test_it_refuses(self, message: dict[bytes, Any], says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            self.read(message)

    def test_an_answer_to_nothing(self) -> None:
        half = client()
        data = msgpack.packb({b"action": bytes(4), b"__meta__": {b"action": {b"dtype": "f4", b"shape": [1]}}})
        half.receive(Frame((data,)))
        with pytest.raises(RemoteProtocolError, match="before anything was asked"):
            half.receive(Frame((data,)))

    def test_it_says_nothing_else(self) -> None:
        half = client()
        assert [half.send(event) for event in (Hello("token"), Ping(0.0), Reset(1), Bye())] == [[], [], [], []]
        assert half.reset_reconnects

    def test_misuse(self) -> None:
        half = vibe.Client(vibe.Config())
        half.prepare(None)
        with pytest.raises(LocalProtocolError, match="one must be given"):
            half.send(Infer((Lane({}),)))
        half.prepare(ARM)
        with pytest.raises(LocalProtocolError, match="expected one lane"):
            half.send(Infer((Lane({}), Lane({}))))
        with pytest.raises(LocalProtocolError, match="or a text"):
            half.send(Infer((Lane({"state": np.zeros(2, "c8")}),)))
        with pytest.raises(LocalProtocolError, match="at most 4096"):
            half.send(Infer((Lane({"state": "x" * 5000}),)))
