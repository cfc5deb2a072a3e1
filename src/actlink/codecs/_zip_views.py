"""A zip archive as views on its bytes. Law: an entry is looked up by name and never becomes a path; nothing is unpacked unasked.

torch and Stable-Baselines3 store entries as they are, so an entry is a view on the file, which may be mapped. A deflated one is
unpacked within a budget. Entries must lie in the file one behind the other and fit their headers: what two programs could read
differently (an entry twice, bytes that belong to two entries, a name that climbs out of its folder) is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from actlink.errors import ConfigError

MOST_ENTRIES = 200_000
LONGEST_NAME = 512
STORED, DEFLATED = 0, 8
UNPACKED_SLACK = 2**26
"""What deflated entries may unpack to beyond four times the archive (bytes)."""

_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FIELD = struct.Struct("<2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_FULL_2, _FULL_4 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the archive's directory has it; sizes in bytes."""

    name: str
    method: int
    packed: int
    size: int
    at: int
    """Where its own header stands."""


class Zip:
    """The entries of one archive that fills ``view``; ``ConfigError`` for anything that is not a plain, whole archive."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._budget = 4 * len(view) + UNPACKED_SLACK
        self.entries: dict[str, Entry] = {}
        self._data: dict[str, tuple[int, int]] = {}
        start, length, count = _directory(view)
        for entry in _central(view[start : start + length], count):
            if entry.name in self.entries:
                raise ConfigError(f"zip archive with two entries named {entry.name[:80]!r}")
            self.entries[entry.name] = entry
        end = 0
        for entry in sorted(self.entries.values(), key=lambda each: each.at):
            if entry.at < end:
                raise ConfigError(f"zip archive whose entry {entry.name[:80]!r} overlaps the one before it")
            begin = _data_start(view, entry)
            end = begin + entry.packed
            if end > start:
                raise ConfigError(f"zip entry {entry.name[:80]!r} of {entry.packed} bytes reaches beyond the archive's data")
            self._data[entry.name] = (begin, end)

    def read(self, name: str) -> memoryview:
        """The bytes of an entry: a read-only view where it is stored, unpacked within the budget where it is deflated."""
        entry = self.entries[name]
        begin, end = self._data[name]
        if entry.method == STORED:
            if entry.packed != entry.size:
                raise ConfigError(f"stored zip entry {name!r} has {entry.packed} bytes, its header says {entry.size}")
            return self._view[begin:end]
        if entry.method != DEFLATED:
            raise ConfigError(f"zip entry {name!r} is compressed by method {entry.method}; stored and deflated ones are read")
        self._budget -= entry.size
        if self._budget < 0:
            raise ConfigError(
                f"zip entry {name!r} would unpack to {entry.size} bytes, which is more than four times the archive: a zip bomb, or "
                "unpack it yourself and store it without compression"
            )
        worker = zlib.decompressobj(-15)
        try:
            data = worker.decompress(self._view[begin:end], entry.size + 1)  # one more, so that a lying size is seen
        except zlib.error as error:
            raise ConfigError(f"zip entry {name!r} cannot be unpacked: {error}") from None
        if len(data) != entry.size or not worker.eof:
            raise ConfigError(f"zip entry {name!r} does not unpack to the {entry.size} bytes that its header says")
        return memoryview(data)


def _directory(view: memoryview) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory, from the record that ends the archive."""
    tail = bytes(view[-(_END.size + _FULL_2) :])
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ConfigError("not a whole zip archive: it has no end record (a file that was cut off?)")
    _, disk, first, here, count, length, start, comment = _END.unpack_from(tail, at)
    end = len(view) - len(tail) + at
    if at + _END.size + comment != len(tail):
        raise ConfigError("zip archive with bytes behind its end record")
    located = end - _END_64_LOCATOR.size
    if located >= 0 and bytes(view[located : located + 4]) == b"PK\x06\x07":  # torch writes one for small archives too
        short = count, length, start
        end, disk, first, here, count, length, start = _end_64(view, located)
        for narrow, wide, full in zip(short, (count, length, start), (_FULL_2, _FULL_4, _FULL_4), strict=True):
            if narrow not in (wide, full):
                raise ConfigError("zip archive with two end records that differ")
    if disk or first or here != count:
        raise ConfigError("zip archive in several parts")
    if start + length != end:
        raise ConfigError(
            f"zip archive whose directory of {length} bytes at byte {start} does not end at its end record, byte {end}"
        )
    if count > MOST_ENTRIES or count * _CENTRAL.size > length:
        raise ConfigError(f"zip archive with {count} entries in a directory of {length} bytes; at most {MOST_ENTRIES} are read")
    return start, length, count


