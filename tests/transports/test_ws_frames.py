"""WebSocket frames without a socket: what is read is what was written, and every rule that is broken is noticed."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.transports import _ws_frames as ws
from actlink.transports._buffers import Buffers, Inbox
from actlink.transports._ws_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Control, FrameError, FrameReader, Message

FIN = 0x80


def frame(
    first: int, payload: bytes = b"", *, masked: bool = True, key: bytes = b"\x12\x34\x56\x78", size: int | None = None
) -> bytes:
    """A frame by hand: ``first`` is its first byte, ``size`` a length that it announces instead of its own."""
    length = len(payload) if size is None else size
    mask = 0x80 if masked else 0
    head = bytes((first,))
    if length < 126:
        head += bytes((mask | length,))
    elif length < 65536:
        head += struct.pack("!BH", mask | 126, length)
    else:
        head += struct.pack("!BQ", mask | 127, length)
    if not masked:
        return head + payload
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def reader(*, masked: bool = True, max_bytes: int = 1_000_000) -> tuple[Inbox, FrameReader]:
    inbox = Inbox(Buffers())
    return inbox, FrameReader(inbox, masked=masked, max_bytes=max_bytes)


def read(stream: bytes, *, chunk: int = 10**9, masked: bool = True, max_bytes: int = 1_000_000) -> list[Message | Control]:
    """Everything in the stream, delivered ``chunk`` bytes at a time."""
    inbox, frames = reader(masked=masked, max_bytes=max_bytes)
    found: list[Message | Control] = []
    while stream:
        room = inbox.buffer()
        count = min(len(room), len(stream), chunk)
        room[:count] = stream[:count]
        inbox.filled(count)
        stream = stream[count:]
        while (one := frames.read()) is not None:
            found.append(one)
    assert frames.idle
    return found


def plain(found: list[Message | Control]) -> list[tuple[int, bytes]]:
    return [
        (one.opcode, one.payload) if isinstance(one, Control) else (TEXT if one.text else BINARY, bytes(one.data)) for one in found
    ]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 1023, 1024, 1025, 65535, 65536, 100_003])
def test_sizes(size: int, masked: bool) -> None:
    data = os.urandom(size)
    stream = frame(FIN | BINARY, data, masked=masked) + frame(FIN | TEXT, b"next", masked=masked)
    assert plain(read(stream, masked=masked)) == [(BINARY, data), (TEXT, b"next")]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 13, 100, 4096])
def test_messages_are_the_same_however_they_arrive(chunk: int) -> None:
    data = os.urandom(20_000)
    stream = (
        frame(BINARY, data[:7000])
        + frame(FIN | PING, b"are you there?")
        + frame(CONTINUATION, b"")
        + frame(CONTINUATION, data[7000:12_345])
        + frame(FIN | PONG, b"")
        + frame(FIN | CONTINUATION, data[12_345:])
        + frame(FIN | TEXT, "grüße".encode())
        + frame(FIN | CLOSE, struct.pack("!H", 1000) + b"done")
    )
    expected = [
        (PING, b"are you there?"),
        (PONG, b""),
        (BINARY, data),
        (TEXT, "grüße".encode()),
        (CLOSE, b"\x03\xe8done"),
    ]
    assert plain(read(stream, chunk=chunk)) == expected


@given(st.lists(st.binary(max_size=3000), max_size=6), st.integers(1, 700), st.binary(min_size=4, max_size=4))
def test_what_is_written_is_read(payloads: list[bytes], chunk: int, key: bytes) -> None:
    stream = b""
    for payload in payloads:
        target = memoryview(bytearray(len(payload)))
        third = len(payload) // 3
        pieces = [memoryview(payload)[:third], memoryview(payload)[third : third + 1], memoryview(payload)[third + 1 :]]
        stream += ws.header(BINARY, len(payload), key) + bytes(ws.mask(pieces, key, target))
    assert plain(read(stream, chunk=chunk)) == [(BINARY, payload) for payload in payloads]


@given(st.binary(max_size=400), st.booleans())
def test_garbage_gives_messages_or_a_frame_error(garbage: bytes, masked: bool) -> None:
    inbox, frames = reader(masked=masked, max_bytes=300)
    inbox.buffer()[: len(garbage)] = garbage
    inbox.filled(len(garbage))
    try:
        while frames.read() is not None:
            pass
    except FrameError as error:
        assert error.code in (ws.PROTOCOL_ERROR, ws.INVALID_DATA, ws.TOO_BIG)


def test_messages_own_writable_memory() -> None:
    whole, fragmented = read(frame(FIN | BINARY, bytes(50)) + frame(BINARY, bytes(20)) + frame(FIN | CONTINUATION, bytes(30)))
    for message in (whole, fragmented):
        assert isinstance(message, Message)
        view = memoryview(message.data)
        assert not view.readonly and view.nbytes == 50


@pytest.mark.parametrize("opcode", [BINARY, TEXT, CLOSE])
@pytest.mark.parametrize("bits", [0x40, 0x20, 0x10, 0x70])
def test_reserved_bits(opcode: int, bits: int) -> None:
    with pytest.raises(FrameError) as caught:
        read(frame(FIN | bits | opcode))
    assert caught.value.code == ws.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcodes(opcode: int) -> None:
    with pytest.raises(FrameError, match="opcode") as caught:
        read(frame(FIN | opcode))
    assert caught.value.code == ws.PROTOCOL_ERROR


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("first", [FIN | BINARY, FIN | TEXT, FIN | PING])
def test_wrong_masking(expected: bool, first: int) -> None:
    with pytest.raises(FrameError, match="mask") as caught:
        read(frame(first, b"x", masked=not expected), masked=expected)
    assert caught.value.code == ws.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "stream",
    [
        frame(FIN | PING, bytes(126)),
        frame(PING, b"x"),
        frame(FIN | CONTINUATION, b"x"),
        frame(CONTINUATION, b"x"),
        frame(TEXT, b"x") + frame(FIN | TEXT, b"y"),
        frame(BINARY, b"x") + frame(BINARY, b"y"),
        frame(FIN | BINARY, size=2**63),
        frame(FIN | CLOSE, b"x"),
    ],
    ids=[
        "long control",
        "fragmented control",
        "nothing to end",
        "nothing to continue",
        "text within",
        "binary within",
        "sign",
        "close",
    ],
)
def test_broken_rules(stream: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        read(stream)
    assert caught.value.code == ws.PROTOCOL_ERROR


class Watched(Buffers):
    """Counts what is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[int] = []

    def take(self, size: int) -> memoryview:
        self.taken.append(size)
        return super().take(size)


