from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from toy_reach import Config, Reach

from actlink.evaluation import video
from actlink.evaluation.video import Video
from actlink.types import Array

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def recorded(path: Path, environment: Reach, steps: int = 5) -> list[str]:
    complaints: list[str] = []
    film = Video(path, complaints.append)
    environment.reset("reach", 0)
    film.look(environment)
    for _ in range(steps):
        environment.step(np.array([0.1]))
        film.look(environment)
    assert (film.finish() is None) == bool(complaints)
    return complaints


def test_an_episode_becomes_an_mp4_at_the_environments_rate(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "a.mp4"
    assert recorded(path, Reach(Config()), steps=9) == []
    facts = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True, check=False).stderr
    assert "64x32" in facts and "20 fps" in facts  # the odd row is left out
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (10, 0.5)
    assert [each.name for each in path.parent.iterdir()] == ["a.mp4"]


def test_without_a_display_it_says_so_once_and_leaves_nothing(tmp_path: Path) -> None:
    complaints = recorded(tmp_path / "a.mp4", Reach(Config(blind=True)))
    assert complaints == ["no video of a: no display"]
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_episode_leaves_nothing(tmp_path: Path) -> None:
    environment = Reach(Config())
    environment.reset("reach", 0)
    film = Video(tmp_path / "a.mp4", lambda message: None)
    film.look(environment)
    film.discard()
    assert list(tmp_path.iterdir()) == []
    assert film.finish() is None


def test_a_scene_that_is_no_picture_is_said_to_be_none(tmp_path: Path) -> None:
    class Flat(Reach):
        def render(self) -> Array:
            return np.zeros((4, 4), np.uint8)

    assert recorded(tmp_path / "a.mp4", Flat(Config())) == ["no video of a: render: expected (height, width, 3), got (4, 4)"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (complaint,) = recorded(tmp_path / "file" / "a.mp4", Reach(Config()))
    assert complaint.startswith("no video of a: ")


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert video.missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = video.missing()
    assert reason is not None and "pip install 'actlink[video]'" in reason
