"""What runs in an environment that has torch: ACT checkpoints loaded, exported, served, and the documented commands with them.

Each ``inside_*.py`` is a test file of its own for that Python; here it is started, and has to pass.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from act_environment import ROOT, act_python, environment

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent
WALKED = (
    (ROOT / "tests" / "compat" / "test_compat_commands.py", "A or B8 or C"),
    (ROOT / "tests" / "compat" / "test_compat_ilstudio.py", "TestServerProgram or local_model"),
)
"""Documented commands, run again with the genuine checkpoints instead of ONNX."""


@pytest.fixture(scope="session")
def python() -> str:
    return act_python()


def ran(python: str, file: Path, basetemp: Path, *options: str) -> str:
    command = [python, "-m", "pytest", "-q", "-rs", "--timeout", "900", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-c", str(ROOT / "pyproject.toml"), "--basetemp", str(basetemp / "inside"), *options, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700, env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("inside_*.py")))
def test_inside(python: str, file: str, tmp_path: Path) -> None:
    said = ran(python, HERE / file, tmp_path)
    assert "skipped" not in said, said[-3000:]


@pytest.mark.parametrize(("file", "chosen"), WALKED, ids=[path.stem for path, _ in WALKED])
def test_documented_commands_with_genuine_checkpoints(python: str, file: Path, chosen: str, tmp_path: Path) -> None:
    ran(python, file, tmp_path, "-k", chosen)
