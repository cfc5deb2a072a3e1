"""What runs in an environment that has torch: ACT checkpoints loaded, exported, served, and the documented commands with them.

Each ``inside_*.py`` is a test file of its own for that Python; here it is started, and has to pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from documented import ROWS
from venvs import passes_inside, python_with

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent
WANTED = ("torch==2.13.0", "-e", ".[dev,server,images,onnx,sim,video,plot,grpc,act,export]")
"""About 2 GB."""
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
    return python_with("act", *WANTED)


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("inside_*.py")))
def test_inside(python: str, file: str, tmp_path: Path) -> None:
    said = passes_inside(python, tmp_path, HERE / file)
    assert "skipped" not in said, said[-3000:]


def test_the_family_conforms(python: str, tmp_path: Path) -> None:
    passes_inside(python, tmp_path, "tests/testing/test_conformance_policies.py::test_every_family_conforms[act]")


@pytest.mark.parametrize("part", WALKED)
def test_documented_commands_with_genuine_checkpoints(python: str, part: str, tmp_path: Path) -> None:
    passes_inside(python, tmp_path, *WALKED[part])
