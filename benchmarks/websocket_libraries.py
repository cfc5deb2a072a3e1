"""Which WebSocket code to build on: round trips of one large and one small message over each pair of server and client.

    python benchmarks/websocket_libraries.py [--quick]

Every run starts its own server process; runs alternate between the pairs, so that what else the machine does hits all of them.
Prints the median of the runs' medians, their spread, and the ratio to a bare blocking socket moving the same bytes. picows is an
optional package (`pip install picows`); pairs that need it are left out where it is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _raw import RawClient, announce, serve_raw

from actlink.address import Address
from actlink.dialects._base import Frame
from actlink.transports import websocket
from actlink.transports._base import Connection

REPLY_BYTES = 5_600
SIZES = {"2.76 MB": 2_764_856, "200 B": 200}

Trip = Callable[[], object]


# Servers, each in a process of its own


def serve_actlink() -> None:
    class Answer:
        def __init__(self, connection: Connection) -> None:
            self._connection = connection
            self._reply = Frame((np.zeros(REPLY_BYTES, np.uint8).data,))

        def received(self, frame: Frame) -> None:
            self._connection.send([self._reply])

        def closed(self, reason: str) -> None:
            pass

    async def run() -> None:
        listener = websocket.Listener(Address("native", "ws", port=0), websocket.Config())
        await listener.start(Answer)
        announce(int(listener.bound.rpartition(":")[2]))
        await asyncio.Event().wait()

    asyncio.run(run())


def serve_picows() -> None:
    """As our own transport would have to use it: the payload is valid only during the callback, so it is copied once."""
    import picows

    reply = bytes(REPLY_BYTES)

    class Answer(picows.WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.BINARY:
                view = frame.get_payload_as_memoryview()
                kept = np.empty(len(view), np.uint8)
                kept.data[:] = view
                transport.send(picows.WSMsgType.BINARY, reply)

    async def run() -> None:
        server = await picows.ws_create_server(lambda _: Answer(), "127.0.0.1", 0, max_frame_size=64 * 1024 * 1024)
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def serve_websockets() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    reply = bytes(REPLY_BYTES)

    async def handle(connection: ServerConnection) -> None:
        async for _ in connection:
            await connection.send(reply)

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            announce(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    asyncio.run(run())


SERVERS = {"raw": serve_raw, "actlink": serve_actlink, "picows": serve_picows, "websockets": serve_websockets}


# Clients: a round trip, and how to end it


def raw_client(port: int, data: memoryview) -> tuple[Trip, Trip]:
    client = RawClient(port, len(data), REPLY_BYTES)
    return client.round_trip, client.close


def actlink_client(port: int, data: memoryview) -> tuple[Trip, Trip]:
    link = websocket.connect(Address("native", "ws", port=port), websocket.Config())
    frame = Frame((b"header", data[6:]))

    def trip() -> None:
        link.send([frame], 10.0)
        link.receive(10.0)

    return trip, link.close


def websockets_client(port: int, data: memoryview) -> tuple[Trip, Trip]:
    from websockets.sync.client import connect

    stack = contextlib.ExitStack()
    connection = stack.enter_context(connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None))

    def trip() -> None:
        connection.send(data)
        connection.recv()

    return trip, stack.close


CLIENTS = {"raw": raw_client, "actlink": actlink_client, "websockets": websockets_client}

PAIRS = [
    ("raw", "raw"),
    ("actlink", "actlink"),
    ("picows", "actlink"),
    ("websockets", "actlink"),
    ("actlink", "websockets"),
    ("picows", "websockets"),
    ("websockets", "websockets"),
]


def measure(server: str, client: str, size: int, trips: int) -> float:
    """Median milliseconds of one round trip, in a fresh server process."""
    process = subprocess.Popen([sys.executable, str(Path(__file__)), "--serve", server], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        data = memoryview(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
        trip, close = CLIENTS[client](port, data)
        took = []
        for _ in range(trips + 10):
            start_s = time.perf_counter()
            trip()
            took.append(time.perf_counter() - start_s)
        close()
        return 1e3 * statistics.median(took[10:])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer round trips")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each pair")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        SERVERS[options.serve]()
        return
    pairs = [pair for pair in PAIRS if "picows" not in pair or importlib.util.find_spec("picows")]
    for label, size in SIZES.items():
        trips = (60 if options.quick else 200) * (1 if size > 10_000 else 5)
        results: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
        for run in range(options.runs):
            for pair in pairs:
                progress(f"{label}: run {run + 1} of {options.runs}, {pair[0]} server, {pair[1]} client")
                results[pair].append(measure(*pair, size, trips))
        progress("")
        raw = statistics.median(results["raw", "raw"])
        print(f"{label} up, {REPLY_BYTES} B down, {options.runs} runs of {trips}")
        print("  server      client       median ms   spread ms        x raw")
        for (server, client), took in results.items():
            median = statistics.median(took)
            print(f"  {server:<11} {client:<11} {median:>9.3f}   {min(took):.3f}-{max(took):.3f}   {median / raw:>8.2f}")


def progress(text: str) -> None:
    print(f"\r{text:<78}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
