"""Train the bundled ``cartpole_ppo``: PPO on CartPole-v1, about a minute on one core.

    python examples/training/cartpole_ppo.py --out results/cartpole_ppo

Needs ``pip install 'actlink[train,gymnasium]'``. Interrupt it and run it again: it continues. Proximal policy optimisation after
Schulman et al. 2017 (arXiv:1707.06347): clipped surrogate, generalised advantage estimation; actor and critic have two tanh layers
of 64.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import rl_common as rl
import torch
from torch import nn

ENV = "CartPole-v1"
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2
LEARNING_RATE, ENTROPY, VALUE_WEIGHT, MAX_GRADIENT = 7e-4, 0.005, 0.5, 0.5
ENVS, ROLLOUT, EPOCHS, MINIBATCHES = 8, 128, 6, 4

DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "name": "cartpole_ppo",
    "description": "PPO on CartPole-v1: pushes the cart left (0) or right (1) so that the pole stays upright.",
    "spec": {
        "observation": {
            "state": {
                "shape": [4],
                "dtype": "float32",
                "names": ["cart_position", "cart_velocity", "pole_angle", "pole_angular_velocity"],
            }
        },
        "action": {"shape": [1], "dtype": "int64", "range": [0, 1], "names": ["push"]},
        "action_horizon": 1,
        "rate_hz": 50.0,
        "max_batch_size": 64,
    },
    "model": "model.onnx",
    "inputs": {"state": {"key": "state"}},
    "output": {"name": "actions"},
}


class Greedy(nn.Module):
    """What is served: the likeliest action, int64 ``(batch, 1, 1)``."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.actor(state).argmax(dim=-1).reshape(-1, 1, 1)


