"""Delivery byte by byte: however a peer's bytes are cut on their way, they mean the same. Every framing, without a socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hardening_world import opening, prefixed, upgrade, ws_frame

from actlink import loading
from actlink.address import Address, parse
from actlink.dialects._base import Frame
from actlink.transports import _ws_frames as ws
from actlink.transports import _zmtp
from actlink.transports._framing import Ended, Framing, Opened

URLS = {"tcp": "native+tcp://127.0.0.1:1", "ws": "native+ws://127.0.0.1:1", "zmq": "act+zmq://127.0.0.1:1"}
SIZES = (0, 1, 2, 125, 126, 127, 255, 256, 700)
"""Lengths around which the headers of the wires change their form, 1.6 KB together."""


def framing(wire: str) -> Framing:
    """A server's, for one peer."""
    address = parse(URLS[wire])
    transport = loading.load("transports", address.transport)
    made: Framing = transport.Listener(address, transport.Config())._framing()
    return made


def body(size: int) -> bytes:
    return bytes((7 * place + size) % 251 for place in range(size))


def zmq_message(data: bytes, *, delimited: bool = True) -> bytes:
    return b"".join(map(bytes, _zmtp.message([data], len(data), delimited=delimited)))


def masked(data: bytes) -> bytes:
    """A text fragment without its end, with a mask that is always the same."""
    return bytes((ws.TEXT, 0x80 | len(data))) + b"abcd" + ws.xored(data, b"abcd")


def words(wire: str) -> list[bytes]:
    """What a good peer says, one message or control frame at a time; first its opening."""
    where = parse(URLS[wire])
    if wire == "tcp":
        return [b"", *(prefixed(body(size)) for size in SIZES)]
    if wire == "zmq":
        ping = _zmtp.command(b"PING", b"\0\x0ahello")
        return [opening("zmq", where), *(zmq_message(body(size), delimited=bool(size % 2)) for size in SIZES), ping]
    fragments = masked("grü".encode()[:-1]) + ws_frame(b"?", ws.PING) + ws_frame("grü".encode()[-1:] + b"n", ws.CONTINUATION)
    return [upgrade(where), *(ws_frame(body(size)) for size in SIZES), fragments, ws_frame(b"\x03\xe8bye", ws.CLOSE)]


def heard(wire: str, pieces: Sequence[bytes]) -> list[Any]:
    """What the server makes of the bytes, delivered in these pieces."""
    one = framing(wire)
    said: list[Any] = list(map(plain, one.filled(0)))
    for piece in pieces:
        place = 0
        while place < len(piece):
            room = one.buffer()
            count = min(len(room), len(piece) - place)
            room[:count] = piece[place : place + count]
            place += count
            for happening in one.filled(count):
                said.append(plain(happening))
                if isinstance(happening, Opened):
                    one.welcome()
                if isinstance(happening, Ended):
                    return said
    return said


def plain(happening: Any) -> Any:
    """Something that can be compared, and that keeps none of the framing's memory."""
    return (bytes(happening.data), happening.text) if isinstance(happening, Frame) else happening


def cut_once(data: bytes) -> Iterator[tuple[bytes, ...]]:
    return ((data[:place], data[place:]) for place in range(1, len(data)))


@pytest.mark.parametrize("wire", URLS)
def test_a_cut_anywhere_changes_nothing(wire: str) -> None:
    data = b"".join(words(wire))
    whole = heard(wire, [data])
    assert sum(isinstance(one, tuple) for one in whole) == len(SIZES) + (wire == "ws")
    cuts = 0
    for pieces in cut_once(data):
        assert heard(wire, pieces) == whole, f"cut after {len(pieces[0])} bytes"
        cuts += 1
    print(f"{wire}: {len(data)} bytes, cut in two at each of {cuts} places")


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("wire", URLS)
def test_small_pieces_change_nothing(wire: str, step: int) -> None:
    data = b"".join(words(wire))
    assert heard(wire, [data[place : place + step] for place in range(0, len(data), step)]) == heard(wire, [data])


@pytest.mark.parametrize("wire", URLS)
def test_messages_in_pairs_change_nothing(wire: str) -> None:
    said = words(wire)
    alone, pairs = heard(wire, said), [b"".join(said[place : place + 2]) for place in range(0, len(said), 2)]
    assert heard(wire, pairs) == alone == heard(wire, [b"".join(said)])


@pytest.mark.parametrize("wire", URLS)
def test_what_is_wrong_is_wrong_however_it_is_cut(wire: str) -> None:
    """The refusal says the same; what was good before it still counts."""
    wrong = {
        "tcp": prefixed(b"good") + b"\xff\xff\xff\xff" + bytes(20),
        "ws": upgrade(parse(URLS["ws"])) + ws_frame(b"good") + b"\x83\x85abcd" + bytes(20),
        "zmq": opening("zmq", parse(URLS["zmq"])) + zmq_message(b"good") + b"\x02\0\0\0\2\0\0\0\0" + bytes(20),
    }[wire]
    whole = heard(wire, [wrong])
    assert isinstance(whole[-1], Ended) and whole[-1].error and (b"good", False) in whole
    for pieces in (*cut_once(wrong), [wrong[place : place + 1] for place in range(len(wrong))]):
        assert heard(wire, pieces) == whole, f"cut after {len(pieces[0])} bytes"


def test_the_comparison_would_notice() -> None:
    assert heard("tcp", [prefixed(b"ab")]) != heard("tcp", [prefixed(b"a"), prefixed(b"b")])
    assert heard("tcp", [prefixed(b"ab")[:-1]]) != heard("tcp", [prefixed(b"ab")])


def test_the_addresses_are_those_of_all_stream_transports() -> None:
    assert {Address.transport.fget(parse(url)) for url in URLS.values()} == {"tcp", "websocket", "zmq"}  # type: ignore[attr-defined]
