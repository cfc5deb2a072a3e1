"""Pairs of policy and environment that are wrong on purpose: each is found, and with the printed lines applied it fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli_world import actlink

WORLD = '''
from dataclasses import dataclass
import numpy as np
from actlink import Field, Spec, Step
from actlink.environments._base import Environment
from actlink.errors import SimulationError

@dataclass(frozen=True)
class Config:
    """Options of the world: each makes it another one than the policy was trained in."""
    size: tuple[int, int] = (24, 32)
    extra: int = -1
    unit: str = "rad"
    said: bool = False
    rate_hz: float = 50.0
    camera: str = "top"
    width_first: bool = False

POSE = np.array([0.9, -1.1, 2.0], np.float32)

class World(Environment):
    def __init__(self, config, *, task="", wanted=None):
        self.config = config
        size = 3 + (config.extra >= 0)
        unit = config.unit if config.said else None
        height, width = config.size[::-1] if config.width_first else config.size
        self.shape = (height, width, 3)
        self.spec = Spec(
            {"state": Field((size,), unit=unit), f"images.{config.camera}": Field(self.shape, "uint8")},
            Field((3,), unit=unit),
            rate_hz=config.rate_hz,
        )
        self.driven = []
    def tasks(self):
        return ("only",)
    def pose(self):
        return np.rad2deg(POSE) if self.config.unit == "deg" else POSE
    def observe(self):
        state = self.pose()
        if self.config.extra >= 0:
            state = np.insert(state, self.config.extra, 99.0)
        return {"state": state.astype(np.float32), f"images.{self.config.camera}": np.zeros(self.shape, np.uint8)}
    def reset(self, task, seed):
        return self.observe()
    def step(self, action):
        assert action.shape == (3,)
        if self.config.unit == "deg":
            assert np.abs(action - self.pose()).max() < 1, f"driven to {action}"
        return Step(self.observe(), 0.0, None, False, False)
    def hold_action(self, last):
        return self.pose().astype(np.float32)
    def render(self):
        raise SimulationError("nothing to see")
'''

POLICY = '''
import numpy as np
from actlink import ActionChunk, Field, Spec

TYPICAL = ((0.0, 1.5), (-2.0, -0.5), (1.0, 2.5))

class Trained:
    """Keeps the pose: its actions are its state."""
    spec = Spec(
        {"state": Field((3,), typical=TYPICAL), "images.top": Field((24, 32, 3), "uint8")},
        Field((3,), typical=TYPICAL),
        action_horizon=4, rate_hz=50.0, max_batch_size=4,
    )
    def infer(self, requests):
        return [ActionChunk(np.tile(r.observation["state"], (4, 1)), r.step, r.episode, r.session) for r in requests]
'''


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "world.py").write_text(WORLD)
    (tmp_path / "policy.py").write_text(POLICY)
    monkeypatch.chdir(tmp_path)


def lines_for(policy: str, environment: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The lines printed for a pair that does not fit, after seeing that it fits with them; and everything that was printed."""
    assert actlink("check", policy, environment) == 1
    out = capsys.readouterr().out
    Path("fit.yaml").write_text(out.partition("--transform:\n")[2])
    again = actlink("check", policy, environment, "--transform", "fit.yaml")
    said = capsys.readouterr().out
    assert again == 0 and "fits" in said, said
    return re.findall(r"^      fix: (.*)$", out, re.MULTILINE), out


def test_the_pair_it_was_trained_for_fits() -> None:
    assert actlink("check", "policy.py:Trained", "world.py:World") == 0


