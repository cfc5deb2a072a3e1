"""``actlink cameras`` where nothing can look for cameras, and what it is told wrongly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from actlink.robots import _find_cameras
from cli_world import actlink


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cv2" else real(name, *more))


@pytest.mark.usefixtures("without_opencv")
@pytest.mark.parametrize("asked", [(), ("opencv",), ("/dev/video0",)])
def test_without_opencv_the_pip_line_is_told(asked: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("cameras", *asked) != 0
    assert "pip install 'actlink[lerobot]'" in capsys.readouterr().err


def test_times_below_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("cameras", "--record-time-s", "-1") == 2
    assert "expected times of at least 0 s" in capsys.readouterr().err


def test_the_list_is_laid_out_as_lerobots() -> None:
    profile = {"format": 0.0, "fourcc": "YUYV", "width": 640, "height": 480, "fps": 30.0}
    info: dict[str, Any] = {"name": "OpenCV Camera @ /dev/video2", "type": "OpenCV", "id": "/dev/video2", "backend_api": "V4L2"}
    expected = Path(__file__).parent / "data" / "lerobot" / "find_cameras.txt"
    printed = "\n".join(_find_cameras.lines([{**info, "default_stream_profile": profile}]))
    assert printed + "\n" == expected.read_text()
