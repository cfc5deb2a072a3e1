"""What `make test` shows of the pickle decoder with a quarter of the mutants, with all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1800)
def test_a_million_mutants() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "tests/codecs/test_safe_pickle_hostile.py", "-k", "mutants"]
    finished = subprocess.run(command, cwd=ROOT, env={**os.environ, "ACTLINK_MUTANTS": "1000000"}, timeout=1700, check=False)
    assert finished.returncode == 0
