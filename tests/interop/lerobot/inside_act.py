"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): our ACT, which needs no LeRobot, beside LeRobot's ``ACTPolicy``.

The same weights in every layout: LeRobot's directories of today, its directories of 0.3 (statistics among the weights), and,
renamed, the original's ``policy_best.ckpt``. The reference is LeRobot's eager model behind its own processors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actlink.codecs import safe_pickle, torch_files
from actlink.policies import _act_names
from actlink.policies._open import open_policy
from actlink.types import Request

STATE, ACTION, HEIGHT, WIDTH = 6, 5, 96, 128
MOST = 1e-5
VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "pre_norm": {"pre_norm": True, "n_decoder_layers": 3, "feedforward_activation": "gelu"},
    # Sixteen blocks of random weights would amplify rounding itself; gains below 1 keep the signal in bounds, as training does.
    "resnet50": {"gain": (0.2, 0.6), "vision_backbone": "resnet50", "use_vae": False, "n_encoder_layers": 1},
    "min_max": {"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MIN_MAX", "VISUAL": "IDENTITY"}},
    "quantiles": {"normalization_mapping": {"STATE": "QUANTILES", "ACTION": "QUANTILES", "VISUAL": "MEAN_STD"}},
    "environment_state": {"environment": 7, "cameras": ()},
    "three_cameras": {"cameras": ("rgb_main", "rgb_left", "rgb_under")},
}


class Made:
    """A genuine checkpoint with random weights and statistics, and LeRobot's own answers."""

    def __init__(
        self,
        place: Path,
        *,
        cameras: tuple[str, ...] = ("top", "wrist"),
        environment: int = 0,
        gain: tuple[float, float] = (0.5, 1.5),
        **options: Any,
    ) -> None:
        from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
        from lerobot.policies.act.configuration_act import ACTConfig
        from lerobot.policies.act.modeling_act import ACTPolicy
        from lerobot.policies.act.processor_act import make_act_pre_post_processors

        self.place, self.cameras, self.environment = place, cameras, environment
        features = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
        if environment:
            features["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
        features |= {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH)) for name in cameras}
        modes = options.pop("normalization_mapping", {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "MEAN_STD"})
        sizes = {"dim_model": 64, "n_heads": 4, "dim_feedforward": 96, "chunk_size": 12, "n_action_steps": 12}
        torch.manual_seed(0)
        config = ACTConfig(
            input_features=features,
            output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
            normalization_mapping={key: NormalizationMode(mode) for key, mode in {"ENV": modes["STATE"], **modes}.items()},
            pretrained_backbone_weights=None,
            device="cpu",
            **{**sizes, **options},
        )
        self.policy = ACTPolicy(config).eval()
        with torch.no_grad():
            for name, buffer in self.policy.named_buffers():  # as after training: no batch norm is the identity
                if "bn" in name or "downsample" in name:
                    buffer.uniform_(*(gain if name.endswith("weight") else (0.5, 1.5)))
        self.statistics = {key: made_up(feature.shape, "images" in key) for key, feature in features.items()}
        self.statistics["action"] = made_up((ACTION,), False)
        self.before, self.after = make_act_pre_post_processors(config, self.statistics)
        for part in (self.policy, self.before, self.after):
            part.save_pretrained(place)

    def observations(self, count: int) -> list[dict[str, Any]]:
        source = np.random.default_rng(count)
        made = []
        for _ in range(count):
            one: dict[str, Any] = {"state": source.standard_normal(STATE + self.environment).astype(np.float32)}
            one |= {f"images.{name}": source.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for name in self.cameras}
            made.append(one)
        return made

    def answers(self, seen: list[dict[str, Any]]) -> np.ndarray:
        rows = torch.from_numpy(np.stack([one["state"] for one in seen]))
        batch = {"observation.state": rows[:, :STATE]}
        if self.environment:
            batch["observation.environment_state"] = rows[:, STATE:]
        for name in self.cameras:
            pictures = torch.from_numpy(np.stack([one[f"images.{name}"] for one in seen]))
            batch[f"observation.images.{name}"] = pictures.permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found: np.ndarray = self.after(self.policy.predict_action_chunk(self.before(batch))).numpy()
        return found


def made_up(shape: tuple[int, ...], picture: bool) -> dict[str, torch.Tensor]:
    size = (3, 1, 1) if picture else shape
    middle = torch.rand(size) - (0 if picture else 0.5)
    spread = torch.rand(size) * 0.5 + 0.1
    names = {"mean": middle, "std": spread, "min": middle - spread, "max": middle + spread}
    return {**names, "q01": middle - spread / 2, "q99": middle + spread / 2}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("usual"))


