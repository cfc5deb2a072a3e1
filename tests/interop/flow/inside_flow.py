"""Flow policies beside torch: the paper's algorithm with torch's own derivatives, against the exported graph in onnxruntime.

Run by ``test_flow_peers.py`` in an environment with torch and onnx.
"""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actlink.environments.conveyor import Environment
from actlink.policies._open import open_policy
from actlink.types import ActionChunk, Request

FOLDER = Path(__file__).parents[3] / "examples" / "training"
TOLERANCE = 1e-4
STEPS, BETA, DELAY, ROWS = 8, 5.0, 4, 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A network with random weights, its statistics, and the folder it was exported to."""
    sys.path.insert(0, str(FOLDER))
    flow_model, flow_export, act_export = map(importlib.import_module, ("flow_model", "flow_export", "act_export"))
    torch.manual_seed(0)
    model = flow_model.Flow(flow_model.FlowConfig(10, 3, width=64, condition=32, most_delay=8))
    for parameter in model.parameters():  # fresh blocks are closed, and a derivative that is nothing proves nothing
        torch.nn.init.normal_(parameter, std=0.15)
    random = np.random.default_rng(0)
    statistics = act_export.Statistics.of(random.standard_normal((50, 10)).astype("f"), random.uniform(-2, 3, (50, 3)).astype("f"))
    folder = tmp_path_factory.mktemp("flow") / "policy"
    flow_export.export(model, statistics, Environment().spec, "random", "Random weights, for a test.", folder)
    return model, statistics, folder


def asked(policy: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Actions, and the noise they came from, for one request of these options."""
    state = np.linspace(-1, 1, 10, dtype=np.float32)
    request = Request({"state": state}, step=3, **options)
    (chunk,) = policy.infer([request])
    assert isinstance(chunk, ActionChunk)
    return chunk.actions, policy._noise(request)


def normal_state(statistics: Any) -> torch.Tensor:
    return torch.from_numpy((np.linspace(-1, 1, 10, dtype=np.float32) - statistics.state_mean) / statistics.state_std)[None]


def in_units(x: torch.Tensor, statistics: Any) -> np.ndarray:
    return np.asarray(x[0].detach().numpy() * statistics.action_std + statistics.action_mean)


def prefix_of(policy: Any) -> np.ndarray:
    actions, _ = asked(policy)
    return actions[:ROWS] + 0.3 * np.sin(np.arange(ROWS, dtype=np.float32))[:, None]


def test_plain_is_euler_along_the_velocity(made: tuple[Any, Any, Path]) -> None:
    model, statistics, folder = made
    got, noise = asked(open_policy(str(folder)))
    x, state = torch.from_numpy(noise)[None], normal_state(statistics)
    for index in range(STEPS):
        t = index / STEPS
        x = x + ((model(state, x, torch.full((1, 64), t)) - x) / (1 - t)) / STEPS
    np.testing.assert_allclose(got, in_units(x, statistics), atol=TOLERANCE)


def test_guided_is_the_papers_with_torchs_derivative(made: tuple[Any, Any, Path]) -> None:
    model, statistics, folder = made
    policy = open_policy(str(folder))
    prefix = prefix_of(policy)
    got, noise = asked(policy, prefix=prefix, inference_delay=DELAY)
    target = torch.zeros(1, 64, 3)
    target[0, :ROWS] = torch.from_numpy((prefix - statistics.action_mean) / statistics.action_std)
    rows = torch.arange(64)
    fading = torch.clip((DELAY - 1 - rows) / (ROWS - DELAY + 1) + 1, 0, 1)  # as in the authors' program
    weight = torch.where(rows >= ROWS, 0, fading * torch.expm1(fading) / (np.e - 1))
    x, state = torch.from_numpy(noise)[None], normal_state(statistics)
    for index in range(STEPS):
        t = index / STEPS

        def end(chunk: torch.Tensor, t: float = t) -> torch.Tensor:
            velocity = (model(state, chunk, torch.full((1, 64), t)) - chunk) / (1 - t)
            return chunk + (1 - t) * velocity

        clean, back = torch.func.vjp(end, x)
        (pull,) = back((target - clean) * weight[:, None])
        scale = BETA if t == 0 else min(BETA, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2)
        x = x + ((clean - x) / (1 - t) + scale * pull) / STEPS
    plain, _ = asked(open_policy(f"{folder}?prefix_mode=ignore"))
    assert np.abs(got - plain).max() > 0.05, "guidance does something"
    np.testing.assert_allclose(got, in_units(x, statistics), atol=TOLERANCE)


def test_hard_prefix_flows_around_what_is_given(made: tuple[Any, Any, Path]) -> None:
    model, statistics, folder = made
    policy = open_policy(f"{folder}?prefix_mode=hard")
    prefix = prefix_of(policy)
    got, noise = asked(policy, prefix=prefix, inference_delay=DELAY)
    given = (torch.arange(64) < DELAY)[None]
    target = torch.zeros(1, 64, 3)
    target[0, :ROWS] = torch.from_numpy((prefix - statistics.action_mean) / statistics.action_std)
    x, state = torch.from_numpy(noise)[None], normal_state(statistics)
    for index in range(STEPS):
        t = index / STEPS
        x = torch.where(given[..., None], target, x)
        x = x + ((model(state, x, torch.where(given, 1.0, t)) - x) / (1 - t)) / STEPS
    np.testing.assert_array_equal(got[:DELAY], prefix[:DELAY])
    np.testing.assert_allclose(got[DELAY:], in_units(x, statistics)[DELAY:], atol=TOLERANCE)


def test_training_goes_on_and_ends_in_a_policy(tmp_path: Path) -> None:
    """A few steps of the whole script, stopped and taken up again."""
    script = [sys.executable, str(FOLDER / "flow_conveyor.py"), "--out", str(tmp_path), "--demonstrations", "3"]
    options = ["--training.batch-size", "4", "--training.evaluate-every", "0", "--training.checkpoint-every", "2", "--trials", "1"]
    for steps, said in (("2", "step 2 "), ("4", "going on from step 2")):
        more = ["--training.steps", steps, "--training.log-every", "2"]
        done = subprocess.run([*script, *options, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    assert json.loads((tmp_path / "policy" / "flow.json").read_text())["flow"] == {"steps": STEPS, "longest_prefix": 32}
    assert "4 steps in" in (tmp_path / "policy" / "CARD.md").read_text()
    actions, _ = asked(open_policy(str(tmp_path / "policy")))
    assert np.isfinite(actions).all()


def test_ctrl_c_ends_training_with_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "flow_conveyor.py"), "--out", str(tmp_path), "--demonstrations", "3"]
    options = ["--training.batch-size", "4", "--training.log-every", "1", "--training.checkpoint-every", "1000000"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None and script.stderr is not None
        for line in script.stdout:
            if line.startswith("step "):
                script.send_signal(signal.SIGINT)
                break
        rest, said = script.stdout.read(), script.stderr.read()
    stopped = re.search(r"stopped after step (\d+)", said)
    assert script.returncode == 1 and stopped and "Traceback" not in said, (rest, said)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == int(stopped[1])
