#!/usr/bin/env python3
"""Golden vectors of the native wire: one message per file, as bytes (``.bin``) and in words (``.json``).

``python scripts/make_native_vectors.py [FOLDER]`` writes them, by default to ``tests/data/native``. The messages are spelled out
here as ``docs/wire.md`` has them, key by key; nothing is taken from the dialect. Descriptions hold an array as
``{"$array": dtype, "shape": [...], "values": [...]}`` with the values in C order, 64-bit integers as strings.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from actlink.codecs import msgpack_arrays

FOLDER = Path(__file__).parent.parent / "tests" / "data" / "native"

# 8 x 16 pixels, red beside blue; encoded once and kept, since encoders differ in their last bits.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/"
    "2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/wAARCAAIABADAREAAhEBAxEB/8QA"
    "FQABAQAAAAAAAAAAAAAAAAAABQb/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAABwX/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oA"
    "DAMBAAIRAxEAPwCWQyQJMobf/9k="
)

SESSION = "5b8e7d0c"

SPEC: dict[str, Any] = {
    "observation": {
        "state": {
            "shape": [3],
            "dtype": "float32",
            "required": True,
            "names": ["waist", "elbow", "gripper"],
            "range": None,
            "unit": "rad",
        },
        "images.top": {"shape": [8, 16, 3], "dtype": "uint8", "required": False, "names": None, "range": None, "unit": None},
        "prompt": {"shape": [], "dtype": "str", "required": False, "names": None, "range": None, "unit": None},
    },
    "action": {"shape": [2], "dtype": "float32", "required": True, "names": None, "range": [-1.0, 1.0], "unit": None},
    "action_horizon": 4,
    "rate_hz": 50.0,
    "accepts_prefix": True,
    "max_batch_size": 8,
    "stateful": False,
    "control_space": "joint",
    "control_type": "abs",
    "name": "example",
    "digest": "sha256:00112233445566ff",
}

STATE = np.array([0.5, -1.25, 3.0], np.float32)
IMAGE = np.arange(8 * 16 * 3, dtype=np.uint16).reshape(8, 16, 3).astype(np.uint8)
ACTIONS = np.array([[0.0, 0.5], [0.25, -0.5], [0.5, 1.0], [0.75, -1.0]], np.float32)


@dataclass(frozen=True)
class Vector:
    name: str
    sender: str
    """``client`` or ``server``."""
    about: str
    message: dict[str, Any] | None = None
    """None for what must be refused."""
    bytes: bytes = b""


def vectors() -> Iterator[Vector]:
    """Every vector, good ones first."""
    for name, sender, about, message in (*CLIENT, *SERVER):
        yield Vector(name, sender, about, message, b"".join(msgpack_arrays.encode(message)))
    for name, about, data in malformed():
        yield Vector(f"bad_{name}", "client", about, None, data)


CLIENT: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("hello", "client", "the smallest opening", {"type": "hello", "protocol": 1}),
    (
        "hello_full",
        "client",
        "token, model, and a session to go on with",
        {"type": "hello", "id": 1, "protocol": 1, "token": "open sesame", "model": "transfer", "resume": SESSION},
    ),
    ("ping", "client", "the client's monotonic clock", {"type": "ping", "id": 2, "sent_s": 1234.5}),
    (
        "infer",
        "client",
        "one lane with a state",
        {
            "type": "infer",
            "id": 3,
            "session": SESSION,
            "episode": 0,
            "lanes": [{"step": 0, "observation": {"state": STATE}}],
        },
    ),
    (
        "infer_full",
        "client",
        "two lanes; the first with everything a lane can have, the second shorter",
        {
            "type": "infer",
            "id": 4,
            "session": SESSION,
            "episode": 2,
            "budget_ms": 180.0,
            "lanes": [
                {
                    "step": 70000,
                    "observation": {"state": STATE, "images.top": IMAGE, "prompt": "把方块递给左手 – now"},
                    "prefix": ACTIONS[1:],
                    "inference_delay": 2,
                },
                {"step": 12, "observation": {"state": STATE * 2}},
            ],
        },
    ),
    (
        "infer_dtypes",
        "client",
        "every dtype, an array without axes, and one without entries",
        {
            "type": "infer",
            "id": 2**32,
            "session": SESSION,
            "episode": 0,
            "lanes": [
                {
                    "step": 2**53 - 1,
                    "observation": {
                        "bool": np.array([True, False, True]),
                        "uint8": np.array([[0, 127], [128, 255]], np.uint8),
                        "uint16": np.array([0, 65535], np.uint16),
                        "uint32": np.array([0, 2**32 - 1], np.uint32),
                        "uint64": np.array([0, 2**64 - 1], np.uint64),
                        "int8": np.array([-128, 127], np.int8),
                        "int16": np.array([-(2**15), 2**15 - 1], np.int16),
                        "int32": np.array([-(2**31), 2**31 - 1], np.int32),
                        "int64": np.array([-(2**63), 2**63 - 1], np.int64),
                        "float16": np.array([1.5, -0.25], np.float16),
                        "float32": np.array([1.5, -0.25], np.float32),
                        "float64": np.array([1.5, -0.25], np.float64),
                        "scalar": np.array(7.0, np.float32),
                        "empty": np.zeros((0, 3), np.float32),
                        "deep": np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 1, 1, 2, 1, 1),
                    },
                }
            ],
        },
    ),
    (
        "infer_jpeg",
        "client",
        "an image as JPEG, as the welcome of this folder allows",
        {
            "type": "infer",
            "id": 5,
            "session": SESSION,
            "episode": 0,
            "lanes": [{"step": 1, "observation": {"state": STATE, "images.top": {"jpeg": np.frombuffer(JPEG, np.uint8)}}}],
        },
    ),
    (
        "infer_unknown_keys",
        "client",
        "keys of a later version, to be ignored: in the message and in the lane",
        {
            "type": "infer",
            "id": 6,
            "session": SESSION,
            "episode": 0,
            "mood": {"calm": [True, None, -1, -33, -129, -32769, -(2**31) - 1, 127, 128, 256, 65536, 2**32]},
            "lanes": [{"step": 0, "observation": {"state": STATE}, "weight": 0.5}],
        },
    ),
    ("reset", "client", "episode 3 begins", {"type": "reset", "id": 7, "session": SESSION, "episode": 3}),
    ("reset_next", "client", "the next episode begins", {"type": "reset", "id": 8, "session": SESSION}),
    ("bye", "client", "the client leaves", {"type": "bye"}),
)

SERVER: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "welcome",
        "server",
        "the answer to hello_full",
        {
            "type": "welcome",
            "id": 1,
            "protocol": 1,
            "session": SESSION,
            "episode": 2,
            "spec": SPEC,
            "limits": {"max_frame_bytes": 67108864},
            "heartbeat_s": 5.0,
            "deterministic": True,
            "jpeg": ["images.top"],
            "server": "actlink 0.1.0",
        },
    ),
    (
        "welcome_smallest",
        "server",
        "only what a welcome must have",
        {"type": "welcome", "protocol": 1, "session": "a", "episode": 0, "spec": {"action": {"shape": [None], "dtype": "int64"}}},
    ),
    ("pong", "server", "the answer to ping", {"type": "pong", "id": 2, "sent_s": 1234.5, "received_s": 77.25, "now_s": 77.375}),
    (
        "chunks",
        "server",
        "the answer to infer",
        {
            "type": "chunks",
            "id": 3,
            "session": SESSION,
            "results": [{"episode": 0, "step": 0, "actions": ACTIONS}],
            "timing": {"queue_ms": 0.5, "infer_ms": 12.25, "server_ms": 13.0},
        },
    ),
    (
        "chunks_mixed",
        "server",
        "the answer to infer_full: a chunk with a timing of its own, and one lane's error",
        {
            "type": "chunks",
            "id": 4,
            "session": SESSION,
            "results": [
                {"episode": 2, "step": 70000, "actions": ACTIONS, "timing": {"infer_ms": 12.25}},
                {"error": {"code": "spec", "message": "observation['images.top']: missing"}},
            ],
            "timing": {},
        },
    ),
    (
        "chunks_discrete",
        "server",
        "a discrete action",
        {
            "type": "chunks",
            "id": 9,
            "session": SESSION,
            "results": [{"episode": 0, "step": 5, "actions": np.array([[1]], np.int64)}],
            "timing": {},
        },
    ),
    ("done", "server", "the answer to reset", {"type": "done", "id": 7, "session": SESSION, "episode": 3}),
    (
        "error",
        "server",
        "the answer to a request that failed; the connection stays",
        {"type": "error", "id": 3, "code": "overloaded", "message": "queue full: 64 requests wait", "fatal": False},
    ),
    (
        "error_version",
        "server",
        "the answer to a hello of protocol 2; the server closes",
        {
            "type": "error",
            "code": "protocol",
            "message": "hello: the server speaks native protocol 1, the client 2",
            "fatal": True,
        },
    ),
    (
        "error_draining",
        "server",
        "an error that answers nothing",
        {"type": "error", "code": "draining", "message": "", "fatal": True},
    ),
)


def malformed() -> Iterator[tuple[str, str, bytes]]:
    """Name, what is wrong, and the bytes: none may be read, whoever sends them."""
    infer = b"".join(msgpack_arrays.encode(CLIENT[3][3]))
    ping = b"".join(msgpack_arrays.encode(CLIENT[2][3]))
    yield "empty", "no bytes at all", b""
    yield "truncated", "the last byte of a message is missing", ping[:-1]
    yield "trailing", "a byte after the message", ping + b"\0"
    yield "not_a_map", "a list instead of a map", msgpack.packb(["ping"])
    yield "http", "a web browser's greeting", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "integer_key", "a key that is no string", msgpack.packb({"type": "ping", 1: 2})
    yield "bytes_key", "a key of type bin", msgpack.packb({"type": "ping", b"a": 2})
    yield "same_key_twice", "which one holds?", b"\x83" + msgpack.packb("type") + msgpack.packb("bye") + 2 * b"\xa1a\x01"
    yield "utf8", "a string that is not UTF-8", b"\x81\xa4type\xa2\xc3\x28"
    yield "bin", "type bin is not part of the format", msgpack.packb({"type": "bye", "a": b"xyz"})
    yield "empty_bin", "not even an empty one", msgpack.packb({"type": "bye", "a": b""})
    yield "timestamp", "an extension that is not an array", msgpack.packb({"type": "bye", "a": msgpack.Timestamp(1)})
    yield "extension", "an extension of unknown type", msgpack.packb({"type": "bye", "a": msgpack.ExtType(2, b"x")})
    yield "reserved", "0xC1 within msgpack", b"\x81\xa4type\xc1"
    yield "deep", "17 levels", b"\x81\xa1a" + 16 * b"\x91" + b"\x01"
    yield "deeper", "more levels than a decoder's stack has", b"\x81\xa1a" + 3000 * b"\x91" + b"\x01"
    yield "long_list", "a list of 1025 entries", msgpack.packb({"type": "bye", "a": [0] * 1025})
    yield "announced", "a list of 2^32 - 1 entries is announced, none comes", b"\x81\xa1a\xdd\xff\xff\xff\xff"
    yield "many_containers", "more than 4096 maps and lists", msgpack.packb({"a": [[[] for _ in range(1000)] for _ in range(5)]})
    yield "long_string", "a string of 65537 bytes", msgpack.packb({"type": "bye", "a": "x" * 65537})
    yield "mark_alone", "a frame that ends in its prefix", infer[:7]
    yield "mark_not_zero", "bytes 1 to 3 must be zero", infer[:1] + b"\1" + infer[2:]
    yield "header_outside", "a header longer than the frame", infer[:4] + struct.pack("<I", len(infer)) + infer[8:]
    yield "header_huge", "a header of 4 GiB is announced", infer[:4] + b"\xff\xff\xff\xff" + infer[8:]
    yield "payload_short", "the last byte of an array is missing", infer[:-1]
    yield "payload_long", "a byte after the last array", infer + b"\0"
    yield "array_without_payload", "an array in a plain message", msgpack.packb({"a": _array("float32", [1], 0, 4)})
    for name, about, description, payload in ARRAYS:
        yield f"array_{name}", about, _frame({"a": msgpack.ExtType(1, msgpack.packb(description))}, payload)
    yield "array_not_msgpack", "the extension's content is cut off", _frame({"a": msgpack.ExtType(1, b"\x94\xa7float")}, bytes(4))
    both = {"a": _array("uint8", [16], 0, 16), "b": _array("uint8", [16], 0, 16)}
    yield "array_overlap", "two arrays in the same place", _frame(both, bytes(16))
    gap = {"a": _array("uint8", [16], 0, 16), "b": _array("uint8", [16], 32, 16)}
    yield "array_gap", "bytes that belong to no array", _frame(gap, bytes(48))


ARRAYS: tuple[tuple[str, str, Any, bytes], ...] = (
    ("bool", "a bool that is neither 0 nor 1", ["bool", [2], 0, 2], b"\1\2"),
    ("object", "pointers", ["object", [1], 0, 8], bytes(8)),
    ("typecode", "numpy's short names are no names here", ["<f4", [1], 0, 4], bytes(4)),
    ("structured", "a dtype that is no name", [[["a", "f4"]], [1], 0, 4], bytes(4)),
    ("length", "shape and length contradict each other", ["float32", [2], 0, 4], bytes(4)),
    ("overflow", "a shape whose product is 0 in 64 bits", ["float32", [2**32, 2**32], 0, 0], b""),
    ("empty_overflow", "a zero does not excuse the other axes", ["float32", [0, 2**31, 2**31], 0, 0], b""),
    ("negative", "an axis of -1 entries", ["float32", [-1], 0, 4], bytes(4)),
    ("fraction", "an axis of 1.0 entries", ["float32", [1.0], 0, 4], bytes(4)),
    ("true", "an axis of true entries", ["float32", [True], 0, 4], bytes(4)),
    ("nine_axes", "more than 8 axes", ["uint8", [1] * 9, 0, 1], bytes(1)),
    ("outside", "bytes behind the end of the payload", ["uint8", [32], 0, 32], bytes(16)),
    ("offset", "not at the next multiple of 16", ["uint8", [16], 8, 16], bytes(24)),
    ("three_fields", "no length", ["uint8", [16], 0], bytes(16)),
    ("map", "a map instead of a list", {"dtype": "uint8"}, bytes(16)),
)


def _array(dtype: str, shape: list[int], offset: int, length: int) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb([dtype, shape, offset, length]))


def _frame(header: dict[str, Any], payload: bytes) -> bytes:
    packed = msgpack.packb(header)
    start = struct.pack("<B3xI", 0xC1, len(packed)) + packed
    return start + bytes(-len(start) % 16) + payload


def described(value: Any) -> Any:
    """``value`` in JSON."""
    if isinstance(value, np.ndarray):
        values = value.reshape(-1).tolist()
        wide = value.dtype.kind in "iu" and value.dtype.itemsize == 8
        return {"$array": value.dtype.name, "shape": list(value.shape), "values": [str(v) for v in values] if wide else values}
    if isinstance(value, dict):
        return {key: described(one) for key, one in value.items()}
    if isinstance(value, list):
        return [described(one) for one in value]
    return value


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for vector in vectors():
        plain = {"from": vector.sender, "about": vector.about}
        told = {"error": "protocol"} if vector.message is None else {"message": described(vector.message)}
        (folder / f"{vector.name}.bin").write_bytes(vector.bytes)
        text = json.dumps({**plain, **told}, indent=1, ensure_ascii=False)
        (folder / f"{vector.name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
