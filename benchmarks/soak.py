"""64 clients on every wire at once, one request in flight each: nothing lost, doubled or mixed up, and memory that stays.

    python benchmarks/soak.py [--quick] [--requests 200000]

Each action is a function of a number in its observation, so that an answer tells whose it is. The server is a process of its own,
whose memory is read at half-time, after three quarters and at the end: twice what it grew in the quieter quarter may be 64 bytes a
request and 2 MiB, 16 MiB at most. The same soak of a server that keeps 100 bytes of every request (2000 with --quick) must fail.
Exits with 1 if one of the two does not do what it must.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "wires"))

from soak_world import soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6400 requests")
    parser.add_argument("--requests", type=int, default=200_000, help="requests of all clients together")
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    requests, leak_bytes = (6400, 2000) if options.quick else (options.requests, 100)
    good = soak(requests, clients=options.clients)
    print(f"as it is: {good}", flush=True)
    for problem in good.problems():
        print(f"  PROBLEM: {problem}")
    leaky = soak(requests // 2 if requests >= 100_000 else requests, clients=options.clients, leak_bytes=leak_bytes)
    seen = leaky.growth_bytes > leaky.growth_limit_bytes
    print(f"keeping {leak_bytes} bytes of each request: {leaky}: {'seen, as it must be' if seen else 'NOT SEEN'}")
    return 0 if seen and not good.problems() else 1


if __name__ == "__main__":
    sys.exit(main())
