"""The codec of the native wire: exact, without copies, and refusing everything else."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from actlink.codecs import msgpack_arrays
from actlink.codecs.msgpack_arrays import DTYPES, MAX_ARRAYS, MAX_DEPTH, MAX_ENTRIES, MAX_HEADER_BYTES, decode, encode
from actlink.errors import LocalProtocolError, RemoteProtocolError

MALFORMED = Path(__file__).parent.parent / "data" / "native"


def wire(message: dict[str, Any]) -> bytes:
    return b"".join(encode(message))


def same(left: Any, right: Any) -> None:
    """Equal, with types, dtypes and shapes; NaN equals NaN."""
    assert type(left) is type(right), (left, right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            same(*pair)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    else:
        assert left == right or left != left


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that ``call`` held at once: the least of three runs, since the interpreter's own tables grow now and then."""
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


def test_a_message_without_arrays_is_plain_msgpack() -> None:
    message = {"type": "ping", "sent_s": 1.5, "list": [1, -1, None, True, "ü"]}
    assert wire(message) == msgpack.packb(message)
    same(decode(msgpack.packb(message)), message)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(name: str) -> None:
    for shape in [(), (3,), (2, 3), (0, 4), (1,) * 8]:
        array = np.arange(int(np.prod(shape))).reshape(shape).astype(name)
        (back,) = decode(wire({"a": array})).values()
        same(back, array)


def test_layout_of_a_frame() -> None:
    frame = wire({"a": np.array([1, 2], np.uint16), "b": np.array([7], np.uint8)})
    length = int.from_bytes(frame[4:8], "little")
    header = msgpack.unpackb(frame[8 : 8 + length])
    assert frame[:4] == b"\xc1\0\0\0"
    assert msgpack.unpackb(header["a"].data) == ["uint16", [2], 0, 4]
    assert msgpack.unpackb(header["b"].data) == ["uint8", [1], 16, 1]
    payload = (8 + length + 15) // 16 * 16
    assert frame[payload:] == b"\1\0\2\0" + bytes(12) + b"\7"


def test_arrays_are_views_on_the_received_bytes() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    received = bytearray(wire({"image": image, "state": np.zeros(3, np.float32)}))
    message = decode(received)
    assert not message["image"].flags.owndata and not message["image"].flags.writeable
    assert not message["state"].flags.writeable
    received[received.index(image.tobytes()) + 5] = 200
    assert message["image"].reshape(-1)[5] == 200


def test_large_arrays_are_not_copied_on_the_way_out() -> None:
    images = [np.zeros((2000, 1000, 3), np.uint8) for _ in range(3)]
    message = {"a": images[0], "state": np.zeros(14, np.float32), "b": images[1], "c": images[2]}
    assert peak_bytes(lambda: encode(message)) < images[0].nbytes
    parts = encode(message)
    assert all(any(np.shares_memory(np.frombuffer(part, np.uint8), image) for part in parts) for image in images)
    same(decode(b"".join(parts))["c"], images[2])


def test_large_arrays_are_not_copied_on_the_way_in() -> None:
    frame = wire({"a": np.zeros((480, 640, 3), np.uint8), "b": np.zeros(300_000, np.float32)})
    assert peak_bytes(lambda: decode(frame)) < 100_000
    assert decode(frame)["b"].shape == (300_000,)


@pytest.mark.parametrize("shift", range(1, 8))
def test_views_are_aligned_wherever_the_buffer_lies(shift: int) -> None:
    frame = wire({"a": np.array([1.5, 2.5]), "b": np.array([3], np.uint8)})
    moved = memoryview(bytearray(shift) + frame)[shift:]
    message = decode(moved)
    assert message["a"].flags.aligned and not message["a"].flags.writeable
    np.testing.assert_array_equal(message["a"], [1.5, 2.5])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.float32)[::-2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(5, dtype=">f4"),
        np.arange(5, dtype=">i8"),
        np.broadcast_to(np.float32(3), (4000, 3)),
        np.arange(30_000, dtype=np.float32).reshape(100, 300)[:, ::2],
    ],
)
def test_any_layout_arrives_in_c_order_and_little_endian(array: np.ndarray) -> None:
    back = decode(wire({"a": array}))["a"]
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous and back.dtype == array.dtype.newbyteorder("<")


