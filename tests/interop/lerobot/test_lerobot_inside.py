"""What runs inside LeRobot's own environment: our adapters of its policies and its robots, beside the originals.

Each ``inside_*.py`` is a test file of its own for the Python that has LeRobot; here it is started, and has to pass.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from lerobot_environment import ROOT, environment

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("inside_*.py")))
def test_inside(python: str, file: str, tmp_path: Path) -> None:
    options = ("-q", "-rs", "--timeout", "600", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "--rootdir", str(ROOT))
    command = [
        python,
        "-m",
        "pytest",
        *options,
        "-c",
        str(ROOT / "pyproject.toml"),
        "--basetemp",
        str(tmp_path / "inside"),
        str(HERE / file),
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=1700, env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and "skipped" not in done.stdout, done.stdout[-3000:]
