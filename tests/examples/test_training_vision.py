"""The training example with cameras: its pictures are of the demonstrated episode, its windows end where the plan ends."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.errors import SimulationError

FOLDER = Path(__file__).parents[2] / "examples" / "training"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module ``aloha_pictures``, imported as the script imports it."""
    lacking = [name for name in ("mujoco", "dm_control", "gym_aloha") if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed: pip install 'actlink[sim]'")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("aloha_pictures")


def test_windows_repeat_the_last_action_and_say_so(pictures: Any) -> None:
    plan = np.arange(10, dtype=np.float32)[:, None].repeat(14, axis=1)
    data = pictures.Pictures([np.zeros((3, 1, 2, 2, 3), np.uint8)], [np.zeros((3, 14), np.float32)], [plan], every=4)
    actions, padding = data.window(0, 1, 8)
    assert actions[:, 0].tolist() == [4, 5, 6, 7, 8, 9, 9, 9]
    assert padding.tolist() == [False] * 6 + [True] * 2


def test_pictures_are_of_the_demonstrated_episode_and_are_made_once(pictures: Any, tmp_path: Path) -> None:
    from aloha_demonstrations import demonstrate
    from aloha_expert import Expert

    from actlink.environments.aloha import Config, Environment

    probe = Environment(Config(camera_height=8, camera_width=8))
    probe.reset("", 0)
    try:
        probe.render()
    except SimulationError as error:
        pytest.skip(str(error))
    finally:
        probe.close()
    made = pictures.collect(tmp_path, 2, ("top", "angle"), 24, 32, every=100, noise=0.02, jitter=4)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2
    again = pictures.collect(tmp_path, 2, ("top", "angle"), 24, 32, every=100, noise=0.02, jitter=4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    np.testing.assert_array_equal(again.images[1], made.images[1])
    for path, images, states in zip(sorted(files), made.images, made.states, strict=True):
        success, (stretch,) = demonstrate(Environment(), Expert(), int(path.stem), noise=0.02, jitter=4)
        assert success
        np.testing.assert_array_equal(states, stretch.states[::100, :14])
        assert images.shape == (len(states), 2, 24, 32, 3)
        assert (images[:, 0] != images[:, 1]).any() and (images[0] != images[-1]).any()
