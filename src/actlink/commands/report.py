"""Compare the results of evaluations: one line per run, and every further run against the first, in pairs of equal seeds.

A directory may hold an evaluation that is still running or was stopped. Of what `actlink run --out` recorded (run.jsonl, or the
directory with it) it draws the picture: chunks, executed action, starvation, delay.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink import ticks
from actlink.commands._options import Common
from actlink.errors import ConfigError
from actlink.evaluation.comparison import Comparison, compare_runs
from actlink.evaluation.report import report_markdown, report_rows, report_table
from actlink.robot_client.picture import SECONDS, draw_run

EXAMPLES = """\
  actlink report results/x
  actlink report results/x results/y --format markdown > comparison.md
  actlink report runs/so101 --from-s 12 --seconds 5
"""

RECORDING = Path("run.jsonl")

UNBOUNDED = 240
"""Columns where nobody's terminal sets a limit: a file, a pipe."""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink report``."""

    dirs: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR ...")]
    """Directories that evaluations wrote (their --out)."""
    format: Literal["table", "markdown", "json"] = "table"
    """How to print it."""
    from_s: float | None = None
    """Recorded run: second at which the picture begins; None: around the first trouble, or at the start."""
    seconds: float = SECONDS
    """Recorded run: how much the picture shows."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    recorded = [path / RECORDING if path.is_dir() else path for path in options.dirs]
    recorded = [path for path in recorded if path.suffix == RECORDING.suffix and path.is_file()]
    if recorded:
        if len(recorded) != len(options.dirs):
            raise ConfigError("recorded runs and evaluations cannot be compared: give one kind at a time")
        for path in recorded:
            print(draw_run(ticks.read(path), path.with_suffix(".png"), from_s=options.from_s, seconds=options.seconds))
        return 0
    found = compare_runs(options.dirs)
    if options.format == "table":
        print_table(found, Console(width=None if sys.stdout.isatty() else UNBOUNDED))
    elif options.format == "markdown":
        print(report_markdown(found), end="")
    else:
        print(json.dumps(found.to_dict(), indent=1))
    return 0


def print_table(found: Comparison, console: Console) -> None:
    """A line per run; where the terminal is too narrow for that, a line per number and a column per run."""
    rows = report_rows(found)
    needed = sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True)) + 1
    if needed <= console.width:
        console.print(report_table(found))
        return
    table = Table(show_header=False)
    for _ in rows:
        table.add_column(overflow="fold")
    for line in zip(*rows, strict=True):
        table.add_row(*line)
    console.print(table)
