"""The openpi wire, frame by frame: as its client writes it, and as our client finds its servers."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from actlink import address
from actlink.codecs import msgpack_numpy
from actlink.dialects import openpi
from actlink.dialects._base import Bye, Chunks, Failed, Frame, Hello, Infer, Lane, Ping, Reply, Reset, Welcome
from actlink.errors import ActlinkError, ConfigError, LocalProtocolError, PolicyError, RemoteProtocolError, SpecError
from actlink.spec import Field, Spec
from actlink.testing.dialects import SPEC, check_dialect
from actlink.transports._wire import wire_of
from actlink.types import ActionChunk

IMAGE = Field((6, 8, 3), "uint8")
ALOHA = Spec(
    {
        "state": Field((14,)),
        "images.cam_high": IMAGE,
        "images.cam_low": Field((None, None, 3), "uint8"),
        "prompt": Field((), "str", required=False),
    },
    Field((14,)),
    action_horizon=50,
)
LIBERO = Spec(
    {"state": Field((8,)), "images.image": IMAGE, "images.wrist_image": IMAGE, "prompt": Field((), "str")},
    Field((7,)),
    action_horizon=10,
)
DROID = Spec(
    {
        "images.exterior_image_1_left": IMAGE,
        "joint_position": Field((7,)),
        "gripper_position": Field((1,)),
        "prompt": Field((), "str"),
    },
    Field((8,)),
    action_horizon=10,
)
PICTURE = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)


def pack_array(value: Any) -> Any:
    """As openpi's own packer writes them."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def packed(message: Any) -> Frame:
    return Frame((msgpack.packb(message, default=pack_array),))


def server(spec: Spec = ALOHA, **options: Any) -> openpi.Server:
    made = openpi.Server(openpi.Config(**options))
    made.send(Welcome("s", spec))
    return made


def heard(half: openpi.Server, message: Any) -> Lane:
    (event,) = half.receive(packed(message))
    assert isinstance(event, Infer) and event.call is None
    (lane,) = event.lanes
    return lane


def chunk(rows: int = 50, dim: int = 14) -> ActionChunk:
    return ActionChunk(np.arange(rows * dim, dtype=np.float32).reshape(rows, dim))


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (openpi.Config(), ALOHA),
        (openpi.Config(), Spec({"state": Field((4,))}, Field((1,), "int64"))),
        (openpi.Config(keys="slash"), LIBERO),
        (openpi.Config(keys="nested", channels_first=True), SPEC),
        (openpi.Config(keep_open=True), DROID),
    ],
)
def test_conformance(config: openpi.Config, spec: Spec) -> None:
    check_dialect(openpi, config=config, spec=spec)


def test_the_options_in_an_address() -> None:
    wire = wire_of(address.parse("openpi+ws://127.0.0.1?keys=nested&channels_first=true&reset_pose=0,-1.5,1"))
    assert wire.address.port == 8000
    assert wire.dialect_config == openpi.Config(keys="nested", channels_first=True, reset_pose=(0.0, -1.5, 1.0))
    with pytest.raises(ConfigError, match="keys: expected one of dot, slash, nested, got 'flat'"):
        wire_of(address.parse("openpi+ws://127.0.0.1?keys=flat"))


