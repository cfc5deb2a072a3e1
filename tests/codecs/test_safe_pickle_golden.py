"""S5: what honest peers send is read bit for bit as their own numpy and torch read it. See ``scripts/make_golden_pickles.py``."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import lzma
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_pickle_values import described
from pickle_world import HERE, array, dtype, raw, stream

from actlink.codecs.safe_pickle import PickleDecodeError, decode

LINES: list[dict[str, Any]] = [
    json.loads(line) for line in lzma.decompress((HERE.parent / "data" / "pickle" / "goldens.jsonl.xz").read_bytes()).splitlines()
]


def digest(value: object) -> str:
    return hashlib.sha256(described(value).encode()).hexdigest()


def message(line: dict[str, Any]) -> bytes:
    return base64.b64decode(line["data"])


def test_every_golden_is_read_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [(line["case"], line["protocol"]) for line in LINES if digest(decode(message(line))) != line["digest"]]
    origins = collections.Counter(origin for line in LINES for origin in line["origins"])
    with capsys.disabled():
        print(f"\nS5: {sum(origins.values())} pickles ({len(LINES)} different) of {len(origins)} origins,", end=" ")
        print(f"{len(wrong)} read differently")
    assert wrong == []
    assert sum(origins.values()) >= 2000 and len(origins) >= 10
    assert {line["protocol"] for line in LINES} == {2, 3, 4, 5}
    assert sum("lerobot" in line["case"] for line in LINES) >= 50 and sum("torch" in line["case"] for line in LINES) >= 50


def test_the_digests_are_what_python_reads_here_too() -> None:
    """Python's unpickler in a child, on our own files: the digests describe values, not our decoder's idea of them."""
    script = (
        "import base64, hashlib, json, pickle, sys; import golden_pickle_values as g; g.stand_ins();"
        "lines = [json.loads(line) for line in sys.stdin];"
        "read = lambda line: g.described(pickle.loads(base64.b64decode(line['data']))).encode();"
        "same = [hashlib.sha256(read(line)).hexdigest() == line['digest'] for line in lines];"
        "print(sum(same), len(same))"
    )
    unknown = [b"_frombuffer"] if np.__version__ >= "2" else [b"_frombuffer", b"numpy._core"]  # numpy 1 has no such module
    readable = [line for line in LINES if "torch" not in line["origins"][0] and not any(word in message(line) for word in unknown)]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(map(json.dumps, readable)),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )
    same, total = map(int, done.stdout.split())
    assert same == total >= 500


def test_a_changed_value_is_seen() -> None:
    values = [decode(stream(array((2,), dtype(), raw(data)))) for data in (bytes(8), bytes(7) + b"\x01")]
    assert digest(values[0]) != digest(values[1])


def test_every_prefix_of_a_golden_is_refused() -> None:
    """Every length of every short message: cut off is never mistaken for whole."""
    cut = 0
    for line in LINES[::7]:
        data = message(line)
        if len(data) > 2000 or line["protocol"] not in (2, 4):
            continue
        for length in range(0, len(data), 1 if len(data) < 300 else 7):
            cut += 1
            with pytest.raises(PickleDecodeError):
                decode(data[:length])
    assert cut > 10_000


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_buffer_may_be_of_any_kind(kind: Any) -> None:
    for line in LINES[::11]:
        assert digest(decode(kind(message(line)))) == line["digest"]


@pytest.mark.parametrize(
    ("value", "protocol", "name"),
    [
        ({"a": 1}, 0, "pickle protocol 0"),
        ([1], 0, "pickle protocol 0"),
        ((1, 2), 0, "pickle protocol 0"),
        (5, 0, "pickle protocol 0"),
        (2.5, 0, "pickle protocol 0"),
        ("RESET", 0, "pickle protocol 0"),
        (b"ab", 0, "pickle protocol 0"),
        ({"a": 1}, 1, "pickle protocol 1"),
        ([1], 1, "pickle protocol 1"),
        ((1, 2), 1, "pickle protocol 1"),
        ((), 1, "pickle protocol 1"),
        (5, 1, "pickle protocol 1"),
        (2.5, 1, "pickle protocol 1"),
        ("RESET", 1, "pickle protocol 1"),
        (b"ab", 1, "pickle protocol 1"),
        (None, 0, "pickle protocol 0 or 1"),
        ((None,), 1, "pickle protocol 0 or 1"),
    ],
)
def test_protocols_0_and_1_are_refused_by_name(value: object, protocol: int, name: str) -> None:
    with pytest.raises(PickleDecodeError, match=f"^byte 0: {name}; protocols 2 to 5 are read$") as caught:
        decode(pickle.dumps(value, protocol))
    assert caught.value.offset == 0 and caught.value.code == "protocol"


def test_goldens_are_small() -> None:
    assert (Path(HERE.parent) / "data" / "pickle" / "goldens.jsonl.xz").stat().st_size < 100_000
