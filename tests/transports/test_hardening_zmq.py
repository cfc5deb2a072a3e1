"""A thousand malformed envelopes at a ZeroMQ port: each ends its own connection and nothing else."""

from __future__ import annotations

import collections
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from hardening_world import HUNG_S, MIB, child, opening, read_to_the_end

from actlink.codecs import safe_pickle
from actlink.transports import _zmtp

COUNT = 1000
SEED = 20
QUESTION = b"".join(bytes(part) for part in safe_pickle.encode("RESET"))
GIB = 1024**3


def part(flags: int, body: bytes, size: int | None = None) -> bytes:
    """One frame of ZeroMQ's wire; ``size`` is what it claims, if that is not the truth."""
    if size is None and len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | _zmtp.LONG,)) + struct.pack(">Q", len(body) if size is None else size) + body


def noise(chance: random.Random, most: int = 64) -> bytes:
    return chance.randbytes(chance.randrange(1, most))


def mutated(chance: random.Random) -> bytes:
    """A good envelope with a few of its bytes changed, lost or doubled."""
    data = bytearray(part(_zmtp.MORE, b"") + part(0, QUESTION))
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(data))
        action = chance.randrange(3)
        if action == 0:
            data[place] = chance.randrange(256)
        elif action == 1 and len(data) > 1:
            del data[place]
        else:
            data.insert(place, data[place])
    return bytes(data)


ENVELOPES: dict[str, Callable[[random.Random], bytes]] = {
    "several parts": lambda chance: (
        b"".join(part(_zmtp.MORE, noise(chance)) for _ in range(chance.randrange(1, 9))) + part(0, QUESTION)
    ),
    "delimiters without end": lambda chance: part(_zmtp.MORE, b"") * chance.randrange(2, 400),
    "no delimiter, no pickle": lambda chance: part(0, b"\xff" + noise(chance)),
    "an empty body": lambda chance: part(_zmtp.MORE, b"") + part(0, b""),
    "8 GiB announced": lambda chance: part(_zmtp.MORE, b"") + part(0, QUESTION, 8 * GIB),
    "2**64 - 1 bytes announced": lambda chance: part(0, b"", 2**64 - 1),
    "8 MiB announced, nothing sent": lambda chance: part(0, b"", 8 * MIB),
    "a delimiter of 8 GiB": lambda chance: part(_zmtp.MORE, b"", 8 * GIB),
    "a command of 1 GiB": lambda chance: part(_zmtp.COMMAND, b"", GIB),
    "flags that there are not": lambda chance: bytes((chance.randrange(8, 256),)) + noise(chance),
    "a command in the middle": lambda chance: part(_zmtp.MORE, b"") + part(_zmtp.COMMAND | _zmtp.MORE, noise(chance)),
    "a nameless command": lambda chance: part(_zmtp.COMMAND, b""),
    "a command with half a name": lambda chance: part(_zmtp.COMMAND, b"\x40PI"),
    "READY once more": lambda chance: _zmtp.ready(b"DEALER") * chance.randrange(1, 9),
    "half a body": lambda chance: part(_zmtp.MORE, b"") + part(0, QUESTION)[:-3],
    "noise": lambda chance: noise(chance, 500),
    "changed bytes": mutated,
}


def said_to(place: tuple[str, int], data: bytes) -> bytes:
    """Everything that the server says to a peer who sends this and then only listens."""
    with socket.create_connection(place, timeout=HUNG_S) as sock:
        with contextlib.suppress(OSError):  # it may have been closed in the middle; why, can still be read
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        return read_to_the_end(sock)


def test_malformed_envelopes_end_their_own_connection_only(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with child(tmp_path, ports=["zmq"]) as server:
        address = server.addresses["zmq"]
        place, begin = (address.host, int(address.port or 0)), opening("zmq", address)
        good = said_to(place, begin + part(_zmtp.MORE, b"") + part(0, QUESTION))
        assert b"OK" in good or b"SUCCESS" in good.upper()
        before, peak = server.memory("VmSize"), server.memory("VmHWM")
        kinds = list(ENVELOPES)
        sent: collections.Counter[str] = collections.Counter()
        told = 0
        for number in range(COUNT):
            kind = kinds[number % len(kinds)]
            told += b"\5ERROR" in said_to(place, begin + ENVELOPES[kind](chance))
            sent[kind] += 1
            if number % 100 == 99:
                server.serves(["zmq"])
        grown, high = server.memory("VmSize") - before, server.memory("VmHWM") - peak
        answered_s = server.serves(["zmq"])
        print(
            f"seed {SEED}: {sum(sent.values())} envelopes of {len(sent)} kinds, {told} told why; good ones between and after them"
        )
        print(
            f"the last in {answered_s * 1000:.0f} ms; address space +{grown / MIB:.1f} MiB, resident at most +{high / MIB:.1f} MiB"
        )
        assert sum(sent.values()) == COUNT and told > COUNT // 3
        assert grown <= 64 * MIB
        server.settled(lambda: server.known()["sessions"] == 0)


def test_malformed_openings_end_their_own_connection_only(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with child(tmp_path, ports=["zmq"]) as server:
        address = server.addresses["zmq"]
        place, good = (address.host, int(address.port or 0)), opening("zmq", address)
        for _ in range(200):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            said_to(place, bytes(data[: chance.randrange(1, len(data) + 1)]))
        server.settled(lambda: server.known()["sessions"] == 0)
        print(f"seed {SEED}: 200 openings; then a good request in {server.serves(['zmq']) * 1000:.0f} ms")
