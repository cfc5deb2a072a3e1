"""``actlink check``: does it fit, and if not, which line makes it fit; and the examination of a single thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from actlink.commands.check import Options, is_environment
from cli_world import actlink

WORLD = """
from dataclasses import dataclass
import numpy as np
from actlink import Field, Spec, Step
from actlink.environments._base import Environment
from actlink.errors import ConfigError, SimulationError

@dataclass(frozen=True)
class Config:
    tall: int = 8
    broken: bool = False

class World(Environment):
    def __init__(self, config, *, task="", wanted=None):
        self.config = config
        self.spec = Spec(
            {"joints": Field((3,), names=("a", "b", "c")), "images.cam": Field((config.tall, 6, 3), "uint8")},
            Field((2,), names=("left", "right"), range=(-1.0, 1.0)),
        )
    def tasks(self):
        return ("only",)
    def observe(self):
        return {"joints": np.zeros(3, np.float32), "images.cam": np.zeros((self.config.tall, 6, 3), np.uint8)}
    def reset(self, task, seed):
        if task not in ("", "only"):
            raise ConfigError(f"no task {task!r}")
        return self.observe()
    def step(self, action):
        assert action.shape == (2,)
        return Step(self.observe(), float("nan") if self.config.broken else 0.0, None, False, False)
    def hold_action(self, last):
        return np.zeros(2, np.float32)
    def render(self):
        raise SimulationError("nothing to see")
"""

POLICY = """
import numpy as np
from actlink import ActionChunk, Field, Spec

class Fits:
    spec = Spec(
        {"state": Field((2,), names=("c", "a")), "images.top": Field((4, 3, 3), "uint8")},
        Field((2,), names=("right", "left")),
        max_batch_size=4,
    )
    def infer(self, requests):
        return [ActionChunk(np.zeros((1, 2), np.float32), r.step, r.episode, r.session) for r in requests]

class Lies(Fits):
    def infer(self, requests):
        return [ActionChunk(np.zeros((1, 3), np.float32), r.step, r.episode, r.session) for r in requests]
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "world.py").write_text(WORLD)
    (tmp_path / "policy.py").write_text(POLICY)
    monkeypatch.chdir(tmp_path)


def test_every_mismatch_comes_with_its_line_and_together_they_repair_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is pasted into a file, and with that file it fits."""
    assert actlink("check", "policy.py:Fits", "world.py:World") == 1
    out = capsys.readouterr().out
    assert "mismatch" in out.splitlines()[0]
    for line in ("rename: {joints: state}", "rename: {images.cam: images.top}", "resize: {images.top: [4, 3]}"):
        assert f"fix: - {line}" in out
    pasted = out.partition("--transform:\n")[2]
    Path("fit.yaml").write_text(pasted)
    assert actlink("check", "policy.py:Fits", "world.py:World", "--transform", "fit.yaml") == 0
    assert "fits world.py:World" in capsys.readouterr().out


def test_what_no_line_repairs_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "cartpole_ppo", "world.py:World") == 1
    assert "no transform repairs this" in capsys.readouterr().out


def test_a_policy_that_breaks_its_own_spec_is_found_by_the_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fit.yaml").write_text("- rename: {joints: state, images.cam: images.top}\n- resize: {images.top: [4, 3]}\n")
    assert actlink("check", "policy.py:Lies", "world.py:World", "--transform", "fit.yaml") == 1
    assert "expected shape (any, 2), got (1, 3)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["policy.py:Fits", "world.py:World", "cartpole_ppo", "scripted:zero?state=2&action=2"])
def test_what_passes_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", name) == 0
    assert "passes the conformance suite" in capsys.readouterr().out


def test_what_does_not_pass_alone_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "policy.py:Lies") == 1
    assert "expected shape (action_horizon, action_dim) = (1, 2), got (1, 3)" in capsys.readouterr().out
    assert actlink("check", "world.py:World", "--env-options", "broken=true") == 1
    assert "reward: expected a finite float, got nan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "environment"),
    [
        ("world.py:World", "auto", True),
        ("policy.py:Fits", "auto", False),
        ("cartpole_ppo", "auto", False),
        ("gymnasium:CartPole-v1", "auto", True),
        ("aloha_insertion", "auto", True),
        ("aloha_transfer_cube", "auto", False),
        ("aloha_transfer_cube", "environment", True),
        ("world.py:World", "policy", False),
        ("scripted:echo?state=1", "auto", False),
        ("127.0.0.1:8001", "auto", False),
        ("ws://box", "auto", False),
        ("nothing", "auto", False),
    ],
)
def test_what_one_name_is_taken_for(name: str, kind: str, environment: bool) -> None:
    assert is_environment(Options(name, kind=kind)) is environment  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no policy 'nothing'"),
        (["cartpole_ppo", "nowhere"], "no environment 'nowhere'"),
        (["policy.py:Absent"], "has no 'Absent'"),
        (["absent.py:Fits"], "no such file: absent.py"),
        (["cartpole_ppo", "world.py:World", "--env-options", "tall=high"], "expected int, got 'high'"),
        (["cartpole_ppo", "world.py:World", "--transform", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_camera_that_the_environment_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    """It cannot be made for this policy; what else does not fit is told all the same."""
    pytest.importorskip("gym_aloha")
    policy = "scripted:zero?state=14&action=14&cameras=cam_high:48x64"
    assert actlink("check", policy, "aloha_transfer_cube") == 1
    out = capsys.readouterr().out
    assert "fix: - rename: {images.top: images.cam_high}" in out
    assert "observation 'state': expected float32 (14), got float32 (21)" in out
