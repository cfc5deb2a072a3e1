"""What views instead of copies are worth: the native wire's messages against plain msgpack with the arrays' bytes inside.

    python benchmarks/codec.py [--quick]

Plain msgpack is what the field's WebSocket servers do: each array becomes a map with its dtype, its shape and ``tobytes()``, and
comes back as an array over the bytes that msgpack copied out. Both sides write and read the same observation, three cameras of
480 x 640 x 3 and a state, and the same chunk of 50 x 14 actions. Neither time includes a socket. Prints a table of medians over the
rounds, with the smallest and largest round, and exits with 1 if an observation is not written at least 10 times and read at least 4
times as fast. A small message costs more here than there, some ten microseconds: every field is checked, plain msgpack checks none.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from actlink.dialects import native
from actlink.dialects._base import Chunks, Frame, Hello, Infer, Lane, Welcome
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

CAMERAS = ("top", "left", "right")
SHAPE = (480, 640, 3)
STATE, ACTIONS, HORIZON = 14, 14, 50
BOUNDS = {"write observation": 10.0, "read observation": 4.0}


def observation() -> dict[str, Any]:
    source = np.random.default_rng(0)
    images = {f"images.{name}": source.integers(0, 256, SHAPE, np.uint8) for name in CAMERAS}
    return {"state": source.random(STATE, np.float32), **images}


def opened() -> tuple[native.Server, native.Client]:
    """Both halves after the opening."""
    server, client = native.Server(native.Config()), native.Client(native.Config())
    server.receive(received(client.send(Hello())))
    spec = Spec({"state": Field((STATE,))}, Field((ACTIONS,)), HORIZON)
    client.receive(received(server.send(Welcome("session", spec, limits={"max_frame_bytes": 64 * 1024 * 1024}))))
    return server, client


def received(frames: list[Frame]) -> Frame:
    (one,) = frames
    return Frame((b"".join(one.parts),))


def plain(message: object) -> bytes:
    def array(value: Any) -> dict[str, Any]:
        return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": value.shape}

    packed: bytes = msgpack.packb(message, default=array)
    return packed


def read_plain(data: bytes) -> object:
    def array(value: dict[str, Any]) -> Any:
        return np.ndarray(value["shape"], np.dtype(value["dtype"]), value["data"]) if "__ndarray__" in value else value

    message: object = msgpack.unpackb(data, object_hook=array)
    return message


def per_call_us(call: Callable[[], object], calls: int) -> float:
    started_s = time.perf_counter()
    for _ in range(calls):
        call()
    return 1e6 * (time.perf_counter() - started_s) / calls


def pairs() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is measured: the native way and the plain one."""
    server, client = opened()
    seen = observation()
    infer = Infer((Lane(seen, 7),), 0, 100.0, 1)
    chunk = ActionChunk(np.zeros((HORIZON, ACTIONS), np.float32), 7)
    chunks = Chunks((chunk,), {"queue_ms": 0.1, "infer_ms": 20.0, "server_ms": 21.0}, 1)
    plain_infer = {"observation": seen, "step": 7, "episode": 0, "id": 1}
    plain_chunk = {"actions": chunk.actions, "step": 7, "timing": dict(chunks.timing), "id": 1}
    up, down = received(client.send(infer)), received(server.send(chunks))
    plain_up, plain_down = plain(plain_infer), plain(plain_chunk)
    return {
        "write observation": (lambda: client.send(infer), lambda: plain(plain_infer)),
        "read observation": (lambda: server.receive(up), lambda: read_plain(plain_up)),
        "write chunk": (lambda: server.send(chunks), lambda: plain(plain_chunk)),
        "read chunk": (lambda: client.receive(down), lambda: read_plain(plain_down)),
    }


def measure(rounds: int, calls: int) -> dict[str, tuple[list[float], list[float]]]:
    """Microseconds per call, native and plain, by turns so that both see the same machine."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, (ours, theirs) in pairs().items():
        ours(), theirs()
        found[name] = ([], [])
        for _ in range(rounds):
            found[name][0].append(per_call_us(ours, calls))
            found[name][1].append(per_call_us(theirs, calls))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short rounds instead of nine")
    quick = parser.parse_args().quick
    found = measure(3 if quick else 9, 20 if quick else 100)
    print(f"{'':20}{'native [us]':>26}{'plain msgpack [us]':>30}{'ratio':>8}")
    slow = []
    for name, (ours, theirs) in found.items():
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{name:20}{shown(ours):>26}{shown(theirs):>30}{ratio:8.1f}")
        if ratio < BOUNDS.get(name, 0.0):
            slow.append(f"{name}: expected at least {BOUNDS[name]:g} times as fast as plain msgpack, got {ratio:.1f}")
    print("\n".join(slow) or "ok")
    return 1 if slow else 0


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
