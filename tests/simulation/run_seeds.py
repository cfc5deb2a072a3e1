"""Simulated motion, as many seeds as one likes: exits with 1 if anything wrong reached the arm, and says which seed to look at.

python tests/simulation/run_seeds.py --seeds 10000 --processes 2
python tests/simulation/run_seeds.py --only 4711        the event log of one seed
python tests/simulation/run_seeds.py --bare             a robot without a range, and no step configured
python tests/simulation/run_seeds.py --eased            with a limit of acceleration
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.motion_world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--eased", action="store_true")
    given = parser.parse_args()
    changes = {"bare": given.bare, "eased": given.eased}
    quiet()
    if given.only is not None:
        run = simulate(given.only, **changes)
        print(run.plan, *run.lines, *run.violations, f"sha256 {run.digest}", sep="\n")
        return bool(run.violations)
    started_s = time.monotonic()
    total, wrong, steps, acted, outages, seconds = hashlib.sha256(), 0, 0, 0, 0, 0.0
    with multiprocessing.Pool(given.processes, quiet) as pool:
        for found in pool.imap(partial(one, **changes), range(given.first, given.first + given.seeds), 50):
            seed, digest, violations, *counts, ran_s = found
            total.update(digest.encode())
            wrong += len(violations)
            steps, acted, outages, seconds = steps + counts[0], acted + counts[1], outages + counts[2], seconds + ran_s
            for violation in violations[:3]:
                print(f"seed {seed}: {violation}", flush=True)
    print(
        f"{given.seeds} seeds, {seconds / 3600:.1f} simulated hours, {steps} control steps, {acted} actions, {outages} outages: "
        f"{wrong} violations; event logs sha256 {total.hexdigest()[:16]}; {time.monotonic() - started_s:.0f} s"
    )
    return bool(wrong)


def quiet() -> None:
    logging.getLogger("actlink").setLevel(logging.ERROR)


def one(seed: int, **changes: bool) -> tuple[int, str, list[str], int, int, int, float]:
    run = simulate(seed, **changes)
    return seed, run.digest, run.violations, len(run.ticks), run.acted, run.outages, run.plan.seconds


if __name__ == "__main__":
    sys.exit(main())
