"""Builds vibe-rl's networks in Equinox and saves them as its trainers do: ``make_equinox.py FOLDER``.

Runs in an environment with jax, equinox, optax, distrax and orbax-checkpoint. Every ``<name>/`` gets ``state.eqx``, written by
``eqx.tree_serialise_leaves``, and ``expected.npz`` with ``states`` and the ``actions`` that the networks give, PPO's and SAC's
through distrax; ``orbax/<step>`` holds the same PPO state as Orbax saves ``{"leaf_<i>": array}``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

Layers = list[eqx.nn.Linear]


def linears(sizes: list[int], key: Any) -> Layers:
    keys = jax.random.split(key, len(sizes) - 1)
    return [eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)]


class Mlp(eqx.Module):
    layers: Layers
    activation: Any = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class SacActor(eqx.Module):
    layers: Layers
    mean_head: eqx.nn.Linear
    log_std_head: eqx.nn.Linear

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return distrax.MultivariateNormalDiag(self.mean_head(x), jnp.exp(jnp.clip(self.log_std_head(x), -5, 2)))


class ActorCritic(eqx.Module):
    actor: Mlp
    critic: Mlp


class Twin(eqx.Module):
    q1: Mlp
    q2: Mlp


class Ppo(eqx.Module):
    network: ActorCritic
    optimizer: Any
    step: Any
    rng: Any


class Dqn(eqx.Module):
    online: Mlp
    target: Mlp
    optimizer: Any
    step: Any
    rng: Any


class Sac(eqx.Module):
    actor: SacActor
    critic: Twin
    target: Twin
    log_alpha: Any
    actor_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any
    step: Any
    rng: Any


def adam(tree: Any) -> Any:
    return optax.adam(1e-3).init(eqx.filter(tree, eqx.is_array))


def save(folder: Path, state: Any, infer: Any, size: int) -> None:
    folder.mkdir(parents=True)
    eqx.tree_serialise_leaves(folder / "state.eqx", state)
    states = np.random.default_rng(0).normal(0, 2, (64, size)).astype(np.float32)
    np.savez(folder / "expected.npz", states=states, actions=np.asarray(jax.vmap(infer)(states)))


def ppo(sizes: list[int], key: Any) -> Ppo:
    network = ActorCritic(Mlp(linears(sizes, key), jax.nn.tanh), Mlp(linears([*sizes[:-1], 1], key), jax.nn.tanh))
    return Ppo(network, adam(network), jnp.array(7), jax.random.PRNGKey(0))


def dqn(sizes: list[int], key: Any) -> Dqn:
    online = Mlp(linears(sizes, key), jax.nn.relu)
    return Dqn(online, online, adam(online), jnp.array(7), jax.random.PRNGKey(0))


def sac(sizes: list[int], key: Any) -> Sac:
    """``sizes``: observation, hidden ..., action."""
    keys = jax.random.split(key, 5)
    actor = SacActor(
        linears(sizes[:-1], keys[0]),
        eqx.nn.Linear(sizes[-2], sizes[-1], key=keys[1]),
        eqx.nn.Linear(sizes[-2], sizes[-1], key=keys[2]),
    )
    q = [sizes[0] + sizes[-1], *sizes[1:-1], 1]
    twin = Twin(Mlp(linears(q, keys[3]), jax.nn.relu), Mlp(linears(q, keys[4]), jax.nn.relu))
    alpha = jnp.array(0.0)
    return Sac(actor, twin, twin, alpha, adam(actor), adam(twin), adam(alpha), jnp.array(7), jax.random.PRNGKey(0))


def main(folder: Path) -> None:
    key = jax.random.PRNGKey(1)
    for name, sizes in {"cartpole_ppo": [4, 64, 64, 2], "ppo_deep": [7, 32, 16, 8, 5], "ppo_square": [2, 2, 2]}.items():
        state = ppo(sizes, key)
        save(folder / name, state, lambda x, state=state: distrax.Categorical(state.network.actor(x)).mode(), sizes[0])
        if name == "cartpole_ppo":
            leaves = jax.tree_util.tree_leaves(eqx.filter(state, eqx.is_array))
            for step in (100, 200):
                path = (folder / "orbax" / str(step) / "default").resolve()
                with ocp.StandardCheckpointer() as saver:
                    scaled = {f"leaf_{i}": leaf if step == 200 else jnp.zeros_like(leaf) for i, leaf in enumerate(leaves)}
                    saver.save(path, scaled)
    for name, sizes in {"cartpole_dqn": [4, 64, 64, 2], "dqn_wide": [6, 128, 9]}.items():
        state = dqn(sizes, key)
        save(folder / name, state, lambda x, state=state: jnp.argmax(state.online(x)), sizes[0])
    for name, sizes in {"pendulum_sac": [3, 256, 256, 1], "sac_deep": [5, 48, 32, 16, 4]}.items():
        state = sac(sizes, key)
        save(folder / name, state, lambda x, state=state: jnp.tanh(state.actor(x).mean()), sizes[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