class Worlds:
    """Several environments stepped together; an episode's end starts the next one."""

    def __init__(self, seed: int) -> None:
        self.environments = [gymnasium.make(ENV) for _ in range(ENVS)]
        self.states = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(self.environments)])
        self.running = np.zeros(ENVS)
        self.returns: list[float] = []

    def step(self, actions: np.ndarray, critic: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and ends. A cut-off episode's last reward is raised by the value of the state it was cut off in."""
        rewards, ends = np.zeros(ENVS, np.float32), np.zeros(ENVS, np.float32)
        for i, environment in enumerate(self.environments):
            state, reward, terminated, truncated, _ = environment.step(int(actions[i]))
            self.running[i] += float(reward)
            rewards[i] = float(reward)
            if truncated and not terminated:
                with torch.no_grad():
                    rewards[i] += GAMMA * critic(torch.from_numpy(state)).item()
            if terminated or truncated:
                self.returns.append(float(self.running[i]))
                self.running[i], ends[i] = 0.0, 1.0
                state, _ = environment.reset()
            self.states[i] = state
        return rewards, ends


class Learner:
    """Actor, critic and their optimizer."""

    def __init__(self) -> None:
        self.actor = rl.mlp([4, 64, 64, 2], nn.Tanh, [2**0.5, 2**0.5, 0.01])
        self.critic = rl.mlp([4, 64, 64, 1], nn.Tanh, [2**0.5, 2**0.5, 1.0])
        self.modules = {"actor": self.actor, "critic": self.critic}
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizers = {"both": torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=1e-5)}

    def collect(self, worlds: Worlds) -> dict[str, torch.Tensor]:
        """``ROLLOUT`` steps of every world: states, actions, their log probabilities, advantages and returns, flattened."""
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("state", "action", "log", "value", "reward", "end")}
        for _ in range(ROLLOUT):
            state = torch.from_numpy(worlds.states.copy())
            with torch.no_grad():
                choice = torch.distributions.Categorical(logits=self.actor(state))
                action, value = choice.sample(), self.critic(state).squeeze(-1)
            reward, end = worlds.step(action.numpy(), self.critic)
            values = (state, action, choice.log_prob(action), value, torch.from_numpy(reward), torch.from_numpy(end))
            for name, row in zip(rows, values, strict=True):
                rows[name].append(row)
        batch = {name: torch.stack(found) for name, found in rows.items()}
        with torch.no_grad():
            after = self.critic(torch.from_numpy(worlds.states)).squeeze(-1)
        batch["advantage"] = _advantages(batch, after)
        batch["target"] = batch["advantage"] + batch["value"]
        return {name: value.flatten(0, 1) for name, value in batch.items()}

    def update(self, batch: dict[str, torch.Tensor]) -> float:
        """``EPOCHS`` passes of minibatches over the rollout; returns the entropy."""
        optimizer = self.optimizers["both"]
        for _ in range(EPOCHS):
            for rows in torch.randperm(ENVS * ROLLOUT).chunk(MINIBATCHES):
                part = {name: value[rows] for name, value in batch.items()}
                loss, entropy = self._loss(part)
                optimizer.zero_grad()
                loss.backward()
                for module in self.modules.values():
                    nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT)
                optimizer.step()
        return entropy

    def _loss(self, part: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
        choice = torch.distributions.Categorical(logits=self.actor(part["state"]))
        ratio = (choice.log_prob(part["action"]) - part["log"]).exp()
        advantage = (part["advantage"] - part["advantage"].mean()) / (part["advantage"].std() + 1e-8)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
        value = 0.5 * (self.critic(part["state"]).squeeze(-1) - part["target"]).pow(2).mean()
        entropy = choice.entropy().mean()
        return VALUE_WEIGHT * value - surrogate - ENTROPY * entropy, entropy.item()

    def weights(self) -> dict[str, np.ndarray]:
        """Both networks, layer by layer."""
        return {**rl.linears(self.actor, "actor"), **rl.linears(self.critic, "critic")}


def _advantages(batch: dict[str, torch.Tensor], after: torch.Tensor) -> torch.Tensor:
    """Generalised advantage estimation, backwards through the rollout."""
    advantages = torch.zeros_like(batch["reward"])
    running = torch.zeros(ENVS)
    for t in reversed(range(ROLLOUT)):
        goes_on = 1 - batch["end"][t]
        following = after if t == ROLLOUT - 1 else batch["value"][t + 1]
        error = batch["reward"][t] + GAMMA * following * goes_on - batch["value"][t]
        running = error + GAMMA * LAMBDA * goes_on * running
        advantages[t] = running
    return advantages


def train(run: rl.Run, seed: int) -> Learner:
    """Train until the run is over, taking up its checkpoint if there is one."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    learner, step = Learner(), 0
    if run.checkpoint.exists():
        found = rl.restore(run.checkpoint, learner.modules, learner.optimizers)
        step, seed = int(found["step"]), seed + int(found["step"])
    worlds = Worlds(seed if seed + ENVS <= rl.EVALUATION_SEEDS.start else rl.EVALUATION_SEEDS.stop + seed)
    while not run.over(step):
        for group in learner.optimizers["both"].param_groups:
            group["lr"] = LEARNING_RATE * max(0.05, 1 - step / run.steps)
        entropy = learner.update(learner.collect(worlds))
        step += ENVS * ROLLOUT
        run.show(step, worlds.returns, entropy=entropy)
        if step // (ENVS * ROLLOUT) % 20 == 0 or run.over(step):
            rl.save(run.checkpoint, learner.modules, learner.optimizers, step=step)
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/cartpole_ppo"), help="folder of the run and of the exported policy"
    )
    parser.add_argument("--steps", type=int, default=300_000, help="environment steps in all")
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time (run again to continue)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    run = rl.Run(options.out, options.steps, options.seconds)
    learner = train(run, options.seed)
    greedy = Greedy(learner.actor)
    rl.export(options.out / "policy", greedy, DESCRIPTION, learner.weights())
    returns = rl.evaluate(ENV, lambda state: greedy(torch.from_numpy(state)[None]).item(), rl.EVALUATION_SEEDS)
    print(f"return, seeds 1000-1049: {rl.mean_with_interval(returns)}\nwritten: {options.out / 'policy'}")


if __name__ == "__main__":
    main()
