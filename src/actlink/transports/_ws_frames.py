"""WebSocket frames (RFC 6455 section 5), both directions and both sides. Law: sans-I/O; a length is judged before memory is taken.

Large payloads are unmasked where they landed, while the rest of them is still on its way.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actlink.dialects._base import Buffer
from actlink.transports._buffers import Inbox

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, POLICY_VIOLATION, TOO_BIG, SERVER_ERROR = 1000, 1001, 1002, 1007, 1008, 1009, 1011
NO_STATUS = 1005
"""Stands for a close frame without a code; never on the wire."""

_CODES_ON_THE_WIRE = frozenset((*range(1000, 1004), *range(1007, 1015)))
_LONGEST_CONTROL = 125
_WHOLE_BINARY = 0x80 | BINARY
_SMALL_BYTES = 1024


class FrameError(Exception):
    """The peer's bytes break the protocol; ``code`` is the close code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A whole text or binary message, reassembled and unmasked."""

    data: Buffer
    text: bool


@dataclass(frozen=True, slots=True)
class Control:
    """A ping, pong or close."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """Close code; ``NO_STATUS`` where the peer gave none."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else NO_STATUS

    @property
    def reason(self) -> str:
        return self.payload[2:].decode()


def header(opcode: int, size: int, key: bytes = b"") -> bytes:
    """Header of an unfragmented frame; a ``key`` of four bytes announces a masked payload."""
    masked = 0x80 if key else 0
    if size < 126:
        return bytes((0x80 | opcode, masked | size)) + key
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, masked | 126, size) + key
    return struct.pack("!BBQ", 0x80 | opcode, masked | 127, size) + key


def close_payload(code: int, reason: str) -> bytes:
    """Code and reason, the reason cut to what a control frame can hold."""
    return struct.pack("!H", code) + reason.encode()[: _LONGEST_CONTROL - 2].decode(errors="ignore").encode()


