"""Options of the fake robot."""

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("fake")
@dataclass
class FakeConfig(RobotConfig):
    motors: int = 6
    actuated: int = 0  # motors that take actions; 0 = all
    camera_names: tuple[str, ...] = ("top",)
    height: int = 48
    width: int = 64
    seed: int = 0
