"""msgpack read without copying, dtypes by name, and openpi's arrays: against the real packers, and against everything else."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink.codecs import array_dtypes, msgpack_numpy, msgpack_views
from actlink.errors import LocalProtocolError, RemoteProtocolError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=20), inner, max_size=20),
    max_leaves=30,
)


def copied(value: Any) -> Any:
    """``value`` with views as bytes."""
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [copied(each) for each in value]
    return bytes(value) if isinstance(value, memoryview) else value


class TestRead:
    @settings(max_examples=200, deadline=None)
    @given(PLAIN)
    def test_what_msgpack_packs_is_read(self, value: Any) -> None:
        assert copied(msgpack_views.read(msgpack.packb(value))) == value

    @pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
    def test_every_length(self, size: int) -> None:
        for value in ("x" * min(size, 65536), b"x" * size, [0] * min(size, 16000), {str(i): i for i in range(min(size, 8000))}):
            assert copied(msgpack_views.read(msgpack.packb(value))) == value

    def test_single_floats_are_read(self) -> None:
        assert msgpack_views.read(msgpack.packb(1.5, use_single_float=True)) == 1.5

    def test_long_values_are_views_on_the_message(self) -> None:
        message = bytearray(msgpack.packb({"a": b"0123456789"}))
        view = msgpack_views.read(message)["a"]
        message[-1:] = b"X"
        assert bytes(view) == b"012345678X"
        assert view.readonly

    def test_raw_strings_are_views_and_keys_are_texts(self) -> None:
        packed = msgpack.packb({b"a": "text", "b": b"\xff"}, use_bin_type=False)
        assert copied(msgpack_views.read(packed, raw=True)) == {"a": b"text", "b": b"\xff"}

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "expected 1 bytes"),
            (b"\x01\x01", "1 bytes more"),
            (b"\xc1", "0xC1"),
            (msgpack.packb(msgpack.ExtType(1, b"x")), "plain msgpack"),
            (b"\xc6\xff\xff\xff\xff", "expected 4294967295 bytes"),
            (b"\xdd\xff\xff\xff\xff", "at most 16384 values"),
            (b"\xdf\xff\xff\xff\xff", "at most 16384 values"),
            (b"\x91" * 100 + b"\x00", "levels deep"),
            (b"\xdc\x20\x00" + b"\xdc\x20\x00" * 8192, "at most 16384 values"),
            (b"\xa1\xff", "UTF-8"),
            (msgpack.packb({1: 2}), "a key that is a text"),
            (msgpack.packb({"k" * 300: 2}), "a key that is a text"),
            (b"\x81\xc4\x01\xff\x00", "UTF-8"),
            (b"\x82\xa1a\x00\xa1a\x01", "differ"),
            (b"\x82\xa1a\x00\xc4\x01a\x01", "differ"),
            (msgpack.packb("x" * 70_000), "at most 65536"),
        ],
    )
    def test_everything_else_is_refused(self, data: bytes, says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            msgpack_views.read(data)

    def test_a_cut_message_is_refused_wherever_it_is_cut(self) -> None:
        data = msgpack.packb({"a": [1, -5, 2.5, None, "text", b"bytes" * 60], "b": {"c": 70_000}})
        for length in range(len(data)):
            with pytest.raises(RemoteProtocolError):
                msgpack_views.read(data[:length])

    def test_changed_messages_are_read_or_refused(self) -> None:
        source = random.Random(7)
        data = msgpack.packb({"a": [1, -5, 2.5, None, "text", b"bytes"], "b": {"c": 70_000}})
        refused = 0
        for _ in range(20_000):
            changed = bytearray(data)
            for _ in range(source.randint(1, 4)):
                changed[source.randrange(len(changed))] = source.randrange(256)
            try:
                msgpack_views.read(changed)
            except RemoteProtocolError:
                refused += 1
        assert 1000 < refused < 20_000

    def test_text(self) -> None:
        assert msgpack_views.text("a", "here") == msgpack_views.text(memoryview(b"a"), "here") == "a"
        for value in (None, 1, memoryview(b"\xff"), memoryview(bytes(70_000))):
            with pytest.raises(RemoteProtocolError, match="here: expected a text"):
                msgpack_views.text(value, "here")


class TestWriter:
    def test_long_values_are_parts_of_their_own(self) -> None:
        array = np.arange(10_000, dtype=np.uint8)
        writer = msgpack_views.Writer()
        writer.begin_map(2)
        for key in ("a", "b"):
            writer.plain(key)
            writer.bin(array.data)
        parts = writer.parts()
        assert len(parts) == 4
        assert msgpack.unpackb(b"".join(parts)) == {"a": array.tobytes(), "b": array.tobytes()}

    @pytest.mark.parametrize("size", [0, 255, 256, 8191, 8192, 65535, 65536])
    def test_every_length(self, size: int) -> None:
        writer = msgpack_views.Writer()
        writer.begin_list(2)
        writer.bin(memoryview(bytes(size)))
        writer.plain(None)
        assert msgpack.unpackb(b"".join(writer.parts())) == [bytes(size), None]

    @pytest.mark.parametrize("value", [object(), {1, 2}, 2**70])
    def test_what_msgpack_cannot_say(self, value: Any) -> None:
        writer = msgpack_views.Writer()
        with pytest.raises(LocalProtocolError, match="cannot be written"):
            writer.plain(value)
        writer.plain(1)
        assert writer.parts() == (b"\x01",)


class TestDtypes:
    @pytest.mark.parametrize("name", sorted(array_dtypes.DTYPES))
    def test_every_spelling_means_what_numpy_says(self, name: str) -> None:
        known = array_dtypes.DTYPES[name]
        if name in ("bool8", "float_"):
            return  # numpy has had them, and has them no more
        if name.strip("<>=|") in ("l", "L", "long", "ulong", "int", "int_", "uint", "intp", "uintp", "p", "P", "q", "Q") and (
            np.dtype(name).itemsize != 8
        ):
            pytest.skip("numpy means another size by it on this machine")
        assert np.dtype(name) == known

    @pytest.mark.parametrize(
        "name",
        [
            "O",
            "|O",
            "object",
            "V8",
            "|V8",
            "f8,O",
            "S0",
            "V0",
            "U0",
            "<U",
            "c8",
            "<c16",
            "complex",
            "M8[s]",
            "g",
            "f16",
            "",
            "(2,)f4",
        ],
    )
    def test_no_other_text_becomes_a_dtype(self, name: str) -> None:
        with pytest.raises(RemoteProtocolError, match="here: expected a dtype"):
            array_dtypes.array(memoryview(bytes(8)), name, [1], "here")

    @pytest.mark.parametrize(
        ("size", "shape", "says"),
        [
            (8, [1], "4 bytes, got 8"),
            (0, [1], "4 bytes, got 0"),
            (4, [-1], "whole numbers from 0"),
            (4, [True], "whole numbers"),
            (4, [1.0], "whole numbers"),
            (4, ["1"], "whole numbers"),
            (4, [1] * 9, "at most 8"),
            (0, [2**32, 0], "whole numbers"),
            (0, [2**31, 2**31, 0], "at most"),
            (4, [2**31, 2**31, 2**31], "at most"),
        ],
    )
    def test_an_array_has_the_bytes_of_its_shape(self, size: int, shape: list[Any], says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            array_dtypes.array(memoryview(bytes(size)), "f4", shape, "here")

    def test_arrays_are_views_where_alignment_allows(self) -> None:
        data = bytearray(65)
        start = -np.frombuffer(data, np.uint8).ctypes.data % 8
        view = array_dtypes.array(memoryview(data)[start : start + 8], "f4", [2], "")
        moved = array_dtypes.array(memoryview(data)[start + 1 : start + 9], "f4", [2], "")
        assert isinstance(view, np.ndarray) and isinstance(moved, np.ndarray)
        data[start] = data[start + 1] = 255
        assert view[0] != 0 and moved[0] == 0
        assert moved.flags.aligned and not view.flags.writeable and not moved.flags.writeable

    def test_empty_arrays_keep_their_shape(self) -> None:
        empty = array_dtypes.array(memoryview(b""), "u1", [2, 0, 3], "")
        assert isinstance(empty, np.ndarray) and empty.shape == (2, 0, 3)

    def test_bools_are_bools(self) -> None:
        with pytest.raises(RemoteProtocolError, match="0 and 1"):
            array_dtypes.array(memoryview(b"\x02"), "?", [], "")

    @pytest.mark.parametrize("text", ["put it down", "放下", "", "a\0b"])
    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_texts(self, text: str, shape: tuple[int, ...]) -> None:
        array = np.array(text).reshape(shape)
        for order in "<>":
            there = array.astype(array.dtype.newbyteorder(order))
            assert array_dtypes.array(memoryview(there.tobytes()), there.dtype.str, list(shape), "") == text
        encoded = np.array(text.encode() or b"\0")
        assert array_dtypes.array(memoryview(encoded.tobytes()), encoded.dtype.str, [], "") == text

    @pytest.mark.parametrize(
        ("data", "name", "shape", "says"),
        [
            (bytes(8), "<U1", [2], "one text"),
            (b"\xff" * 4, "<U1", [], "not a text"),
            (b"\xff", "S1", [], "not a text"),
            (bytes(4), "<U2", [], "8 bytes, got 4"),
            (bytes(36_000), "<U9000", [], "at most 4096"),
        ],
    )
    def test_what_is_no_text(self, data: bytes, name: str, shape: list[int], says: str) -> None:
        with pytest.raises(RemoteProtocolError, match=says):
            array_dtypes.array(memoryview(data), name, shape, "")


def pack_array(value: Any) -> Any:
    """As openpi's own packer writes them."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(type(value))