@pytest.mark.parametrize("first_bytes", [0, 60])
def test_message_over_the_limit_takes_no_memory(first_bytes: int) -> None:
    """Over all its fragments, and announced by the very frame that goes over."""
    buffers = Watched()
    inbox = Inbox(buffers)
    frames = FrameReader(inbox, masked=True, max_bytes=100)
    stream = frame(BINARY, bytes(first_bytes)) + frame(FIN | CONTINUATION, size=101 - first_bytes)
    inbox.buffer()[: len(stream)] = stream
    inbox.filled(len(stream))
    with pytest.raises(FrameError, match=r"101 bytes; at most 100") as caught:
        frames.read()
    assert caught.value.code == ws.TOO_BIG
    assert buffers.taken == [first_bytes]


def test_message_of_exactly_the_limit() -> None:
    assert plain(read(frame(BINARY, bytes(60)) + frame(FIN | CONTINUATION, bytes(40)), max_bytes=100)) == [(BINARY, bytes(100))]


def test_countless_fragments_take_no_more_memory_than_their_bytes() -> None:
    stream = frame(BINARY) + frame(CONTINUATION, b"x") * 5000 + frame(FIN | CONTINUATION)
    assert plain(read(stream)) == [(BINARY, b"x" * 5000)]


@pytest.mark.parametrize(
    "stream",
    [
        frame(FIN | TEXT, b"\xff"),
        frame(FIN | TEXT, b"\xed\xa0\x80"),  # a surrogate
        frame(FIN | TEXT, "ü".encode()[:1]),
        frame(TEXT, b"ok") + frame(FIN | CONTINUATION, b"\xc0\xaf"),  # an overlong slash
        frame(TEXT, b"\xf4\x90"),  # beyond Unicode, noticed before the message ends
        frame(FIN | CLOSE, struct.pack("!H", 1000) + b"\xff"),
    ],
)
def test_text_that_is_not_utf8(stream: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        read(stream)
    assert caught.value.code == ws.INVALID_DATA


def test_text_split_within_a_character() -> None:
    data = "κόσμε".encode()
    assert plain(read(frame(TEXT, data[:3]) + frame(FIN | CONTINUATION, data[3:]))) == [(TEXT, data)]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_close_codes_for_the_wire(code: int) -> None:
    (close,) = read(frame(FIN | CLOSE, struct.pack("!H", code) + b"why"))
    assert isinstance(close, Control) and (close.code, close.reason) == (code, "why")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_are_not(code: int) -> None:
    with pytest.raises(FrameError) as caught:
        read(frame(FIN | CLOSE, struct.pack("!H", code)))
    assert caught.value.code == ws.PROTOCOL_ERROR


def test_close_without_a_code() -> None:
    (close,) = read(frame(FIN | CLOSE))
    assert isinstance(close, Control) and (close.code, close.reason) == (ws.NO_STATUS, "")


def test_long_reason_is_cut_between_characters() -> None:
    payload = ws.close_payload(1011, "ü" * 100)
    assert len(payload) <= 125 and payload[2:].decode() == "ü" * 61
