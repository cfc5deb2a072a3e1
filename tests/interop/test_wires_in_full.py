"""What `make test` shows of all wires in small, in full: twenty whole episodes through each, and 200,000 requests of 64 clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed: the wires are NOT TESTED in full")
pytest.importorskip("psutil", reason="psutil is not installed: the wires are NOT TESTED in full")

ROOT = Path(__file__).parents[2]


def run(*command: str, **variables: str) -> None:
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, **variables}, timeout=1700, check=False)
    assert finished.returncode == 0


@pytest.mark.timeout(1800)
def test_twenty_episodes_through_every_wire() -> None:
    pytest.importorskip("gym_aloha", reason="gym-aloha is not installed: evaluation over foreign wires is NOT TESTED")
    run("-m", "pytest", "-q", "tests/wires/test_same_episodes.py", ACTLINK_WIRE_EPISODES="20")


@pytest.mark.timeout(1800)
def test_a_long_soak() -> None:
    run("benchmarks/soak.py")
