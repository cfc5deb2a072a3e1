"""``actlink tune``: a table, a sentence and files; wrong sweeps are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_world import actlink

TOY = Path(__file__).parent / "evaluation" / "toy_reach.py"
SMALL = ("--policy", f"{TOY}:Chase", "--env", f"{TOY}:Reach", "--episodes", "2", "--delays-ms", "100")


def test_a_small_sweep_from_a_file_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "strategies: [receding, asynchronous]\nactions_per_chunk: [5]\nchunk_size_threshold: [0.5]\n"
    )
    assert actlink("tune", *SMALL, "--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr()
    assert "At 100 ms: " in said.out and "Over all: " in said.out and "minus receding" in said.out
    assert "[2/2] 100 ms, asynchronous (actions_per_chunk 5, chunk_size_threshold 0.5)" in said.err
    for name in ("tune.json", "tune.csv", "tune.md"):
        assert str(tmp_path / "out" / name) in said.out and (tmp_path / "out" / name).stat().st_size
    assert actlink("report", *map(str, sorted((tmp_path / "out" / "cells").iterdir()))) == 0
    assert "virtual, 100 ms +- 10 ms" in capsys.readouterr().out


def test_a_wrong_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("tune", *SMALL, "--strategies", "receding?speed=1", "--out", str(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "unknown option 'speed'" in told and told.count("\n") == 1
