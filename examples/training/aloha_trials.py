"""Measuring a policy on the ALOHA cube transfer, in this process: for a look during training and for the card.

``actlink eval`` is the real measurement, over the wire, with results that can be resumed and compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actlink.environments.aloha import Config as EnvironmentConfig
from actlink.environments.aloha import Environment

Floats = npt.NDArray[np.float32]
Predict = Callable[[Floats], Floats]
"""State (21,) -> actions (chunk, 14), both in the environment's units."""


@dataclass(frozen=True)
class Trial:
    """A condition under which a policy is measured."""

    name: str
    seeds: range
    horizon: int
    """Actions executed before the policy is asked again."""
    environment: EnvironmentConfig

    def options(self) -> str:
        """The environment options that differ from the defaults, as on the command line."""
        default = EnvironmentConfig()
        changed = {k: v for k, v in asdict(self.environment).items() if v != getattr(default, k)}
        return " ".join(f"{name}={value:g}" for name, value in changed.items()) or "none"


TRIALS = (
    Trial("nominal", range(1000, 1050), 100, EnvironmentConfig()),
    Trial("nominal, other seeds", range(2000, 2100), 100, EnvironmentConfig()),
    Trial("nominal, short horizon", range(2000, 2100), 25, EnvironmentConfig()),
    Trial("pushed", range(1000, 1050), 25, EnvironmentConfig(push_cube_m=0.02)),
    Trial("pushed, other seeds", range(2000, 2100), 25, EnvironmentConfig(push_cube_m=0.02)),
    Trial("turned", range(1000, 1050), 25, EnvironmentConfig(yaw_deg=15.0)),
    Trial("turned, other seeds", range(2000, 2100), 25, EnvironmentConfig(yaw_deg=15.0)),
)


def measure(predict: Predict, trial: Trial) -> tuple[int, int]:
    """Successes and strict successes over the trial's seeds."""
    env = Environment(trial.environment)
    successes = strict = 0
    for seed in trial.seeds:
        state = np.asarray(env.reset("", seed)["state"])
        ended = False
        while not ended:
            for action in predict(state)[: trial.horizon]:
                step = env.step(action)
                state, ended = np.asarray(step.observation["state"]), step.terminated or step.truncated
                if ended:
                    successes += bool(step.success)
                    strict += bool(step.metrics["strict_success"])
                    break
    env.close()
    print(f"{trial.name}: {successes}/{len(trial.seeds)} (strict {strict})", flush=True)
    return successes, strict


def glance(predict: Predict) -> None:
    """A short look at the policy during training, on seeds used for nothing else."""
    seeds = range(4000, 4020)
    measure(predict, Trial("  nominal, horizon 100", seeds, 100, EnvironmentConfig()))
    measure(predict, Trial("  pushed, horizon 25", seeds, 25, EnvironmentConfig(push_cube_m=0.02)))
    measure(predict, Trial("  turned, horizon 25", seeds, 25, EnvironmentConfig(yaw_deg=15.0)))


def onnx_policy(folder: Path) -> Predict:
    """The exported policy, run as the ``onnx`` policy family runs it."""
    import onnxruntime

    described = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = described["spec"]["observation"]["state"]["names"]
    inputs = {
        name: ([names.index(n) for n in one["select"]], np.float32(one["mean"]), np.float32(one["std"]))
        for name, one in described["inputs"].items()
    }
    mean, std = np.float32(described["output"]["mean"]), np.float32(described["output"]["std"])

    def predict(state: Floats) -> Floats:
        feed = {name: ((state[index] - m) / s)[None] for name, (index, m, s) in inputs.items()}
        actions = session.run(["actions"], feed)[0][0]
        return np.asarray(actions * std + mean, dtype=np.float32)

    return predict


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927)."""
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
