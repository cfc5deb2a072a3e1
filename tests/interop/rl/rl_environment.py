"""Where the libraries live whose checkpoints are read, and what runs there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from venvs import ROOT, python_with, surroundings

HERE = Path(__file__).parent
PACKAGES = {
    "rl": ("stable-baselines3==2.9.2", "torch==2.13.0", "tyro"),
    "jax": ("jax", "equinox", "optax", "distrax", "orbax-checkpoint"),
}
"""``.venv-<name>`` -> what is in it."""
STALE_S = 900


def run(name: str, script: str, *arguments: str | Path, ours: bool = False) -> str:
    """What ``script`` beside this file (or code, if it has lines) prints there; ``ours``: with this package on its path."""
    words = ["-c", script] if "\n" in script else [str(HERE / script)]
    done = subprocess.run(
        [python_with(name, *PACKAGES[name]), "-W", "ignore", *words, *map(str, arguments)],
        env=surroundings(PYTHONPATH=str(ROOT / "src") if ours else "", JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=STALE_S,
        check=False,
    )
    assert done.returncode == 0, f"{words[-1][:80]}: {done.stderr[-3000:]}"
    return done.stdout
