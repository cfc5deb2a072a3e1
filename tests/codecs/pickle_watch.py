"""Decodes under an audit hook and prints JSON: what was decoded or refused, and every audit event that was raised meanwhile.

``pickle_watch.py gadgets`` reads every gadget. ``pickle_watch.py mutants SEED COUNT`` reads COUNT mutants of goldens, gadgets and
torch streams, the same ones for the same seed. Both end with a positive control: Python's unpickler under the same hook.
"""

from __future__ import annotations

import base64
import collections
import json
import lzma
import pickle
import random
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pickle_gadgets import DEAD, GADGETS, SYSTEM
from pickle_world import stream

from actlink.codecs.safe_pickle import PickleDecodeError, decode

GOLDENS = Path(__file__).parent.parent / "data" / "pickle" / "goldens.jsonl.xz"
LONGEST = 3000
"""Mutated messages are shorter than this (bytes), so that a million takes seconds."""

events: collections.Counter[str] = collections.Counter()
watching = False


def hook(event: str, args: tuple[Any, ...]) -> None:
    if watching:
        events[event] += 1
        if event == "os.system":
            raise PermissionError("not in here")


def watched(data: bytes) -> str:
    """What became of ``data``: ``value``, ``refused``, or the foreign exception."""
    global watching
    watching = True
    try:
        decode(data)
    except PickleDecodeError:
        return "refused"
    except BaseException:
        watching = False
        return traceback.format_exc(limit=-3)
    finally:
        watching = False
    return "value"


def control() -> list[str]:
    """The events that Python's unpickler raises on one gadget, under the same hook."""
    global watching
    before, watching = dict(events), True
    try:
        pickle.loads(stream(SYSTEM))
    except PermissionError:
        pass
    finally:
        watching = False
    return sorted(event for event, count in events.items() if count > before.get(event, 0))


def seeds() -> list[bytes]:
    lines = [json.loads(line) for line in lzma.decompress(GOLDENS.read_bytes()).splitlines()]
    goldens = [base64.b64decode(line["data"]) for line in lines]
    return [data for data in (*goldens, *GADGETS.values(), *DEAD.values()) if len(data) <= LONGEST]


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """``count`` messages: a seed of the corpus with one to three changes."""
    corpus, chance = seeds(), random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 3)):
            change(data, chance, corpus)
        yield bytes(data)


def change(data: bytearray, chance: random.Random, corpus: list[bytes]) -> None:
    """One change in place: a byte set, flipped or stepped, a piece cut, doubled, moved, or taken from another message."""
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(9)
    if kind == 0 and at < len(data):
        data[at] = chance.randrange(256)
    elif kind == 1 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 2 and at < len(data):
        data[at] = (data[at] + chance.choice((-1, 1))) % 256
    elif kind == 3:
        data[at:at] = bytes(
            [chance.choice(b"()]}.NRbt\x81\x85\x86\x87\x93\x94\x95\x88\x89KJMGCBXqhjcoi0125eausQ\x8a\x8c\x8e\x96\x97")]
        )
    elif kind == 4:
        del data[at : at + chance.randint(1, 12)]
    elif kind == 5:
        data[at:at] = data[at : at + chance.randint(1, 40)]
    elif kind == 6:
        other = chance.choice(corpus)
        start = chance.randrange(len(other))
        data[at:at] = other[start : start + chance.randint(1, 60)]
    elif kind == 7:
        data[at : at + 4] = chance.choice(
            (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\x00\x00\x01\x00")
        )
    elif kind == 8 and len(data) > 2:
        data[:2] = b"\x80" + bytes([chance.randint(2, 5)])


def main() -> None:
    sys.addaudithook(hook)
    report: dict[str, Any] = {}
    if sys.argv[1] == "gadgets":
        report["results"] = {name: watched(data) for name, data in {**GADGETS, **DEAD}.items()}
    else:
        results: collections.Counter[str] = collections.Counter()
        for data in mutants(int(sys.argv[2]), int(sys.argv[3])):
            result = watched(data)
            results[result if result in ("value", "refused") else "foreign"] += 1
            if result not in ("value", "refused") and len(report) < 5:
                report[base64.b64encode(data).decode()] = result
        report = {"results": results, "foreign": report}
    report["events"] = dict(events)
    report["control"] = control()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
