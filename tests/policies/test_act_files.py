"""ACT checkpoints without torch: what is recognised, which half is missing, sizes from shapes, IL-Studio's normalize.json."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import act_layouts_world as world
import numpy as np
import pytest

from actlink.errors import ConfigError
from actlink.policies import _act_files, _act_ilstudio, _act_lerobot, _act_names, _act_original, act
from actlink.policies._recognise import families_of
from actlink.types import Array

# Recognition


def test_three_layouts_are_recognised(tmp_path: Path) -> None:
    assert families_of(world.EXAMPLE) == ["act"]
    original, lerobot, other = (tmp_path / name for name in ("original", "lerobot", "other"))
    for place, name, content in (
        (original, "policy_last.ckpt", ""),
        (lerobot, "config.json", '{"type": "act", "input_features": {}}'),
        (other, "config.json", '{"type": "diffusion", "input_features": {}}'),
    ):
        place.mkdir()
        (place / name).write_text(content)
    assert act.recognises(original) and act.recognises(original / "policy_last.ckpt") and act.recognises(lerobot)
    assert not act.recognises(other) and not act.recognises(tmp_path) and not act.recognises(tmp_path / "nothing")
    run = tmp_path / "run" / "checkpoints" / "last"
    run.mkdir(parents=True)
    (run / "pretrained_model").symlink_to(lerobot)
    assert act.recognises(tmp_path / "run")


def test_the_best_checkpoint_is_taken(tmp_path: Path) -> None:
    for name in ("policy_epoch_900_seed_0.ckpt", "policy_epoch_1000_seed_0.ckpt", "policy_other.ckpt", "notes.txt"):
        (tmp_path / name).write_text("")
    assert _act_original.weights_of(tmp_path) == tmp_path / "policy_epoch_1000_seed_0.ckpt"
    (tmp_path / "policy_last.ckpt").write_text("")
    assert _act_original.weights_of(tmp_path) == tmp_path / "policy_last.ckpt"
    (tmp_path / "policy_best.ckpt").write_text("")
    assert _act_original.weights_of(tmp_path) == tmp_path / "policy_best.ckpt"
    assert _act_original.weights_of(tmp_path / "policy_other.ckpt") == tmp_path / "policy_other.ckpt"
    assert _act_original.weights_of(tmp_path / "notes.txt") is None


def test_a_step_of_ilstudio_finds_its_parent(tmp_path: Path) -> None:
    world.ilstudio(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-300").mkdir()
    (tmp_path / "checkpoint-300").mkdir()
    assert _act_ilstudio.is_one(tmp_path / "run" / "checkpoint-300") and not _act_ilstudio.is_one(tmp_path / "checkpoint-300")


# Sizes


@pytest.fixture(scope="module")
def random() -> dict[str, Array]:
    """An untrained checkpoint in the original's layout."""
    made: dict[str, Array] = world.script("act_random").checkpoint(17, 16, 50, 32, 48, 0)
    return made


def shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}


def test_sizes_of_the_originals_344_tensors(random: dict[str, Array]) -> None:
    assert len(random) == 344
    size = _act_names.sizes(shapes(_act_names.from_original(random, "x")), "x")
    assert (size.state_dim, size.action_dim, size.horizon, size.hidden, size.latent_dim) == (17, 16, 50, 32, 32)
    assert (size.encoder_layers, size.decoder_layers, size.blocks, size.bottleneck) == (4, 1, (2, 2, 2, 2), False)
    assert (size.tokens, size.pre_norm, size.environment_dim) == (2, False, 0)


def test_names_go_back(random: dict[str, Array]) -> None:
    used = _act_names.from_original(random, "x")
    back = _act_names.to_original(used)
    assert set(back) < set(random) and all(back[name] is random[name] for name in back)
    assert _act_names.from_original(back, "x") == used


