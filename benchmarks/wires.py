"""What one question costs a peer's own client: with our server, with its own, and with one that decodes nothing.

    python benchmarks/wires.py [--quick] [--only openpi] [--lerobot-python PYTHON]

Three 480x640 cameras and a state up, 50 actions of 14 numbers down (act and vibe answer with one action, vibe is sent one camera),
and a policy that does nothing. The clients (`_stock_clients.py`) do what those of the original projects do. The servers beside ours
are stand-ins of the originals and the floor (both `_standins.py`): the same client and transport without any work in the server.
The stand-in for LeRobot's server does without torch and leaves images alone; --lerobot-python names an interpreter that has
lerobot, and then LeRobot's own server is measured in its place.
Every run has a fresh server and a fresh client process; runs alternate. Exits with 1 if a ratio misses its accepted bound:

    openpi, lerobot    at least 2 times as fast as the stand-in, or within 1.3 times the floor
    vibe               at least 1.5 times as fast as the stand-in
    ilstudio, act      no slower than the stand-in (5 % for the noise of measuring)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _raw import announce
from _standins import FLOORS, STANDINS
from _stock_clients import CLIENTS

CAMERAS = ("top", "left_wrist", "right_wrist")
WARM_UP_TRIPS = 15
LISTEN = {
    "openpi": "openpi+ws://127.0.0.1:0/three",
    "lerobot": "lerobot+grpc://127.0.0.1:0/three?any_model=true",
    "vibe": "vibe+ws://127.0.0.1:0/one",
    "ilstudio": "ilstudio+tcp://127.0.0.1:0/three",
    "act": "act+zmq://127.0.0.1:0/three",
}
AT_LEAST = {"openpi": 2.0, "lerobot": 2.0, "vibe": 1.5, "ilstudio": 0.95, "act": 0.95}
NEAR_FLOOR = {"openpi": 1.3, "lerobot": 1.3}


def observation() -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = {camera: random.integers(0, 256, (480, 640, 3), np.uint8) for camera in CAMERAS}
    return {"state": random.normal(size=14).astype(np.float32), "images": images}


def serve_ours(wire: str) -> None:
    from actlink import Field, Spec
    from actlink.policies._callable import CallablePolicy
    from actlink.serving.server import Server

    actions = np.ones((50, 14), np.float32)
    state, camera = Field((14,)), Field((480, 640, 3), "uint8")
    three = Spec({"state": state, **{f"images.{name}": camera for name in CAMERAS}}, Field((14,)), 50, name="three")
    one = Spec({"state": state, "images.top": camera}, Field((14,)), 50, name="one")
    models = {spec.name: CallablePolicy(lambda observation: actions, spec) for spec in (three, one)}
    server = Server(models, [LISTEN[wire]])
    server.serve(lambda: announce(server.addresses[0].partition("?")[0].rpartition(":")[2].partition("/")[0]))


def serve(kind: str, wire: str) -> None:
    if kind == "ours":
        serve_ours(wire)
    else:
        (STANDINS if kind == "stand-in" else FLOORS)[wire]()


def ask(wire: str, port: int, trips: int) -> float:
    """Median milliseconds, in the client's process."""
    client = CLIENTS[wire](port, observation())
    took_ms = []
    for trip in range(WARM_UP_TRIPS + trips):
        began_s = time.perf_counter()
        client.ask()
        if trip >= WARM_UP_TRIPS:
            took_ms.append(1e3 * (time.perf_counter() - began_s))
    client.close()
    return statistics.median(took_ms)


def measure(kind: str, wire: str, trips: int, lerobot_python: str | None) -> float:
    this = [sys.executable, str(Path(__file__))]
    command = [*this, "--serve", kind, "--only", wire]
    if (kind, wire) == ("stand-in", "lerobot") and lerobot_python is not None:
        command = [lerobot_python, str(Path(__file__).with_name("_lerobot_server.py"))]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        port = next(line.strip() for line in server.stdout if line.strip().isdigit())
        asked = [*this, "--ask", port, "--only", wire, "--trips", str(trips)]
        found = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
        return float(json.loads(found.stdout))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def judge(wire: str, faster: float, above: float) -> tuple[str, bool]:
    """How the bound was met; ``faster``: stand-in to ours, ``above``: ours to the floor."""
    if faster >= AT_LEAST[wire]:
        return f">= {AT_LEAST[wire]:g} x", True
    if above <= NEAR_FLOOR.get(wire, 0.0):
        return f"<= {NEAR_FLOOR[wire]:g} x floor", True
    return "MISSED", False


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the runs; each is compared with its neighbour, which had the same of what else the machine did."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--only", choices=LISTEN, help="this wire alone")
    parser.add_argument("--runs", type=int, default=0, help="alternating runs (default 5, with --quick 3)")
    parser.add_argument("--lerobot-python", help="interpreter with lerobot[async]: its own server instead of the stand-in")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--trips", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.only)
        return 0
    if options.ask:
        print(json.dumps(ask(options.only, options.ask, options.trips)))
        return 0
    runs, trips = options.runs or (3 if options.quick else 5), options.trips or (40 if options.quick else 150)
    print(f"medians of {runs} runs of {trips} round trips, in ms; spread is that of ours", flush=True)
    busy = os.getloadavg()[0]
    if busy > (os.cpu_count() or 1) / 2:
        print(f"  This machine is busy (load {busy:.1f}): a server with two threads is hit harder than one with one.", flush=True)
    print(f"  {'':<10}{'floor':>8}{'ours':>8}{'spread':>16}{'stand-in':>10}{'faster':>9}{'/ floor':>9}   accepted", flush=True)
    accepted = True
    for wire in [options.only] if options.only else LISTEN:
        found: dict[str, list[float]] = {"floor": [], "ours": [], "stand-in": []}
        for _ in range(runs):
            for kind, times in found.items():
                times.append(measure(kind, wire, trips, options.lerobot_python))
        floor, ours, standin = map(statistics.median, found.values())
        spread = f"{min(found['ours']):.2f}-{max(found['ours']):.2f}"
        faster, above = ratio(found["stand-in"], found["ours"]), ratio(found["ours"], found["floor"])
        verdict, met = judge(wire, faster, above)
        accepted &= met
        row = f"  {wire:<10}{floor:>8.2f}{ours:>8.2f}{spread:>16}{standin:>10.2f}"
        print(f"{row}{faster:>8.2f}x{above:>8.2f}x   {verdict}", flush=True)
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main())
