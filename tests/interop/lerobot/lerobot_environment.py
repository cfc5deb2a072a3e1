"""An environment with the genuine LeRobot in it, made the first time it is asked for (5 GB), and what runs there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LEROBOT = "lerobot[async,smolvla,diffusion,feetech]==0.6.1"
OURS = "-e", ".[server,grpc,images]", "websockets>=14", "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100"
PYTHON = "3.12"
FREE_GIB = 8
ROOT = Path(__file__).parent.parent.parent.parent
PLACE = ROOT / ".venv-lerobot"
MADE = PLACE / ".made-with-policies-and-robots"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def interpreter() -> str | None:
    candidates = [shutil.which(f"python{PYTHON}"), *map(str, sorted(Path.home().glob(f".pyenv/versions/{PYTHON}.*/bin/python")))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import ssl, venv"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def lerobot_python() -> str:
    """The interpreter; skips the test, saying what is then not tested, where it cannot be had."""
    found = PLACE / "bin" / "python"
    if MADE.exists():
        return str(found)
    base = interpreter()
    if base is None:
        pytest.skip(f"no Python {PYTHON} here: LeRobot's own programs are NOT TESTED; install python{PYTHON}")
    if shutil.disk_usage(ROOT).free < FREE_GIB * 2**30:
        pytest.skip(f"less than {FREE_GIB} GiB free: LeRobot's own programs are NOT TESTED")
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", base, str(PLACE)]
        install = [uv, "pip", "install", "-q", "--python", str(found)]
    else:
        make = [base, "-m", "venv", "--clear", str(PLACE)]
        install = [str(found), "-m", "pip", "install", "-q"]
    for command in (make, [*install, LEROBOT], [*install, *OURS]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{LEROBOT} cannot be had here, so LeRobot's own programs are NOT TESTED: {done.stderr[-500:]}")
    MADE.touch()
    return str(found)
