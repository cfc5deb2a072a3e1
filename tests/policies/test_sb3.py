"""Stable-Baselines3 zip files without Stable-Baselines3; what the library itself answers is compared in ``tests/interop/rl``."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_world import box, discrete, linears, named, ppo_tensors, run, sb3_zip, vecnormalize

from actlink.codecs.safe_pickle import Record
from actlink.errors import ConfigError
from actlink.policies import sb3
from actlink.policies._open import families_of
from actlink.testing.policies import check_policy
from actlink.types import Request, Runtime

OBSERVED = box([-1] * 4, [1] * 4)
TORQUE = box([-2, 0], [2, 1])


def opened(path: Path, **options: Any) -> Any:
    return sb3.load(str(path), sb3.Config(**options), Runtime())


def actions(policy: Any, states: np.ndarray) -> np.ndarray:
    return np.stack([chunk.actions[0] for chunk in policy.infer([Request({"state": state}) for state in states])])


STATES = np.random.default_rng(0).normal(0, 2, (32, 4)).astype(np.float32)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def between(x: np.ndarray) -> np.ndarray:
    """-1..1 -> the bounds of TORQUE."""
    return np.array([-2, 0]) + (x + 1) / 2 * np.array([4, 1])


def test_actor_critic_with_choices(tmp_path: Path) -> None:
    tensors, pairs = ppo_tensors(4, 16, 8, 3)
    path = sb3_zip(tmp_path / "ppo.zip", OBSERVED, discrete(3), tensors)
    assert families_of(path) == ["sb3"]
    policy = opened(path, rate_hz=50.0)
    np.testing.assert_array_equal(actions(policy, STATES)[:, 0], run(pairs, STATES, np.tanh).argmax(axis=1))
    assert policy.spec.action.range == (0, 2) and policy.spec.rate_hz == 50.0
    assert policy.facts["family"] == "Stable-Baselines3 PPO or A2C" and policy.facts["layout"] == "4-16-8-3"
    check_policy(policy)


def test_actor_critic_clips_to_the_action_space(tmp_path: Path) -> None:
    tensors, pairs = ppo_tensors(4, 16, 2)
    policy = opened(sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, tensors))
    expected = np.clip(run(pairs, STATES, np.tanh), [-2, 0], [2, 1])
    assert (expected == [2, 1]).any() and (expected == [-2, 0]).any(), "the bounds are reached, or the test sees nothing"
    np.testing.assert_allclose(actions(policy, STATES), expected, atol=1e-5)
    check_policy(policy)


def test_other_activations_and_squashing(tmp_path: Path) -> None:
    tensors, pairs = ppo_tensors(4, 16, 2)
    kwargs = {"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>", "squash_output": True}
    policy = opened(sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, tensors, kwargs))
    np.testing.assert_allclose(actions(policy, STATES), between(np.tanh(run(pairs, STATES, relu))), atol=1e-5)
    kwargs["activation_fn"] = "<class 'torch.nn.modules.activation.Softsign'>"
    with pytest.raises(ConfigError, match="activation 'softsign' is not known"):
        opened(sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, tensors, kwargs))
    kwargs["activation_fn"] = "<function <lambda>>"
    with pytest.raises(ConfigError, match="not one of torch's"):
        opened(sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, tensors, kwargs))


def test_sac_td3_and_dqn(tmp_path: Path) -> None:
    body, mean = linears(4, 16, 8), linears(8, 2)
    heads = {"actor.mu.weight": mean[0][0], "actor.mu.bias": mean[0][1], "actor.log_std.weight": np.ones((2, 8), np.float32)}
    policy = opened(sb3_zip(tmp_path / "sac.zip", OBSERVED, TORQUE, {**named("actor.latent_pi", body), **heads}))
    np.testing.assert_allclose(actions(policy, STATES), between(np.tanh(run([*body, *mean], STATES, relu))), atol=1e-5)
    assert policy.facts["family"].endswith("SAC")
    pairs = linears(4, 16, 2)
    target = named("actor_target.mu", linears(4, 16, 2))
    policy = opened(sb3_zip(tmp_path / "td3.zip", OBSERVED, TORQUE, {**target, **named("actor.mu", pairs)}))
    np.testing.assert_allclose(actions(policy, STATES), between(np.tanh(run(pairs, STATES, relu))), atol=1e-5)
    pairs = linears(4, 16, 5)
    tensors = {**named("q_net.q_net", pairs), **named("q_net_target.q_net", linears(4, 16, 5))}
    policy = opened(sb3_zip(tmp_path / "dqn.zip", OBSERVED, discrete(5), tensors))
    np.testing.assert_array_equal(actions(policy, STATES)[:, 0], run(pairs, STATES, relu).argmax(axis=1))


def test_statistics_beside_the_file_are_applied(tmp_path: Path) -> None:
    tensors, pairs = ppo_tensors(4, 16, 2)
    path = sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, tensors)
    mean, var = np.arange(4.0), np.array([1.0, 4.0, 0.25, 9.0])
    vecnormalize(tmp_path / "vecnormalize.pkl", mean, var, clip_obs=1.5)
    policy = opened(path)
    seen = np.clip((STATES - mean) / np.sqrt(var + 1e-8), -1.5, 1.5)
    np.testing.assert_allclose(actions(policy, STATES), np.clip(run(pairs, seen, np.tanh), [-2, 0], [2, 1]), atol=1e-5)
    assert "VecNormalize" in policy.facts["normalisation"]
    assert opened(path, normalize=False).spec.digest != policy.spec.digest
    vecnormalize(tmp_path / "vecnormalize.pkl", mean, var, norm_obs=False)
    assert opened(path).facts["normalisation"] == "none"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": np.zeros(3)}, r"obs_rms.mean: expected finite floats of shape \(4,\), got float64 \(3,\)"),
        ({"var": -np.ones(4)}, "negative"),
        ({"var": np.full(4, np.nan)}, "finite"),
        ({"mean": [0.0] * 4}, "got list"),
        ({"clip_obs": -1.0}, "clip_obs above 0"),
        ({"obs_rms": {"a": 1}}, "obs_rms of one vector, got dict"),
    ],
)
def test_statistics_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = sb3_zip(tmp_path / "ppo.zip", OBSERVED, TORQUE, ppo_tensors(4, 16, 2)[0])
    vecnormalize(tmp_path / "own.pkl", **{"mean": np.zeros(4), "var": np.ones(4), **change})
    with pytest.raises(ConfigError, match=says):
        opened(path, vecnormalize=tmp_path / "own.pkl")


@pytest.mark.parametrize(
    ("observation", "action", "says"),
    [
        (box([-1] * 3, [1] * 3), TORQUE, r"the network takes 4 numbers, the observation space has shape \(3,\)"),
        (discrete(4), TORQUE, "the observation space has 4 choices"),
        (OBSERVED, box([-1] * 3, [1] * 3), "the network gives 2 numbers"),
        (OBSERVED, discrete(3), "the network gives 2 numbers, the action space has 3"),
        (
            OBSERVED,
            Record("gymnasium.spaces.multi_discrete", "MultiDiscrete", (), {"nvec": 2}),
            "MultiDiscrete space; policies of one",
        ),
        (Record("gymnasium.spaces.box", "Box", (), {}), TORQUE, "without its bounds"),
        (Record("os", "system", (), {}), TORQUE, "expected a space of gymnasium, got os.system"),
        (OBSERVED, Record("gymnasium.spaces.discrete", "Discrete", (), {"n": 2**40}), "n choices from 0 on"),
        (box([1] * 4, [-1] * 4), TORQUE, "absurd bounds"),
        (b"not a pickle", TORQUE, "observation_space: byte 0: not a pickle"),
    ],
)
def test_spaces_that_do_not_fit(tmp_path: Path, observation: Any, action: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(sb3_zip(tmp_path / "ppo.zip", observation, action, ppo_tensors(4, 16, 2)[0]))


def test_pictures_and_networks_that_are_no_mlp(tmp_path: Path) -> None:
    pixels = {"low": np.zeros((3, 8, 8), np.uint8), "high": np.full((3, 8, 8), 255, np.uint8), "_shape": (3, 8, 8)}
    with pytest.raises(ConfigError, match=r"pictures\?\).*export others to ONNX"):
        opened(sb3_zip(tmp_path / "a.zip", Record("gymnasium.spaces.box", "Box", (), pixels), TORQUE, ppo_tensors(4, 2)[0]))
    tensors = {**ppo_tensors(4, 16, 2)[0], "features_extractor.cnn.0.weight": np.zeros((8, 3, 3, 3), np.float32)}
    with pytest.raises(ConfigError, match="a features extractor with weights"):
        opened(sb3_zip(tmp_path / "a.zip", OBSERVED, TORQUE, tensors))
    with pytest.raises(ConfigError, match=r"expected the tensors of an MLP policy of .*, got w"):
        opened(sb3_zip(tmp_path / "a.zip", OBSERVED, TORQUE, {"w": np.zeros((2, 2), np.float32)}))
    infinite = box([-np.inf] * 2, [np.inf] * 2)
    with pytest.raises(ConfigError, match="which are infinite"):
        opened(sb3_zip(tmp_path / "a.zip", OBSERVED, infinite, named("actor.mu", linears(4, 8, 2))))


def test_archives_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(ConfigError, match=r"no entry 'data': not a Stable-Baselines3 model; the archive holds notes.txt"):
        opened(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{")
        archive.writestr("policy.pth", "x")
    with pytest.raises(ConfigError, match="not JSON"):
        opened(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="an empty file"):
        opened(path)
    with pytest.raises(ConfigError, match="No such file"):
        opened(tmp_path / "missing.zip")
