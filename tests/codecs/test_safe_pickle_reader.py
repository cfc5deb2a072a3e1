"""Opcode by opcode: what is read as what, what is refused and at which byte."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pickle_world import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NONE,
    REDUCE,
    TRUE,
    TUPLE,
    array,
    dtype,
    integer,
    items,
    name,
    raw,
    run,
    stream,
    text,
)

from actlink.codecs.safe_pickle import Limits, Name, PickleDecodeError, Record, decode
from actlink.errors import RemoteProtocolError

LONG = "word " * 1000


class Colour:
    """Pickled like a member of an enumeration; how Python pickles those themselves differs from 3.11.3 to 3.11.4."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[type[Colour], tuple[str]]:
        return Colour, (self.name,)


class Thing:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


def refused(data: bytes, why: str, offset: int | None = None, **limits: int) -> None:
    with pytest.raises(PickleDecodeError, match=why) as caught:
        decode(data, Limits(**limits))
    assert isinstance(caught.value, RemoteProtocolError) and caught.value.code == "protocol"
    assert offset is None or caught.value.offset == offset
    assert f"byte {caught.value.offset}" in str(caught.value) or caught.value.offset == 0


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**120), 2**120) | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**50), 2**50), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(PLAIN, st.integers(2, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    back = decode(pickle.dumps(value, protocol))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (NONE, None),
        (TRUE, True),
        (FALSE, False),
        (b"K\xff", 255),
        (b"M\xff\xff", 65535),
        (b"J\xff\xff\xff\xff", -1),
        (b"\x8a\x00", 0),
        (b"\x8a\x01\xff", -1),
        (b"\x8a\x10" + b"\xff" * 15 + b"\x7f", 2**127 - 1),
        (b"G" + struct.pack(">d", 1.5), 1.5),
        (b"\x8c\x02\xc3\xa9", "é"),
        (b"X\x02\x00\x00\x00ab", "ab"),
        (b"\x8d\x02\x00\x00\x00\x00\x00\x00\x00ab", "ab"),
        (b"X" + struct.pack("<I", len(LONG)) + LONG.encode(), LONG),
        (b"C\x01a", b"a"),
        (b"B\x01\x00\x00\x00a", b"a"),
        (b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00a", b"a"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a", b"a"),
        (EMPTY_LIST, []),
        (EMPTY_LIST + NONE + b"a", [None]),
        (EMPTY_LIST + MARK + b"e", []),
        (EMPTY_DICT + text("a") + NONE + b"s", {"a": None}),
        (EMPTY_DICT + b"K\x01" + NONE + b"s", {1: None}),
        (EMPTY_DICT + MARK + b"u", {}),
        (MARK + TUPLE, ()),
        (EMPTY_TUPLE, ()),
        (NONE + b"\x85", (None,)),
        (NONE + TRUE + b"\x86", (None, True)),
        (NONE + TRUE + FALSE + b"\x87", (None, True, False)),
        (text("a") + b"q\x00" + b"h\x00\x86", ("a", "a")),
        (text("a") + b"r\x00\x00\x00\x00" + b"j\x00\x00\x00\x00\x86", ("a", "a")),
        (EMPTY_LIST + MARK + text("a") + b"q\x00" + text("b") + b"q\x00h\x00e", ["a", "b", "b"]),
        (b"\x95\x01\x00\x00\x00\x00\x00\x00\x00N", None),
        (b"ctorch\nfloat32\n", Name("torch", "float32")),
        (name("a.b", "C.D"), Name("a.b", "C.D")),
        (run("collections", "OrderedDict"), {}),
        (run("builtins", "bytes"), b""),
        (run("__builtin__", "bytes"), b""),
        (run("builtins", "bytearray", raw(b"ab")), b"ab"),
        (run("builtins", "bytearray", text("aé"), text("latin-1")), b"a\xe9"),
        (run("_codecs", "encode", text("aé"), text("latin1")), b"a\xe9"),
        (run("_codecs", "encode", text("é" * 3000), text("latin1")), b"\xe9" * 3000),
    ],
)
def test_an_opcode_is_read(body: bytes, value: object) -> None:
    back = decode(stream(body))
    assert back == value and type(back) is type(value)