def difference(name: str, made: Made, count: int, options: Mapping[str, Any] | None = None) -> float:
    """Largest difference of our actions from LeRobot's, both computed now."""
    seen = made.observations(count)
    policy = open_policy(name, options=options)
    try:
        ours = np.stack([each.actions for each in policy.infer([Request(policy.spec.check(one)) for one in seen])])
    finally:
        policy.close()
    theirs = made.answers(seen)
    assert ours.shape == theirs.shape == (count, made.policy.config.chunk_size, ACTION)
    assert np.ptp(theirs) > 0.1, "the reference hardly moves: it would prove nothing"
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_lerobots(variant: str, count: int, tmp_path: Path, differences: dict[str, float]) -> None:
    made = Made(tmp_path, **VARIANTS[variant])
    differences[f"{variant}, batch {count}"] = found = difference(str(tmp_path), made, count)
    assert found <= MOST


@pytest.mark.parametrize("count", [1, 8])
def test_statistics_among_the_weights(usual: Made, count: int, tmp_path: Path, differences: dict[str, float]) -> None:
    """A directory as LeRobot 0.3 wrote it: buffers named after the features, no processors."""
    weights = load_file(usual.place / "model.safetensors")
    for group, keys in (
        ("normalize_inputs", [key for key in usual.statistics if key != "action"]),
        ("unnormalize_outputs", ["action"]),
    ):
        for key in keys:
            for name in ("mean", "std"):
                weights[f"{group}.buffer_{key.replace('.', '_')}.{name}"] = usual.statistics[key][name].clone()
    save_file(weights, tmp_path / "model.safetensors")
    shutil.copy(usual.place / "config.json", tmp_path)
    differences[f"as LeRobot 0.3, batch {count}"] = found = difference(str(tmp_path), usual, count)
    assert found <= MOST


@pytest.mark.parametrize("count", [1, 8])
def test_the_originals_layout_through_a_map_of_names(
    usual: Made, count: int, tmp_path: Path, differences: dict[str, float]
) -> None:
    """Under the original's names, with more decoder layers behind the first, as the original has them."""
    tensors = {name: value.numpy() for name, value in _act_names.from_lerobot(load_file(usual.place / "model.safetensors")).items()}
    renamed = _act_names.to_original(tensors)
    assert len(renamed) == len(tensors)
    for name in [name for name in renamed if ".decoder.layers.0." in name]:
        renamed[name.replace("layers.0.", "layers.6.")] = np.ones_like(renamed[name])  # reaches nothing
    cameras = [usual.statistics[f"observation.images.{name}"] for name in usual.cameras]
    same = {part: cameras[0][part] for part in ("mean", "std")}
    for name in usual.cameras:  # the original has one pair for all cameras
        usual.statistics[f"observation.images.{name}"] |= same
    for part in ("mean", "std"):
        renamed[f"img_{part}"] = same[part].numpy().reshape(1, 1, 3, 1, 1)
    torch_files.save(tmp_path / "policy_best.ckpt", renamed)
    statistics = {
        f"{ours}_{part}": usual.statistics[theirs][part].numpy()
        for ours, theirs in (("qpos", "observation.state"), ("action", "action"))
        for part in ("mean", "std")
    }
    (tmp_path / "dataset_stats.pkl").write_bytes(b"".join(bytes(part) for part in safe_pickle.encode(statistics)))
    (tmp_path / "inference_config.json").write_text(json.dumps({"camera_names": usual.cameras, "policy": {"nheads": 4}}))
    from lerobot.policies.act.processor_act import make_act_pre_post_processors

    usual.before, usual.after = make_act_pre_post_processors(usual.policy.config, usual.statistics)
    assert torch.load(tmp_path / "policy_best.ckpt", weights_only=True).keys() == renamed.keys()
    differences[f"original layout, batch {count}"] = found = difference(str(tmp_path), usual, count)
    assert found <= MOST


def test_the_bundled_policy_written_as_a_lerobot_directory_loads_there(tmp_path: Path) -> None:
    """``examples/training/act_layouts.py lerobot`` writes what LeRobot itself reads, with equal answers."""
    import subprocess
    import sys

    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    script = Path(__file__).resolve().parents[3] / "examples" / "training" / "act_layouts.py"
    subprocess.run([sys.executable, str(script), "lerobot", "--out", str(tmp_path)], check=True, capture_output=True)
    policy = ACTPolicy.from_pretrained(tmp_path).eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path))
    rows = torch.randn(8, 21)
    batch = {"observation.state": rows[:, :14], "observation.environment_state": rows[:, 14:]}
    with torch.no_grad():
        theirs = after(policy.predict_action_chunk(before(batch))).numpy()
    ours = open_policy(str(tmp_path)).infer([Request({"state": row.numpy()}) for row in rows])
    assert np.abs(np.stack([each.actions for each in ours]) - theirs).max() <= MOST