class TestGreeting:
    def test_the_server_speaks_first(self) -> None:
        half = openpi.Server(openpi.Config(reset_pose=(0, -1.5)))
        (frame,) = half.send(Welcome("s", ALOHA, episode=2, server="actlink 1", deterministic=True))
        assert not frame.text
        metadata = msgpack.unpackb(bytes(frame.data))
        assert metadata["reset_pose"] == [0, -1.5]
        own = metadata.pop("actlink")
        assert own == {"server": "actlink 1", "session": "s", "episode": 2, "deterministic": True, "spec": own["spec"]}
        assert Spec.from_dict(own["spec"]) == ALOHA

    def test_our_client_learns_the_spec(self) -> None:
        half = openpi.Client(openpi.Config())
        half.prepare(None)
        (frame,) = openpi.Server(openpi.Config()).send(Welcome("s", ALOHA, episode=2, deterministic=True))
        (welcome,) = half.receive(Frame((bytes(frame.data),)))
        assert isinstance(welcome, Welcome)
        assert (welcome.session, welcome.spec, welcome.episode, welcome.deterministic) == ("s", ALOHA, 2, True)
        assert not half.reset_reconnects

    @pytest.mark.parametrize("metadata", [{}, {"reset_pose": [0, 1.5]}, {"server_name": "x", "action_dim": 7}, None, [1], "x"])
    def test_other_servers_leave_it_to_the_user(self, metadata: Any) -> None:
        names = set()
        for _ in range(2):
            half = openpi.Client(openpi.Config())
            half.prepare(ALOHA)
            (welcome,) = half.receive(packed(metadata))
            assert isinstance(welcome, Welcome) and welcome.spec is ALOHA and half.reset_reconnects
            names.add(welcome.session)
        assert len(names) == 2  # nothing is resumed here
        half = openpi.Client(openpi.Config())
        half.prepare(None)
        with pytest.raises(RemoteProtocolError, match="--spec FILE or --like POLICY"):
            half.receive(packed(metadata))

    @pytest.mark.parametrize(
        "own", [None, [], {}, {"session": "s"}, {"session": 1, "spec": {}}, {"session": "s", "spec": {"action": 1}}]
    )
    def test_a_greeting_that_is_wrong(self, own: Any) -> None:
        half = openpi.Client(openpi.Config())
        with pytest.raises(RemoteProtocolError, match=r"metadata|welcome\.spec"):
            half.receive(packed({"actlink": own}))

    def test_turned_away_instead(self) -> None:
        half = openpi.Client(openpi.Config())
        (reply,) = half.receive(Frame((b"unauthorized: this server asks for a token",), text=True))
        assert isinstance(reply, Failed) and reply.error.code == "unauthorized" and reply.fatal
        with pytest.raises(RemoteProtocolError, match="does not speak the openpi wire"):
            openpi.Client(openpi.Config()).receive(Frame((b'{"type": "hello"}',), text=True))


