"""The bundled reinforcement learning policies: they do what their cards say, and their files belong together."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from actlink import matching
from actlink.environments._open import open_environment
from actlink.policies._open import MODELS, open_policy
from actlink.types import Request

pytest.importorskip("onnxruntime")

NAMES = ("cartpole_ppo", "pendulum_sac")


def forward(name: str, states: np.ndarray) -> np.ndarray:
    """What ``weights.npz`` computes, in numpy: actions ``(batch, 1)``."""
    with np.load(MODELS / name / "weights.npz", allow_pickle=False) as weights:

        def linear(layer: str, x: np.ndarray) -> np.ndarray:
            return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

        if name == "cartpole_ppo":
            hidden = np.tanh(linear("actor.layers.1", np.tanh(linear("actor.layers.0", states))))
            return linear("actor.layers.2", hidden).argmax(1)[:, None]
        relu: Callable[[np.ndarray], np.ndarray] = lambda x: np.maximum(x, 0)  # noqa: E731
        hidden = relu(linear("actor.layers.1", relu(linear("actor.layers.0", states))))
        return 2 * np.tanh(linear("actor.mean_head", hidden))


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_graph_are_the_same_network(name: str) -> None:
    policy = open_policy(name)
    dim = policy.spec.observation["state"].shape[0]
    states = np.random.default_rng(0).standard_normal((64, dim)).astype(np.float32)
    chunks = policy.infer([Request({"state": state}) for state in states])
    np.testing.assert_allclose([chunk.actions[0] for chunk in chunks], forward(name, states), atol=1e-4)


SHAPES = {
    "cartpole_ppo": {
        f"{part}.layers.{i}": shape
        for part, last in (("actor", 2), ("critic", 1))
        for i, shape in enumerate([(64, 4), (64, 64), (last, 64)])
    },
    "pendulum_sac": {
        "actor.layers.0": (256, 3),
        "actor.layers.1": (256, 256),
        "actor.mean_head": (1, 256),
        "actor.log_std_head": (1, 256),
        **{f"critic.{q}.layers.{i}": shape for q in ("q1", "q2") for i, shape in enumerate([(256, 4), (256, 256), (1, 256)])},
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_weights_hold_every_layer_by_name(name: str) -> None:
    with np.load(MODELS / name / "weights.npz", allow_pickle=False) as weights:
        found = {key: weights[key].shape for key in weights.files}
        assert all(weights[key].dtype == np.float32 for key in weights.files)
    expected = {f"{layer}.weight": shape for layer, shape in SHAPES[name].items()}
    expected |= {f"{layer}.bias": shape[:1] for layer, shape in SHAPES[name].items()}
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_files_say_nothing_of_the_machine_they_were_made_on(name: str) -> None:
    folder = MODELS / name
    assert {path.name for path in folder.iterdir()} == {"policy.json", "model.onnx", "weights.npz", "CARD.md"}
    assert json.loads((folder / "policy.json").read_text())["name"] == name
    graph = (folder / "model.onnx").read_bytes()
    assert b"/home/" not in graph and b"site-packages" not in graph and b".py" not in graph


@pytest.mark.parametrize(
    ("name", "reference", "least"),
    [("cartpole_ppo", "gymnasium:CartPole-v1", 475), ("pendulum_sac", "gymnasium:Pendulum-v1", -250)],
)
def test_fifty_episodes_return_what_was_promised(name: str, reference: str, least: float) -> None:
    pytest.importorskip("gymnasium")
    policy = open_policy(name)
    environment, task = open_environment(reference, policy.spec)
    assert matching.compare(policy.spec, environment.spec) == []
    returns = []
    for seed in range(1000, 1050):
        observation, total, over = environment.reset(task, seed), 0.0, False
        while not over:
            (chunk,) = policy.infer([Request(observation)])
            step = environment.step(chunk.actions[0])
            observation, total, over = step.observation, total + step.reward, step.terminated or step.truncated
        returns.append(total)
    print(f"{name}: mean return {np.mean(returns):.1f}")
    assert np.mean(returns) >= least
