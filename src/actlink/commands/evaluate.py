"""Measure a policy in a simulator: episodes, success rate with interval, latency, videos.

The policy is the address of a server or a local one; the code path is the same. A run that was stopped goes on where it was with
the same command and --out. Exit code 3: the server stayed away; the command that resumes is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from actlink.commands._options import Common
from actlink.evaluation.harness import EvalConfig, evaluate
from actlink.evaluation.report import results_table
from actlink.evaluation.results import FILE, Results

EXAMPLES = """\
  actlink eval --policy ws://127.0.0.1:8000 --env aloha_transfer_cube --episodes 50 --workers 2 --seed 1000 --out results/x
  actlink eval --policy cartpole_ppo --env gymnasium:CartPole-v1 --episodes 50 --deterministic
"""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink eval``."""

    evaluation: OmitArgPrefixes[EvalConfig]
    common: OmitArgPrefixes[Common]


def run(options: Options) -> int:
    show(evaluate(options.evaluation, console=Console(stderr=True, quiet=options.common.quiet)))
    return 0


def show(results: Results) -> None:
    """The table on stdout, then the files."""
    Console().print(results_table(results))
    for path in files(results):
        print(path)


def files(results: Results) -> list[Path]:
    """The results file and the videos that were made."""
    if results.out is None:
        return []
    videos = [results.out / episode.video for episode in results.episodes if episode.video is not None]
    return [results.out / FILE, *videos]
