"""LeRobot's own Python for the tests of this folder. Some run inside it, so what only ours has is imported in the fixture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

LEROBOT = "lerobot[async,smolvla,diffusion,feetech]==0.6.1"
OURS = ("-e", ".[server,grpc,images]", "websockets>=14", "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")
"""With LeRobot's torch about 5 GB."""


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of an environment with LeRobot in it; made the first time."""
    from venvs import python_with

    return python_with("lerobot", LEROBOT, *OURS, python="3.12")
