"""The documented robot of one's own: named as people name it, examined, on a simulated servo bus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actlink.clock import ManualClock
from actlink.errors import ConfigError, ConnectError, LinkError, SimulationError
from actlink.robots._base import Robot
from actlink.robots._open import open_robot
from actlink.testing.feetech_bus import FeetechBus, Servo
from actlink.testing.robots import check_robot
from cli_world import actlink

REFERENCE = f"{Path(__file__).parent.parent.parent / 'examples' / 'my_robot.py'}:MyRobot"


ANSWER_S = 1.0
"""The simulated bus is a thread of this process, which has to get its turn."""


class Ticking(ManualClock):
    """A millisecond passes with every look: the servos move, and the same way on every machine."""

    def now(self) -> float:
        self.advance(0.001)
        return super().now()


@pytest.fixture
def bus() -> Iterator[FeetechBus]:
    with FeetechBus([Servo(1), Servo(2)], Ticking()) as made:
        yield made


@pytest.fixture
def robot(bus: FeetechBus) -> Iterator[Robot]:
    made = open_robot(REFERENCE, {"port": bus.port, "answer_s": ANSWER_S})
    yield made
    made.close()


def test_the_examination(robot: Robot) -> None:
    check_robot(robot)


def test_an_action_reaches_the_servos(bus: FeetechBus, robot: Robot) -> None:
    bus.push(2, 100)
    robot.connect()
    robot.observe()  # its answer comes after what was sent before
    assert bus.goals == [{1: 2048, 2: 2148}] and all(servo.torque for servo in bus.servos.values())
    assert robot.act(np.array([0.5, -9.0], np.float32)) == pytest.approx([0.5, -1.2])
    robot.observe()
    assert bus.goals[-1] == {1: 2048 + 326, 2: 2048 - 782}


def test_what_goes_wrong(bus: FeetechBus, robot: Robot) -> None:
    with pytest.raises(SimulationError, match="expected 2 finite angles"):
        robot.act(np.array([0.0, np.nan], np.float32))
    robot.connect()
    bus.fault(2, "silent", times=1)
    with pytest.raises(LinkError, match="servo 2 gives no answer"):
        robot.observe()
    bus.fault(1, "checksum", times=1)
    with pytest.raises(LinkError, match="servo 1: expected its answer, got ff ff 01"):
        robot.hold()
    assert robot.observe()["state"].tolist() == [0.0, 0.0]  # what was left of that answer is gone


def test_no_port_and_a_wrong_option() -> None:
    with pytest.raises(ConnectError, match="/dev/ttyNOTHING: No such file"):
        open_robot(REFERENCE, {"port": "/dev/ttyNOTHING"}).connect()
    with pytest.raises(ConfigError, match="unknown option 'colour'; known options: port, joints, limit_rad, answer_s"):
        open_robot(REFERENCE, {"colour": "red"})


def test_on_the_checklist(bus: FeetechBus, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", f"--robot.type={REFERENCE}", f"--robot.port={bus.port}", f"--robot.answer_s={ANSWER_S}") == 0
    out = capsys.readouterr().out
    assert f"ok    port      {bus.port} can be read and written" in out
    assert "ok    motors    they answer: base 0.0, elbow 0.0" in out
