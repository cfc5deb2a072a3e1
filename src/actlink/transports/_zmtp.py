"""ZeroMQ's own wire, ZMTP 3.x, as far as request and reply need it. Law: sans-I/O; sizes are judged before memory is taken.

A connection opens with a greeting of 64 bytes each way and one READY command each way; then come messages. A message of a REQ
socket is an empty part (the delimiter) and one body; a DEALER may leave the delimiter out. Everything else is refused from its
header. Source: rfc.zeromq.org/spec/23 and /37, and what libzmq 4.3 sends.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from actlink.dialects._base import Buffer
from actlink.errors import RemoteProtocolError
from actlink.transports._buffers import Inbox

GREETING_BYTES = 64
SIGNATURE_BYTES = 10
COMMAND_BYTES = 4096
"""Longest command; the longest of an honest peer is its READY, with a name of up to 255 bytes."""

MORE, LONG, COMMAND = 1, 2, 4
DELIMITER = bytes((MORE, 0))
NULL = b"NULL"
"""The security mechanism without security. Another one (``_curve``) states its name in the greeting, puts its own commands in the
place of READY, and wraps every part of a message."""

_LONG_SIZE = struct.Struct(">Q")
_VALUE_SIZE = struct.Struct(">I")
_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
_VERSION = b"\x03\x01"
_MECHANISM_BYTES = 20


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message."""

    body: memoryview
    more: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A word between the two ends, which no message sees."""

    name: bytes
    body: bytes


Piece: TypeAlias = "Part | Command"


def greeting(*, server: bool, mechanism: bytes = NULL) -> bytes:
    """What either end says first."""
    return b"".join((_SIGNATURE, _VERSION, mechanism.ljust(_MECHANISM_BYTES, b"\0"), bytes((server,)), bytes(31)))


def starts_well(start: bytes) -> bool:
    """Whether the first bytes of a peer can become a greeting; a foreign peer is told apart by its first one."""
    return start[:1] in (b"", b"\xff") and (len(start) < SIGNATURE_BYTES or start[SIGNATURE_BYTES - 1] & 1 == 1)


def check_greeting(data: bytes, mechanism: bytes = NULL) -> None:
    """``RemoteProtocolError`` unless the peer speaks ZMTP 3 with our mechanism."""
    if not starts_well(data):
        raise RemoteProtocolError("this peer does not speak ZeroMQ")
    if data[SIGNATURE_BYTES] < 3:
        raise RemoteProtocolError(f"the peer speaks version {data[SIGNATURE_BYTES]} of ZeroMQ's wire; 3 (libzmq 4) is spoken here")
    theirs = mechanism_of(data)
    if theirs != mechanism:
        raise RemoteProtocolError(f"the peer wants the security mechanism {_shown(theirs)}; {_shown(mechanism)} is spoken here")


def mechanism_of(greeting: bytes) -> bytes:
    """Name of the security mechanism in a greeting."""
    return greeting[12 : 12 + _MECHANISM_BYTES].rstrip(b"\0")


def command(name: bytes, body: bytes = b"") -> bytes:
    return _head(COMMAND, 1 + len(name) + len(body)) + bytes((len(name),)) + name + body


def frame(body: bytes) -> bytes:
    """A part with nothing after it, in one piece."""
    return _head(0, len(body)) + body


def ready(socket_type: bytes) -> bytes:
    return command(b"READY", metadata(socket_type))


def metadata(socket_type: bytes) -> bytes:
    """What a socket says of itself."""
    properties = {b"Socket-Type": socket_type, b"Identity": b""}
    written = (bytes((len(key),)) + key + _VALUE_SIZE.pack(len(value)) + value for key, value in properties.items())
    return b"".join(written)


def reason(said: str) -> bytes:
    """Body of an ERROR, a server's last words: the peer of a refused opening learns why; libzmq ignores them later on, our own
    client reads them."""
    words = said.encode()[:255]
    return bytes((len(words),)) + words


def reason_of(body: bytes) -> str:
    """What an ERROR command says."""
    return body[1 : 1 + body[0]].decode(errors="replace") if body else ""


def check_ready(heard: Command, allowed: tuple[bytes, ...]) -> None:
    """``RemoteProtocolError`` unless ``heard`` is the READY of a socket that may talk to ours."""
    if heard.name == b"ERROR":
        raise RemoteProtocolError(f"turned away: {reason_of(heard.body)}")
    if heard.name != b"READY":
        raise RemoteProtocolError(f"expected READY after the greeting, got {_shown(heard.name)}")
    kind = _properties(heard.body).get(b"socket-type", b"")
    if kind not in allowed:
        wanted = " or ".join(_shown(each) for each in allowed)
        raise RemoteProtocolError(f"expected a {wanted} socket at the other end, got {_shown(kind)}")


def _properties(body: bytes) -> Mapping[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    place = 0
    while place < len(body):
        name_end = place + 1 + body[place]
        if name_end + _VALUE_SIZE.size > len(body):
            raise RemoteProtocolError("READY is cut off in the middle of a property")
        (size,) = _VALUE_SIZE.unpack_from(body, name_end)
        value_end = name_end + _VALUE_SIZE.size + size
        if value_end > len(body):
            raise RemoteProtocolError("READY is cut off in the middle of a property")
        found[body[place + 1 : name_end].lower()] = body[name_end + _VALUE_SIZE.size : value_end]
        place = value_end
    return found


def pong_of(ping: bytes) -> bytes:
    """Body of the PONG that answers a PING: its context, which follows two bytes of time to live."""
    return ping[2 : 2 + 16]


def message(parts: Sequence[Buffer], size: int, *, delimited: bool) -> Sequence[Buffer]:
    """A message of one body of ``size`` bytes, in pieces."""
    head = _head(0, size)
    return (DELIMITER + head if delimited else head, *parts)


def _head(flags: int, size: int) -> bytes:
    return bytes((flags, size)) if size < 256 else bytes((flags | LONG,)) + _LONG_SIZE.pack(size)


class Reader:
    """Bytes to parts and commands, after the greeting."""

    def __init__(self, inbox: Inbox, max_bytes: int) -> None:
        self._inbox = inbox
        self._max_bytes = max_bytes
        self._flags = 0

    def read(self) -> Piece | None:
        """The next whole piece; None until more bytes have come. ``RemoteProtocolError`` from the header of what is refused."""
        if self._inbox.body is None and not self._begin():
            return None
        body = self._inbox.body
        assert body is not None
        if self._inbox.received < len(body):
            return None
        data = self._inbox.finish()
        if not self._flags & COMMAND:
            return Part(data, bool(self._flags & MORE))
        if not data or len(data) < 1 + data[0]:
            raise RemoteProtocolError("a command without its whole name")
        return Command(bytes(data[1 : 1 + data[0]]), bytes(data[1 + data[0] :]))

    def _begin(self) -> bool:
        """Read a header, as soon as there is a whole one."""
        staged = self._inbox.staged
        if len(staged) < 2:
            return False
        flags = staged[0]
        if flags & ~(MORE | LONG | COMMAND) or flags & (MORE | COMMAND) == MORE | COMMAND:
            raise RemoteProtocolError(f"a frame that begins with 0x{flags:02x}, as none of ZeroMQ's does")
        size, head = staged[1], 2
        if flags & LONG:
            head = 1 + _LONG_SIZE.size
            if len(staged) < head:
                return False
            (size,) = _LONG_SIZE.unpack_from(staged, 1)
        limit = COMMAND_BYTES if flags & COMMAND else self._max_bytes
        if size > limit:
            raise RemoteProtocolError(f"frame of {size} bytes announced; at most {limit} are allowed")
        if flags & MORE and size:
            raise RemoteProtocolError(
                "a message of several parts; expected an empty delimiter and one body, as a REQ socket sends them, or one body"
            )
        self._flags = flags
        self._inbox.skip(head)
        self._inbox.begin(size)
        return True


class Envelope:
    """Parts to bodies: takes the delimiter off, and knows whether there was one."""

    def __init__(self) -> None:
        self.delimited = True
        """Whether the message before had a delimiter: its answer has one then."""
        self.begun = False

    def body(self, part: Part) -> memoryview | None:
        """The body of the message that ``part`` completes; None if it is the delimiter."""
        if part.more:
            if self.begun:
                raise RemoteProtocolError("a message of several parts; expected one delimiter and one body")
            self.begun = True
            return None
        self.delimited, self.begun = self.begun, False
        return part.body


def _shown(name: bytes) -> str:
    return name[:20].decode("ascii", "replace") or "none"
