"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): the documented robot client command, typed as it stands in
``docs/mission.md``, with a simulated servo bus in the arm's place and video files in the cameras'.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside_robots import patient, raw, video

import cli_world
from actlink.testing.feetech_bus import FeetechBus
from cli_world import running
from documented import COMPAT, ROWS

cli_world.START_S = 400.0
SEEING = "scripted:constant?state=6&action=6&horizon=50&value=8&rate_hz=30&cameras=" + ",".join(
    f"camera{number}:480x640" for number in (1, 2, 3)
)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeetechBus]:
    patient(monkeypatch)
    with FeetechBus.so101() as made:
        yield made


def test_the_documented_command_moves_the_arm(bus: FeetechBus, tmp_path: Path) -> None:
    bus.write_calibration(tmp_path / "my_awesome_follower_arm.json")
    film = video(tmp_path / "film.avi", 60, height=480, width=640)
    with running(tmp_path, "serve", SEEING, "--listen", "lerobot+grpc://127.0.0.1:0?any_model=true") as server:
        address = server.wait_for(r"^  lerobot\+grpc://(\S+)$")[1]
        text = ROWS["D2"].command.replace("172.21.137.91:8080", address.partition("?")[0]).replace("/dev/ttyACM0", bus.port)
        text = re.sub(r"/dev/video\d", str(film), text)
        words = [*shlex.split(text)[1:], f"--robot.calibration_dir={tmp_path}", "--on_link_loss=hold", "--duration_s=8"]
        # The bus answers from a thread of this process, which is as slow as the machine is busy: the driver has to wait for it.
        wait = "import runpy, sys; from inside_robots import patient; import pytest; patient(pytest.MonkeyPatch()); "
        module = words[words.index("-m") + 1]
        code = f"{wait}sys.argv = {words[words.index('-m') + 1 :]!r}; runpy.run_module({module!r}, run_name='__main__')"
        path = os.pathsep.join((str(COMPAT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Connected to policy server" in done.stderr and "Client stopped" in done.stderr
    assert list(tmp_path.glob("runs/*/queue.png"))
    wanted = {number: raw(bus, number, 8.0) for number in range(1, 6)}
    assert any(all(goals[number] == wanted[number] for number in wanted) for goals in bus.goals), bus.goals[-3:]
    assert all(servo.torque for servo in bus.servos.values())
