"""A LeRobot robot without hardware, found by LeRobot as its plugins are: a package with a config class and the class beside it."""

from .config_fake import FakeConfig
from .fake import Fake

__all__ = ["Fake", "FakeConfig"]