def test_records_hold_what_the_peer_said() -> None:
    thing = decode(pickle.dumps(Thing(a=1, b=[None])))
    assert type(thing) is Record
    assert (thing.module, thing.name, thing.args, thing.state) == (Thing.__module__, "Thing", (), {"a": 1, "b": [None]})
    colour = decode(pickle.dumps(Colour("red")))
    assert (colour.name, colour.args, colour.state) == ("Colour", ("red",), None)
    with pytest.raises(AttributeError):
        thing.state = {}
    assert str(Name("torch", "float32")) == "torch.float32"


def test_a_record_in_two_places_is_one_record() -> None:
    thing = Thing(a=1)
    first, second = decode(pickle.dumps([thing, thing]))
    assert first is second and first.state == {"a": 1}


def test_long_text_and_bytes_are_copied_out_everywhere() -> None:
    """They stand as views on the message while it is read; none may be left, in whatever they are contained."""
    long = b"x" * 5000
    body = items(
        EMPTY_LIST + raw(long) + b"a",
        EMPTY_DICT + text("a") + text(LONG) + b"s",
        name("a", "B") + items(raw(long)) + NEWOBJ + text(LONG) + BUILD,
        array((1,), dtype("O8", "|", 63), EMPTY_LIST + raw(long) + b"a"),
        NONE,
    )
    inner, mapping, record, objects, nothing = decode(stream(body))
    assert inner == [long] and mapping == {"a": LONG} and nothing is None
    assert record.args == (long,) and record.state == LONG
    assert objects[0] == long and not objects.flags.writeable


def test_a_shared_byte_string_is_copied_once() -> None:
    value = b"x" * 300
    first, second = decode(pickle.dumps([value, value]))
    assert first == value and first is second


def test_ordered_dicts_are_dicts() -> None:
    back = decode(pickle.dumps(OrderedDict(b=1, a=2)))
    assert type(back) is dict and list(back) == ["b", "a"]


@pytest.mark.parametrize("opcode", [*b"IFLSVgpPTUio021dl", *b"\x82\x83\x84\x8b\x8f\x90\x91\x92\x97\x98\x80"])
def test_opcodes_no_honest_message_has_are_refused_by_name(opcode: int) -> None:
    names = {code.code.encode("latin1")[0]: code.name for code in __import__("pickletools").opcodes}
    refused(stream(NONE, bytes([opcode])), f"opcode {names[opcode]} is not read", offset=3)


def test_what_is_no_opcode_is_refused() -> None:
    refused(stream(b"\xff"), "0xff is no opcode of pickle", offset=2)


