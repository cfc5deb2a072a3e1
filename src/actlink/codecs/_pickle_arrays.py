"""numpy's own pickle calls, done by hand. Law: an array is a view on received bytes whose number fits shape and dtype exactly.

The dtype comes from a table of literals: no object fields, offsets, sub-arrays or strings, so nothing on the wire can describe
memory (an allow-list that calls numpy's unpickle functions can be made to read out of bounds). Both spellings are known:
``numpy.core`` (numpy 1) and ``numpy._core`` (numpy 2).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from types import NoneType
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from actlink.codecs._pickle_records import Message, Name, Refusal, Text, shown
from actlink.types import Array

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(f"<{name}") for name in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
}
"""Every dtype of numbers that is read."""
OBJECT = np.dtype(object)
"""Arrays of plain values and records, filled from a list that was decoded."""
NDARRAY = Name("numpy", "ndarray")
DIMENSIONS = 8
_HUGE = 2**40
_STATE_KINDS = (int, str, NoneType, NoneType, NoneType, int, int, int)
_PERMUTED = "K"

Call = Callable[[tuple[Any, ...], Message], Any]


class PendingDtype:
    """``numpy.dtype`` called, to be replaced by the dtype when the state arrives.

    ``slot`` is where the memo would hold it; the reader puts the finished value there.
    """

    __slots__ = ("name", "slot")

    slot: int

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, state: Any, message: Message) -> np.dtype[Any]:
        if type(state) is not tuple or tuple(map(type, state)) != _STATE_KINDS:
            raise Refusal("the state of a numpy dtype is not that of a plain number")
        order = state[1]
        if self.name == "O8":
            plain, dtype = (3, "|", None, None, None, -1, -1, 63), OBJECT
        else:
            dtype = DTYPES[self.name]
            plain = (3, "|" if dtype.itemsize == 1 else ">" if order == ">" else "<", None, None, None, -1, -1, 0)
        if state != plain:
            raise Refusal("the state of a numpy dtype is not that of a plain number")
        return dtype.newbyteorder(">") if plain[1] == ">" else dtype


class PendingArray:
    """``_reconstruct`` called, to be replaced by the array when the state arrives; ``slot`` as above."""

    __slots__ = ("slot",)

    slot: int

    def build(self, state: Any, message: Message) -> Array:
        if type(state) is not tuple or len(state) != 5 or type(state[0]) is not int or state[0] != 1:
            raise Refusal("the state of a numpy array is not (1, shape, dtype, is_fortran, data)")
        _, shape, dtype, fortran, raw = state
        if type(fortran) is not bool:
            raise Refusal(f"is_fortran of a numpy array is {shown(fortran)}, not a bool")
        if dtype is not OBJECT:
            return _native(_view(shape, dtype, raw, "F" if fortran else "C", message), message)
        if type(raw) is not list or len(raw) != check_shape(shape):
            raise Refusal(f"an object array needs a list of as many values as its shape says, not {shown(raw)}")
        message.count(0, items=len(raw))
        return object_array(shape, raw, fortran)


PENDING = (PendingDtype, PendingArray)


def check_shape(shape: Any) -> int:
    """How many elements an array of this shape has; refuses what is no shape."""
    if type(shape) is not tuple or len(shape) > DIMENSIONS:
        raise Refusal(f"a shape is a tuple of at most {DIMENSIONS} numbers, not {shown(shape)}")
    for length in shape:
        if type(length) is not int or length < 0:
            raise Refusal(f"{shown(length)} in a shape")
    count = prod(shape)
    if count == 0 and prod(length or 1 for length in shape) > _HUGE:  # numpy multiplies these too, and overflows
        raise Refusal("the shape of an empty array is absurd")
    return count


def _view(shape: Any, dtype: Any, raw: Any, order: Literal["C", "F"], message: Message) -> Array:
    count = check_shape(shape)
    if not isinstance(dtype, np.dtype) or dtype is OBJECT:
        raise Refusal(f"{shown(dtype)} where the dtype of numbers is expected")
    if type(raw) is not bytes and type(raw) is not memoryview:
        raise Refusal(f"the data of a numpy array is {shown(raw)}, not bytes")
    if count * dtype.itemsize != len(raw):
        raise Refusal(f"{len(raw)} bytes for an array of shape {shape}, dtype {dtype}: {count * dtype.itemsize} expected")
    if dtype.kind == "b":
        check_booleans(raw, message)
    return ndarray(shape, dtype, raw, 0, None, order)


def _native(array: Array, message: Message) -> Array:
    """numpy swaps the bytes of a big-endian array while it reads the state; so does this, into a copy."""
    if array.dtype.str[0] != ">":
        return array
    message.make(array.nbytes)
    array = array.astype(array.dtype.newbyteorder("<"))
    array.flags.writeable = False
    return array


def check_booleans(raw: bytes | memoryview, message: Message) -> None:
    """numpy takes any byte for a bool and then computes nonsense; the peer's numpy only ever wrote 0 and 1."""
    message.scan(len(raw))
    if len(raw) and int(ndarray(len(raw), np.uint8, raw).max()) > 1:
        raise Refusal("a boolean that is neither 0 nor 1")


