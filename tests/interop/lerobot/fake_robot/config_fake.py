"""Options of the fake robot."""

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("fake")
@dataclass
class FakeConfig(RobotConfig):
    motors: int = 6
    camera_names: tuple[str, ...] = ("top",)
    height: int = 48
    width: int = 64
    seed: int = 0