def test_the_originals_network_without_cameras_has_no_latent(random: dict[str, Array]) -> None:
    bare = {name: value for name, value in random.items() if "backbones" not in name and "input_proj." not in name}
    bare |= {"model.pos.weight": np.zeros((2, 32)), "model.input_proj_env_state.weight": np.zeros((32, 7))}
    bare["model.input_proj_env_state.bias"] = np.zeros(32)
    size = _act_names.sizes(shapes(_act_names.from_original(bare, "x")), "x")
    assert (size.latent_dim, size.state_dim, size.environment_dim, size.tokens, size.blocks) == (0, 17, 7, 2, ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.action_head.weight": None}, "expected a tensor 'action_head.weight' of two axes, got none of that name"),
        ({"model.action_head.bias": np.zeros(3)}, r"tensor 'action_head.bias': expected shape \(16,\), got \(3,\)"),
        (
            {"model.transformer.encoder.layers.2.norm1.bias": None},
            r"expected a tensor 'encoder.layers.2.norm1.bias' of shape \(32,\)",
        ),
        ({"model.extra": np.zeros(3)}, "tensors that are no part of ACT: extra"),
        (
            {f"model.transformer.decoder.layers.{'9' * 5000}.norm1.bias": np.zeros(3)},
            "tensors that are no part of ACT: decoder.layers.9",
        ),
        ({"model.query_embed.weight": np.zeros(3)}, r"'decoder_pos_embed.weight' of two axes, got shape \(3,\)"),
        ({"model.backbones.1.0.body.conv1.weight": np.zeros(3)}, "a ResNet for each camera"),
        ({"model.backbones.0.0.body.layer2.0.conv1.weight": np.zeros((128, 9, 3, 3))}, r"expected shape \(128, 64, 3, 3\)"),
        ({"model.backbones.0.0.body.layer2.0.conv1.weight": np.zeros(())}, r"expected shape \(0, 64, 3, 3\), got \(\)"),
        ({"model.transformer.encoder.layers.0.linear1.weight": np.zeros(())}, r"expected shape \(0, 32\), got \(\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(random: dict[str, Array], change: dict[str, Any], says: str) -> None:
    changed = {name: value for name, value in {**random, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        _act_names.sizes(shapes(_act_names.from_original(changed, "x")), "x")


def test_a_network_without_decoder_is_none(random: dict[str, Array]) -> None:
    headless = {name: value for name, value in random.items() if ".decoder.layers." not in name}
    with pytest.raises(ConfigError, match="no ACT: it has no decoder layers"):
        _act_names.sizes(shapes(_act_names.from_original(headless, "x")), "x")


def test_cameras_and_heads_that_no_tensor_says(random: dict[str, Array]) -> None:
    size = _act_names.sizes(shapes(_act_names.from_original(random, "x")), "x")
    assert _act_files.camera_names(None, ["top", "left"], size, "x") == ("top", "left")
    assert _act_files.camera_names(("a",), ["top", "left"], size, "x") == ("a",)
    for given, says in (
        (None, "does not say what its cameras are called.*cameras=top,left_wrist"),
        (("a", "a"), "expected 1 to 6 different ones, got a, a"),
        (tuple("abcdefg"), "expected 1 to 6"),
    ):
        with pytest.raises(ConfigError, match=says):
            _act_files.camera_names(given, None, size, "x")
    assert (_act_files.heads_of(None, None, size, "x"), _act_files.heads_of(4, 8, size, "x")) == (8, 4)
    with pytest.raises(ConfigError, match="5 attention heads do not divide the hidden size 32"):
        _act_files.heads_of(5, None, size, "x")


# Half checkpoints of the original layout


def test_the_originals_checkpoint_without_statistics(tmp_path: Path) -> None:
    script = world.script("act_random")
    script.torch_files.save(tmp_path / "policy_best.ckpt", script.checkpoint(4, 3, 5, 16, 8, 0))
    weights = tmp_path / "policy_best.ckpt"
    with pytest.raises(ConfigError, match=r"half an ACT checkpoint, without dataset_stats.pkl .*; it holds policy_best.ckpt"):
        _act_original.read(weights, cameras=("top",), heads=None, identity=False)
    assert "none" in _act_original.read(weights, cameras=("top",), heads=None, identity=True).normalisation
    world.write_pickle(tmp_path / "dataset_stats.pkl", script.statistics(4, 3, 0))
    world.write_json(tmp_path / "inference_config.json", {"camera_names": ["main", "under"], "policy": {"nheads": 4}})
    found = _act_original.read(weights, cameras=None, heads=None, identity=False)
    assert [camera.name for camera in found.cameras] == ["main", "under"] and found.heads == 4
    np.testing.assert_allclose(found.cameras[1].mean, [123.675, 116.28, 103.53], rtol=1e-5)
    digest = found.digest()
    changed = {**script.statistics(4, 3, 0), "qpos_mean": np.zeros(4, np.float32)}
    world.write_pickle(tmp_path / "dataset_stats.pkl", changed)
    assert _act_original.read(weights, cameras=None, heads=None, identity=False).digest() != digest
    world.write_pickle(tmp_path / "dataset_stats.pkl", script.statistics(5, 3, 0))
    with pytest.raises(ConfigError, match="qpos: mean: expected 4 numbers, got 5"):
        _act_original.read(weights, cameras=None, heads=None, identity=False)
    world.write_pickle(tmp_path / "dataset_stats.pkl", [1, 2])
    with pytest.raises(ConfigError, match=r"expected a dict with qpos_mean.*got a list"):
        _act_original.read(weights, cameras=None, heads=None, identity=False)


def test_own_pixel_statistics_and_values_that_are_no_numbers(tmp_path: Path) -> None:
    script = world.script("act_random")
    tensors = script.checkpoint(4, 3, 5, 16, 8, 0)
    place = np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 1, 3, 1, 1)
    script.torch_files.save(tmp_path / "policy_best.ckpt", {**tensors, "img_mean": place, "img_std": place})
    weights = tmp_path / "policy_best.ckpt"
    found = _act_original.read(weights, cameras=("top",), heads=None, identity=True)
    np.testing.assert_allclose(found.cameras[0].std, [25.5, 51, 76.5], rtol=1e-6)
    tensors["model.action_head.bias"] = np.array([0, np.nan, 0], np.float32)
    script.torch_files.save(weights, tensors)
    with pytest.raises(ConfigError, match=r"'model.action_head.bias': expected finite numbers, it holds NaN or infinity"):
        _act_original.read(weights, cameras=("top",), heads=None, identity=True)


# IL-Studio


def made(place: Path, dataset: str = "", identity: bool = False) -> _act_ilstudio.Normalisation:
    return _act_ilstudio.normalisation_of(place, dataset, (3, 2), identity)


def test_datasets_kinds_and_masks(tmp_path: Path) -> None:
    place = world.ilstudio(tmp_path / "run")
    first, second = made(place), made(place, "second")
    assert (first.control_space, first.control_type, second.control_space, second.control_type) == ("joint", "abs", "ee", "delta")
    assert first.source == "normalize.json (first: state zscore, action percentile)"
    values = np.array([5.0, 5.0, 5.0], np.float32)
    np.testing.assert_allclose(first.state.normalise(values), (values - [0, 1, 2]) / [0.01, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(first.action.denormalise(np.array([0.0, 9.0], np.float32)), [1.0, 3.0])
    np.testing.assert_allclose(second.state.normalise(values), [(5 + 1) / 4 * 2 - 1, 5, (5 - 1) / 4 * 2 - 1])
    np.testing.assert_array_equal(second.action.denormalise(values[:2]), values[:2])


def test_the_parent_comes_first_and_the_cache_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = world.ilstudio(tmp_path / "run") / "checkpoint-5"
    place.mkdir()
    monkeypatch.setenv("ILSTD_CACHE", str(tmp_path / "cache"))
    assert made(place).control_space == "joint"
    cache = tmp_path / "cache" / "normalize"
    cache.mkdir(parents=True)
    other = {"state": {**world.statistics(3), "mean": [9.0] * 3}, "action": world.statistics(2)}
    world.write_pickle(cache / "first_stats_joint_abs.pkl", other)
    np.testing.assert_array_equal(made(place).state.shift, [0, 1, 2])
    (tmp_path / "run" / "first_stats_joint_abs.pkl").unlink()
    np.testing.assert_array_equal(made(place).state.shift, [9, 9, 9])
    (cache / "first_stats_joint_abs.pkl").unlink()
    with pytest.raises(ConfigError, match=r"no statistics of 'first' found: expected one of .*first_stats_joint_abs.pkl.*cache"):
        made(place)


def test_normalize_json_that_is_nowhere(tmp_path: Path) -> None:
    place = tmp_path / "run" / "model"
    place.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"^No normalize.json found in .*/run or .*/run/model; .*=true .*--allow-identity"):
        made(place)
    found = made(place, identity=True)
    np.testing.assert_array_equal(found.state.normalise(np.ones(3, np.float32)), [1, 1, 1])


@pytest.mark.parametrize(
    ("changes", "dataset", "says"),
    [
        ({"version": "1.0"}, "", "'version': expected 2.0, got '1.0'"),
        ({"datasets": []}, "", "'datasets': expected a list"),
        ({}, "third", "no dataset 'third'; there are: first, second"),
        ({"datasets": [{"dataset_id": "../x", "ctrl_space": "ee", "ctrl_type": "abs"}]}, "", "expected a name that can be part of"),
        (
            {"datasets": [{"dataset_id": "first", "ctrl_space": "feet", "ctrl_type": "abs"}]},
            "",
            "'ctrl_space': expected one of joint",
        ),
        ({"state": {}}, "", "'state' of 'first': expected one of zscore, minmax, percentile, identity, got None"),
        ({"action": {"first": "Zscore"}}, "", "got 'Zscore'"),
        (
            {"datasets": [{"dataset_id": "first", "ctrl_space": "joint", "ctrl_type": "abs", "state_norm_mask": [9]}]},
            "",
            "3 entries, got 9",
        ),
    ],
)
def test_a_normalize_json_that_is_wrong(tmp_path: Path, changes: dict[str, Any], dataset: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(world.ilstudio(tmp_path / "run", **changes), dataset)


def test_half_an_ilstudio_checkpoint(tmp_path: Path) -> None:
    place = world.ilstudio(tmp_path / "run")

    def read() -> Any:
        return _act_ilstudio.read(place, dataset_id="", cameras=None, heads=None, identity=False)

    with pytest.raises(
        ConfigError, match=r"half an IL-Studio checkpoint, without model.safetensors or pytorch_model.bin; it holds"
    ):
        read()
    script = world.script("act_random")
    script.torch_files.save(place / "pytorch_model.bin", script.checkpoint(3, 2, 5, 16, 8, 0))
    with pytest.raises(ConfigError, match=r"half an IL-Studio checkpoint, without config.json"):
        read()
    world.write_json(place / "config.json", {"camera_names": ["primary"], "nheads": 4, "chunk_size": 5})
    found = read()
    assert (found.heads, found.cameras[0].name, found.size.horizon, found.control_type) == (4, "primary", 5, "abs")
    world.write_json(place / "config.json", {"camera_names": ["primary"], "chunk_size": 6})
    with pytest.raises(ConfigError, match="'chunk_size' is 6, the weights have 5 queries"):
        read()
    world.write_json(place / "policy_metadata.json", {"policy_module": "policy.diffusion_policy"})
    with pytest.raises(ConfigError, match=r"expected IL-Studio's ACT \(policy.act\), got 'policy.diffusion_policy'"):
        read()


def test_a_directory_of_steps_takes_the_last(tmp_path: Path) -> None:
    place, script = world.ilstudio(tmp_path / "run"), world.script("act_random")
    for step in (9, 10):
        (place / f"checkpoint-{step}").mkdir()
        script.torch_files.save(place / f"checkpoint-{step}" / "pytorch_model.bin", script.checkpoint(3, 2, step, 16, 8, 0))
        world.write_json(place / f"checkpoint-{step}" / "config.json", {"camera_names": ["primary"]})
    for at, horizon in ((place, 10), (place / "checkpoint-9", 9)):
        found = _act_ilstudio.read(at, dataset_id="", cameras=None, heads=None, identity=False)
        assert found.size.horizon == horizon


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, ""),
        ({"norm_map": {"STATE": "MEAN_STD", "ACTION": "MIN_MAX"}, "eps": 1e-8}, ""),
        ({"norm_map": {"STATE": "QUANTILES", "ACTION": "MIN_MAX"}}, "STATE: expected MEAN_STD as in config.json, got QUANTILES"),
        ({"norm_map": {"STATE": "MEAN_STD"}}, "ACTION: expected MIN_MAX as in config.json, got IDENTITY"),
        ({"eps": 1e-3}, "eps: expected 1e-08, got 0.001; use lerobot:place"),
    ],
)
def test_a_lerobot_step_whose_rules_are_not_those_of_its_config(options: dict[str, Any], says: str) -> None:
    config = {"normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "MIN_MAX", "VISUAL": "MEAN_STD"}}
    with pytest.raises(ConfigError, match=says) if says else contextlib.nullcontext():
        _act_lerobot._check_rules(options, config, {"STATE", "ACTION"}, Path("place/policy_preprocessor.json"))


def test_the_genuine_directory_in_compat_is_whole() -> None:
    """Read without torch as far as that goes: its description fits the bundled policy's weights that it was written from."""
    found = _act_ilstudio.normalisation_of(world.EXAMPLE, "my_dataset", (21, 14), False)
    policy = json.loads((world.TRAINING.parents[1] / "src/actlink/models/aloha_transfer_cube/policy.json").read_text())
    np.testing.assert_allclose(found.action.shift, policy["output"]["mean"], rtol=1e-6)
    np.testing.assert_allclose(found.state.divisor[:14], policy["inputs"]["state"]["std"], rtol=1e-6)
    assert (found.control_space, found.control_type) == ("joint", "abs")
    assert (world.EXAMPLE / "model.safetensors").stat().st_size < 10 * 2**20
