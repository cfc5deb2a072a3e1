"""The training examples of the flow policies: the conveyor's expert and its demonstrations, and the scripts' options.

The network, its export and a short run of the whole script are in ``tests/interop/flow``, where torch is.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.environments.conveyor import GRIP_HEIGHT_M, Environment

FOLDER = Path(__file__).parents[2] / "examples" / "training"


@pytest.fixture
def expert(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("conveyor_expert")


def test_expert_solves_every_start(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert, "HOLDS", 0.0)
    assert all(expert.demonstrate(Environment(), seed, noise=0.0)[0] for seed in range(30))


def test_gripper_passes_through_the_planned_positions(expert: Any) -> None:
    """The targets undo the spring's lag: up to the grip the fingertips are where the plan wants them."""
    env = Environment()
    state = np.asarray(env.reset("", 3)["state"])
    targets = expert.plan(expert.Seen.of(state), np.random.default_rng(0))
    meeting = int(np.argmin(targets[:, 2]))  # the first row that closes
    for row in targets[:meeting]:
        state = np.asarray(env.step(row).observation["state"])
    seen = expert.Seen.of(state)
    assert seen.x == pytest.approx(seen.object_x, abs=1e-4) and seen.x_speed == pytest.approx(seen.belt_speed, abs=1e-3)
    assert seen.z <= GRIP_HEIGHT_M, "the table cuts off the lowest targets, so the last centimetre takes longer than planned"


def test_noise_is_executed_and_the_clean_plan_is_recorded(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert, "HOLDS", 0.0)
    _, ((states, clean),) = expert.demonstrate(Environment(), 1, noise=0.0)
    _, ((shaken, recorded),) = expert.demonstrate(Environment(), 1, noise=0.005)
    np.testing.assert_array_equal(clean, recorded)
    assert 1e-4 < np.abs(states[40] - shaken[40]).max() < 0.1


def test_after_a_hold_the_plan_is_made_anew(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert, "HOLDS", 1.0)
    found = [expert.demonstrate(Environment(), seed, noise=0.0) for seed in range(40)]
    solved = [stretches for good, stretches in found if good]
    assert 20 <= len(solved) < 40, "some holds come too late to be made good, and those episodes are dropped"
    twice = next(stretches for stretches in solved if len(stretches) == 2)
    (before, first), (after, second) = twice
    assert len(before) < len(first) and len(first) != len(second)
    assert np.abs(after[0][:2] - before[-1][:2]).max() > 1e-4 or len(before) < 10


def test_windows_stay_within_their_own_plan(expert: Any) -> None:
    windows, tried = expert.collect(5, 0.01, lambda kept, attempts: None)
    assert tried >= 5 and len(windows.first) == len(windows.end) == len(windows.states)
    assert (windows.first < windows.end).all() and windows.end.max() == len(windows.plans)
    assert windows.states.dtype == windows.plans.dtype == np.float32


def test_training_seeds_lie_above_evaluation_seeds(expert: Any) -> None:
    assert expert.FIRST_SEED >= 100_000


@pytest.mark.parametrize("script", ["flow_conveyor", "flow_aloha_transfer_cube"])
def test_script_explains_its_options(script: str) -> None:
    if any(
        importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxruntime", "safetensors", "mujoco", "gym_aloha")
    ):
        pytest.skip("pip install 'actlink[train,sim,onnx]'")
    done = subprocess.run([sys.executable, str(FOLDER / f"{script}.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--out", "--demonstrations", "--noise", "--training.steps", "--training.seconds"):
        assert option in done.stdout
