"""LeRobot's own Python for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lerobot_environment import lerobot_python


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of an environment with LeRobot in it; made the first time."""
    return lerobot_python()
