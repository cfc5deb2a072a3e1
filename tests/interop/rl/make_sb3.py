"""Trains small Stable-Baselines3 policies and saves each with what the library itself answers: ``make_sb3.py FOLDER``.

Runs in an environment with stable-baselines3. Beside every ``<name>.zip`` lies ``<name>.npz`` with ``states`` and ``actions``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

STEPS = 1000
MADE = {
    "ppo_cartpole": ("PPO", "CartPole-v1", {"n_steps": 256}),
    "ppo_pendulum": ("PPO", "Pendulum-v1", {"n_steps": 256}),
    "ppo_squashed": (
        "PPO",
        "Pendulum-v1",
        {"n_steps": 256, "use_sde": True, "policy_kwargs": {"squash_output": True, "net_arch": [16]}},
    ),
    "ppo_elu_deep": (
        "PPO",
        "Pendulum-v1",
        {"n_steps": 256, "policy_kwargs": {"activation_fn": torch.nn.ELU, "net_arch": {"pi": [32, 16, 8], "vf": [8]}}},
    ),
    "a2c_cartpole": ("A2C", "CartPole-v1", {}),
    "dqn_cartpole": ("DQN", "CartPole-v1", {"learning_starts": 100, "policy_kwargs": {"net_arch": [32, 48]}}),
    "sac_pendulum": ("SAC", "Pendulum-v1", {"learning_starts": 100, "policy_kwargs": {"net_arch": [32, 32]}}),
    "sac_sde": ("SAC", "Pendulum-v1", {"learning_starts": 100, "use_sde": True, "policy_kwargs": {"net_arch": [32]}}),
    "td3_pendulum": ("TD3", "Pendulum-v1", {"learning_starts": 100, "policy_kwargs": {"net_arch": [40, 30]}}),
    "ddpg_pendulum": ("DDPG", "Pendulum-v1", {"learning_starts": 100, "policy_kwargs": {"net_arch": [40, 30]}}),
}


def save(folder: Path, name: str, model: object, states: np.ndarray, seen: np.ndarray | None = None) -> None:
    actions, _ = model.predict(states if seen is None else seen, deterministic=True)  # type: ignore[attr-defined]
    model.save(folder / f"{name}.zip")  # type: ignore[attr-defined]
    np.savez(folder / f"{name}.npz", states=states, actions=actions)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for name, (algorithm, task, options) in MADE.items():
        model = getattr(sb3, algorithm)("MlpPolicy", task, seed=0, device="cpu", **options)
        model.learn(STEPS if algorithm in ("PPO", "A2C") else STEPS // 4)
        size = model.observation_space.shape[0]
        save(folder, name, model, random.normal(0, 2, (64, size)).astype(np.float32))
    place = folder / "normalised"
    place.mkdir()
    world = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), clip_obs=1.5)
    world.seed(0)
    model = sb3.PPO("MlpPolicy", world, n_steps=256, seed=0, device="cpu")
    model.learn(STEPS)
    states = random.normal(0, 3, (64, 3)).astype(np.float32)
    world.save(str(place / "vecnormalize.pkl"))
    save(place, "ppo_normalised", model, states, world.normalize_obs(states))
    save(folder, "cnn", sb3.PPO("CnnPolicy", _pixels(), n_steps=8, device="cpu"), np.zeros((1, 1, 36, 36), np.uint8))


def _pixels() -> gymnasium.Env:
    from stable_baselines3.common.envs import FakeImageEnv

    return FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