@pytest.mark.parametrize(
    ("data", "why", "offset"),
    [
        (b"", "not a pickle", 0),
        (b"\x80", "not a pickle", 0),
        (b"GET / HTTP/1.1\r\n\r\n", "not a pickle", 0),
        (b"{}", "not a pickle", 0),
        (b"((Nt.", "pickle protocol 0 or 1", 0),
        (b"ca\nb\n.", "pickle protocol 0 or 1", 0),
        (b"\x80\x00N.", "pickle protocol 0; protocols 2 to 5", 1),
        (b"\x80\x01N.", "pickle protocol 1;", 1),
        (b"\x80\x06N.", "pickle protocol 6;", 1),
        (b"\x80\x04", "the message ends before STOP", 2),
        (b"\x80\x04N", "the message ends before STOP", 3),
        (b"\x80\x04N.N.", "2 bytes follow STOP", 4),
        (stream(), "more or less than one value", 2),
        (stream(NONE, NONE), "more or less than one value", 4),
        (stream(MARK, NONE), "more or less than one value", 4),
        (stream(TUPLE), "cut off, or the opcode wants", 2),
        (stream(MEMOIZE), "cut off, or the opcode wants", 2),
        (stream(b"\x86"), "cut off, or the opcode wants", 2),
        (stream(NONE, b"\x87"), "cut off, or the opcode wants", 3),
        (stream(b"h\x00"), "cut off, or the opcode wants", 2),
        (stream(b"j\xff\xff\xff\xff"), "cut off, or the opcode wants", 2),
        (b"\x80\x04J\x00", "cut off, or the opcode wants", 2),
        (stream(b"\x8c\x01\xff"), "text that is not UTF-8", 2),
        (stream(b"X\x01\x00\x00\x00\xff"), "text that is not UTF-8", 2),
        (stream(b"X\x88\x13\x00\x00" + b"\xff" * 5000), "text that is not UTF-8", 5007),
        (stream(b"c\xff\nb\n"), "text that is not UTF-8", 2),
        (stream(b"\x8c\xff"), "text of 255 bytes where 1 are left", 2),
        (stream(b"C\xff"), "255 bytes announced where 1 are left", 2),
        (stream(b"\x8a\x12" + bytes(18)), "an int of 18 bytes; at most 17", 2),
        (stream(b"\x8a\x05\x00"), "an int of 5 bytes", 2),
        (stream(b"cos"), "GLOBAL without two lines", 2),
        (stream(b"c" + b"a" * 600 + b"\nb\n"), "GLOBAL without two lines", 2),
        (stream(b"ca\n" + b"b" * 257 + b"\n"), "name is longer than 256", 2),
        (stream(text("a"), NONE, b"\x93"), "a global named by 'a' and NoneType, not by two texts", 6),
        (stream(text("a" * 257), text("b"), b"\x93"), "name is longer than 256", None),
        (stream(NONE, EMPTY_TUPLE, REDUCE), r"a call of NoneType with tuple", 4),
        (stream(name("os", "system"), NONE, REDUCE), "a call of 'os.system' with NoneType", None),
        (stream(name("os", "system"), NONE, NEWOBJ), "a call of 'os.system' with NoneType", None),
        (stream(NONE, NONE, BUILD), "a state for NoneType", 4),
        (stream(EMPTY_DICT, EMPTY_DICT, BUILD), "a state for dict", 4),
        (
            stream(name("a", "b"), EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, BUILD, EMPTY_DICT, BUILD),
            "a state for 'a.b', which has one",
            None,
        ),
        (stream(NONE, b"Q"), "BINPERSID outside a torch stream", 3),
        (stream(NONE, NONE, b"a"), "items are appended to NoneType", 4),
        (stream(EMPTY_DICT, MARK, NONE, b"e"), "items are appended to dict", 5),
        (stream(EMPTY_LIST, NONE, NONE, b"s"), "items are set in list", 5),
        (stream(EMPTY_DICT, MARK, NONE, b"u"), "a key without a value", 5),
        (stream(EMPTY_DICT, TRUE, NONE, b"s"), "dict keys are str or int below 2..53 here, not bool", 5),
        (stream(EMPTY_DICT, NONE, NONE, b"s"), "not NoneType", 5),
        (stream(EMPTY_DICT, EMPTY_TUPLE, NONE, b"s"), "not tuple", 5),
        (stream(EMPTY_DICT, b"\x8a\x07" + (2**53).to_bytes(7, "little"), NONE, b"s"), "not 9007199254740992", None),
        (stream(EMPTY_DICT, text("a"), NONE, b"s", text("a"), NONE, b"s"), "a dict key twice", None),
        (stream(EMPTY_DICT, MARK, text("a"), NONE, text("a"), NONE, b"u"), "a dict key twice", None),
        (stream(NONE, b"q\x01"), "memo entry 1 where 0 comes next", 3),
        (stream(MARK * 600), "marks inside marks", None),
        (stream(run("collections", "OrderedDict", EMPTY_LIST)), "OrderedDict is read when made empty", None),
        (stream(run("builtins", "bytes", integer(5))), "made of nothing or of bytes", None),
        (stream(run("builtins", "bytes", NONE, NONE, NONE)), "made of nothing or of bytes", None),
        (stream(run("_codecs", "encode", text("a"), text("utf-8"))), "with 'latin1' only", None),
        (stream(run("_codecs", "encode", text("a"))), "with 'latin1' only", None),
        (stream(run("_codecs", "encode", NONE, text("latin1"))), "encode of NoneType", None),
        (stream(run("_codecs", "encode", text("機"), text("latin1"))), "the text is not latin-1", None),
        (stream(run("_codecs", "encode", text("機" * 3000), text("latin1"))), "the text is not latin-1", None),
        (stream(run("_codecs", "encode", text("\x80" + "a" * 42)[:-1] + b"\xff", text("latin1"))), "not UTF-8", None),
    ],
)
def test_what_is_wrong_is_said_with_the_byte(data: bytes, why: str, offset: int | None) -> None:
    refused(data, why, offset)


