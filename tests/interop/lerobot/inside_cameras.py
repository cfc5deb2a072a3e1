"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): ``actlink cameras`` and ``lerobot/find_cameras.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from inside_robots import video

from cli_world import actlink

COMPAT = Path(__file__).parent.parent.parent.parent / "compat"
REAL = sorted(Path("/dev").glob("video*"))


def test_a_picture_of_a_video_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = video(tmp_path / "a.avi", 60)
    code = actlink("cameras", str(path), "--output-dir", str(tmp_path / "seen"), "--record-time-s", "0", "--warmup-s", "0")
    out = capsys.readouterr().out
    assert code == 0
    assert f"  Name: OpenCV Camera @ {path}\n  Type: OpenCV\n  Id: {path}" in out
    assert "    Width: 64\n    Height: 48\n    Fps: 30.0" in out
    (saved,) = (tmp_path / "seen").iterdir()
    assert saved.name.startswith("opencv_") and saved.name.endswith("a.avi.png")
    picture = cv2.imread(str(saved))
    assert picture.shape == (48, 64, 3)
    assert picture[5, 5, 2] > 200 and picture[5, 5, 0] < 60  # OpenCV reads blue, green, red


def test_one_that_gives_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends before its second of warming up is over; the next one is looked at all the same."""
    path = video(tmp_path / "a.avi", 5)
    code = actlink("cameras", str(path), str(path), "--output-dir", str(tmp_path / "seen"), "--warmup-s", "5")
    assert code == 1
    assert capsys.readouterr().out.count("it gives no picture") == 2


def test_one_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("cameras", "/dev/video97") == 1
    assert "camera '/dev/video97': OpenCV cannot open it" in capsys.readouterr().err


def test_only_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert actlink("cameras", str(video(tmp_path / "a.avi", 5)), "--no-pictures") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]
    capsys.readouterr()
    actlink("cameras", "opencv", "--no-pictures")
    out = capsys.readouterr().out
    assert ("--- Detected Cameras ---" if REAL else "No opencv cameras were detected.") in out


def test_the_documented_command(tmp_path: Path) -> None:
    command = [sys.executable, "lerobot/find_cameras.py", "opencv", f"--output-dir={tmp_path / 'seen'}"]
    done = subprocess.run(command, cwd=COMPAT, capture_output=True, text=True, timeout=120, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Saving images to {tmp_path / 'seen'}" in done.stderr
    assert "Searching for OpenCV cameras..." in done.stderr
    if not REAL:
        assert "Found 0 OpenCV cameras." in done.stderr and "No opencv cameras were detected." in done.stderr
    else:
        assert "Image capture finished. Images saved to" in done.stdout