def test_numpy_scalars_are_numbers() -> None:
    message = {"a": np.float32(1.5), "b": np.int64(-3), "c": np.bool_(True), "d": np.float64(0.1)}
    same(decode(wire(message)), {"a": 1.5, "b": -3, "c": True, "d": 0.1})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array([object()]), "expected an array of bool"),
        (np.array([1j]), "complex128"),
        (np.array(["a"]), "<U1"),
        (np.array([b"a"]), "S1"),
        (np.zeros(2, [("a", "f4")]), r"\('a'"),
        (np.array(["2020-01-01"], "M8[D]"), "datetime64"),
        (np.longdouble([1.0]), "float128|longdouble|float64|float96"),
        (np.zeros((1,) * 9, np.uint8), "8 dimensions"),
        (np.datetime64("2020-01-01"), "got a datetime64"),
        (object(), "got a object"),
        (1 << 70, "cannot be written"),
        ("\ud800", "cannot be written"),
        ({1, 2}, "got a set"),
        ("x" * 65537, "at most 65536 bytes"),
        ([0] * 1025, "at most 1024 entries"),
        ({"inner": tuple(range(1025))}, "at most 1024 entries"),
        ({str(i): i for i in range(1025)}, "at most 1024 entries"),
        (["x" * 60000] * 5, "at most 262144 bytes"),
        ([np.zeros(1, np.uint8)] * 1025, "at most 1024 entries"),
        ([[np.zeros(1, np.uint8)] * 1000] * 5, f"at most {MAX_ARRAYS} arrays"),
    ],
)
def test_what_cannot_travel_is_our_error(value: Any, says: str) -> None:
    with pytest.raises(LocalProtocolError, match=says):
        encode({"a": value})


def test_an_array_of_four_gibibytes_is_refused_before_it_is_written_out() -> None:
    with pytest.raises(LocalProtocolError, match="4294967295 bytes"):
        encode({"a": np.broadcast_to(np.uint8(0), (2**32,))})


def test_the_largest_messages_allowed() -> None:
    many = {"a": [[np.full(1, i, np.uint8) for i in range(100)] for _ in range(MAX_ARRAYS // 100)]}
    same(decode(wire(many)), many)
    long = {"a": list(range(MAX_ENTRIES)), "b": {str(i): i for i in range(MAX_ENTRIES)}, "c": "x" * 65536}
    same(decode(wire(long)), long)
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    same(decode(wire({"a": deep})), {"a": deep})
    with pytest.raises(RemoteProtocolError, match="16 levels"):
        decode(wire({"a": [deep]}))


def test_a_plain_message_over_the_header_limit() -> None:
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_HEADER_BYTES}"):
        decode(msgpack.packb({str(i): "x" * 60000 for i in range(5)}))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
portable = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(name, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.dictionaries(st.text(max_size=8), plain | portable | st.lists(portable, max_size=3), max_size=5))
def test_what_goes_in_comes_out(message: dict[str, Any]) -> None:
    same(decode(wire(message)), message)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x81\xa1a", b"\xc1\0\0\0", b"\xc1\0\0\0\x08\0\0\0\x81\xa1a\xd6\x01"]))
def test_garbage_is_refused_or_read(data: bytes, start: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert type(decode(start + data)) is dict


@pytest.mark.parametrize("path", sorted(MALFORMED.glob("bad_*.bin")), ids=lambda path: path.stem)
def test_malformed_frames_are_refused(path: Path) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(path.read_bytes())


def test_announcements_allocate_little() -> None:
    """A thousand nested lists of 1024 entries each are announced, and a map, a string and an array of 4 GiB."""
    bombs = [
        b"\x81\xa1a" + b"\xdc\x04\x00" * 1000,
        b"\x81\xa1a\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdb\xff\xff\xff\xff",
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
        msgpack.packb({"a": [[{} for _ in range(1000)] for _ in range(250)]}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["float64", [2**28], 0, 2**31]))}),
    ]
    for bomb in bombs:

        def refused(bomb: bytes = bomb) -> None:
            with pytest.raises(RemoteProtocolError):
                decode(bomb)

        assert peak_bytes(refused) < 10 * 2**20, bomb[:16]


def test_the_dtype_table_is_literal() -> None:
    assert set(msgpack_arrays.DTYPES) == {
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
    }
    assert all(not dtype.hasobject and dtype.itemsize <= 8 for dtype in msgpack_arrays.DTYPES.values())
