"""Every robot passes the shipped examiner; broken robots do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import loading
from actlink.errors import ConfigError, SimulationError
from actlink.robots import simulated
from actlink.robots._base import Robot
from actlink.robots._open import open_robot
from actlink.spec import Field, Spec
from actlink.testing.feetech_bus import FeetechBus
from actlink.testing.robots import check_robot


def so101(folder: Path) -> Robot:
    """LeRobot's driver on a simulated servo bus, which ends with the process."""
    bus = FeetechBus.so101()
    bus.write_calibration(folder / "arm.json")
    return open_robot("so101_follower", {"port": bus.port, "id": "arm", "calibration_dir": str(folder)})


EXAMPLES: dict[str, Callable[[Path], Robot]] = {
    "lerobot": so101,
    "simulated": lambda _: simulated.Robot(simulated.Config(env="gymnasium:Pendulum-v1")),
}
"""File -> makes what is examined. A new robot needs a line here."""


@pytest.mark.parametrize("file", loading.names("robots"))
def test_every_robot_conforms(file: str, tmp_path: Path) -> None:
    module = loading.load("robots", file)
    assert file in EXAMPLES, f"{file}: no example to examine; add one to EXAMPLES"
    if lacking := loading.missing(module):
        pytest.skip(f"{file} needs {', '.join(lacking)}: {loading.pip_line(module)}")
    check_robot(EXAMPLES[file](tmp_path))


class Sound(Robot):
    """A sound robot to break one thing of: two joints that follow their targets."""

    def __init__(self) -> None:
        names = ("left", "right")
        self.spec = Spec({"state": Field((2,), names=names)}, Field((2,), names=names, range=(-1, 1)), rate_hz=30.0)
        self.connected = False
        self.pose = np.zeros(2, np.float32)
        self.target = np.zeros(2, np.float32)

    def connect(self) -> None:
        self.connected = True

    def observe(self) -> Any:
        if not self.connected:
            raise SimulationError("observe before connect")
        self.pose = self.pose + (self.target - self.pose) / 2
        return {"state": self.pose.copy()}

    def act(self, action: Any) -> Any:
        self.target = np.clip(action, -1, 1)
        return self.target.copy()

    def hold(self) -> None:
        self.target = self.pose.copy()

    def stop(self) -> None:
        self.hold()

    def close(self) -> None:
        self.connected = False


class RefusesBeyond(Sound):
    def act(self, action: Any) -> Any:
        if np.abs(action).max() > 1:
            raise ConfigError("beyond the range")
        return super().act(action)


class NoRange(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, action=Field((2,)))


class NoRate(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, rate_hz=None)


class ObservesUnconnected(Sound):
    def observe(self) -> Any:
        self.connected = True
        return super().observe()


class MissesAKey(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, observation={**self.spec.observation, "images.top": Field((2, 2, 3), "uint8")})


class WrongShape(Sound):
    def observe(self) -> Any:
        return {"state": np.append(super().observe()["state"], 0)}


class OneBuffer(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(2, np.float32)
        self.count = 0

    def observe(self) -> Any:
        self.count += 1
        self.buffer[:] = super().observe()["state"] + 1e-6 * self.count
        return {"state": self.buffer}


class ReturnsNothing(Sound):
    def act(self, action: Any) -> Any:
        super().act(action)


class ChangesTheAction(Sound):
    def act(self, action: Any) -> Any:
        action *= 0.5
        return super().act(action)


class SendsNaN(Sound):
    def act(self, action: Any) -> Any:
        return super().act(action) * np.nan


class GoesBeyond(Sound):
    def act(self, action: Any) -> Any:
        self.target = np.asarray(action)
        return self.target.copy()


class DriftsInHold(Sound):
    def hold(self) -> None:
        self.target = np.ones(2, np.float32)


class ClosesOnce(Sound):
    def close(self) -> None:
        if not self.connected:
            raise RuntimeError("closed twice")
        super().close()


@pytest.mark.parametrize("make", [Sound, RefusesBeyond])
def test_a_sound_robot_passes(make: type[Sound]) -> None:
    check_robot(make())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (NoRange, "range: expected the limits"),
        (NoRate, "rate_hz: expected"),
        (ObservesUnconnected, "observe before connect"),
        (MissesAKey, r"missing: images\.top"),
        (WrongShape, "does not fit the robot's own spec"),
        (OneBuffer, "each needs its own arrays"),
        (ReturnsNothing, "really sent, got a NoneType"),
        (ChangesTheAction, "changed the action"),
        (SendsNaN, "finite values"),
        (GoesBeyond, "at most 1 to be sent"),
        (DriftsInHold, "expected the pose to stay"),
    ],
)
def test_a_broken_robot_is_rejected(make: type[Sound], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_robot(make())


def test_closing_twice_must_be_safe() -> None:
    with pytest.raises(RuntimeError):
        check_robot(ClosesOnce())


def test_a_start_may_be_given() -> None:
    robot = Sound()
    check_robot(robot, start=np.array([0.5, -0.5]), reach=0.1)
