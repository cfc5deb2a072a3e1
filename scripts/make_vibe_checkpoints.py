"""Writes vibe-rl checkpoints of the bundled policies into ``compat/runs``: the same weights in the training state's own layout.

``state.eqx`` holds the leaves that Equinox writes for a PPO and a SAC training state, in their order: networks, Adam's counter and
moments (zero: the bundled weights come without them), step, random key. It writes the same bytes every time::

    python scripts/make_vibe_checkpoints.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent.parent
MODELS = HERE / "src" / "actlink" / "models"
RUNS = HERE / "compat" / "runs"

Leaves = list[np.ndarray]


def leaves_of(weights: Mapping[str, np.ndarray], *prefixes: str) -> Leaves:
    """Weight and bias of each layer under ``prefixes``, in the order of the file."""
    return [weights[name] for prefix in prefixes for name in weights if name.startswith(prefix)]


def adam(parameters: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Counter, first and second moments."""
    yield np.array(0, np.int32)
    for _ in range(2):
        yield from (np.zeros_like(parameter) for parameter in parameters)


def clock(step: int) -> Leaves:
    return [np.array(step, np.int32), np.array([0, 0], np.uint32)]


def ppo(weights: Mapping[str, np.ndarray], step: int) -> Leaves:
    networks = leaves_of(weights, "actor.", "critic.")
    return [*networks, *adam(networks), *clock(step)]


def sac(weights: Mapping[str, np.ndarray], step: int) -> Leaves:
    actor = leaves_of(weights, "actor.layers.", "actor.mean_head.", "actor.log_std_head.")
    critics = leaves_of(weights, "critic.q1.", "critic.q2.")
    temperature = [np.array(0, np.float32)]
    targets = critics
    return [*actor, *critics, *targets, *temperature, *adam(actor), *adam(critics), *adam(temperature), *clock(step)]


def write(path: Path, leaves: Leaves) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for leaf in leaves:
            np.lib.format.write_array(file, np.asarray(leaf, order="C"), version=(1, 0), allow_pickle=False)


def main() -> None:
    with np.load(MODELS / "cartpole_ppo" / "weights.npz", allow_pickle=False) as weights:
        write(RUNS / "cartpole" / "checkpoints" / "state.eqx", ppo(weights, 300_000))
    with np.load(MODELS / "pendulum_sac" / "weights.npz", allow_pickle=False) as weights:
        for place in (".", "step_50000"):
            write(RUNS / "pendulum" / "checkpoints" / place / "state.eqx", sac(weights, 50_000))
    statistics = {
        "obs": {"mean": [0.0] * 3, "std": [1.0] * 3, "q01": [-1.0, -1.0, -8.0], "q99": [1.0, 1.0, 8.0]},
        "action": {"mean": [0.0], "std": [2.0], "q01": [-2.0], "q99": [2.0]},
    }
    (RUNS / "pendulum" / "norm_stats.json").write_text(json.dumps(statistics) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
