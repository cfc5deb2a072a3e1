"""vibe-rl checkpoints: networks found by their shapes, the right step, statistics, rescaling, and what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_world import leaves, linears, run

from actlink.errors import ConfigError
from actlink.policies import vibe
from actlink.policies._open import families_of, open_policy
from actlink.testing.policies import check_policy
from actlink.types import Request, Runtime

RUNS = Path(__file__).parent.parent.parent / "compat" / "runs"


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def opened(path: Path, **options: Any) -> Any:
    return vibe.load(str(path), vibe.Config(**options), Runtime())


def actions(policy: Any, states: np.ndarray) -> np.ndarray:
    return np.stack([chunk.actions[0] for chunk in policy.infer([Request({"state": state}) for state in states])])


def states_for(policy: Any, count: int = 32) -> np.ndarray:
    size = policy.spec.observation["state"].shape[0]
    return np.random.default_rng(0).normal(0, 2, (count, size)).astype(np.float32)


@pytest.mark.parametrize(("bundled", "run_name"), [("cartpole_ppo", "cartpole"), ("pendulum_sac", "pendulum")])
def test_the_genuine_runs_answer_as_the_bundled_policies(bundled: str, run_name: str) -> None:
    place = RUNS / run_name / "checkpoints"
    assert families_of(place) == ["vibe"]
    policy, expected = opened(place, preset=bundled), open_policy(bundled)
    states = states_for(policy)
    np.testing.assert_allclose(actions(policy, states), actions(expected, states), rtol=0, atol=1e-5)
    assert (policy.spec.rate_hz, policy.spec.action, policy.spec.observation) == (
        expected.spec.rate_hz,
        expected.spec.action,
        expected.spec.observation,
    )
    check_policy(policy)


def test_ppo_of_any_sizes(tmp_path: Path) -> None:
    actor = linears(7, 32, 16, 5)
    policy = opened(leaves(tmp_path / "state.eqx", actor, linears(7, 8, 1)))
    assert policy.facts["family"] == "vibe-rl ppo" and policy.facts["layout"] == "7-32-16-5"
    states = states_for(policy)
    np.testing.assert_array_equal(actions(policy, states)[:, 0], run(actor, states, np.tanh).argmax(axis=1))
    assert policy.spec.action.dtype == "int64" and policy.spec.action.range == (0, 4)
    check_policy(policy)


def test_ppo_of_square_layers_has_actor_and_critic_of_one_depth(tmp_path: Path) -> None:
    actor = linears(2, 2, 2)
    policy = opened(leaves(tmp_path / "state.eqx", actor, linears(2, 2, 1)))
    states = states_for(policy)
    np.testing.assert_array_equal(actions(policy, states)[:, 0], run(actor, states, np.tanh).argmax(axis=1))


def test_dqn_acts_with_the_online_network(tmp_path: Path) -> None:
    online = linears(4, 24, 3)
    policy = opened(leaves(tmp_path / "state.eqx", online, linears(4, 24, 3)))
    states = states_for(policy)
    np.testing.assert_array_equal(actions(policy, states)[:, 0], run(online, states, relu).argmax(axis=1))
    assert policy.facts["family"] == "vibe-rl dqn"


@pytest.mark.parametrize("hidden", [(8,), (48, 32, 16)])
def test_sac_answers_with_the_squashed_mean(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    body, mean, spread = linears(5, *hidden), linears(hidden[-1], 3), linears(hidden[-1], 3)
    critics = [pair for _ in range(4) for pair in linears(8, *hidden, 1)]
    policy = opened(leaves(tmp_path / "state.eqx", body, mean, spread, critics, np.float32(0)))
    assert policy.facts["family"] == "vibe-rl sac" and policy.spec.action.range == (-1.0, 1.0)
    states = states_for(policy)
    expected = np.tanh(run([*body, *mean], states, relu))
    np.testing.assert_allclose(actions(policy, states), expected, atol=1e-5)
    check_policy(policy)


class TestScaling:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        critics = [pair for _ in range(4) for pair in linears(4, 8, 1)]
        leaves(tmp_path / "run" / "ckpt" / "state.eqx", linears(3, 8), linears(8, 1), linears(8, 1), critics, np.float32(0))
        return tmp_path / "run" / "ckpt"

    def test_without_statistics_of_actions_it_stays_in_one(self, place: Path) -> None:
        plain = opened(place)
        (place / "norm_stats.json").write_text(json.dumps({"obs": {"mean": [1, 2, 3], "std": [2, 2, 0]}}))
        normalised = opened(place)
        states = states_for(plain) * np.float32([1, 1, 0])
        seen = states * np.float32([2, 2, 1]) + np.float32([1, 2, 3])  # a deviation of 0 is 1e-8, and the third entry never moves
        np.testing.assert_allclose(actions(normalised, seen), actions(plain, states), rtol=1e-5)
        assert "no action in norm_stats.json" in normalised.facts["actions"]
        assert plain.spec.digest != normalised.spec.digest

    def test_with_them_it_is_put_between_the_bounds_and_denormalised(self, place: Path) -> None:
        plain = opened(place)
        states = states_for(plain)
        (place / "norm_stats.json").write_text(json.dumps({"action": {"mean": [10], "std": [3]}}))
        np.testing.assert_allclose(actions(opened(place), states), actions(plain, states) * 3 + 10, rtol=1e-6)
        both = opened(place, action_low=0.0, action_high=4.0)
        np.testing.assert_allclose(actions(both, states), (actions(plain, states) * 2 + 2) * 3 + 10, rtol=1e-6)
        assert both.spec.action.range == (10.0, 22.0)

    def test_bounds_alone_rescale_too(self, place: Path) -> None:
        plain, wide = opened(place), opened(place, action_low=-2.0, action_high=2.0)
        states = states_for(plain)
        np.testing.assert_allclose(actions(wide, states), 2 * actions(plain, states), rtol=1e-6)
        assert wide.spec.action.range == (-2.0, 2.0)

    @pytest.mark.parametrize("where", ["ckpt", "."])
    def test_statistics_lie_in_the_directory_or_its_parent(self, place: Path, where: str) -> None:
        (place.parent / where / "norm_stats.json").write_text(json.dumps({"action": {"mean": [1], "std": [1]}}))
        assert opened(place).facts["normalisation"].endswith("norm_stats.json")

    def test_given_ones_win_under_their_own_key(self, place: Path, tmp_path: Path) -> None:
        (place / "norm_stats.json").write_text("not JSON")
        own = tmp_path / "own.json"
        own.write_text(json.dumps({"torque": {"mean": [5], "std": [1]}}))
        plain, states = opened(place, norm_stats=own), np.zeros((1, 3), np.float32)
        np.testing.assert_allclose(
            actions(opened(place, norm_stats=own, action_norm_key="torque"), states), actions(plain, states) + 5
        )

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", "expected {obs"),
            ("[]", "expected {obs"),
            ('{"obs": {"mean": [0, 0, 0]}}', "KeyError"),
            ('{"obs": {"mean": [0, 0], "std": [1, 1]}}', r"finite mean and std of shape \(3,\), got \(2,\)"),
            ('{"obs": {"mean": [0, 0, NaN], "std": [1, 1, 1]}}', "finite"),
            ('{"action": {"mean": ["a"], "std": [1]}}', "ValueError"),
            ("[" * 100_000, "expected {obs"),
        ],
    )
    def test_statistics_that_do_not_fit(self, place: Path, text: str, says: str) -> None:
        (place / "norm_stats.json").write_text(text)
        with pytest.raises(ConfigError, match=says):
            opened(place)

    def test_bounds_in_the_wrong_order(self, place: Path) -> None:
        with pytest.raises(ConfigError, match="action_low below action_high"):
            opened(place, action_low=2.0, action_high=-2.0)


class TestSteps:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        for step in (9, 100, 20):
            leaves(tmp_path / f"step_{step}" / "state.eqx", linears(4, step, 2), linears(4, step, 1))
        (tmp_path / "step_500").mkdir()
        return tmp_path

    def test_the_highest_that_has_a_state(self, place: Path) -> None:
        assert vibe.recognises(place) and opened(place).facts["layout"] == "4-100-2"

    def test_the_one_asked_for(self, place: Path) -> None:
        assert opened(place, step=9).facts["layout"] == "4-9-2"
        assert opened(place / "step_20").facts["layout"] == "4-20-2"
        assert opened(place / "step_20" / "state.eqx").facts["layout"] == "4-20-2"

    def test_the_directory_itself_comes_first(self, place: Path) -> None:
        leaves(place / "state.eqx", linears(4, 7, 2), linears(4, 7, 1))
        assert opened(place).facts["layout"] == "4-7-2"

    def test_statistics_of_the_run_are_found_from_a_step(self, tmp_path: Path) -> None:
        leaves(tmp_path / "run" / "ckpt" / "step_3" / "state.eqx", linears(4, 7, 2), linears(4, 7, 1))
        (tmp_path / "run" / "norm_stats.json").write_text('{"obs": {"mean": 0, "std": 2}}')
        for path in (tmp_path / "run" / "ckpt", tmp_path / "run" / "ckpt" / "step_3"):
            assert opened(path).facts["normalisation"].endswith("run/norm_stats.json")

    def test_a_step_that_is_not_there(self, place: Path) -> None:
        with pytest.raises(ConfigError, match=r"step_7.state.eqx: no such file; steps in .*: 9, 20, 100$"):
            opened(place, step=7)
        with pytest.raises(ConfigError, match="a file has no steps"):
            opened(place / "step_9" / "state.eqx", step=9)

    def test_nothing_there(self, tmp_path: Path) -> None:
        (tmp_path / "weights.bin").touch()
        with pytest.raises(ConfigError, match=r"expected state.eqx or step_<n>/state.eqx, it holds weights.bin"):
            opened(tmp_path)
        with pytest.raises(ConfigError, match="no such file or directory"):
            opened(tmp_path / "missing")
        assert not vibe.recognises(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "lunar"}, "preset 'lunar': there are cartpole_ppo"),
        ({"preset": "pendulum_ppo"}, "PPO with discrete actions only"),
        ({"preset": "gridworld_dqn"}, "expected the networks of dqn"),
        ({"algorithm": "td3"}, "algorithm 'td3': there are ppo, dqn, sac"),
        ({"algorithm": "sac"}, "expected the networks of sac"),
        ({"activation": "softplus"}, "activation 'softplus' is not known"),
        ({"action_high": 2.0}, "action_low and action_high are for sac"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    path = leaves(tmp_path / "state.eqx", linears(7, 8, 3), linears(7, 8, 1))
    with pytest.raises(ConfigError, match=says):
        opened(path, **options)
    with pytest.raises(ConfigError, match=r"cartpole_ppo observes \(4,\), this policy \(7,\)"):
        opened(path, preset="cartpole_ppo")
    with pytest.raises(ConfigError, match="use device cpu"):
        vibe.load(str(path), vibe.Config(), Runtime("cuda"))


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "state.eqx"
    leaves(path, np.zeros((3, 3, 3)), np.zeros(2))
    with pytest.raises(ConfigError, match=r"fits none of ppo, dqn, sac; its linear layers are none \(first arrays"):
        opened(path)
    bad = linears(4, 8, 2)
    bad[0][0][1, 1] = np.nan
    with pytest.raises(ConfigError, match="layer 0 holds NaN or infinity"):
        opened(leaves(path, bad, linears(4, 8, 1)))
    whole = leaves(path, linears(4, 8, 2), linears(4, 8, 1)).read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(ConfigError, match=r"array 1 at byte 256: its header of 118 bytes is cut off"):
        opened(path)
    for content, says in ((b"", "an empty file"), (b"PK\x03\x04" + bytes(20), "expected numpy's .npy format")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            opened(path)
