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

from documented import ROWS

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent
COMMANDS, ILSTUDIO = "tests/compat/test_compat_commands.py", "tests/compat/test_compat_ilstudio.py"
SERVERS = [row.name for row in ROWS.values() if row.here.startswith("serves") and row.name[0] in "AC"]
WALKED = {
    "servers": [f"{COMMANDS}::test_a_server_and_those_who_ask_it[{name}]" for name in SERVERS],
    "local_model": [f"{COMMANDS}::test_an_evaluation_without_a_server[B8]"],
    "programs": [
        f"{COMMANDS}::test_the_log_of_a_server_is_the_documented_one",
        f"{COMMANDS}::test_devices",
        f"{ILSTUDIO}::TestServerProgram",
        f"{ILSTUDIO}::test_the_example_script_and_a_local_model",
    ],
}
"""Documented commands, run again with the genuine checkpoints where `make test` has ONNX in their place."""


@pytest.fixture(scope="session")
def python() -> str:
    return act_python()


def ran(python: str, basetemp: Path, *tests: str) -> str:
    command = [python, "-m", "pytest", "-q", "-rs", "--timeout", "900", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-c", str(ROOT / "pyproject.toml"), "--basetemp", str(basetemp / "inside"), *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700, env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("inside_*.py")))
def test_inside(python: str, file: str, tmp_path: Path) -> None:
    said = ran(python, tmp_path, str(HERE / file))
    assert "skipped" not in said, said[-3000:]


@pytest.mark.parametrize("part", WALKED)
def test_documented_commands_with_genuine_checkpoints(python: str, part: str, tmp_path: Path) -> None:
    ran(python, tmp_path, *WALKED[part])
