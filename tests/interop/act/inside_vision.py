"""Run by a Python with torch (test_act_inside.py starts it): the example that trains an ACT with cameras, and what it writes."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actlink.policies._open import open_policy
from actlink.types import ActionChunk, Request

TRAINING = Path(__file__).resolve().parents[3] / "examples" / "training"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A tiny run that was stopped after two steps and taken up again, and what both calls printed."""
    out = tmp_path_factory.mktemp("vision") / "run"
    said = []
    for steps in ("2", "4"):
        options = ["--out", str(out), "--episodes", "10", "--every", "150", "--height", "64", "--width", "96", "--batch-size", "2"]
        command = [sys.executable, str(TRAINING / "act_aloha_vision.py"), *options, "--steps", steps, "--checkpoint-every", "2"]
        said.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout)
    return out, said


def test_a_stopped_run_goes_on(trained: tuple[Path, list[str]]) -> None:
    out, (first, second) = trained
    assert "demonstrations 10/10" in first and "demonstrations" not in second
    assert "going on from step 2" in second
    rows = list(csv.DictReader((out / "loss.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(0 < float(row[key]) < 10 for row in rows for key in ("l1_training", "l1_held_out"))


def test_what_it_writes_is_served_with_the_numbers_of_the_network(
    trained: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))
    act, vision = importlib.import_module("act_model"), importlib.import_module("act_vision_model")
    folder = trained[0] / "policy"
    policy = open_policy(str(folder))
    network = vision.VisionAct(act.ActConfig()).eval()
    network.load_state_dict(torch.load(trained[0] / "checkpoint.pt", weights_only=True)["model"])
    random = np.random.default_rng(0)
    pictures = {name: random.integers(0, 256, (64, 96, 3), dtype=np.uint8) for name in ("top", "angle")}
    state = random.standard_normal(14).astype(np.float32)
    (chunk,) = policy.infer([Request({"state": state, **{f"images.{name}": one for name, one in pictures.items()}})])
    assert isinstance(chunk, ActionChunk)
    from safetensors.numpy import load_file

    statistics = load_file(folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    normal = torch.from_numpy((state - statistics["observation.state.mean"]) / statistics["observation.state.std"])[None]
    with torch.inference_mode():
        seen = vision.normalised(torch.from_numpy(np.stack(list(pictures.values()))[None]))
        expected = network(normal, seen)[0].numpy() * statistics["action.std"] + statistics["action.mean"]
    np.testing.assert_allclose(chunk.actions, expected, atol=2e-5)
    policy.close()
