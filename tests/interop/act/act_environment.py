"""An environment with torch and everything an ACT checkpoint meets here, made the first time it is asked for (about 2 GB)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TORCH = "torch==2.13.0"
OURS = ("-e", ".[dev,server,images,onnx,sim,video,grpc,act,export]")
FREE_GIB = 8
ROOT = Path(__file__).parent.parent.parent.parent
PLACE = ROOT / ".venv-act"
MADE = PLACE / ".made"
NEEDED = ("torch", "safetensors", "onnx", "onnxruntime", "gym_aloha", "zmq", "grpc")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


def act_python() -> str:
    """The interpreter: this one if it has all of it, else one of an own environment; skips, saying what is then not tested."""
    if all(importlib.util.find_spec(name) is not None for name in NEEDED):
        return sys.executable
    found = PLACE / "bin" / "python"
    if MADE.exists():
        return str(found)
    if shutil.disk_usage(ROOT).free < FREE_GIB * 2**30:
        pytest.skip(f"less than {FREE_GIB} GiB free: ACT checkpoints are NOT RUN")
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(PLACE)]
        install = [uv, "pip", "install", "-q", "--python", str(found)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(PLACE)]
        install = [str(found), "-m", "pip", "install", "-q"]
    for command in (make, [*install, TORCH, *OURS]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{TORCH} cannot be had here, so ACT checkpoints are NOT RUN: {done.stderr[-500:]}")
    MADE.touch()
    return str(found)