def test_frames_hold_whole_opcodes() -> None:
    def framed(length: int, body: bytes) -> bytes:
        return stream(b"\x95" + struct.pack("<Q", length), body)

    refused(framed(1, b"K\x01"), "an opcode straddles the end of its frame", 13)
    refused(framed(3, text("abc")), "text of 3 bytes where 1 are left", 11)
    refused(framed(3, b"C\x05abcde"), "5 bytes announced where 1 are left", 11)
    refused(framed(3, b"\x8a\x05abcde"), "an int of 5 bytes", 11)
    refused(framed(0, NONE), "a frame of 0 bytes", 2)
    refused(framed(99, NONE), "a frame of 99 bytes where 2 are left", 2)
    refused(framed(12, framed(1, NONE)[2:]), "a frame inside a frame", 11)
    refused(b"\x80\x04\x95\x01\x00", "cut off", 2)
    refused(framed(4, b"ca\nb\n"), "GLOBAL without two lines", 11)
    two = b"\x95" + struct.pack("<Q", 2) + b"(N" + b"\x95" + struct.pack("<Q", 2) + b"t."
    assert decode(b"\x80\x04" + two) == (None,)


def test_long_text_that_is_not_utf_8_is_refused_where_it_is_used() -> None:
    broken = b"X" + struct.pack("<I", 5000) + b"\xc3" * 5000
    refused(stream(run("_codecs", "encode", broken, text("latin1"))), "text that is not UTF-8")
    refused(stream(broken), "text that is not UTF-8")


def test_limits_hold() -> None:
    refused(stream(NONE), "a message of 4 bytes; at most 3 are read", message_bytes=3)
    refused(stream(NONE), "more operations", operations=1)
    assert decode(stream(NONE), Limits(operations=2)) is None
    refused(stream(EMPTY_LIST, EMPTY_LIST, b"a"), "more objects", objects=1)
    refused(stream(text("abc")), "more text than the limit", text_bytes=2)
    refused(stream(text(LONG)), "more text than the limit", text_bytes=4999)
    refused(stream(b"N\x85\x85\x85"), "nested deeper than 2", depth=2)
    assert decode(stream(b"N\x85\x85\x85"), Limits(depth=3)) == (((None,),),)
    refused(stream(text("abc"), MEMOIZE, b"h\x00h\x00\x87"), "more bytes than the limit", expanded_bytes=8)
    assert decode(stream(text("abc"), MEMOIZE, b"h\x00h\x00\x87"), Limits(expanded_bytes=9)) == ("abc",) * 3
    refused(stream(raw(b"a" * 300)), "more bytes than the limit", expanded_bytes=299)
    shared = stream(EMPTY_LIST, MEMOIZE, MARK, NONE * 5, b"eh\x00h\x00\x87")
    refused(shared, "more values than the limit allows when shared ones are counted", operations=18)
    assert decode(shared, Limits(operations=19)) == ([None] * 5,) * 3


def test_containers_in_themselves_are_refused() -> None:
    refused(stream(EMPTY_LIST, MEMOIZE, b"h\x00a"), "one that contains itself")
    refused(stream(EMPTY_LIST, MEMOIZE, b"h\x00\x85a"), "one that contains itself")


def test_half_built_values_do_not_get_out() -> None:
    half = run("numpy", "dtype", text("f4"), FALSE, TRUE)
    refused(stream(half), "PendingDtype that was never completed")
    refused(stream(EMPTY_LIST, half, b"a"), "PendingDtype that was never completed")


def test_long_names_of_values_are_cut_in_messages() -> None:
    refused(stream(name("a" * 100, "b"), NONE, REDUCE), "a call of 'a{40}[.]{3}' with NoneType")


def test_the_buffer_given_stays_the_callers() -> None:
    data = bytearray(pickle.dumps([1, 2]))
    assert decode(data) == [1, 2]
    data.extend(b"free to grow: small messages are copied")
