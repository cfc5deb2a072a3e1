"""Environments with the libraries whose checkpoints are read, made the first time they are asked for, and what runs there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
HERE = Path(__file__).parent
PACKAGES = {
    "rl": ("torch==2.13.0", "stable-baselines3==2.9.2"),
    "jax": ("jax", "equinox", "optax", "distrax", "orbax-checkpoint"),
}
"""``.venv-<name>`` -> what is in it."""
FREE_GIB = 8
STALE_S = 900


def _environment(**more: str) -> dict[str, str]:
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    found = {**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": "", **more}
    return {**found, "UV_FIND_LINKS": links} if links else found


def python_with(name: str) -> str:
    """The interpreter of that environment; skips the test, saying what is then not tested, where it cannot be had."""
    place = ROOT / f".venv-{name}"
    interpreter, made = place / "bin" / "python", place / ".made"
    wanted = " ".join(PACKAGES[name])
    if made.exists() and made.read_text() == wanted:
        return str(interpreter)
    if shutil.disk_usage(ROOT).free < FREE_GIB * 2**30:
        pytest.skip(f"less than {FREE_GIB} GiB free: checkpoints of {wanted} are NOT TESTED")
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(place)]
        install = [uv, "pip", "install", "-q", "--python", str(interpreter)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(place)]
        install = [str(interpreter), "-m", "pip", "install", "-q"]
    for command in (make, [*install, *PACKAGES[name]]):
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{wanted} cannot be had here, so their checkpoints are NOT TESTED: {done.stderr[-500:]}")
    made.write_text(wanted)
    return str(interpreter)


def run(name: str, script: str, *arguments: str | Path, ours: bool = False) -> str:
    """What ``script`` beside this file (or code, if it has lines) prints there; ``ours``: with this package on its path."""
    words = ["-c", script] if "\n" in script else [str(HERE / script)]
    done = subprocess.run(
        [python_with(name), "-W", "ignore", *words, *map(str, arguments)],
        env=_environment(PYTHONPATH=str(ROOT / "src") if ours else ""),
        capture_output=True,
        text=True,
        timeout=STALE_S,
        check=False,
    )
    assert done.returncode == 0, f"{words[-1][:80]}: {done.stderr[-3000:]}"
    return done.stdout
