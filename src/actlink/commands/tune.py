"""Find the execution strategy and its settings for a delay: a sweep of evaluations in simulated time, a table, figures, a sentence.

Sweeps actions_per_chunk x chunk_size_threshold x strategy x delay with the same episodes in every cell. What is finished is kept:
the same command goes on. A cell is an evaluation like any other; 'actlink report OUT/cells/*' compares them in full.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes

from actlink.commands._options import Common
from actlink.errors import MissingPackageError
from actlink.evaluation import tuning
from actlink.evaluation.tune import Outcome, TuneConfig, tune

EXAMPLES = """\
  actlink tune --policy aloha_transfer_cube --env aloha_transfer_cube --episodes 20 --delays-ms 0 100 300 --out results/tune
  actlink tune --policy conveyor_flow --env conveyor --strategies receding "hard=realtime?policy.prefix_mode=hard"
"""

UNBOUNDED = 240


@dataclass(frozen=True)
class Options:
    """Options of ``actlink tune``."""

    sweep: OmitArgPrefixes[TuneConfig]
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    console = Console(stderr=True, quiet=options.common.quiet)
    quiet = Console(stderr=True, quiet=not options.common.verbose)
    outcomes = list(tune(options.sweep, console=console, quiet=quiet))
    show(outcomes)
    for path in written(outcomes, options.sweep.out, console):
        print(path)
    return 0


def show(outcomes: list[Outcome]) -> None:
    """The table, and what follows from it, on stdout."""
    head, *rows = tuning.rows(outcomes)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED)
    console.print(table)
    for sentence in tuning.recommendation(outcomes):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def written(outcomes: list[Outcome], out: Path, console: Console) -> list[Path]:
    """The files, figures where matplotlib is there."""
    paths = tuning.write(outcomes, out)
    try:
        return [*paths, *(tuning.figure(outcomes, out / f"{tuning.FIGURE_STEM}{suffix}") for suffix in (".svg", ".png"))]
    except MissingPackageError as error:
        console.print(str(error), markup=False, highlight=False)
        return paths
