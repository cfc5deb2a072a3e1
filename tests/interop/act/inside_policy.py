"""Run by a Python with torch (test_act_inside.py starts it): ACT policies, what they are told to run with, and their export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from actlink import cli
from actlink import export as exporting
from actlink.errors import ConfigError, PolicyError
from actlink.policies import act
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.testing.policies import check_policy
from actlink.types import Request, Runtime

TRAINING = Path(__file__).resolve().parents[3] / "examples" / "training"
LAYOUTS = ("original", "ilstudio", "lerobot")
CAMERAS = {"cameras": ("rgb_main", "rgb_left", "rgb_under"), "image_size": (64, 96)}


def script(name: str, *options: str) -> None:
    subprocess.run([sys.executable, str(TRAINING / name), *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled weights in three layouts, and an untrained checkpoint with three cameras."""
    place = tmp_path_factory.mktemp("act")
    for layout in LAYOUTS:
        script("act_layouts.py", layout, "--out", str(place / layout))
    script("act_random.py", "--out", str(place / "random"), "--horizon", "10")
    (place / "random" / "inference_config.json").unlink()
    return {name: place / name for name in (*LAYOUTS, "random")}


def actions(policy: Policy, count: int = 3, seed: int = 0) -> np.ndarray:
    source = np.random.default_rng(seed)

    def value(field: Any) -> np.ndarray:
        if field.dtype == "uint8":
            return source.integers(0, 256, field.shape, dtype=np.uint8)
        return source.standard_normal(field.shape).astype(np.float32)

    requests = [Request({key: value(field) for key, field in policy.spec.observation.items()}) for _ in range(count)]
    return np.stack([each.actions for each in policy.infer(requests)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_bundled_weights_gives_its_actions(layout: str, places: dict[str, Path]) -> None:
    policy, bundled = open_policy(str(places[layout])), open_policy("aloha_transfer_cube")
    assert np.abs(actions(policy, 8) - actions(bundled, 8)).max() < 1e-5
    assert policy.spec.action_horizon == 100 and policy.spec.digest.startswith("sha256:")
    assert policy.facts["family"] == "act" and "1.1 M" in policy.facts["parameters"]
    check_policy(policy)


def test_it_passes_the_suite_with_cameras(places: dict[str, Path]) -> None:
    policy = open_policy(str(places["random"]), options=CAMERAS)
    check_policy(policy)
    alone = np.concatenate([actions(policy, 1, seed) for seed in (5, 6)])
    np.testing.assert_allclose(alone[0], actions(policy, 1, 5)[0], atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3, "it looks at what it sees"


def test_a_batch_is_its_rows(places: dict[str, Path]) -> None:
    """Cameras of one size go through the network together; each row and each camera must come back to its place."""
    policy = open_policy(str(places["random"]), options=CAMERAS)
    source = np.random.default_rng(0)
    seen = [
        {
            key: source.integers(0, 256, field.shape, dtype=np.uint8) if field.is_image else np.ones(field.shape, np.float32)
            for key, field in policy.spec.observation.items()
        }
        for _ in range(4)
    ]
    together = policy.infer([Request(one) for one in seen])
    for one, row in zip(seen, together, strict=True):
        np.testing.assert_allclose(policy.infer([Request(one)])[0].actions, row.actions, atol=1e-5)
    for camera in CAMERAS["cameras"]:
        other = {**seen[0], f"images.{camera}": seen[1][f"images.{camera}"]}
        assert np.abs(policy.infer([Request(other)])[0].actions - together[0].actions).max() > 1e-4, camera


def test_pictures_of_ever_new_sizes_fill_no_memory(places: dict[str, Path]) -> None:
    policy = act.load(str(places["random"]), act.Config(cameras=CAMERAS["cameras"]), Runtime())
    assert isinstance(policy, act.ActPolicy)
    source = np.random.default_rng(3)

    def asked(height: int) -> np.ndarray:
        seen = {f"images.{camera}": source.integers(0, 256, (height, 40, 3), dtype=np.uint8) for camera in CAMERAS["cameras"]}
        (result,) = policy.infer([Request({"state": np.zeros(17, np.float32), **seen})])
        return result.actions

    for height in range(32, 32 * 9, 32):
        assert np.isfinite(asked(height)).all()
    assert len(policy.network._positions) <= 4


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_stays_near(dtype: str, bound: float, places: dict[str, Path]) -> None:
    full, half = open_policy(str(places["lerobot"])), open_policy(str(places["lerobot"]), Runtime(dtype=dtype))
    found = np.abs(actions(full) - actions(half)).max()
    assert 0 < found < bound, found


def test_runtime_is_honoured(places: dict[str, Path]) -> None:
    open_policy(str(places["lerobot"]), Runtime(threads=1))
    assert torch.get_num_threads() == 1
    with pytest.raises(ConfigError, match="device 'cuda:7' is not there"):
        open_policy(str(places["lerobot"]), Runtime(device="cuda:7"))
    with pytest.raises(ConfigError, match="dtype 'int8': expected float32"):
        open_policy(str(places["lerobot"]), Runtime(dtype="int8"))


def test_options_that_do_not_fit(places: dict[str, Path]) -> None:
    for name, options, says in (
        ("random", {}, "does not say what its cameras are called"),
        ("random", {**CAMERAS, "heads": 7}, "7 attention heads do not divide"),
        ("random", {**CAMERAS, "dataset_id": "x"}, "only IL-Studio's checkpoints have several datasets"),
        ("lerobot", {"cameras": "top"}, "this checkpoint names its cameras"),
        ("original", {"cameras": "top"}, "this checkpoint sees no pictures"),
        ("ilstudio", {"dataset_id": "mine"}, "there are: sim_transfer_cube_scripted, my_robot_dataset, my_dataset"),
        ("lerobot", {"max_batch_size": 0}, "expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_policy(str(places[name]), options=options)


def test_memory_that_is_full_is_told(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = open_policy(f"act:{places['lerobot']}")
    inner: Any = getattr(policy, "_inner", policy)
    monkeypatch.setattr(inner, "network", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(PolicyError, match="device 'cpu' is out of memory during inference of 3 observations"):
        actions(policy)


# actlink export


@pytest.mark.parametrize("name", [*LAYOUTS, "random"])
def test_an_export_gives_the_same_actions(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--policy-options", "cameras=rgb_main,rgb_left,rgb_under", "image_size=64,96"] if name == "random" else []
    assert cli.main(["export", str(places[name]), str(tmp_path / "out"), *words]) == 0
    said = capsys.readouterr().out
    assert said.count("actions differ by at most") == 3 and "serve it: actlink serve" in said
    policy = open_policy(str(places[name]), options=CAMERAS if name == "random" else {})
    exported = open_policy(str(tmp_path / "out"))
    assert exported.facts["family"] == "onnx" and exported.spec.observation == policy.spec.observation
    for count in (1, 4, 7):
        np.testing.assert_allclose(actions(exported, count), actions(policy, count), atol=1e-4)
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_clipping_is_exported(places: dict[str, Path], tmp_path: Path) -> None:
    """Percentiles clip on both sides; a mask leaves entries alone."""
    import json
    import shutil

    place = Path(shutil.copytree(places["ilstudio"], tmp_path / "percentile"))
    content = json.loads((place / "normalize.json").read_text())
    name = content["datasets"][0]["dataset_id"]
    content["state"][name] = content["action"][name] = "percentile"
    content["datasets"][0]["state_norm_mask"] = [0, -1]
    (place / "normalize.json").write_text(json.dumps(content))
    from actlink.codecs import safe_pickle

    narrow = {"state": {"q01": [-0.1] * 21, "q99": [0.1] * 21}, "action": {"q01": [-0.01] * 14, "q99": [0.01] * 14}}
    (place / f"{name}_stats_joint_abs.pkl").write_bytes(b"".join(bytes(part) for part in safe_pickle.encode(narrow)))
    policy = open_policy(str(place))
    exporting.export(policy, tmp_path / "out")
    ours, theirs = actions(open_policy(str(tmp_path / "out"))), actions(policy)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(theirs).max() == pytest.approx(0.01)


def test_what_cannot_be_exported(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"its family \(onnx\) has no graph to export"):
        exporting.export(open_policy("cartpole_ppo"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a graph needs pictures of one size.*image_size=480,640"):
        exporting.export(open_policy(str(places["random"]), options={"cameras": CAMERAS["cameras"]}), tmp_path / "out")
    policy = open_policy(str(places["lerobot"]))
    with pytest.raises(ConfigError, match=r"holds other things \(model.safetensors"):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "model.safetensors").write_text("")
        exporting.export(policy, tmp_path / "full")
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)
    with pytest.raises(ConfigError, match="the exported graph computes something else: at batch 1"):
        exporting.export(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
