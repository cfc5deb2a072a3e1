"""Our ACT against LeRobot's own: eager ``predict_action_chunk``, the same weights, threads, pictures and process.

    python benchmarks/act.py [--quick] [--threads 1] [--profile]

Needs a Python with both (``pip install 'lerobot==0.6.1' 'actlink[act]'``; `make test-interop` leaves one in ``.venv-lerobot``). For
every size of the network and every batch the two take turns; a row has the median time of each, the ratio of neighbouring pairs
(median, smallest, largest), and how far the actions are apart. With one thread it is the processor's time that counts, so that
other programs on the machine do not; with several it is time on the wall. LeRobot's time is its preprocessor, its model and its
postprocessor, ours a whole ``infer``: pictures of 0..255 in, actions out. Exit code 1 where ours is slower, or actions differ by
more than 1e-5.

``--profile`` adds where our time goes, by operation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.types import Request, Runtime

GOAL, FLOOR, MOST = 1.3, 1.0, 1e-5
STATE = ACTION = 14
Asked = Callable[[list[dict[str, Any]]], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A network and what it sees."""

    name: str
    cameras: int
    height: int = 480
    width: int = 640
    options: tuple[tuple[str, int], ...] = ()
    batches: tuple[int, ...] = (1, 2, 4, 8)


CASES = (
    Case("default size, 1 camera 480x640", 1),
    Case("default size, 3 cameras 480x640", 3, batches=(1, 2)),
    Case("small (hidden 128), 2 cameras 120x160", 2, 120, 160, (("dim_model", 128), ("dim_feedforward", 512)), (1, 2, 4, 8, 16)),
)
QUICK = (Case("small (hidden 64), 1 camera 96x128", 1, 96, 128, (("dim_model", 64), ("dim_feedforward", 128)), (1, 4)),)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small network, few turns: to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of both (1)")
    parser.add_argument("--seconds", type=float, default=12.0, help="time for each row (12)")
    parser.add_argument("--profile", action="store_true", help="where our time goes, by operation, at batch 1")
    given = parser.parse_args()
    clock, kind = (time.process_time, "processor time") if given.threads == 1 else (time.perf_counter, "time")
    print(f"torch {torch.__version__}, {given.threads} thread(s); {kind} in ms per call, median of the turns")
    columns = f"{'LeRobot':>9} {'actlink':>9} {'ratio':>6} {'(smallest..largest)':>20} {'chunks/s':>9} {'apart':>8}"
    print(f"{'network':42} {'batch':>5} {columns}")
    missed = False
    for case in QUICK if given.quick else CASES:
        with tempfile.TemporaryDirectory() as place:
            theirs, ours = pair(case, Path(place), given.threads)
            for batch in case.batches:
                missed |= row(case, batch, (theirs, ours), 1.0 if given.quick else given.seconds, clock)
            if given.profile:
                profile(ours, seen(case, 1))
    return int(missed)


def pair(case: Case, place: Path, threads: int) -> tuple[Asked, Policy]:
    """LeRobot's policy with its processors, and ours from the files that it wrote."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors

    torch.manual_seed(0)
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    for index in range(case.cameras):
        features[f"observation.images.camera{index}"] = PolicyFeature(FeatureType.VISUAL, (3, case.height, case.width))
    config = ACTConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        pretrained_backbone_weights=None,
        device="cpu",
        **dict(case.options),
    )
    policy = ACTPolicy(config).eval()
    pictures = {
        "mean": torch.tensor([0.485, 0.456, 0.406])[:, None, None],
        "std": torch.tensor([0.229, 0.224, 0.225])[:, None, None],
    }
    vector = {"mean": torch.zeros(STATE), "std": torch.ones(STATE)}
    before, after = make_act_pre_post_processors(
        config, {key: pictures if "images" in key else vector for key in (*features, "action")}
    )
    for part in (policy, before, after):
        part.save_pretrained(place)
    ours = open_policy(f"act:{place}", Runtime(threads=threads))
    torch.set_num_threads(threads)

    def asked(observations: list[dict[str, Any]]) -> np.ndarray:
        batch = {"observation.state": torch.from_numpy(np.stack([one["state"] for one in observations]))}
        for index in range(case.cameras):
            stacked = torch.from_numpy(np.stack([one[f"images.camera{index}"] for one in observations]))
            batch[f"observation.images.camera{index}"] = stacked.permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            found: np.ndarray = after(policy.predict_action_chunk(before(batch))).numpy()
        return found

    return asked, ours


def seen(case: Case, batch: int) -> list[dict[str, Any]]:
    source = np.random.default_rng(batch)
    made = []
    for _ in range(batch):
        one: dict[str, Any] = {"state": source.standard_normal(STATE).astype(np.float32)}
        for index in range(case.cameras):
            one[f"images.camera{index}"] = source.integers(0, 256, (case.height, case.width, 3), np.uint8)
        made.append(one)
    return made


def row(case: Case, batch: int, both: tuple[Asked, Policy], seconds: float, clock: Callable[[], float]) -> bool:
    """Measure, print; whether ours was slower or wrong."""
    theirs, ours = both
    observations = seen(case, batch)
    requests = [Request(one) for one in observations]

    def answered() -> np.ndarray:
        return np.stack([chunk.actions for chunk in ours.infer(requests)])

    apart = float(np.abs(theirs(observations) - answered()).max())
    times: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        pair_s = []
        for work in (lambda: theirs(observations), answered):
            start = clock()
            work()
            pair_s.append(clock() - start)
        times.append((pair_s[0], pair_s[1]))
    ratios = [theirs_s / ours_s for theirs_s, ours_s in times]
    ratio, median_s = statistics.median(ratios), statistics.median(one for _, one in times)
    span = f"({min(ratios):.2f}..{max(ratios):.2f})"
    verdict = "" if ratio >= GOAL or batch > 1 else "  below the goal of 1.3"
    reference_ms = 1e3 * statistics.median(one for one, _ in times)
    figures = f"{reference_ms:9.1f} {1e3 * median_s:9.1f} {ratio:6.2f} {span:>20} {batch / median_s:9.1f} {apart:8.0e}"
    print(f"{case.name:42} {batch:5} {figures}{verdict}", flush=True)
    return ratio < FLOOR or not apart <= MOST


def profile(ours: Policy, observations: list[dict[str, Any]]) -> None:
    """The ten operations that take most of one inference."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            ours.infer([Request(one) for one in observations])
    total = sum(each.self_cpu_time_total for each in found.key_averages())
    for each in sorted(found.key_averages(), key=lambda one: -one.self_cpu_time_total)[:10]:
        print(f"    {each.key:45} {100 * each.self_cpu_time_total / total:5.1f} %  {each.count // 3:4} calls")


if __name__ == "__main__":
    sys.exit(main())
