"""Virtual environments with what others wrote, made the first time they are asked for, and tests that run inside them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HUNG_S = 1700


def surroundings(**more: str) -> dict[str, str]:
    """Environment variables for what runs there: one thread, no hub, nothing of ours on its path unless said."""
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")  # uv does not read pip's
    found = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **more}
    return {**found, "UV_FIND_LINKS": links} if links else found


def interpreter(version: str) -> str | None:
    """A Python of that version that really runs and makes environments: on the path, or among those that pyenv has made."""
    here = sys.executable if sys.version_info[:2] == tuple(map(int, version.split("."))) else None
    candidates = [
        here,
        shutil.which(f"python{version}"),
        *map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))),
    ]
    program = "import ssl, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        shown = subprocess.run([candidate, "-c", program], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and shown.stdout.strip() == version:
            return candidate
    return None


def python_with(name: str, *packages: str, python: str | None = None, free_gib: float = 8) -> str:
    """The interpreter of ``.venv-<name>`` with these packages; ``python``: a version, else that of this one.

    Skips the test, saying what is then not tested, where it cannot be had.
    """
    place = ROOT / f".venv-{name}"
    found, made, wanted = place / "bin" / "python", place / ".made", " ".join(packages)
    if made.exists() and made.read_text() == wanted:
        return str(found)
    base = sys.executable if python is None else interpreter(python)
    if base is None:
        pytest.skip(f"no Python {python} here: {packages[0]} is NOT TESTED; install python{python}")
    if shutil.disk_usage(ROOT).free < free_gib * 2**30:
        pytest.skip(f"less than {free_gib:g} GiB free: {packages[0]} is NOT TESTED")
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", base, str(place)]
        install = [uv, "pip", "install", "-q", "--python", str(found)]
    else:
        make = [base, "-m", "venv", "--clear", str(place)]
        install = [str(found), "-m", "pip", "install", "-q"]
    for command in (make, [*install, *packages]):
        done = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{wanted} cannot be had here and is NOT TESTED: {done.stderr[-500:]}")
    made.write_text(wanted)
    return str(found)


def passes_inside(python: str, basetemp: Path, *tests: str | Path, options: Sequence[str] = (), cwd: Path = ROOT) -> str:
    """What that Python's pytest says of these tests; all have to pass. Skipped ones are listed, for the caller to judge."""
    command = [python, "-m", "pytest", "-q", "-rs", "--timeout", "900", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-c", str(ROOT / "pyproject.toml"), "--basetemp", str(basetemp / "inside"), *options, *map(str, tests)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=HUNG_S, env=surroundings(), check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-3000:]
    return done.stdout
