"""numpy's arrays out of pickles: views on the message, exact in shape and length, from a table of dtypes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from pickle_world import (
    BUILD,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    MEMOIZE,
    NONE,
    TRUE,
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

from actlink.codecs.safe_pickle import Limits, PickleDecodeError, Record, decode

BIG = np.arange(1000, dtype=np.float32)


def refused(data: bytes, why: str, **limits: int) -> None:
    with pytest.raises(PickleDecodeError, match=why):
        decode(data, Limits(**limits))


def frombuffer(data: bytes, kind: bytes, shape: bytes, order: bytes, *more: bytes) -> bytes:
    return stream(run("numpy._core.numeric", "_frombuffer", data, kind, shape, order, *more))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_array_is_a_read_only_view_on_the_message(protocol: int) -> None:
    data = pickle.dumps({"a": BIG}, protocol)
    back = decode(data)["a"]
    assert np.array_equal(back, BIG) and back.dtype == BIG.dtype
    assert not back.flags.owndata and not back.flags.writeable
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(back, whole)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_large_message_is_not_copied_whatever_holds_it(kind: Any) -> None:
    held = kind(pickle.dumps(np.zeros(100_000, np.uint8), 5))
    assert np.shares_memory(decode(held), np.frombuffer(held, np.uint8))
    assert not decode(held).flags.writeable


def test_one_array_in_two_places_is_one_array() -> None:
    first, second = decode(pickle.dumps([BIG, BIG]))
    assert first is second


def test_a_dtype_that_is_shared_keeps_its_byte_order() -> None:
    values = [np.array([1, 2], ">f4"), np.array([3, 4], ">f4"), np.array([5, 6], "<f4")]
    assert [list(back) for back in decode(pickle.dumps(values))] == [[1, 2], [3, 4], [5, 6]]


def test_object_arrays_hold_plain_values_and_arrays() -> None:
    inner = np.array(2.5)
    outer = np.empty((2, 2), object)
    outer[0, 0], outer[0, 1], outer[1, 0] = {"a": 1}, [1, 2], inner
    back = decode(pickle.dumps(outer))
    assert back.shape == (2, 2) and back[0, 0] == {"a": 1} and back[0, 1] == [1, 2] and back[1, 1] is None
    assert type(back[1, 0]) is np.ndarray and back[1, 0] == inner
    assert not back.flags.writeable


def test_numpy_scalars_and_dtypes_keep_their_types() -> None:
    back = decode(pickle.dumps([np.float32(1.5), np.bool_(True), np.int64(-3), np.dtype("f2"), np.dtype(object)]))
    assert [type(value) for value in back[:3]] == [np.float32, np.bool_, np.int64]
    assert back[3:] == [np.dtype("f2"), np.dtype(object)]


def test_calls_of_ndarray_itself_make_no_array() -> None:
    """``numpy.ndarray(shape, dtype)`` would be memory nobody wrote."""
    back = decode(stream(run("numpy", "ndarray", items(integer(4096)), text("f8"))))
    assert type(back) is Record and back.args == ((4096,), "f8")


@pytest.mark.parametrize("kind", ["c8", "c16", "V8", "S4", "U4", "M8", "m8", "T", "O", "f16", "q", "", "f4,f4"])
def test_other_dtypes_are_refused(kind: str) -> None:
    refused(stream(run("numpy", "dtype", text(kind), FALSE, TRUE)), "numpy dtype '.*': only numbers, booleans and objects are read")


@pytest.mark.parametrize(
    "value",
    [
        np.array(["pick"]),
        np.array([b"pick"]),
        np.array(["2024-01-01"], "M8[D]"),
        np.array([1 + 2j]),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.str_("pick"),
    ],
)
def test_arrays_of_texts_dates_and_records_are_refused(value: object) -> None:
    for protocol in (2, 4, 5):
        refused(pickle.dumps(value, protocol), "numpy dtype '[^']*': only numbers")


@pytest.mark.parametrize(
    "state",
    [
        NONE,
        items(integer(3)),
        items(integer(3), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), text("0")),
        items(integer(3), text("<"), NONE, items(text("a")), NONE, integer(-1), integer(-1), integer(0)),
        items(integer(4), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)),
        items(integer(3), text("="), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)),
        items(integer(3), text("|"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)),
        items(integer(3), text("<"), NONE, NONE, NONE, integer(8), integer(-1), integer(0)),
        items(integer(3), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(63)),
    ],
)
def test_the_state_of_a_dtype_is_that_of_a_number(state: bytes) -> None:
    refused(stream(run("numpy", "dtype", text("f4"), FALSE, TRUE), state, BUILD), "the state of a numpy dtype")


def test_an_object_dtype_says_so_in_its_flags() -> None:
    refused(stream(dtype("O8", "|", 0)), "the state of a numpy dtype")


RECONSTRUCT = run("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), items(integer(0)), raw(b"b"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (stream(run("numpy", "dtype", text("f4"))), "numpy dtype NoneType"),
        (stream(array((2,), dtype(), raw(bytes(7)))), r"7 bytes for an array of shape \(2,\), dtype float32: 8 expected"),
        (stream(array((2,), dtype(), raw(bytes(9)))), "9 bytes for an array"),
        (stream(array((2**20, 2**20), dtype(), raw(b""))), "0 bytes for an array"),
        (stream(array((-1,), dtype(), raw(b""))), "-1 in a shape"),
        (stream(array((1,) * 9, dtype(), raw(bytes(4)))), "at most 8 numbers, not tuple"),
        (stream(array((0, 2**31 - 1, 2**31 - 1), dtype(), raw(b""))), "shape of an empty array is absurd"),
        (stream(array((2,), dtype(), text("abcdefgh"))), "the data of a numpy array is 'abcdefgh', not bytes"),
        (stream(array((2,), dtype(), EMPTY_LIST)), "the data of a numpy array is list"),
        (stream(array((2,), dtype(), raw(bytes(8)), fortran=NONE)), "is_fortran of a numpy array is NoneType"),
        (stream(array((2,), NONE, raw(bytes(8)))), "NoneType where the dtype of numbers"),
        (stream(array((1,), run("numpy", "dtype", text("f4"), FALSE, TRUE), raw(bytes(4)))), "PendingDtype where the dtype"),
        (stream(array((1,), dtype("O8", "|", 63), raw(bytes(8)))), "an object array needs a list"),
        (stream(array((2,), dtype("O8", "|", 63), EMPTY_LIST)), "an object array needs a list of as many values"),
        (stream(array((2,), dtype("b1", "|"), raw(b"\x01\x02"))), "a boolean that is neither 0 nor 1"),
        (stream(RECONSTRUCT, NONE, BUILD), "the state of a numpy array is not"),
        (stream(RECONSTRUCT, items(integer(1)), BUILD), "the state of a numpy array is not"),
        (
            stream(RECONSTRUCT, items(integer(2), EMPTY_TUPLE, dtype(), FALSE, raw(bytes(4))), BUILD),
            "the state of a numpy array is not",
        ),
        (stream(RECONSTRUCT, items(NONE, EMPTY_TUPLE, dtype(), FALSE, raw(bytes(4))), BUILD), "the state of a numpy array is not"),
        (stream(RECONSTRUCT, items(integer(1), NONE, dtype(), FALSE, raw(bytes(4))), BUILD), "a shape is a tuple"),
        (stream(RECONSTRUCT, items(integer(1), items(NONE), dtype(), FALSE, raw(bytes(4))), BUILD), "NoneType in a shape"),
        (stream(run("numpy.core.multiarray", "_reconstruct")), "numpy array of class NoneType"),
        (
            stream(run("numpy.core.multiarray", "_reconstruct", name("numpy", "matrix"), items(integer(0)), raw(b"b"))),
            "numpy array of class 'numpy.matrix': only numpy.ndarray",
        ),
        (stream(run("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), NONE, raw(b"b"))), "numpy array of class"),
        (
            stream(run("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), items(), text("b"))),
            "numpy array of class",
        ),
        (stream(run("numpy.core.multiarray", "scalar", dtype())), r"numpy's scalar takes \(dtype, bytes\)"),
        (stream(run("numpy.core.multiarray", "scalar", dtype(), raw(bytes(3)))), "3 bytes for an array"),
        (
            stream(run("numpy.core.multiarray", "scalar", dtype("O8", "|", 63), raw(bytes(8)))),
            "where the dtype of numbers is expected",
        ),
        (frombuffer(raw(bytes(4)), dtype(), items(), text("A")), "_frombuffer takes"),
        (stream(run("numpy.core.numeric", "_frombuffer", raw(bytes(4)), dtype())), "_frombuffer takes"),
        (frombuffer(raw(bytes(4)), dtype(), items(), NONE), "_frombuffer takes"),
        (frombuffer(raw(bytes(4)), dtype(), items(), text("K")), "needs the order of the axes"),
        (frombuffer(raw(bytes(4)), dtype(), NONE, text("K"), items()), "needs the order of the axes"),
        (frombuffer(raw(bytes(4)), dtype(), items(integer(1)), text("K"), items(NONE)), "needs the order of the axes"),
        (frombuffer(raw(bytes(4)), dtype(), items(integer(1)), text("K"), items(integer(1))), "the order of the axes does not fit"),
        (frombuffer(raw(bytes(4)), dtype(), items(integer(1)), text("K"), items(integer(0), integer(0))), "does not fit the shape"),
        (frombuffer(raw(bytes(8)), dtype("O8", "|", 63), items(integer(1)), text("C")), "where the dtype of numbers is expected"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, why: str) -> None:
    refused(data, why)


def test_axes_in_another_order() -> None:
    """numpy 2.3 and later, protocol 5."""
    data = frombuffer(
        raw(bytes(range(6))), dtype("u1", "|"), items(integer(2), integer(3)), text("K"), items(integer(1), integer(0))
    )
    assert decode(data).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_array_remembered_elsewhere_stays_unfinished() -> None:
    """The memo entry a pickler makes right after the call becomes the array; a second one does not, and may not get out."""
    state = items(integer(1), EMPTY_TUPLE, dtype("u1", "|"), FALSE, raw(b"a"))
    assert decode(stream(EMPTY_LIST, MARK, RECONSTRUCT, MEMOIZE, state, BUILD, b"h\x00e")) == [97, 97]
    refused(
        stream(EMPTY_LIST, MARK, RECONSTRUCT, MEMOIZE, MEMOIZE, state, BUILD, b"h\x01e"), "PendingArray that was never completed"
    )
    unremembered = stream(
        EMPTY_LIST,
        MARK,
        RECONSTRUCT,
        items(integer(1), EMPTY_TUPLE, dtype("u1", "|"), FALSE, raw(b"a") + MEMOIZE),
        BUILD,
        b"h\x00e",
    )
    assert decode(unremembered) == [97, b"a"]


def test_copies_are_counted() -> None:
    """Big-endian data is swapped into a copy: once per message, not once per mention."""
    state = items(integer(1), items(integer(2**18)), dtype("f4", ">"), FALSE, raw(bytes(2**20)))
    start = RECONSTRUCT + b"h\x00" + BUILD
    refused(stream(EMPTY_LIST, MARK, state, MEMOIZE, start * 12, b"e"), "the same bytes are copied again and again")
    flags = items(integer(1), items(integer(2**20)), dtype("b1", "|"), FALSE, raw(bytes(2**20)))
    refused(stream(EMPTY_LIST, MARK, flags, MEMOIZE, start * 5, b"e"), "the same bytes are looked at again and again")


def test_items_of_object_arrays_are_counted() -> None:
    state = items(integer(1), items(integer(50)), dtype("O8", "|", 63), FALSE, EMPTY_LIST + MARK + NONE * 50 + b"e")
    start = RECONSTRUCT + b"h\x00" + BUILD
    refused(stream(EMPTY_LIST, MARK, state, MEMOIZE, start * 5, b"e"), "more objects, or items", operations=240)
