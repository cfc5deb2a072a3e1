"""Reading pickles: ``safe_pickle.decode`` beside Python's own C ``pickle.loads``, as ratios measured in the same run.

    python benchmarks/decode.py [--seconds 2] [--limit]

Python's unpickler runs whatever the bytes say; this measures what it costs not to. Rounds of both alternate, so that a busy machine
slows both; times are medians, and the ratio is the median of the ratios of the rounds. ``--limit`` exits with 1 where a ratio is
above the limit printed beside it.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.codecs.safe_pickle import decode


@dataclass
class MetaObs:
    """Stands for the peers' dataclass: fields in a ``__dict__``, pickled by class name and state."""

    state: Any = None
    state_ee: Any = None
    state_joint: Any = None
    state_obj: Any = None
    image: Any = None
    depth: Any = None
    pc: Any = None
    raw_lang: Any = ""
    timestep: Any = -1


MetaObs.__module__ = "__main__"


def camera_observation() -> Any:
    """Three 480 x 640 RGB cameras and a state, as IL-Studio's client sends them (one lane)."""
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 3, 480, 640), np.uint8)
    return MetaObs(
        state=np.zeros((1, 14), np.float32), image=image, raw_lang=["pick up the cube"], timestep=np.zeros((1, 1), np.int64)
    )


def small_request() -> Any:
    """A joint state and nothing else, as an ACT client over ZeroMQ sends it."""
    return {"qpos": np.arange(17, dtype=np.float64), "images": {}, "command": "step"}


def action_chunk() -> Any:
    """Sixty-four steps of one lane as IL-Studio's server answers: a list of object arrays of dicts."""
    chunk = []
    for step in range(64):
        lane = np.empty(1, dtype=object)
        action = np.full(14, step, np.float32)
        lane[0] = {"ctrl_space": "joint", "ctrl_type": "abs", "action": action, "gripper_continuous": False}
        chunk.append(lane)
    return chunk


CASES: tuple[tuple[str, Callable[[], Any], float], ...] = (
    ("3-camera observation", camera_observation, 1.0),
    ("small request", small_request, 12.0),
    ("64-action chunk", action_chunk, 15.0),
)
"""Name, value, and the ratio to C ``pickle.loads`` that is allowed."""


def timed(read: Callable[[bytes], Any], data: bytes, calls: int) -> float:
    """Seconds per call over ``calls`` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        read(data)
    return (time.perf_counter() - start) / calls


def compare(data: bytes, seconds: float) -> tuple[float, float, float]:
    """Median seconds per message of C ``pickle.loads`` and of ``decode``, measured in turns, and the median of their ratios."""
    calls = max(1, int(0.005 / timed(decode, data, 20)))
    theirs, ours = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ours) < 5:
        theirs.append(timed(pickle.loads, data, calls))
        ours.append(timed(decode, data, calls))
    ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True)]
    return statistics.median(theirs), statistics.median(ours), statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure each case (default 2)")
    parser.add_argument("--limit", action="store_true", help="exit with 1 where a ratio is above its limit")
    options = parser.parse_args()
    exceeded = 0
    print(f"Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(f"{'message':24}{'protocol':>9}{'bytes':>10}{'C loads':>12}{'decode':>12}{'ratio':>8}{'limit':>8}")
    for name, make, allowed in CASES:
        for protocol in (4, 5):
            data = pickle.dumps(make(), protocol)
            theirs, ours, ratio = compare(data, options.seconds)
            exceeded += ratio > allowed
            times = f"{theirs * 1e6:9.1f} µs{ours * 1e6:9.1f} µs"
            print(f"{name:24}{protocol:9}{len(data):10}{times}{ratio:8.2f}{allowed:8.1f}")
    return 1 if options.limit and exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
