"""Documented evaluations with whole episodes: minutes each. ``tests/compat/test_compat_commands.py`` runs all, shortened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from documented import COMPAT, LATER, ROWS, Row, World, checkpoints, config, evaluate

for module in ("onnxruntime", "gym_aloha", "imageio_ffmpeg"):
    pytest.importorskip(module, reason=f"{module} is not installed: the documented evaluations are NOT RUN")


@pytest.fixture
def world(tmp_path: Path) -> World:
    place = tmp_path / "compat"
    shutil.copytree(COMPAT, place, ignore=shutil.ignore_patterns("__pycache__", "results", "outputs"))
    checkpoints(place)
    return World(place)


def done(world: World, row: Row, *, whole: bool) -> None:
    if row.partner is None:
        evaluate(world, row, None, whole=whole)
        return
    with world.serving(ROWS[row.partner]) as server, config(world, row):
        evaluate(world, row, server, whole=whole)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["B3", "B8", "B10"])
def test_whole_episodes(name: str, world: World) -> None:
    """The script, a local model and the defaults; the other rows differ from these in numbers only."""
    done(world, ROWS[name], whole=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", [row for row in ROWS.values() if LATER in row.here], ids=lambda row: row.name)
def test_what_takes_too_long_elsewhere(row: Row, world: World) -> None:
    done(world, row, whole=False)
