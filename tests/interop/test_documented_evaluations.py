"""Documented evaluations with whole episodes: minutes each. ``tests/compat/test_compat_commands.py`` runs all, shortened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from documented import COMPAT, ROWS, World, evaluate, only_one

for module in ("onnxruntime", "gym_aloha", "imageio_ffmpeg"):
    pytest.importorskip(module, reason=f"{module} is not installed: the documented evaluations are NOT RUN")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["B3", "B8", "B10"])
def test_whole_episodes(name: str, tmp_path: Path) -> None:
    """The script, a local model and the defaults; the other rows differ from these in numbers only."""
    place = tmp_path / "compat"
    shutil.copytree(COMPAT, place, ignore=shutil.ignore_patterns("__pycache__", "results", "outputs"))
    world, row = World(place), ROWS[name]
    with only_one():
        if row.partner is None:
            evaluate(world, row, None, whole=True)
            return
        with world.serving(ROWS[row.partner]) as server:
            evaluate(world, row, server, whole=True)
