"""Train Stable-Baselines3's own PPO on CartPole-v1 and save what it saves: a checkpoint for the family ``sb3``, in seconds.

    python examples/training/sb3_cartpole.py --out results/training/sb3_cartpole

Needs ``pip install actlink stable-baselines3``; whoever serves the result needs neither the second nor torch.
``--normalize`` trains behind a VecNormalize, whose statistics lie beside the policy and are found there. Ctrl-C ends the training
early and saves what has been learnt.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

ENV = "CartPole-v1"
WORLDS = 4


@dataclass(frozen=True)
class Args:
    """Options; the defaults reach the highest return, 500."""

    out: Path = Path("results/training/sb3_cartpole")
    """Folder for ``ppo_cartpole.zip`` and, with --normalize, ``vecnormalize.pkl``."""
    steps: int = 40_000
    """Environment steps in all; whole rollouts of 4 x 128 are made."""
    normalize: bool = False
    """Normalise observations and rewards by their running statistics (VecNormalize)."""
    seed: int = 1


class Progress(BaseCallback):
    """One line per rollout."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps, self._begun = steps, time.monotonic()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        recent = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        shown = f"{np.mean(recent):6.1f}" if recent else "   -"
        seconds = time.monotonic() - self._begun
        print(f"step {self.num_timesteps:6}/{self._steps}  mean return while exploring {shown}  {seconds:4.0f} s", flush=True)


def world(normalize: bool) -> VecEnv:
    """``WORLDS`` environments, each of which tells its episodes' returns."""
    made = DummyVecEnv([lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(ENV))] * WORLDS)
    return VecNormalize(made) if normalize else made


def main(args: Args) -> None:
    torch.set_num_threads(1)
    worlds = world(args.normalize)
    model = PPO(
        "MlpPolicy",
        worlds,
        n_steps=128,
        batch_size=128,
        n_epochs=10,
        learning_rate=lambda left: 1e-3 * max(left, 0.1),
        gamma=0.98,
        gae_lambda=0.9,
        seed=args.seed,
        device="cpu",
    )
    try:
        model.learn(args.steps, callback=Progress(args.steps))
    except KeyboardInterrupt:
        print("stopped; what has been learnt is saved")
    args.out.mkdir(parents=True, exist_ok=True)
    path, statistics = args.out / "ppo_cartpole.zip", args.out / "vecnormalize.pkl"
    model.save(path)
    statistics.unlink(missing_ok=True)  # those of an earlier run would be taken for this policy's
    if isinstance(worlds, VecNormalize):
        worlds.save(str(statistics))
    print(f"""
written: {path}{f", {statistics}" if args.normalize else ""}

  actlink serve {path} --listen native+ws://127.0.0.1:8000
  actlink eval --policy ws://127.0.0.1:8000 --env gymnasium:{ENV} --episodes 20""")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