class TestRequests:
    def test_aloha(self) -> None:
        channels_first = PICTURE.transpose(2, 0, 1)
        images = {"cam_high": channels_first, "cam_low": channels_first}
        lane = heard(server(), {"state": np.arange(14.0), "images": images, "prompt": "go"})
        assert lane.step is None
        checked = ALOHA.check(lane.observation)
        np.testing.assert_array_equal(checked["images.cam_high"], PICTURE)
        np.testing.assert_array_equal(checked["images.cam_low"], PICTURE)
        np.testing.assert_array_equal(checked["state"], np.arange(14, dtype=np.float32))
        assert checked["prompt"] == "go"

    def test_libero(self) -> None:
        message = {
            "observation/image": PICTURE,
            "observation/wrist_image": PICTURE,
            "observation/state": np.zeros(8),
            "prompt": b"go",
        }
        checked = LIBERO.check(heard(server(LIBERO), message).observation)
        assert sorted(checked) == sorted(LIBERO.observation) and checked["prompt"] == "go"

    @pytest.mark.parametrize("gripper", [0.5, np.float32(0.5), np.array(0.5), np.array([0.5])])
    def test_droid(self, gripper: Any) -> None:
        message = {
            "observation/exterior_image_1_left": PICTURE,
            "observation/wrist_image_left": PICTURE,
            "observation/joint_position": np.zeros(7),
            "observation/gripper_position": gripper,
            "prompt": "go",
        }
        lane = heard(server(DROID), message)
        assert DROID.check(lane.observation)["gripper_position"] == np.array([0.5])
        assert DROID.unknown(lane.observation) == {"observation/wrist_image_left"}

    def test_lerobot_names(self) -> None:
        names = {"observation.state": np.zeros(14), "observation.images.cam_high": PICTURE, "images/cam_low": PICTURE}
        assert sorted(ALOHA.check(heard(server(), names).observation)) == ["images.cam_high", "images.cam_low", "state"]

    def test_image_is_the_only_camera(self) -> None:
        spec = Spec({"images.top": IMAGE, "count": Field((), "int64")}, Field((2,)))
        checked = spec.check(heard(server(spec), {"observation/image": PICTURE, "count": 3}).observation)
        np.testing.assert_array_equal(checked["images.top"], PICTURE)
        assert checked["count"] == 3

    def test_the_specs_own_names_win(self) -> None:
        spec = Spec({"observation/image": IMAGE, "images.image": IMAGE}, Field((2,)))
        lane = heard(server(spec), {"observation/image": PICTURE, "image": PICTURE[::-1]})
        np.testing.assert_array_equal(lane.observation["observation/image"], PICTURE)
        np.testing.assert_array_equal(lane.observation["images.image"], PICTURE[::-1])

    def test_two_names_of_one_thing(self) -> None:
        with pytest.raises(RemoteProtocolError, match="mean the same here, send one of them: state, observation/state"):
            heard(server(), {"state": np.zeros(14), "observation/state": np.zeros(14)})

    def test_a_square_image_is_height_width_channels(self) -> None:
        spec = Spec({"images.top": Field((3, 3, 3), "uint8")}, Field((2,)))
        picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        np.testing.assert_array_equal(heard(server(spec), {"image": picture}).observation["images.top"], picture)

    @pytest.mark.parametrize("value", [np.zeros((3, 9, 8), np.uint8), np.zeros((6, 8), np.uint8), np.zeros((1, 6, 8, 3), np.uint8)])
    def test_another_size_is_left_for_the_spec_to_refuse(self, value: Any) -> None:
        lane = heard(server(), {"state": np.zeros(14), "images": {"cam_high": value, "cam_low": PICTURE}})
        with pytest.raises(SpecError, match=r"images\.cam_high.*expected shape \(6, 8, 3\)"):
            ALOHA.check(lane.observation)

    def test_default_prompt(self) -> None:
        half = server(LIBERO, default_prompt="stack them")
        assert heard(half, {"state": np.zeros(8)}).observation["prompt"] == "stack them"
        assert heard(half, {"state": np.zeros(8), "prompt": "go"}).observation["prompt"] == "go"
        assert "prompt" not in heard(server(Spec({"state": Field((8,))}, Field((1,))), default_prompt="x"), {}).observation

    def test_lists_are_left_to_the_spec(self) -> None:
        spec = Spec({"state": Field((2,))}, Field((2,)))
        np.testing.assert_array_equal(spec.check(heard(server(spec), {"state": [1, 2.5]}).observation)["state"], [1, 2.5])
        for bad in ([1, [2]], [None, 1], "12", None, [{}, {}], [b"1", b"2"], [2**70, 1][1:] * 3):
            with pytest.raises(SpecError):
                spec.check(heard(server(spec), {"state": bad}).observation)

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            ([1], "expected a map, got a list"),
            ({"state": b"12"}, "expected an array, got bytes"),
            ({"state": {b"__ndarray__": True, b"data": bytes(8), b"dtype": "|O", b"shape": [1]}}, "expected a dtype"),
            ({"prompt": b"\xff"}, "expected a text"),
            ({"actlink": 1}, "expected a map"),
            ({"actlink": {"step": -1}}, "'step'"),
            ({"actlink": {"budget_ms": -1}}, "'budget_ms'"),
            ({"actlink": {"prefix": [1]}}, "'prefix'"),
            ({"actlink": {"episode": "1"}}, "'episode'"),
            ({1: 2}, "a key that is a text"),
        ],
    )
    def test_refused(self, message: Any, says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            server().receive(packed(message))

    def test_text(self) -> None:
        with pytest.raises(RemoteProtocolError, match="got text"):
            server().receive(Frame((b"x",), text=True))

    def test_before_a_model_is_bound(self) -> None:
        with pytest.raises(RemoteProtocolError, match="no model"):
            openpi.Server(openpi.Config()).receive(packed({}))

    @pytest.mark.parametrize("half", ["server", "client"])
    def test_changed_frames_are_understood_or_refused(self, half: str) -> None:
        source = random.Random(12)
        up = packed({"state": np.zeros(14), "images": {"cam_high": PICTURE}, "prompt": "go", "actlink": {"step": 3}}).data
        down = bytes(server().send(Chunks((chunk(2),), {"server_ms": 1.0}))[0].data)
        refused = 0
        for _ in range(5000):
            changed = bytearray(up if half == "server" else down)
            for _ in range(source.randint(1, 4)):
                changed[source.randrange(len(changed))] = source.randrange(256)
            try:
                (server() if half == "server" else client()).receive(Frame((bytes(changed),), text=source.random() < 0.1))
            except RemoteProtocolError:
                refused += 1
        assert refused > 500


def test_the_bytes_of_the_document() -> None:
    """docs/dialects/openpi.md shows an array in hexadecimal."""
    page = (Path(__file__).parent.parent.parent / "docs" / "dialects" / "openpi.md").read_text(encoding="utf-8")
    shown = re.search(r"^    84 .*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    array = np.arange(700, dtype=np.float32).reshape(50, 14)
    words = re.findall(r"\b[0-9a-f]{2}\b(?=[ \n])|<2800 bytes>", re.sub(r"   +(map|bin) .*", "", shown[0]) + "\n")
    data = b"".join(array.tobytes() if word == "<2800 bytes>" else bytes.fromhex(word) for word in words)
    assert data == b"".join(msgpack_numpy.write(array)) == packed(array).data


class TestReplies:
    def test_actions_and_timing(self) -> None:
        half = server()
        told = []
        for server_ms in (8.0, 9.0):
            (frame,) = half.send(Chunks((chunk(),), {"decode_ms": 0.5, "infer_ms": 7.0, "server_ms": server_ms}))
            found = msgpack_numpy.read(bytes(frame.data))
            np.testing.assert_array_equal(found["actions"], chunk().actions)
            assert list(found) == ["actions", "server_timing"]
            told.append(found["server_timing"])
        assert told == [
            {"decode_ms": 0.5, "infer_ms": 7.0, "server_ms": 8.0},
            {"decode_ms": 0.5, "infer_ms": 7.0, "server_ms": 9.0, "prev_total_ms": 8.0},
        ]

    def test_infer_ms_is_always_there(self) -> None:
        (frame,) = server().send(Chunks((chunk(),)))
        assert msgpack_numpy.read(bytes(frame.data))["server_timing"] == {"infer_ms": 0.0}

    def test_an_error_is_a_text_and_the_end(self) -> None:
        for reply in (Failed(PolicyError("out of reach")), Chunks((PolicyError("out of reach"),))):
            half = server()
            (frame,) = half.send(reply)
            assert frame.text and frame.data == b"policy: out of reach"
            assert str(half.ended) == "out of reach"
        assert openpi.Server.close_code == 1011

    def test_the_connection_may_be_kept(self) -> None:
        half = server(keep_open=True)
        assert half.send(Failed(PolicyError("out of reach")))[0].text
        assert half.ended is None
        half.send(Failed(PolicyError("out of reach"), fatal=True))
        assert half.ended is not None


def client(spec: Spec = ALOHA, metadata: Any = None, **options: Any) -> openpi.Client:
    """One that has asked at step 7 of episode 3."""
    made = openpi.Client(openpi.Config(**options))
    made.prepare(spec)
    made.receive(packed({} if metadata is None else metadata))
    made.send(Infer((Lane(spec.zeros(), 7),), 3))
    return made


def sent(spec: Spec, observation: dict[str, Any], **options: Any) -> Any:
    made = openpi.Client(openpi.Config(**options))
    made.prepare(spec)
    made.receive(packed({}))
    (frame,) = made.send(Infer((Lane(observation, 7),), 3))
    return msgpack_numpy.read(bytes(frame.data))


class TestClient:
    def test_keys(self) -> None:
        given = {"state": np.zeros(8, np.float32), "images.image": PICTURE, "images.wrist_image": PICTURE, "prompt": "go"}
        assert list(sent(LIBERO, given)) == list(given)
        assert list(sent(LIBERO, given, keys="slash")) == [
            "observation/state",
            "observation/image",
            "observation/wrist_image",
            "prompt",
        ]
        nested = sent(LIBERO, given, keys="nested")
        assert list(nested) == ["state", "images", "prompt"] and list(nested["images"]) == ["image", "wrist_image"]

    def test_channels_first(self) -> None:
        found = sent(LIBERO, {"images.image": PICTURE, "state": np.zeros(8, np.float32)}, channels_first=True)
        np.testing.assert_array_equal(found["images.image"], PICTURE.transpose(2, 0, 1))

    def test_our_own_servers_hear_more(self) -> None:
        half = openpi.Client(openpi.Config())
        other = openpi.Server(openpi.Config())
        (frame,) = other.send(Welcome("s", ALOHA))
        half.receive(Frame((bytes(frame.data),)))
        prefix = np.ones((3, 14), np.float32)
        (frame,) = half.send(Infer((Lane(ALOHA.zeros(), 7, prefix, 2),), 3, 250.0))
        (event,) = other.receive(Frame((bytes(frame.data),)))
        assert isinstance(event, Infer)
        (lane,) = event.lanes
        assert (event.episode, event.budget_ms, lane.step, lane.inference_delay) == (3, 250.0, 7, 2)
        np.testing.assert_array_equal(lane.prefix, prefix)
        assert sorted(lane.observation) == sorted(ALOHA.observation)

    @pytest.mark.parametrize(("shape", "rows"), [((10, 14), 10), ((14,), 1)])
    def test_actions(self, shape: tuple[int, ...], rows: int) -> None:
        message = {
            "actions": np.ones(shape),
            "state": np.zeros(14),
            "server_timing": {"infer_ms": 3, "prev_total_ms": 4.5, "odd": 1.0, "text_ms": "x", "nan_ms": float("nan")},
        }
        (reply,) = client().receive(packed(message))
        assert isinstance(reply, Chunks) and reply.timing == {"infer_ms": 3.0, "prev_total_ms": 4.5}
        (found,) = reply.results
        assert isinstance(found, ActionChunk) and (found.step, found.episode) == (7, 3)
        assert found.actions.shape == (rows, 14)

    @pytest.mark.parametrize("message", [{}, {"actions": 1}, {"actions": [[1.0]]}, {"actions": np.zeros((2, 2, 2))}, [], None])
    def test_no_actions(self, message: Any) -> None:
        with pytest.raises(RemoteProtocolError, match="expected a map with 'actions'"):
            client().receive(packed(message))

    @pytest.mark.parametrize(
        ("text", "kind", "says"),
        [
            (b"spec: observation: too short", SpecError, "observation: too short"),
            (
                b"Traceback (most recent call last):\n  File ...\nValueError: no such camera\n",
                PolicyError,
                "the server says: ValueError: no",
            ),
            (b"", PolicyError, "an error"),
            (b"\xff\xfe", PolicyError, "the server says"),
            (b"x" * 200_000, PolicyError, "the server says: x"),
        ],
    )
    def test_errors(self, text: bytes, kind: type[ActlinkError], says: str) -> None:
        half = client()
        reply: Reply
        (reply,) = half.receive(Frame((text,), text=True))
        assert isinstance(reply, Failed) and type(reply.error) is kind and says in str(reply.error)
        assert not reply.fatal

    def test_an_answer_to_nothing(self) -> None:
        half = client()
        half.receive(packed({"actions": np.zeros((1, 14))}))
        with pytest.raises(RemoteProtocolError, match="before anything was asked"):
            half.receive(packed({"actions": np.zeros((1, 14))}))

    def test_it_says_nothing_else(self) -> None:
        half = client()
        assert [half.send(event) for event in (Hello("token"), Ping(0.0), Reset(1), Bye())] == [[], [], [], []]

    def test_misuse(self) -> None:
        half = openpi.Client(openpi.Config())
        with pytest.raises(LocalProtocolError, match="greeting"):
            half.send(Infer((Lane({}),)))
        with pytest.raises(LocalProtocolError, match="expected one lane"):
            client().send(Infer((Lane({}), Lane({}))))
