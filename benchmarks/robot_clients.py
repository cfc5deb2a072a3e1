"""LeRobot's own RobotClient and `actlink run`, each against LeRobot's server and ours: same wire, same fake robot, 30 Hz.

    python benchmarks/robot_clients.py --lerobot-python PYTHON [--quick] [--chunk 50]

Three VGA cameras; policies that take 100 and 300 ms; chunks of 50 actions and a threshold of 0.5, as LeRobot's guide has them
(--chunk for others). Every cell is measured with a fresh client, the contestants in turn, so that what else the machine does hits
all of them. A run ends when 300 actions have reached the robot. Starved are the control steps at which there was no action, those
that a loop missed and those before the first chunk included.

Exits with 1 if ours is worse than LeRobot's in a cell by more than the spread of the runs, or starves no less at 300 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SPEC = "state=6&action=6&horizon=50&cameras=top:480x640,left:480x640,right:480x640"
DELAYS_MS = (100, 300)
SERVERS = ("LeRobot's", "ours")
CLIENTS = {"LeRobot's": "stock", "ours": "ours"}


@contextmanager
def serving(server: str, delay_ms: int, python: str) -> Iterator[str]:
    """``host:port`` of a fresh server."""
    if server == "ours":
        listen = "lerobot+grpc://127.0.0.1:0?any_model=true"
        command = [python, "-m", "actlink", "serve", f"scripted:slow?{SPEC}&delay_ms={delay_ms}", "--listen", listen]
        pattern = r"lerobot\+grpc://(\S+)"
    else:
        command, pattern = [python, str(HERE / "_lerobot_server.py"), str(delay_ms), "6"], r"^(\d+)$"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=tempfile.gettempdir(), env=environment()
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(pattern, line.strip())
                if found:
                    yield found[1] if ":" in found[1] else f"127.0.0.1:{found[1]}"
                    return
            log.seek(0)
            raise SystemExit(f"the server did not start: {log.read()[-2000:]}")
        finally:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def measure(client: str, server: str, address: str, python: str, actions: int, chunk: int) -> dict[str, Any]:
    command = [python, str(HERE / "_robot_run.py"), CLIENTS[client], address, "--actions", str(actions), "--chunk", str(chunk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{client} client, {server} server: {done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        "starved": float(told["starved"]),
        "waited": float(told["waited"]),
        "per_s": told["actions"] / told["seconds"],
        "seconds": told["seconds"],
        "jitter": percentile(told["gaps_ms"], 0.99),
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lerobot-python", required=True, help="interpreter with lerobot[async] and actlink")
    parser.add_argument("--quick", action="store_true", help="one run of 90 actions per cell")
    parser.add_argument("--chunk", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    runs, actions = (1, 90) if given.quick else (given.runs, 300)
    found: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {runs} runs of {actions} actions", flush=True)
    for _ in range(runs):
        for delay_ms in DELAYS_MS:
            for server in SERVERS:
                with serving(server, delay_ms, given.lerobot_python) as address:
                    for client in CLIENTS:
                        told = measure(client, server, address, given.lerobot_python, actions, given.chunk)
                        found.setdefault((delay_ms, server, client), []).append(told)
                        print(".", end="", file=sys.stderr, flush=True)
        show(found)
    return verdict(found)


def show(found: dict[tuple[int, str, str], list[dict[str, Any]]]) -> None:
    """The table so far."""
    print(
        "\n| policy | server | client | starved steps | before the first action | actions/s | time to finish, s | jitter p99, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (delay_ms, server, client), told in found.items():
        cells = [
            spread([one[name] for one in told], digits)
            for name, digits in (("starved", 0), ("waited", 0), ("per_s", 2), ("seconds", 2), ("jitter", 1))
        ]
        print(f"| {delay_ms} ms | {server} | {client} | {' | '.join(cells)} |", flush=True)


def spread(values: list[float], digits: int) -> str:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def verdict(found: dict[tuple[int, str, str], list[dict[str, Any]]]) -> int:
    """1 if ours is worse anywhere: its best run worse than the worst of LeRobot's."""
    bad = []
    for delay_ms in DELAYS_MS:
        for server in SERVERS:
            mine, theirs = found[delay_ms, server, "ours"], found[delay_ms, server, "LeRobot's"]
            for name, sign in (("starved", 1), ("seconds", 1), ("per_s", -1)):
                if min(sign * one[name] for one in mine) > max(sign * one[name] for one in theirs):
                    bad.append(f"{name} at {delay_ms} ms, {server} server")
            if (
                delay_ms == 300
                and sorted(one["starved"] for one in mine)[len(mine) // 2]
                >= sorted(one["starved"] for one in theirs)[len(theirs) // 2]
            ):
                bad.append(f"no fewer starved steps at 300 ms, {server} server")
    print("ours is worse in: " + "; ".join(bad) if bad else "ours is no worse in any cell, and starves less at 300 ms")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
