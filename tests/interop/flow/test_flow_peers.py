"""Flow policies against torch, in an environment with torch and onnx that is made the first time it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from venvs import passes_inside, python_with

WANTED = ("torch==2.13.0", "-e", ".[train,onnx]", "tyro", "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")


@pytest.mark.timeout(1800)
def test_inside(tmp_path: Path) -> None:
    python = python_with("train", *WANTED)
    file = Path(__file__).with_name("inside_flow.py")
    assert "skipped" not in passes_inside(python, tmp_path, file, options=("-o", "filterwarnings=default"))