PAIRS = {
    "camera misnamed": ("camera=overhead", ["- rename: {images.overhead: images.top}"], "the key 'images.overhead'"),
    "camera of another size": ("size=[48,64]", ["- resize: {images.top: [24, 32]}"], "48x64"),
    "height and width exchanged": ("width_first=true", ["- transpose: {images.top: whc->hwc}"], "height and width exchanged"),
    "state longer by one, at its end": ("extra=3", ["- select: {state: [0, 1, 2]}"], "leaves out 3;"),
    "state longer by one, at its beginning": ("extra=0", ["- select: {state: [1, 2, 3]}"], "leaves out 0;"),
    "degrees that nobody mentions": (
        "unit=deg",
        ["- unit: {state.*: deg->rad}", "- actions: {unit: rad->deg}"],
        "expected values as in training, in rad, got values that look like deg",
    ),
    "degrees that the environment states": (
        "unit=deg&said=true",
        ["- unit: {state.*: deg->rad}", "- actions: {unit: rad->deg}"],
        "the unit rad, got deg",
    ),
    "another rate": ("rate_hz=30", ["- actions: {rate: 50->30}"], "rate: expected 50 Hz, got 30 Hz (runs, at your risk)"),
    "faster world": ("rate_hz=125", ["- actions: {rate: 50->125}"], "rate: expected 50 Hz, got 125 Hz"),
    "everything at once": (
        "camera=overhead&width_first=true&extra=1&unit=deg&rate_hz=30",
        [
            "- select: {state: [0, 2, 3]}",
            "- rename: {images.overhead: images.top}",
            "- transpose: {images.top: whc->hwc}",
            "- actions: {rate: 50->30}",
            "- unit: {state.*: deg->rad}",
            "- actions: {unit: rad->deg}",
        ],
        "6 mismatches",
    ),
}


@pytest.mark.parametrize(("options", "expected", "text"), PAIRS.values(), ids=PAIRS.keys())
def test_a_wrong_pair_is_found_and_repaired(
    options: str, expected: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, out = lines_for("policy.py:Trained", f"world.py:World?{options}", capsys)
    assert lines == expected
    assert text in out


def test_a_state_shorter_by_one_cannot_be_repaired_and_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "scripted:zero?state=4&action=3", "world.py:World") == 1
    out = capsys.readouterr().out
    assert "expected float32 (4), got float32 (3); 1 entry too few\n      no transform repairs this" in out


def test_a_world_that_cannot_start_is_compared_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    text = WORLD.replace("        return self.observe()\n    def step", "        raise SimulationError('no display')\n    def step")
    assert text != WORLD
    Path("dark.py").write_text(text)
    assert actlink("check", "policy.py:Trained", "dark.py:World?camera=overhead") == 1
    assert "rename: {images.overhead: images.top}" in capsys.readouterr().out
    assert actlink("check", "policy.py:Trained", "dark.py:World") == 1
    assert "no display" in capsys.readouterr().err


def test_alohas_cameras_by_the_names_of_its_datasets(capsys: pytest.CaptureFixture[str]) -> None:
    """Its environment is made for the cameras of the policy and refuses names it does not know: the lines say how they go."""
    pytest.importorskip("gym_aloha")
    from actlink.environments import aloha

    policy = "scripted:zero?state=14&action=14&cameras=cam_high:48x64,cam_left_wrist:48x64&rate_hz=50"
    assert actlink("check", policy, "aloha_transfer_cube") == 1
    out = capsys.readouterr().out
    assert "fix: - rename: {images.top: images.cam_high}" in out
    assert "fix: - rename: {images.left_wrist: images.cam_left_wrist}" in out
    assert "fix: - select: {state: [left_waist, left_shoulder" in out
    assert aloha.Environment().on_request["images.top"].shape == (None, None, 3)


def test_alohas_cameras_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gym_aloha")
    from actlink.environments.aloha import Environment
    from actlink.errors import SimulationError

    try:
        world = Environment()
        world.reset("", 0)
        world.render()
    except SimulationError as error:
        pytest.skip(str(error))
    lines, _ = lines_for("scripted:zero?state=14&action=14&cameras=cam_high:48x64&rate_hz=50", "aloha_transfer_cube", capsys)
    assert len(lines) == 2