def _end_64(view: memoryview, located: int) -> tuple[int, ...]:
    """Where the 64-bit end record stands, and what it says of disks, entries and directory."""
    _, disk, where, disks = _END_64_LOCATOR.unpack_from(view, located)
    if disk or disks > 1 or where > located - _END_64.size:
        raise ConfigError("zip archive with a broken 64-bit end record")
    mark, size, _, _, *rest = _END_64.unpack_from(view, where)
    if mark != b"PK\x06\x06" or where + 12 + size != located:
        raise ConfigError("zip archive with a broken 64-bit end record")
    return where, *rest


def _central(directory: memoryview, count: int) -> Iterator[Entry]:
    at = 0
    for _ in range(count):
        if len(directory) - at < _CENTRAL.size:
            raise ConfigError("zip archive whose directory is cut off")
        fields = _CENTRAL.unpack_from(directory, at)
        mark, flags, method = fields[0], fields[3], fields[4]
        packed, size, name_length, extra_length, comment_length, disk = fields[8:14]
        start = fields[16]
        begin = at + _CENTRAL.size
        at = begin + name_length + extra_length + comment_length
        if mark != b"PK\x01\x02" or at > len(directory):
            raise ConfigError("zip archive whose directory is cut off")
        name = _name(bytes(directory[begin : begin + name_length]))
        if flags & _ENCRYPTED or disk not in (0, _FULL_2):
            raise ConfigError(f"zip entry {name!r} is encrypted or in another part")
        extra = directory[begin + name_length : begin + name_length + extra_length]
        size, packed, start = _widened(extra, size, packed, start, name)
        yield Entry(name, method, packed, size, start)
    if at != len(directory):
        raise ConfigError("zip archive whose directory holds more than its entries")


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("zip entry whose name is not UTF-8") from None
    parts = name.removesuffix("/").split("/")
    if not name or len(raw) > LONGEST_NAME or "\\" in name or "\0" in name or ":" in name or {"", ".", ".."} & set(parts):
        raise ConfigError(f"zip entry named {name[:80]!r}: a name inside the archive is expected, not a path that leads out of it")
    return name


def _widened(extra: memoryview, size: int, packed: int, start: int, name: str) -> tuple[int, int, int]:
    """Size, packed size and place, with the 64-bit ones out of the extra field where the header has no room for them."""
    if _FULL_4 not in (size, packed, start):
        return size, packed, start
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        field = extra[at + _FIELD.size : at + _FIELD.size + length]
        at += _FIELD.size + length
        if kind != 1:
            continue
        values = [size, packed, start]
        wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
        try:
            size, packed, start = [next(wide) if value == _FULL_4 else value for value in values]
        except StopIteration:
            break
        return size, packed, start
    raise ConfigError(f"zip entry {name!r} has no 64-bit sizes where its header points to them")


def _data_start(view: memoryview, entry: Entry) -> int:
    """Where the entry's bytes begin, behind its own header, which must name the same entry."""
    if entry.at + _LOCAL.size > len(view):
        raise ConfigError(f"zip entry {entry.name[:80]!r} begins outside the archive")
    fields = _LOCAL.unpack_from(view, entry.at)
    mark, method = fields[0], fields[3]
    name_length, extra_length = int(fields[9]), int(fields[10])
    begin = entry.at + _LOCAL.size
    if mark != b"PK\x03\x04" or method != entry.method or bytes(view[begin : begin + name_length]) != entry.name.encode():
        raise ConfigError(f"zip entry {entry.name[:80]!r}: its own header and the archive's directory differ")
    return begin + name_length + extra_length
