"""Serve a trained policy to vibe-rl's clients::

python scripts/serve_policy.py cartpole_ppo --checkpoint_dir runs/cartpole/checkpoints
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vibe_rl.serving import PolicyServer

from actlink.errors import ActlinkError, ConfigError
from actlink.policies._base import Policy, Result
from actlink.policies._open import open_policy
from actlink.types import Request

PRESETS = {"cartpole_ppo": 4, "cartpole_dqn": 4, "pendulum_ppo": 3, "pendulum_sac": 3, "gridworld_dqn": 2}
"""Preset -> entries of its environment's observation."""


def main() -> None:
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        policy = load(options.preset, options.checkpoint_dir, options.step, options.norm_stats_path)
        PolicyServer(policy=policy, host=options.host, port=options.port, allow=options.allow).run_blocking()
    except ActlinkError as error:
        sys.exit(f"error: {error}")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve a trained policy over WebSocket.")
    parser.add_argument("preset", choices=PRESETS, help="what was trained on what")
    parser.add_argument("--checkpoint_dir", type=Path, required=True)
    parser.add_argument("--step", type=int, help="load <checkpoint_dir>/step_<STEP> instead of what lies in checkpoint_dir itself")
    parser.add_argument(
        "--norm_stats_path", type=Path, help="default: norm_stats.json in checkpoint_dir or beside it, if there is one"
    )
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NETWORK", help="who may connect; several times for several"
    )
    return parser


def load(preset: str, checkpoint_dir: Path, step: int | None, norm_stats_path: Path | None) -> Policy:
    """The policy in ``checkpoint_dir``; ``ConfigError`` if it is not there or does not fit the preset."""
    if not checkpoint_dir.is_dir():
        raise ConfigError(f"--checkpoint_dir {checkpoint_dir}: no such directory")
    policy = open_policy(str(checkpoint_dir if step is None else checkpoint_dir / f"step_{step}"))
    (field,) = policy.spec.observation.values()
    if field.shape != (PRESETS[preset],):
        raise ConfigError(f"{checkpoint_dir}: {preset} observes ({PRESETS[preset]},), this policy {field.shape}")
    found = (
        [norm_stats_path] if norm_stats_path else [place / "norm_stats.json" for place in (checkpoint_dir, checkpoint_dir.parent)]
    )
    path = next((path for path in found if norm_stats_path or path.exists()), None)
    return policy if path is None else Normalised(policy, path)


class Normalised(Policy):
    """``(obs - mean) / std`` before the policy, ``action * std + mean`` behind it, where the file has them."""

    def __init__(self, inner: Policy, path: Path) -> None:
        self.spec = inner.spec
        self._inner = inner
        (self._key,) = inner.spec.observation
        self._obs = self._statistics(path, "obs", inner.spec.observation[self._key].shape)
        self._action = self._statistics(path, "action", inner.spec.action.shape)

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        mean, std = self._obs
        inputs = [replace(r, observation={self._key: (np.asarray(r.observation[self._key]) - mean) / std}) for r in requests]
        mean_out, std_out = self._action
        results = self._inner.infer(inputs)
        if self.spec.action.dtype != "float32":
            return results
        return [r if isinstance(r, ActlinkError) else replace(r, actions=r.actions * std_out + mean_out) for r in results]

    def close(self) -> None:
        self._inner.close()

    @staticmethod
    def _statistics(path: Path, key: str, shape: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
        try:
            given = json.loads(path.read_text(encoding="utf-8")).get(key, {"mean": 0.0, "std": 1.0})
            mean, std = (np.broadcast_to(np.asarray(given[name], np.float32), shape) for name in ("mean", "std"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: expected {{{key}: {{mean: [...], std: [...]}}}} of shape {shape}: {error!r}") from None
        return mean, np.maximum(std, np.float32(1e-8))


if __name__ == "__main__":
    main()
