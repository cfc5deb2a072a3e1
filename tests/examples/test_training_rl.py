"""The reinforcement learning scripts: they start, stop, continue, and write what is served; the bundled files are theirs."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actlink.policies._open import MODELS, open_policy
from actlink.testing.policies import check_policy

FOLDER = Path(__file__).parents[2] / "examples" / "training"
SCRIPTS = {"cartpole_ppo": 4096, "pendulum_sac": 1100}
"""Script -> environment steps enough for it to learn something once."""


def run(script: str, *options: object) -> str:
    lacking = [name for name in ("torch", "onnx", "onnxscript", "gymnasium") if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed: pip install 'actlink[train,gymnasium]'")
    command = [sys.executable, str(FOLDER / f"{script}.py"), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_stops_continues_and_exports(script: str, tmp_path: Path) -> None:
    steps = SCRIPTS[script]
    run(script, "--out", tmp_path, "--steps", steps // 2)
    with np.load(tmp_path / "checkpoint.npz", allow_pickle=False) as first:
        before = {key: first[key] for key in first.files}
    output = run(script, "--out", tmp_path, "--steps", steps)
    assert "return, seeds 1000-1049:" in output
    with np.load(tmp_path / "checkpoint.npz", allow_pickle=False) as last:
        done = int(last["step"]) if "step" in last.files else len(last["rows"])
        changed = [key for key in before if key.startswith("module/") and not np.array_equal(before[key], last[key])]
    assert done == steps and changed
    policy = open_policy(str(tmp_path / "policy"))
    assert policy.spec.name == script
    check_policy(policy)


def test_the_clock_stops_a_run(tmp_path: Path) -> None:
    run("cartpole_ppo", "--out", tmp_path, "--seconds", 0)
    assert (tmp_path / "policy" / "model.onnx").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_bundled_policy_is_described_as_its_script_does(script: str) -> None:
    tree = ast.parse((FOLDER / f"{script}.py").read_text())
    named = {"MAX_TORQUE": 2.0}
    (found,) = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "DESCRIPTION"]
    assert found is not None
    source = ast.unparse(found)
    for name, value in named.items():
        source = source.replace(name, str(value))
    assert ast.literal_eval(source) == json.loads((MODELS / script / "policy.json").read_text())
