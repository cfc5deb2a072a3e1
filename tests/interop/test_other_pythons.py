"""Every Python that the package claims to run on and that is found here, each in its own environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from venvs import ROOT, interpreter

VERSIONS = ("3.10", "3.11", "3.12", "3.13")

TESTS = (
    *("tests/test_exports.py", "tests/test_light_import.py", "tests/test_ground_spec.py", "tests/test_ground_options.py"),
    *("tests/dialects", "tests/serving", "tests/test_client.py"),
    *("tests/environments", "tests/test_cli_eval.py"),
)
"""Where versions differ: typing and dataclasses, sockets and asyncio, the physics' packages, processes and signals."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_works_on_python(version: str) -> None:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        pytest.skip(f"Python {version} runs these very tests; `make test` has run them all")
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine: it is NOT TESTED; install python{version}")
    place = ROOT / f".venv-{version}"
    made = subprocess.run(
        ["scripts/environment", place.name, "test"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    environment = {**os.environ, "VIRTUAL_ENV": str(place), "OMP_NUM_THREADS": "1"}
    command = ["scripts/test", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
