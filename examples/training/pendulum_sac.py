"""Train the bundled ``pendulum_sac``: SAC on Pendulum-v1, a few minutes on one core.

    python examples/training/pendulum_sac.py --out results/pendulum_sac

Needs ``pip install 'actlink[train,gymnasium]'``. Interrupt it and run it again: it continues. Soft actor-critic after Haarnoja et
al. 2018 (arXiv:1812.05905): tanh-squashed Gaussian, twin critics, learned temperature; two ReLU layers of 256 in every network.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import rl_common as rl
import torch
from torch import nn
from torch.nn.functional import mse_loss, relu

ENV = "Pendulum-v1"
MAX_TORQUE = 2.0
GAMMA, TAU, LEARNING_RATE, BATCH = 0.99, 0.005, 1e-3, 256
TARGET_ENTROPY, LOG_STD_RANGE = -1.0, (-20.0, 2.0)
WARM_UP = 1000

DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "name": "pendulum_sac",
    "description": "SAC on Pendulum-v1: swings the pendulum up and balances it with a torque of at most 2 N m.",
    "spec": {
        "observation": {"state": {"shape": [3], "dtype": "float32", "names": ["cos_angle", "sin_angle", "angular_velocity"]}},
        "action": {"shape": [1], "dtype": "float32", "range": [-MAX_TORQUE, MAX_TORQUE], "names": ["torque"]},
        "action_horizon": 1,
        "rate_hz": 20.0,
        "max_batch_size": 64,
    },
    "model": "model.onnx",
    "inputs": {"state": {"key": "state"}},
    "output": {"name": "actions"},
}


class Actor(nn.Module):
    """Observation -> mean and log standard deviation of the action before it is squashed into -1..1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 256), nn.Linear(256, 256)])
        self.mean_head, self.log_std_head = nn.Linear(256, 1), nn.Linear(256, 1)

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for layer in self.layers:
            state = relu(layer(state))
        return self.mean_head(state), self.log_std_head(state).clamp(*LOG_STD_RANGE)

    def sample(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparameterised actions in -1..1 and their log probabilities."""
        mean, log_std = self(state)
        raw = mean + log_std.exp() * torch.randn_like(mean)
        gaussian = torch.distributions.Normal(mean, log_std.exp()).log_prob(raw)
        # log(1 - tanh(x)^2), written so that it stays finite for large x
        squash = 2 * (np.log(2.0) - raw - nn.functional.softplus(-2 * raw))
        return raw.tanh(), (gaussian - squash).sum(-1)

    def weights(self) -> dict[str, np.ndarray]:
        """``actor.layers.<i>``, ``actor.mean_head`` and ``actor.log_std_head``."""
        return {f"actor.{name}": value.detach().numpy() for name, value in self.state_dict().items()}


class Greedy(nn.Module):
    """What is served: the squashed mean in N m, float32 ``(batch, 1, 1)``."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        mean, _ = self.actor(state)
        return (MAX_TORQUE * mean.tanh()).reshape(-1, 1, 1)


class Critics(nn.Module):
    """Two independent estimates of the value of (observation, action)."""

    def __init__(self) -> None:
        super().__init__()
        self.q1, self.q2 = rl.mlp([4, 256, 256, 1], nn.ReLU), rl.mlp([4, 256, 256, 1], nn.ReLU)

    def forward(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([state, action], -1)
        return self.q1(both).squeeze(-1), self.q2(both).squeeze(-1)


class Memory:
    """Every transition so far, in rows of state (3), action, reward, next state (3). Pendulum never terminates."""

    def __init__(self, steps: int, rows: np.ndarray | None = None) -> None:
        self.rows = np.zeros((steps, 8), np.float32)
        self.filled = 0 if rows is None else len(rows)
        if rows is not None:
            self.rows[: len(rows)] = rows

    def add(self, state: np.ndarray, action: np.ndarray, reward: float, following: np.ndarray) -> None:
        self.rows[self.filled] = np.concatenate([state, action, [reward], following])
        self.filled += 1

    def sample(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        chosen = torch.randint(self.filled, (BATCH,))
        rows = torch.from_numpy(self.rows)[chosen]
        return rows[:, :3], rows[:, 3:4], rows[:, 4], rows[:, 5:8]


class Learner:
    """Actor, critics, their slow copy and the temperature."""

    def __init__(self) -> None:
        self.actor, self.critics = Actor(), Critics()
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.temperature = nn.ParameterDict({"log_alpha": nn.Parameter(torch.zeros(()))})
        self.modules = {"actor": self.actor, "critics": self.critics, "target": self.target, "temperature": self.temperature}
        trained = {"actor": self.actor, "critics": self.critics, "temperature": self.temperature}
        self.optimizers = {name: torch.optim.Adam(module.parameters(), lr=LEARNING_RATE) for name, module in trained.items()}

    @property
    def alpha(self) -> float:
        return float(self.temperature["log_alpha"].exp())

    def _descend(self, name: str, loss: torch.Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    def update(self, memory: Memory) -> None:
        """One gradient step of critics, actor and temperature; the slow copy follows."""
        state, action, reward, following = memory.sample()
        with torch.no_grad():
            next_action, next_log = self.actor.sample(following)
            value = torch.min(*self.target(following, next_action)) - self.alpha * next_log
            goal = reward + GAMMA * value
        q1, q2 = self.critics(state, action)
        self._descend("critics", mse_loss(q1, goal) + mse_loss(q2, goal))
        own, log = self.actor.sample(state)
        self._descend("actor", (self.alpha * log - torch.min(*self.critics(state, own))).mean())
        self._descend("temperature", -self.temperature["log_alpha"].exp() * (log.detach().mean() + TARGET_ENTROPY))
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critics.parameters(), strict=True):
                slow.lerp_(fast, TAU)

    def weights(self) -> dict[str, np.ndarray]:
        """Actor and both critics, layer by layer."""
        return {**self.actor.weights(), **rl.linears(self.critics.q1, "critic.q1"), **rl.linears(self.critics.q2, "critic.q2")}


def train(run: rl.Run, seed: int) -> Learner:
    """Train until the run is over, taking up its checkpoint if there is one."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    learner, memory = Learner(), Memory(run.steps)
    if run.checkpoint.exists():
        found = rl.restore(run.checkpoint, learner.modules, learner.optimizers)
        memory = Memory(max(run.steps, len(found["rows"])), found["rows"])
        seed += memory.filled
    environment = gymnasium.make(ENV)
    state, _ = environment.reset(seed=seed if seed < rl.EVALUATION_SEEDS.start else rl.EVALUATION_SEEDS.stop + seed)
    returns, total = [], 0.0
    while not run.over(memory.filled):
        action = _explore(learner.actor, state, memory.filled)
        following, reward, terminated, truncated, _ = environment.step(MAX_TORQUE * action)
        memory.add(state, action, float(reward), following)
        state, total = following, total + float(reward)
        if terminated or truncated:
            returns, total = [*returns, total], 0.0
            state, _ = environment.reset()
        if memory.filled > WARM_UP:
            learner.update(memory)
        run.show(memory.filled, returns, alpha=learner.alpha)
        if memory.filled % 2000 == 0 or run.over(memory.filled):
            rl.save(run.checkpoint, learner.modules, learner.optimizers, rows=memory.rows[: memory.filled])
    return learner


def _explore(actor: Actor, state: np.ndarray, step: int) -> np.ndarray:
    """An action in -1..1: uniform at first, then the actor's own."""
    if step < WARM_UP:
        return (torch.rand(1) * 2 - 1).numpy()
    with torch.no_grad():
        return actor.sample(torch.from_numpy(state)[None])[0][0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/pendulum_sac"), help="folder of the run and of the exported policy"
    )
    parser.add_argument("--steps", type=int, default=15_000, help="environment steps in all")
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time (run again to continue)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    run = rl.Run(options.out, options.steps, options.seconds)
    learner = train(run, options.seed)
    greedy = Greedy(learner.actor)
    rl.export(options.out / "policy", greedy, DESCRIPTION, learner.weights())
    returns = rl.evaluate(ENV, lambda state: greedy(torch.from_numpy(state)[None]).detach().numpy().reshape(1), rl.EVALUATION_SEEDS)
    print(f"return, seeds 1000-1049: {rl.mean_with_interval(returns)}\nwritten: {options.out / 'policy'}")


if __name__ == "__main__":
    main()
