"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): ``actlink run`` and ``check`` with its SO101 driver, from a
server's chunk to the packets of a simulated servo bus.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inside_robots import cameras, patient, raw, until, video

import cli_world
from actlink.testing.feetech_bus import FeetechBus
from cli_world import actlink, running

cli_world.START_S = 400.0
POLICY = "scripted:constant?state=6&action=6&horizon=20&value=8&rate_hz=30"
SEEING = f"{POLICY}&cameras=front:48x64"


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeetechBus]:
    patient(monkeypatch)
    with FeetechBus.so101() as made:
        yield made


def so101(bus: FeetechBus, place: Path, *more: str) -> tuple[str, ...]:
    bus.write_calibration(place / "arm.json")
    own = (f"--robot.port={bus.port}", "--robot.id=arm", f"--robot.calibration_dir={place}")
    return ("--robot.type=so101_follower", *own, *more)


def test_chunks_of_a_server_reach_the_servos(bus: FeetechBus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {number: raw(bus, number, 8.0) for number in range(1, 6)}

    def end_at_the_goal() -> None:
        """However long it takes on this machine."""
        until(lambda: any(all(goals[number] == wanted[number] for number in wanted) for goals in bus.goals), "it gets there", 120)
        os.kill(os.getpid(), signal.SIGINT)

    with running(tmp_path, "serve", POLICY, "--listen", "tcp://127.0.0.1:0") as server:
        address = server.wait_for(r"^  (native\+tcp://\S+)$")[1]
        ender = threading.Thread(target=end_at_the_goal)
        ender.start()
        code = actlink("run", *so101(bus, tmp_path), "--policy", address, "--rearm", "--duration-s", "120")
        ender.join()
    out = capsys.readouterr().out
    assert code == 0 and "stopped by the operator" in out, out
    steps = [goals[1] for goals in bus.goals]
    assert max(abs(np.diff(steps))) <= 100, "no goal jumps: the first ones lead there from the measured pose"
    assert all(servo.torque for servo in bus.servos.values())


def test_dry_run_commands_nothing(bus: FeetechBus, tmp_path: Path) -> None:
    before = bus.positions()
    assert actlink("run", *so101(bus, tmp_path), "--policy", POLICY, "--duration-s", "1", "--dry-run") == 0
    assert all(abs(bus.positions()[number] - before[number]) <= 1 for number in before)
    assert wholly_at(bus, before)


def wholly_at(bus: FeetechBus, before: dict[int, float]) -> bool:
    """Whether every goal that was ever written is where the arm stood."""
    return all(abs(goals[number] - before[number]) <= 1 for goals in bus.goals for number in before)


def test_a_servo_that_dies_while_it_runs(bus: FeetechBus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Observations fail, the run goes on for as many as are allowed, then ends; the others hold with torque."""

    def kill() -> None:
        until(lambda: len(bus.goals) > 10, "it moves")
        bus.fault(2, "dead")

    killer = threading.Thread(target=kill)
    killer.start()
    options = ("--policy", POLICY, "--duration-s", "60", "--camera-failures", "3")
    code = actlink("run", *so101(bus, tmp_path), *options)
    killer.join()
    assert code == 1
    told = capsys.readouterr()
    assert "Present_Position" in told.out + told.err
    assert all(bus.servos[number].torque for number in (1, 3, 4, 5, 6))


def test_a_server_that_is_not_there_leaves_the_arm_alone(bus: FeetechBus, tmp_path: Path) -> None:
    assert actlink("run", *so101(bus, tmp_path), "--policy", "tcp://127.0.0.1:1", "--duration-s", "1") != 0
    assert bus.packets == 0


class TestTheChecklist:
    def test_all_of_it(self, bus: FeetechBus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        robot = so101(bus, tmp_path, f"--robot.cameras={cameras(front=video(tmp_path / 'a.avi', 60))}")
        with running(tmp_path, "serve", SEEING, "--listen", "tcp://127.0.0.1:0") as server:
            code = actlink("check", server.wait_for(r"^  (native\+tcp://\S+)$")[1], *robot)
        out = capsys.readouterr().out
        assert code == 0, out
        for line in (
            "packages  robot so101_follower: 6 joints, 1 camera",
            f"port      {bus.port} can be",
            "cameras   front: 64x48",
        ):
            assert f"ok    {line}" in out, out
        assert "shoulder_pan.pos" in out and "gripper.pos 50.0" in out

    def test_what_is_wrong_is_told_and_the_rest_is_looked_at(
        self, bus: FeetechBus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.fault(4, "dead")
        assert actlink("check", "tcp://127.0.0.1:1", *so101(bus, tmp_path)) == 1
        out = capsys.readouterr().out
        assert "FAIL  motors" in out and "Missing motor IDs: - 4" in out
        assert "FAIL  server" in out and "ok    disk" in out and "2 of these must be put right" in out