def unpack_array(value: Any) -> Any:
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


class TestOpenpiArrays:
    def test_what_openpi_packs_is_read(self) -> None:
        given = {
            "state": np.arange(14, dtype=np.float64),
            "nested": {
                "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
                "list": [np.float32(1.5), np.int16(-3), np.bool_(True)],
            },
            "prompt": np.str_("go"),
            "label": np.array("go"),
            "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        }
        found = msgpack_numpy.read(msgpack.packb(given, default=pack_array))
        np.testing.assert_array_equal(found["state"], given["state"])
        np.testing.assert_array_equal(found["nested"]["image"], given["nested"]["image"])  # type: ignore[index]
        np.testing.assert_array_equal(found["fortran"], given["fortran"])
        assert found["nested"]["list"] == [1.5, -3, True]
        assert found["prompt"] == found["label"] == "go"

    def test_what_is_written_openpi_unpacks(self) -> None:
        given = {
            "actions": np.arange(28, dtype=np.float32).reshape(2, 14)[:, ::-1],
            "big": np.arange(9000, dtype=">f8"),
            "number": np.float32(2.5),
            "timing": {"infer_ms": 1.5, "nothing": None, "list": [1, (2, "x")]},
        }
        packed = b"".join(msgpack_numpy.write(given))
        found = msgpack.unpackb(packed, object_hook=unpack_array)
        np.testing.assert_array_equal(found["actions"], given["actions"])
        np.testing.assert_array_equal(found["big"], given["big"])
        assert found["number"] == 2.5 and found["timing"] == {"infer_ms": 1.5, "nothing": None, "list": [1, [2, "x"]]}
        np.testing.assert_array_equal(msgpack_numpy.read(packed)["big"], given["big"])

    @pytest.mark.parametrize(
        "array", [np.array([None]), np.zeros(2, "c8"), np.zeros(2, "i4,i4"), np.array(["a"]), np.zeros(1, "M8[s]")]
    )
    def test_what_cannot_be_written(self, array: Any) -> None:
        with pytest.raises(LocalProtocolError, match="cannot be written"):
            msgpack_numpy.write({"a": array})

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({b"dtype": "|O"}, "expected a dtype"),
            ({b"dtype": "f8,O"}, "expected a dtype"),
            ({b"dtype": None}, "expected a text"),
            ({b"shape": [-1]}, "whole numbers"),
            ({b"shape": 2}, "expected an array as"),
            ({b"shape": [1]}, "4 bytes, got 8"),
            ({b"data": "text"}, "expected an array as"),
            ({b"__ndarray__": False}, "expected an array as"),
            ({b"more": 1}, "expected an array as"),
        ],
    )
    def test_no_other_array(self, changes: dict[bytes, Any], says: str) -> None:
        array = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2], **changes}
        with pytest.raises(RemoteProtocolError, match=rf"\['a'\].*{says}"):
            msgpack_numpy.read(msgpack.packb({"a": array}))

    @pytest.mark.parametrize(
        ("dtype", "data"), [("V8", 2**31), ("|O", 1), ("<f4", "1"), ("<i4", 1.5), ("?", 1), ("<f4", [1]), ("<M8[s]", 1), ("", None)]
    )
    def test_no_scalar_of_another_kind(self, dtype: str, data: Any) -> None:
        with pytest.raises(RemoteProtocolError, match="expected a number as"):
            msgpack_numpy.read(msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype}))

    def test_the_message_that_crashes_openpi(self) -> None:
        """57 bytes that its decoder turns into an object at an address of the sender's choice."""
        crash = {b"__ndarray__": True, b"data": struct.pack("<Q", 0x4141414141), b"dtype": "|O", b"shape": [1]}
        with pytest.raises(RemoteProtocolError, match=r"expected a dtype of bool, int, uint or float, got '\|O'"):
            msgpack_numpy.read(msgpack.packb({b"state": crash}))

    def test_many_arrays(self) -> None:
        one = {b"__ndarray__": True, b"data": b"", b"dtype": "u1", b"shape": [0]}
        assert len(msgpack_numpy.read(msgpack.packb([one] * 1024))) == 1024
        with pytest.raises(RemoteProtocolError, match="at most 1024 arrays"):
            msgpack_numpy.read(msgpack.packb([one] * 1025))
