"""What we write: read by Python's own unpickler (these messages are ours, so it may), by us, and in the peers' spelling."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import sys
from collections import OrderedDict
from enum import Enum, IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.codecs.safe_pickle import Name, PickleDecodeError, Record, Tensor, decode, encode
from actlink.errors import LocalProtocolError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**127), 2**127 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**50), 2**50), inner, max_size=5)
    ),
    max_leaves=20,
)


def written(value: Any) -> bytes:
    return b"".join(encode(value))


@given(PLAIN)
def test_plain_values_are_read_by_python_and_by_us(value: Any) -> None:
    data = written(value)
    pickletools.dis(data, out=io.StringIO())
    assert repr(pickle.loads(data)) == repr(value) == repr(decode(data))


@pytest.mark.parametrize(
    "value",
    [
        *(0, 255, 256, 65535, 65536, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**127 - 1, -(2**127)),
        *(0.0, -0.0, float("inf"), 5e-324, "", "x" * 255, "x" * 256, "é" * 200, b"", b"x" * 255, b"x" * 256),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, [[], [{}]], {"a": {1: "b"}}),
        [f"text {number}" for number in range(400)] * 2,
        ["x" * 65] * 2,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_edges_come_back(value: Any) -> None:
    assert repr(pickle.loads(written(value))) == repr(value) == repr(decode(written(value)))


@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 4, 5)])
def test_arrays_of_every_dtype_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    value = (np.arange(np.prod(shape)) % 2).astype(dtype).reshape(shape)
    for array in (value, value.copy(order="F"), value.astype(value.dtype.newbyteorder(">"))):
        for back in (pickle.loads(written(array)), decode(written(array))):
            assert back.dtype == dtype and back.shape == shape and np.array_equal(back, value)


def test_arrays_that_are_not_contiguous_come_back() -> None:
    value = np.arange(24, dtype="f4").reshape(4, 6)
    for array in (value[::2, 1:], value.T, value[::-1]):
        assert np.array_equal(pickle.loads(written(array)), array) and np.array_equal(decode(written(array)), array)


def test_object_arrays_come_back_as_il_studio_sends_them() -> None:
    steps = []
    for step in range(3):
        lane = np.empty(2, object)
        lane[:] = [{"ctrl_space": "joint", "ctrl_type": "abs", "action": np.full(7, step, "f4"), "gripper_continuous": False}, None]
        steps.append(lane)
    for back in (pickle.loads(written(steps)), decode(written(steps))):
        assert type(back) is list and [lane.dtype for lane in back] == [np.dtype(object)] * 3
        assert back[2][0]["action"].dtype == np.float32 and back[2][0]["action"].tolist() == [2] * 7 and back[2][1] is None
    square = np.empty((2, 2), object)
    square[:] = [[1, "a"], [None, 2.5]]
    for array in (square, np.asfortranarray(square), square.T):
        assert pickle.loads(written(array)).tolist() == array.tolist() == decode(written(array)).tolist()


def test_the_spelling_is_the_one_every_numpy_reads() -> None:
    data = written({"a": np.zeros(3, "f4"), "b": np.zeros(3, "f4"), "c": np.array([None])})
    names = [arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)]
    assert names.count("numpy.core.multiarray") == 1 and "numpy._core.multiarray" not in names
    assert names.count("dtype") == 1 and names.count("f4") == 1
    assert max(code.proto for code, _, _ in pickletools.genops(data)) == 4


def test_numpy_scalars_are_plain_numbers() -> None:
    value = [np.float32(1.5), np.float64(2.5), np.float16(0.5), np.int64(-3), np.uint8(7), np.bool_(True), np.str_("a")]
    back = pickle.loads(written(value))
    assert back == [1.5, 2.5, 0.5, -3, 7, True, "a"]
    assert [type(item) for item in back] == [float, float, float, int, int, bool, str]


def test_kinds_that_are_like_plain_ones_are_written_as_these() -> None:
    class Level(IntEnum):
        HIGH = 3

    class Text(str, Enum):
        A = "letter"

    value = [OrderedDict(b=1, a=2), Level.HIGH, Text.A, bytearray(b"ab"), memoryview(b"cd"), memoryview(np.zeros(2, "u2"))]
    assert pickle.loads(written(value)) == [{"b": 1, "a": 2}, 3, "letter", b"ab", b"cd", bytes(4)]


def test_records_become_the_peers_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("peer.helpers")
    module.Timed = type("Timed", (), {"__module__": "peer.helpers"})  # type: ignore[attr-defined]
    module.Kind = Enum("Kind", {"STATE": "state"}, module="peer.helpers")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peer", ModuleType("peer"))
    monkeypatch.setitem(sys.modules, "peer.helpers", module)
    value = [
        Record("peer.helpers", "Timed", state={"timestep": 3, "action": np.ones(2)}),
        Record("peer.helpers", "Timed", state={}),
        Record("peer.helpers", "Timed"),
        Record("peer.helpers", "Kind", ("state",)),
        Name("peer.helpers", "Timed"),
    ]
    first, second, third, kind, cls = pickle.loads(written(value))
    assert type(first) is module.Timed and first.timestep == 3 and first.action.tolist() == [1, 1]
    assert vars(second) == vars(third) == {} and kind is module.Kind.STATE and cls is module.Timed
    back = decode(written(value))
    assert [(record.name, record.args) for record in back[:4]] == [
        ("Timed", ()),
        ("Timed", ()),
        ("Timed", ()),
        ("Kind", ("state",)),
    ]
    assert back[0].state["timestep"] == 3 and back[1].state == {} and back[2].state is None and back[4] == value[4]


def test_large_payloads_are_views_between_frames() -> None:
    image = np.arange(480 * 640 * 3, dtype=np.uint32).astype(np.uint8).reshape(480, 640, 3)
    parts = encode({"before": 1, "image": image, "raw": b"x" * 70_000, "after": 2})
    views = [part for part in parts if isinstance(part, memoryview)]
    assert [len(view) for view in views] == [image.nbytes, 70_000]
    assert np.shares_memory(np.frombuffer(views[0], np.uint8), image)
    assert np.array_equal(pickle.loads(b"".join(parts))["image"], image)
    position, outside = 2, b""
    data = b"".join(parts)
    while position < len(data):
        if data[position] == 0x95:
            position += 9 + struct.unpack_from("<Q", data, position + 1)[0]
        else:
            length = struct.unpack_from("<I", data, position + 1)[0]
            outside += data[position : position + 1]
            position += 5 + length
    assert outside == b"BB" and position == len(data), "everything but the two payloads stands in a frame"


def test_payloads_below_64_kib_are_copied_into_the_frame() -> None:
    parts = encode(np.zeros(1000, "f8"))
    assert not any(isinstance(part, memoryview) for part in parts) and decode(b"".join(parts)).shape == (1000,)


def test_a_message_too_short_for_a_frame_has_none() -> None:
    assert written(None) == b"\x80\x04N." and written([]) == b"\x80\x04]."


def test_more_names_than_one_byte_can_number() -> None:
    value = [Name(f"module{number}", "f") for number in range(200)] * 2
    assert decode(written(value)) == value


class Endless(list):
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "object cannot be written as a pickle"),
        ({1, 2}, "set cannot be written"),
        (1j, "complex cannot be written"),
        (2**127, "an int of 17 bytes"),
        ({None: 1}, "dict keys written as a pickle are str or int, not NoneType"),
        ({True: 1}, "not bool"),
        ({(1,): 1}, "not tuple"),
        ("\ud800", "lone surrogates"),
        (np.array(["a"]), "an array of dtype <U1 cannot be written"),
        (np.array([1j]), "an array of dtype complex128 cannot be written"),
        (np.datetime64("2024-01-01"), "datetime64 cannot be written"),
        ([object()], "object cannot be written"),
        (Record("a", "b", state=object()), "object cannot be written"),
    ],
)
def test_what_cannot_be_written_is_our_error(value: object, why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        encode(value)


def test_values_without_end_are_our_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = None
    for _ in range(70):
        deep = (deep,)
    for value in (endless, deep):
        with pytest.raises(LocalProtocolError, match="nested deeper than 64"):
            encode(value)


def test_what_is_written_may_be_as_deep_as_what_is_read() -> None:
    deep: Any = None
    for _ in range(64):
        deep = [deep]
    assert decode(written(deep)) == deep
    with pytest.raises(PickleDecodeError, match="nested deeper"):
        decode(pickle.dumps([deep]))


def test_tensors_stand_where_values_stand() -> None:
    value = {"rows": [Tensor(row) for row in np.eye(3, dtype="f4")], "state": np.zeros(2)}
    back = decode(written(value))
    assert [row.tolist() for row in back["rows"]] == np.eye(3).tolist() and back["state"].tolist() == [0, 0]
