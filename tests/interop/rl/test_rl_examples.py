"""The training example of Stable-Baselines3 makes checkpoints that are served here, with and without statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rl_environment import run

from actlink.policies import sb3
from actlink.types import Request, Runtime
from venvs import ROOT

SCRIPT = ROOT / "examples" / "training" / "sb3_cartpole.py"


def test_help_tells_what_it_does_and_its_options() -> None:
    out = run("rl", str(SCRIPT), "--help")
    assert "CartPole-v1" in out and all(f"--{name}" in out for name in ("out", "steps", "normalize", "seed"))


def test_what_it_writes_is_served(tmp_path: Path) -> None:
    for options, normalisation in ((["--normalize"], "vecnormalize.pkl (VecNormalize)"), ([], "none")):
        out = run("rl", str(SCRIPT), "--steps", "600", "--out", tmp_path, *options)
        assert "step   1024/600" in out, "whole rollouts"
        path = tmp_path / "ppo_cartpole.zip"
        assert f"actlink serve {path}" in out and "actlink eval --policy ws://" in out
        policy = sb3.load(str(path), sb3.Config(), Runtime())
        assert policy.facts["normalisation"].endswith(normalisation), "statistics of an earlier run do not stay"
        states = np.random.default_rng(0).normal(0, 1, (64, 4)).astype(np.float32)
        answers = {int(chunk.actions[0, 0]) for chunk in policy.infer([Request({"state": state}) for state in states])}
        assert answers == {0, 1}
