"""Plain msgpack whose long values stay where they are. Law: pure Python, bounded before it allocates, no extension types.

For foreign wires that put whole arrays into msgpack ``bin`` values: ``read`` gives them as views on the message, where msgpack's
own reader would copy them; ``Writer`` keeps them as parts of their own. ``bin`` and ``str`` keys are the same thing to both.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import msgpack  # type: ignore[import-untyped]

from actlink.errors import LocalProtocolError, RemoteProtocolError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAX_DEPTH = 16
MAX_VALUES = 16384
"""Values in one message, those inside maps and lists included."""
MAX_KEY_BYTES = 256
MAX_STRING_BYTES = 64 * 1024

_SEPARATE_BYTES = 8192
"""Shorter values are copied next to their neighbours: cheaper than one more buffer to write."""

_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    first: struct.Struct(f">{code}")
    for first, code in {
        0xCA: "f",
        0xCB: "d",
        0xCC: "B",
        0xCD: "H",
        0xCE: "I",
        0xCF: "Q",
        0xD0: "b",
        0xD1: "h",
        0xD2: "i",
        0xD3: "q",
    }.items()
}
_LENGTHS = {
    first: (kind, struct.Struct(f">{code}"))
    for first, kind, code in (
        (0xC4, "bin", "B"),
        (0xC5, "bin", "H"),
        (0xC6, "bin", "I"),
        (0xD9, "str", "B"),
        (0xDA, "str", "H"),
        (0xDB, "str", "I"),
        (0xDC, "list", "H"),
        (0xDD, "list", "I"),
        (0xDE, "map", "H"),
        (0xDF, "map", "I"),
    )
}


def read(data: Buffer, *, raw: bool = False) -> Any:
    """The one value in ``data``: None, bool, int, float, str, ``memoryview`` (bin), list, and dict with str keys.

    With ``raw``, strings are views too: for wires whose peers write either for the other. ``RemoteProtocolError`` for anything
    that is not exactly one value within the limits.
    """
    reader = _Reader(memoryview(data).toreadonly(), raw)
    value = reader.value(0)
    reader.expect_end()
    return value


class _Reader:
    def __init__(self, data: memoryview, raw: bool) -> None:
        self._data = data
        self._raw = raw
        self._at = 0
        self._left = MAX_VALUES

    def value(self, depth: int) -> Any:
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 256
        if first < 0x90:
            return self._map(first & 15, depth)
        if first < 0xA0:
            return self._list(first & 15, depth)
        if first < 0xC0:
            return self._string(first & 31)
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first in _PLAIN:
            return _PLAIN[first]
        return self._long(first, depth)

    def expect_end(self) -> None:
        if self._at != self._data.nbytes:
            raise RemoteProtocolError(
                f"message: expected its end at byte {self._at}, got {self._data.nbytes - self._at} bytes more"
            )

    def _long(self, first: int, depth: int) -> Any:
        if first not in _LENGTHS:
            raise RemoteProtocolError(f"byte {self._at - 1}: expected plain msgpack values, got one that begins with 0x{first:02X}")
        kind, layout = _LENGTHS[first]
        length: int = self._number(layout)
        if kind == "bin":
            return self._take(length)
        if kind == "str":
            return self._string(length)
        return self._map(length, depth) if kind == "map" else self._list(length, depth)

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        self._spend(2 * length, depth)
        found: dict[str, Any] = {}
        for _ in range(length):
            key = self._key(depth)
            found[key] = self.value(depth + 1)
        if len(found) != length:
            raise RemoteProtocolError(f"byte {self._at}: expected keys that differ from each other")
        return found

    def _list(self, length: int, depth: int) -> list[Any]:
        self._spend(length, depth)
        return [self.value(depth + 1) for _ in range(length)]

    def _key(self, depth: int) -> str:
        key = self.value(depth + 1)
        size = key.nbytes if type(key) is memoryview else len(key) if type(key) is str else MAX_KEY_BYTES + 1
        if size > MAX_KEY_BYTES:
            raise RemoteProtocolError(f"byte {self._at}: expected a key that is a text of at most {MAX_KEY_BYTES} bytes")
        return key if type(key) is str else self.text(key)

    def _string(self, length: int) -> Any:
        if self._raw:
            return self._take(length)
        if length > MAX_STRING_BYTES:
            raise RemoteProtocolError(f"byte {self._at}: expected a text of at most {MAX_STRING_BYTES} bytes, got {length}")
        return self.text(self._take(length))

    def text(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError(f"byte {self._at - data.nbytes}: expected a text in UTF-8") from None

    def _number(self, layout: struct.Struct) -> Any:
        (number,) = layout.unpack(self._take(layout.size))
        return number

    def _take(self, length: int) -> memoryview:
        start, end = self._at, self._at + length
        if end > self._data.nbytes:
            raise RemoteProtocolError(f"byte {start}: expected {length} bytes, the message has {self._data.nbytes - start} more")
        self._at = end
        return self._data[start:end]

    def _spend(self, values: int, depth: int) -> None:
        self._left -= values
        if self._left < 0 or depth >= MAX_DEPTH:
            raise RemoteProtocolError(f"byte {self._at}: expected at most {MAX_VALUES} values, {MAX_DEPTH} levels deep")


def text(value: Any, where: str) -> str:
    """``value`` as text, whether it was written as ``str`` or as ``bin``."""
    if type(value) is str:
        return value
    if type(value) is memoryview and value.nbytes <= MAX_STRING_BYTES:
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            pass
    raise RemoteProtocolError(f"{where}: expected a text, got a {type(value).__name__}")


class Writer:
    """One message being written."""

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self._small = bytearray()
        self._packer = msgpack.Packer(autoreset=True)

    def begin_map(self, length: int) -> None:
        """``length`` keys, each followed by its value, must come next."""
        self._small += self._packer.pack_map_header(length)

    def begin_list(self, length: int) -> None:
        """``length`` values must come next."""
        self._small += self._packer.pack_array_header(length)

    def plain(self, value: Any) -> None:
        """A value of plain types; ``LocalProtocolError`` for others."""
        try:
            self._small += self._packer.pack(value)
        except (TypeError, ValueError, OverflowError) as error:
            self._packer.reset()
            raise LocalProtocolError(f"this message cannot be written: {error}") from error

    def bin(self, data: memoryview) -> None:
        """Bytes; long ones are not copied, so leave them alone until the message is sent."""
        size = data.nbytes
        if size < 2**8:
            self._small += struct.pack(">BB", 0xC4, size)
        elif size < 2**16:
            self._small += struct.pack(">BH", 0xC5, size)
        elif size < 2**32:
            self._small += struct.pack(">BI", 0xC6, size)
        else:
            raise LocalProtocolError(f"this message cannot be written: expected values below 4 GiB, got {size} bytes")
        if size < _SEPARATE_BYTES:
            self._small += data
            return
        self._parts += [self._small, data]
        self._small = bytearray()

    def parts(self) -> tuple[Buffer, ...]:
        """The message as buffers to be written one after the other."""
        return (*self._parts, self._small) if self._small or not self._parts else tuple(self._parts)