def object_array(shape: tuple[int, ...], items: list[Any], fortran: bool) -> Array:
    """An array of these very objects; ``items`` are in C order whatever the order in memory."""
    array = np.fromiter(items, dtype=object, count=len(items)).reshape(shape)
    array = np.asfortranarray(array) if fortran and array.ndim > 1 else array
    array.flags.writeable = False
    return array


def _dtype(args: tuple[Any, ...], message: Message) -> PendingDtype:
    """``numpy.dtype(name, align, copy)``: a literal, completed by its state."""
    name = args[0] if len(args) == 3 else None
    if type(name) is not str or (name not in DTYPES and name != "O8"):
        raise Refusal(f"numpy dtype {shown(name)}: only numbers, booleans and objects are read")
    return PendingDtype(name)


def _reconstruct(args: tuple[Any, ...], message: Message) -> PendingArray:
    """``_reconstruct(numpy.ndarray, (0,), b'b')``: an empty array, completed by its state."""
    if len(args) != 3 or args[0] is not NDARRAY or type(args[1]) is not tuple or type(args[2]) is not bytes:
        raise Refusal(f"numpy array of class {shown(args[0] if args else None)}: only numpy.ndarray is read")
    return PendingArray()


def _frombuffer(args: tuple[Any, ...], message: Message) -> Array:
    """``_frombuffer(buffer, dtype, shape, order, axis_order=None)``: protocol 5. Order K comes with the order of the axes."""
    if len(args) not in (4, 5) or type(args[3]) is not str or args[3] not in ("C", "F", _PERMUTED):
        raise Refusal("numpy's _frombuffer takes (buffer, dtype, shape, order)")
    raw, dtype, shape, order = args[:4]
    axes = args[4] if len(args) == 5 else None
    if order != _PERMUTED:
        return _view(shape, dtype, raw, order, message)
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes) or type(shape) is not tuple:
        raise Refusal("numpy's _frombuffer with order K needs the order of the axes")
    if sorted(axes) != list(range(len(shape))):
        raise Refusal("numpy's _frombuffer: the order of the axes does not fit the shape")
    return _view(shape, dtype, raw, "C", message).transpose(axes)


def _scalar(args: tuple[Any, ...], message: Message) -> Any:
    """``scalar(dtype, bytes)``: a numpy number."""
    if len(args) != 2:
        raise Refusal("numpy's scalar takes (dtype, bytes)")
    return _view((), args[0], args[1], "C", message)[()]


def _encode(args: tuple[Any, ...], message: Message) -> bytes:
    """``_codecs.encode(text, 'latin1')``: how bytes travel at protocol 2."""
    if len(args) != 2 or type(args[1]) is not str or args[1] not in ("latin1", "latin-1"):
        raise Refusal("_codecs.encode is read as the spelling of bytes at protocol 2, with 'latin1' only")
    text = args[0]
    if type(text) is Text:
        message.make(len(text.view))
        highest = int(ndarray(len(text.view), np.uint8, text.view).max())
        if highest > 0xC3:  # U+00FF is C3 BF; a str with anything above it takes 2 or 4 bytes for each letter
            raise Refusal("_codecs.encode: the text is not latin-1")
        return str(text.view, "utf-8").encode("latin-1")
    if type(text) is not str:
        raise Refusal(f"_codecs.encode of {shown(text)}, not of text")
    message.make(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Refusal("_codecs.encode: the text is not latin-1") from None


def _bytes(args: tuple[Any, ...], message: Message) -> Any:
    """``bytes()`` of protocol 2, ``bytearray(bytes)`` below protocol 5; Python 3.6 has ``bytearray(text, 'latin-1')`` at 2."""
    if not args:
        return b""
    if len(args) == 2:
        return _encode(args, message)
    if len(args) != 1 or type(args[0]) not in (bytes, memoryview):
        raise Refusal("bytes and bytearray are read when made of nothing or of bytes")
    return args[0]


def _ordered(args: tuple[Any, ...], message: Message) -> dict[Any, Any]:
    """``collections.OrderedDict()``, filled by SETITEMS like a dict."""
    if args:
        raise Refusal("OrderedDict is read when made empty")
    return {}


PLAIN_CALLS: dict[tuple[str, str], Call] = {
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    **{(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
"""What is done for a call of these names; nothing of that name is looked up."""