def control(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """A whole control frame."""
    key = os.urandom(4) if masked else b""
    return header(opcode, len(payload), key) + (xored(payload, key) if masked else payload)


def mask(pieces: Sequence[memoryview], key: bytes, target: memoryview) -> memoryview:
    """The pieces one after the other, masked with ``key``, written to the start of ``target``."""
    place = 0
    for piece in pieces:
        phase = place % 4
        _xor(piece, target[place : place + len(piece)], key[phase:] + key[:phase])
        place += len(piece)
    return target[:place]


def _xor(source: Buffer, target: Buffer, key: bytes) -> None:
    """``target = source ^ key key key ...``; the two may be the same memory."""
    given, result = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    size = given.size
    whole = 0 if size < _SMALL_BYTES else size & ~7
    if whole:
        words = np.frombuffer(key * 2, np.uint64)[0]
        np.bitwise_xor(given[:whole].view(np.uint64), words, out=result[:whole].view(np.uint64))
    if whole < size:
        left = size - whole
        np.bitwise_xor(given[whole:], np.frombuffer(key * (left // 4 + 1), np.uint8, left), out=result[whole:])


def xored(data: bytes, key: bytes) -> bytes:
    """A few bytes, masked or unmasked: faster than numpy, and than a copy of its own for each part."""
    size = len(data)
    pattern = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")


class FrameReader:
    """Bytes to messages and control frames.

    ``masked`` says which side the peer is: a client's frames must be masked, a server's must not. ``max_bytes`` bounds a whole
    message, over all its fragments. Reading stops for good after a ``FrameError``.
    """

    def __init__(self, inbox: Inbox, *, masked: bool, max_bytes: int) -> None:
        self._inbox = inbox
        self._masked = masked
        self._max_bytes = max_bytes
        # The data frame in progress
        self._final = False
        self._key = b""
        self._unmasked = 0
        # The message in progress; None between messages
        self._opcode: int | None = None
        self._fragments: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def idle(self) -> bool:
        """Whether no message is half received."""
        return self._opcode is None and self._inbox.idle

    def read(self) -> Message | Control | None:
        """The next message or control frame; None until more bytes have come. ``FrameError`` ends the connection."""
        while True:
            if self._inbox.body is None:
                found = self._read_header()
                if not isinstance(found, bool):
                    return found
                if not found:
                    return None
            if not self._unmask():
                return None
            message = self._end_frame()
            if message is not None:
                return message

    def _read_header(self) -> Control | bool:
        """A control frame, or whether a data frame has begun."""
        staged = self._inbox.staged
        if len(staged) < 2:
            return False
        first, second = staged[0], staged[1]
        size, place = second & 0x7F, 2
        if first != _WHOLE_BINARY or self._opcode is not None or bool(second & 0x80) is not self._masked:
            self._judge(first, second, size)
        if size > _LONGEST_CONTROL:
            place = 4 if size == 126 else 10
            if len(staged) < place:
                return False
            size = int.from_bytes(staged[2:place], "big")
        if not first & 0x8:
            self._judge_size(size)
        end = place + 4 * self._masked
        if len(staged) < end:
            return False
        key = bytes(staged[place:end])
        if first & 0x8:
            return self._read_control(first & 0xF, key, end, size)
        self._inbox.skip(end)
        self._begin_frame(first, key, size)
        return True

    def _judge(self, first: int, second: int, size: int) -> None:
        opcode = first & 0xF
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "reserved bits are set, but no extension was agreed on")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        if bool(second & 0x80) is not self._masked:
            raise FrameError(
                PROTOCOL_ERROR, "frames of a client must be masked" if self._masked else "a server must not mask frames"
            )
        if opcode & 0x8:
            if size > _LONGEST_CONTROL or not first & 0x80:
                raise FrameError(PROTOCOL_ERROR, "control frames have at most 125 bytes and no fragments")
        elif (opcode == CONTINUATION) is (self._opcode is None):
            raise FrameError(PROTOCOL_ERROR, "a continuation without a message, or a message within another")

    def _judge_size(self, size: int) -> None:
        if size >> 63:
            raise FrameError(PROTOCOL_ERROR, "a length with its highest bit set")
        total = size + len(self._fragments or b"")
        if total > self._max_bytes:
            raise FrameError(TOO_BIG, f"message of {total} bytes; at most {self._max_bytes} are allowed")

    def _read_control(self, opcode: int, key: bytes, start: int, size: int) -> Control | bool:
        staged = self._inbox.staged
        if len(staged) < start + size:
            return False
        payload = bytes(staged[start : start + size])
        self._inbox.skip(start + size)
        frame = Control(opcode, xored(payload, key) if self._masked else payload)
        if opcode == CLOSE:
            _judge_close(frame)
        return frame

    def _begin_frame(self, first: int, key: bytes, size: int) -> None:
        self._final = bool(first & 0x80)
        self._key = key
        self._unmasked = 0
        if self._opcode is None:
            self._opcode = first & 0xF
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._opcode == TEXT else None
        self._inbox.begin(size)

    def _unmask(self) -> bool:
        """Unmask what has arrived of the body; whether it is complete."""
        body, received = self._inbox.body, self._inbox.received
        assert body is not None
        complete = received == len(body)
        # Up to the end, or a multiple of 8 bytes: every piece then begins with the first byte of the key.
        until = received if complete else received & ~7
        if self._masked and until > self._unmasked:
            piece = body[self._unmasked : until]
            _xor(piece, piece, self._key)
            self._unmasked = until
        return complete

    def _end_frame(self) -> Message | None:
        """The message, if this frame was its last."""
        body: Buffer = self._inbox.finish()
        if self._decoder is not None:
            self._check_text(body)
        if self._fragments is not None or not self._final:
            # One growing buffer: a list would cost a hundred bytes for every fragment of one byte.
            self._fragments = bytearray() if self._fragments is None else self._fragments
            self._fragments += body
        if not self._final:
            return None
        if self._fragments is not None:
            body = memoryview(self._fragments)
        message = Message(body, self._opcode == TEXT)
        self._opcode = self._fragments = self._decoder = None
        return message

    def _check_text(self, body: Buffer) -> None:
        assert self._decoder is not None
        try:
            self._decoder.decode(bytes(body), self._final)
        except UnicodeDecodeError as error:
            raise FrameError(INVALID_DATA, "text that is not UTF-8") from error


def _judge_close(frame: Control) -> None:
    if len(frame.payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "a close frame of one byte")
    if frame.payload and not (frame.code in _CODES_ON_THE_WIRE or 3000 <= frame.code < 5000):
        raise FrameError(PROTOCOL_ERROR, f"the close code {frame.code} is not for the wire")
    try:
        _ = frame.reason
    except UnicodeDecodeError as error:
        raise FrameError(INVALID_DATA, "a close reason that is not UTF-8") from error
