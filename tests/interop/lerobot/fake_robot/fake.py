"""The fake robot: its motors are where the last action put them; its camera shows noise of a seed."""

from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot

from .config_fake import FakeConfig


class Fake(Robot):
    config_class = FakeConfig
    name = "fake"

    def __init__(self, config: FakeConfig) -> None:
        super().__init__(config)
        self.config = config
        self.position = np.linspace(0.1, 0.9, config.motors)
        self.sent: list[dict[str, float]] = []
        self._random = np.random.default_rng(config.seed)
        self._connected = False

    @cached_property
    def _motors(self) -> list[str]:
        return [f"joint_{index}.pos" for index in range(self.config.motors)]

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        shape = (self.config.height, self.config.width, 3)
        return {**dict.fromkeys(self._motors, float), **dict.fromkeys(self.config.camera_names, shape)}

    @cached_property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._motors[: self.config.actuated or None], float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        shape = (self.config.height, self.config.width, 3)
        images = {name: self._random.integers(0, 256, shape, np.uint8) for name in self.config.camera_names}
        return {**{name: float(value) for name, value in zip(self._motors, self.position, strict=True)}, **images}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.sent.append(dict(action))
        for index, name in enumerate(self.action_features):
            self.position[index] = action[name]
        return action

    def disconnect(self) -> None:
        self._connected = False
