"""Pickles written by hand. Law: protocol 4, in the spelling that every peer reads, naming no module that the value does not name.

Arrays are ``numpy.core.multiarray._reconstruct``, which numpy 1 and 2 both load (``numpy._core`` fails before 1.26.1). Classes are
written under the module the ``Record`` names: nothing of the peer's is imported here. Names, dtypes and short texts are sent once
and then by memo. Payloads above 64 KiB stand between frames, as Python's own pickler has it, and are passed on without a copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from actlink.codecs._pickle_arrays import DTYPES, NDARRAY, OBJECT
from actlink.codecs._pickle_records import Name, Record, Tensor
from actlink.codecs._torch_stream import write_storage
from actlink.errors import LocalProtocolError
from actlink.types import Array

DEPTH = 64
BETWEEN_FRAMES = 2**16
"""Payloads from this length on are parts of their own."""
_FRAME_MINIMUM = 4
_NUMBERS = {dtype: name for name, dtype in DTYPES.items()}
_REMEMBERED_TEXT = 64
_RECONSTRUCT = Name("numpy.core.multiarray", "_reconstruct")
_DTYPE = Name("numpy", "dtype")
_REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
_LOAD = Name("torch.storage", "_load_from_bytes")
_ORDERED = Name("collections", "OrderedDict")

Part = bytes | memoryview


def encode(value: Any) -> list[Part]:
    """``value`` as a pickle of protocol 4, in parts to be sent one after the other (``b"".join(parts)`` is the message).

    Takes None, bool, int (up to 16 bytes), float, str, bytes, list, tuple, dict (keys str or int), numpy arrays of numbers,
    booleans and objects, numpy scalars (as plain numbers), ``Record``, ``Name`` and ``Tensor``. Large arrays that are C-contiguous
    are not copied: their parts are views, so leave them unchanged until sent. Raises ``LocalProtocolError`` on anything else.
    """
    writer = _Writer()
    writer.save(value, 0)
    return writer.finish()


class _Writer:
    def __init__(self) -> None:
        self.parts: list[Part] = [b"\x80\x04"]
        self.frame = bytearray()
        self.memo: dict[Any, int] = {}

    def finish(self) -> list[Part]:
        self.frame += b"."
        self._close_frame()
        return self.parts

    def save(self, value: Any, depth: int) -> None:
        if depth > DEPTH:
            raise LocalProtocolError(
                f"values nested deeper than {DEPTH}, or one that contains itself, cannot be written as a pickle"
            )
        save = _SAVERS.get(type(value)) or _saver_of(value)
        save(self, value, depth)

    def save_none(self, value: None, depth: int) -> None:
        self.frame += b"N"

    def save_bool(self, value: bool, depth: int) -> None:
        self.frame += b"\x88" if value else b"\x89"

    def save_int(self, value: int, depth: int) -> None:
        value = int(value)
        if 0 <= value < 2**8:
            self.frame += b"K%c" % value
        elif 0 <= value < 2**16:
            self.frame += b"M" + struct.pack("<H", value)
        elif -(2**31) <= value < 2**31:
            self.frame += b"J" + struct.pack("<i", value)
        else:
            length = (value if value >= 0 else ~value).bit_length() // 8 + 1
            if length > 16:
                raise LocalProtocolError(f"an int of {length} bytes; at most 16 are written")
            self.frame += b"\x8a%c" % length + value.to_bytes(length, "little", signed=True)

    def save_float(self, value: float, depth: int) -> None:
        self.frame += b"G" + struct.pack(">d", value)

    def save_text(self, value: str, depth: int) -> None:
        if self._recalled(value):
            return
        try:
            raw = str.encode(value)
        except UnicodeEncodeError:
            raise LocalProtocolError(f"text with lone surrogates cannot be written: {value[:40]!r}") from None
        self.frame += (b"\x8c%c" % len(raw) if len(raw) < 256 else b"X" + struct.pack("<I", len(raw))) + raw
        if len(raw) <= _REMEMBERED_TEXT:
            self._remember(value)

    def save_bytes(self, value: bytes | bytearray | memoryview, depth: int) -> None:
        view = memoryview(value).cast("B")
        if len(view) < 256:
            self.frame += b"C%c" % len(view) + view
            return
        self._large(b"B" + struct.pack("<I", len(view)) if len(view) < 2**32 else b"\x8e" + struct.pack("<Q", len(view)), view)

    def save_list(self, value: list[Any], depth: int) -> None:
        self.frame += b"](" if value else b"]"
        for item in value:
            self.save(item, depth + 1)
        self.frame += b"e" if value else b""

    def save_tuple(self, value: tuple[Any, ...], depth: int) -> None:
        if len(value) > 3:
            self.frame += b"("
        for item in value:
            self.save(item, depth + 1)
        self.frame += (b")", b"\x85", b"\x86", b"\x87")[len(value)] if len(value) <= 3 else b"t"

    def save_dict(self, value: Mapping[Any, Any], depth: int) -> None:
        self.frame += b"}(" if value else b"}"
        for key, item in value.items():
            if not isinstance(key, str) and (not isinstance(key, int) or isinstance(key, bool)):
                raise LocalProtocolError(f"dict keys written as a pickle are str or int, not {type(key).__name__}")
            self.save(key, depth + 1)
            self.save(item, depth + 1)
        self.frame += b"u" if value else b""

    def save_name(self, value: Name, depth: int) -> None:
        if not self._recalled(value):
            self.save_text(value.module, depth)
            self.save_text(value.name, depth)
            self.frame += b"\x93"
            self._remember(value)

    def save_record(self, value: Record, depth: int) -> None:
        """NEWOBJ and BUILD, as for a dataclass; a call where there is no state but arguments, as for an enum."""
        self.save_name(Name(value.module, value.name), depth)
        self.save_tuple(value.args, depth)
        self.frame += b"R" if value.args else b"\x81"
        if value.state is not None:
            self.save(value.state, depth + 1)
            self.frame += b"b"

    def save_array(self, value: Array, depth: int) -> None:
        if value.dtype == OBJECT:
            self._begin_array(value.shape, "O8")
            self.save_list(value.ravel().tolist(), depth + 1)
        else:
            value = _plain(value)
            self._begin_array(value.shape, _NUMBERS[value.dtype])
            self.save_bytes(value.data if value.size else b"", depth)
        self.frame += b"tb"

    def _begin_array(self, shape: tuple[int, ...], dtype: str) -> None:
        self.save_name(_RECONSTRUCT, 0)
        if not self._recalled(NDARRAY, "empty"):
            self.save_name(NDARRAY, 0)
            self.frame += b"K\x00\x85C\x01b\x87"
            self._remember((NDARRAY, "empty"))
        self.frame += b"R(K\x01"
        self.save_tuple(shape, 0)
        if not self._recalled(_DTYPE, dtype):
            self.save_name(_DTYPE, 0)
            self.save_text(dtype, 0)
            self.frame += b"\x89\x88\x87R(K\x03"
            self.save_text("|" if dtype[1:] == "1" or dtype == "O8" else "<", 0)
            self.frame += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ctb" % (63 if dtype == "O8" else 0)
            self._remember((_DTYPE, dtype))
        self.frame += b"\x89"

    def save_tensor(self, value: Tensor, depth: int) -> None:
        """As torch pickles a tensor, with a storage that holds no more than its elements or those of the array it is part of."""
        array = _plain(value.array) if value.of is None else value.array
        whole = array if value.of is None else value.of
        offset = _offset(array, whole)
        self.save_name(_REBUILD, depth)
        self.frame += b"("
        if value.of is None or not self._recalled(_LOAD, id(value.of)):
            self.save_name(_LOAD, depth)
            self.save_bytes(write_storage(whole), depth)
            self.frame += b"\x85R"
            if value.of is not None:
                self._remember((_LOAD, id(value.of)))
        self.save_int(offset, depth)
        self.save_tuple(array.shape, depth)
        self.save_tuple(tuple(step // array.itemsize for step in array.strides), depth)
        self.frame += b"\x89"
        self.save_name(_ORDERED, depth)
        self.frame += b")RtR"

    def _recalled(self, *key: Any) -> bool:
        """Whether the value was sent before; then it is fetched from the memo."""
        index = self.memo.get(key if len(key) > 1 else key[0])
        if index is None:
            return False
        self.frame += b"h%c" % index if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def _remember(self, key: Any) -> None:
        self.frame += b"\x94"
        self.memo[key] = len(self.memo)

    def _large(self, head: bytes, payload: memoryview) -> None:
        self.frame += head
        if len(payload) < BETWEEN_FRAMES:
            self.frame += payload
            return
        del self.frame[-len(head) :]
        self._close_frame()
        self.parts += [head, payload]

    def _close_frame(self) -> None:
        if len(self.frame) >= _FRAME_MINIMUM:
            self.parts.append(b"\x95" + struct.pack("<Q", len(self.frame)))
        self.parts.append(bytes(self.frame))
        self.frame = bytearray()


def _plain(array: Array) -> Array:
    """Little-endian and C-contiguous; the same array where it is so already."""
    array = np.asarray(array)
    if array.dtype in _NUMBERS and array.flags.c_contiguous:
        return array
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if plain.dtype not in _NUMBERS:
        raise LocalProtocolError(f"an array of dtype {array.dtype} cannot be written; numbers, booleans and objects can")
    return plain


def _offset(part: Array, whole: Array) -> int:
    """Which element of ``whole`` the view ``part`` begins with; ``LocalProtocolError`` if it is not a view of it."""
    if part is whole:
        return 0
    if not whole.flags.c_contiguous or whole.dtype.byteorder == ">" or part.dtype != whole.dtype:
        raise LocalProtocolError("tensors share the storage of an array that is C-contiguous, little-endian and of their dtype")
    first, begin = (each.__array_interface__["data"][0] for each in (part, whole))
    last = first + part.itemsize + sum((length - 1) * step for length, step in zip(part.shape, part.strides, strict=True))
    if not part.size:
        return 0
    if min(part.strides, default=0) < 0 or first < begin or last > begin + whole.nbytes:
        raise LocalProtocolError("a tensor that is no view of the array whose storage it shares")
    return int(first - begin) // part.itemsize


_Saver = Callable[[_Writer, Any, int], None]
_SAVERS: dict[type, _Saver] = {
    type(None): _Writer.save_none,
    bool: _Writer.save_bool,
    int: _Writer.save_int,
    float: _Writer.save_float,
    str: _Writer.save_text,
    bytes: _Writer.save_bytes,
    bytearray: _Writer.save_bytes,
    memoryview: _Writer.save_bytes,
    list: _Writer.save_list,
    tuple: _Writer.save_tuple,
    dict: _Writer.save_dict,
    Name: _Writer.save_name,
    Record: _Writer.save_record,
    Tensor: _Writer.save_tensor,
    np.ndarray: _Writer.save_array,
}
_ALIKE: tuple[tuple[type, _Saver], ...] = (
    (np.bool_, _Writer.save_bool),
    (np.integer, _Writer.save_int),
    (np.floating, _Writer.save_float),
    (np.ndarray, _Writer.save_array),
    (str, _Writer.save_text),
    (int, _Writer.save_int),
    (float, _Writer.save_float),
    (bytes, _Writer.save_bytes),
    (Mapping, _Writer.save_dict),
    (list, _Writer.save_list),
    (tuple, _Writer.save_tuple),
)


def _saver_of(value: Any) -> _Saver:
    for kind, saver in _ALIKE:
        if isinstance(value, kind):
            return saver
    raise LocalProtocolError(f"{type(value).__name__} cannot be written as a pickle; plain values, arrays, Record and Tensor can")
