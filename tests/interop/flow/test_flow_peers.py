"""Flow policies against torch, in an environment with torch and onnx that is made the first time it is asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLACE = ROOT / ".venv-train"
WANTED = ("torch==2.13.0", "-e", ".[train,onnx]", "tyro", "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")
FREE_GIB = 8


def environment() -> dict[str, str]:
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    return {**found, "UV_FIND_LINKS": links} if links else found


def interpreter() -> str:
    """Skips the test, saying what is then not tested, where it cannot be had."""
    if shutil.disk_usage(ROOT).free < FREE_GIB * 2**30:
        pytest.skip(f"less than {FREE_GIB} GiB free: training and export of flow policies are NOT TESTED")
    python, made = PLACE / "bin" / "python", PLACE / ".made"
    if made.exists() and made.read_text() == " ".join(WANTED):
        return str(python)
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(PLACE)]
        install = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(PLACE)]
        install = [str(python), "-m", "pip", "install", "-q"]
    for command in (make, [*install, *WANTED]):
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"torch and onnx cannot be had here: flow policies are NOT TESTED against torch: {done.stderr[-500:]}")
    made.write_text(" ".join(WANTED))
    return str(python)


@pytest.mark.timeout(1800)
def test_inside(tmp_path: Path) -> None:
    options = ("-q", "-rs", "--timeout", "600", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "--rootdir", str(ROOT))
    command = [interpreter(), "-m", "pytest", *options, "-c", str(ROOT / "pyproject.toml"), "--basetemp", str(tmp_path / "inside")]
    file = str(Path(__file__).with_name("inside_flow.py"))
    done = subprocess.run([*command, file], cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and "skipped" not in done.stdout, done.stdout[-3000:]
