"""LeRobot's own Python for the tests of this folder. Some run inside it, so what only ours has is imported in the fixture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

LEROBOT = "lerobot[async,smolvla,diffusion,feetech]==0.6.1"
OURS = ("-e", ".[server,grpc,images,export]", "websockets>=14", "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")
"""With LeRobot's torch about 5 GB."""


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of an environment with LeRobot in it; made the first time."""
    from venvs import python_with

    return python_with("lerobot", LEROBOT, *OURS, python="3.12")


@pytest.fixture(scope="module")
def differences(request: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """Compared with the original -> largest difference of the actions; printed as a table when the file has run."""
    found: dict[str, float] = {}
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\nlargest difference from LeRobot's own actions")
        for what, largest in found.items():
            print(f"  {what:48} {largest:8.1e}")
