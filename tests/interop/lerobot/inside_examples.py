"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): a few steps of the training example of Diffusion.

In this process, because importing LeRobot is most of the time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

from actlink.environments.conveyor import Environment
from actlink.policies import lerobot
from actlink.types import Request, Runtime

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "training"))

import conveyor_parts
import lerobot_diffusion_conveyor as example


def run(*options: str) -> None:
    example.main(tyro.cli(example.Args, description=example.__doc__, args=options))


def test_help_tells_what_it_does_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "Diffusion" in out and all(f"--{name}" in out for name in ("out", "steps", "seconds", "down-dims"))


def test_a_few_steps_make_a_checkpoint_that_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--steps", "4", "--save-every", "3", "--demonstrations", "3", "--batch-size", "8", "--out", str(tmp_path))
    place, out = tmp_path / "policy", capsys.readouterr().out
    assert f"actlink serve '{place}?rate_hz=50'" in out and "4 steps made" in out
    assert lerobot.recognises(place)
    policy = lerobot.load(str(place), lerobot.Config(rate_hz=50.0), Runtime())
    environment = conveyor_parts.Parts(conveyor_parts.Config())
    given = environment.spec
    assert {key: value.shape for key, value in policy.spec.observation.items()} == {
        k: v.shape for k, v in given.observation.items()
    }
    assert policy.spec.action_horizon == 16 and policy.spec.rate_hz == given.rate_hz
    assert policy.spec.control_space == given.control_space and policy.spec.action.shape == given.action.shape
    (chunk,) = policy.infer([Request(environment.reset("", 1000))])
    assert chunk.actions.shape == (16, 3) and np.isfinite(chunk.actions).all()


def test_the_divided_conveyor_is_the_conveyor() -> None:
    divided, whole = conveyor_parts.Parts(), Environment()
    seen, state = divided.reset("", 7), whole.reset("", 7)["state"]
    for _ in range(20):
        assert np.array_equal(np.concatenate([seen["state"], seen["environment_state"]]), state)
        ours, theirs = divided.step(np.array([0.4, 0.1, 1.0])), whole.step(np.array([0.4, 0.1, 1.0]))
        seen, state = ours.observation, theirs.observation["state"]
        assert (ours.success, ours.terminated, ours.reward) == (theirs.success, theirs.terminated, theirs.reward)
