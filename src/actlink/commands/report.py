"""Compare the results of evaluations: one line per run, and every further run against the first, in pairs of equal seeds.

A directory may hold an evaluation that is still running or was stopped.
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

from actlink.commands._options import Common
from actlink.evaluation.comparison import Comparison, compare_runs
from actlink.evaluation.report import report_markdown, report_rows, report_table

EXAMPLES = """\
  actlink report results/x
  actlink report results/x results/y --format markdown > comparison.md
"""

UNBOUNDED = 240
"""Columns where nobody's terminal sets a limit: a file, a pipe."""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink report``."""

    dirs: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR ...")]
    """Directories that evaluations wrote (their --out)."""
    format: Literal["table", "markdown", "json"] = "table"
    """How to print it."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
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
