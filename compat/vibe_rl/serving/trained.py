"""``create_trained_policy(config, checkpoint_dir)`` as vibe-rl has it, on actlink's reader of its checkpoints.

``policy.infer(obs)`` takes one observation, or rows of them, and answers with one action or as many. ``PolicyServer`` serves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actlink.errors import ActlinkError, ConfigError
from actlink.policies import vibe
from actlink.types import Request, Runtime

PRESETS = tuple(vibe.PRESETS)


@dataclass(frozen=True)
class TrainConfig:
    """What was trained on what. Sizes are read off the checkpoint; empty fields are too."""

    preset: str = ""
    """One of ``PRESETS``."""
    algorithm: str = ""
    """``ppo``, ``dqn`` or ``sac``."""
    action_low: float | None = None
    action_high: float | None = None


class TrainedPolicy:
    """A checkpoint's policy; ``served`` is the same for actlink's server."""

    def __init__(self, served: vibe.Discrete | vibe.Continuous) -> None:
        self.served = served

    def infer(self, obs: object) -> np.ndarray:
        """Action of one observation ``(state_dim,)``, or of each row of ``(batch, state_dim)``; an index is int32."""
        states = np.asarray(obs, np.float32)
        results = self.served.infer([Request({"state": row}) for row in np.atleast_2d(states)])
        rows = []
        for result in results:
            if isinstance(result, ActlinkError):
                raise result
            rows.append(result.actions[0])
        actions = np.stack(rows)
        if actions.dtype.kind == "i":
            actions = actions[:, 0].astype(np.int32)
        return actions if states.ndim > 1 else actions[0]


def create_trained_policy(
    config: TrainConfig | str,
    checkpoint_dir: str | Path,
    step: int | None = None,
    norm_stats_path: str | Path | None = None,
    obs_norm_key: str = "obs",
    action_norm_key: str = "action",
) -> TrainedPolicy:
    """The policy in ``checkpoint_dir``, or in its ``step_<step>``; ``ConfigError`` says what is missing or does not fit."""
    config = TrainConfig(config) if isinstance(config, str) else config
    if not Path(checkpoint_dir).is_dir():
        raise ConfigError(f"{checkpoint_dir}: no such directory")
    options = vibe.Config(
        step=step,
        norm_stats=None if norm_stats_path is None else Path(norm_stats_path),
        preset=config.preset,
        algorithm=config.algorithm,
        action_low=config.action_low,
        action_high=config.action_high,
        obs_norm_key=obs_norm_key,
        action_norm_key=action_norm_key,
    )
    return TrainedPolicy(vibe.load(str(checkpoint_dir), options, Runtime()))
