"""Evaluations side by side. Law: reads what evaluations wrote; differences come from episodes with the same seed, in pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actlink.errors import ConfigError
from actlink.evaluation import intervals, journal, results
from actlink.evaluation.intervals import Interval
from actlink.evaluation.plan import Plan
from actlink.evaluation.results import EpisodeResult, Results, knows_success


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation as the report shows it."""

    name: str
    results: Results


@dataclass(frozen=True, slots=True)
class Difference:
    """A run against the first one, over the trials that both have."""

    name: str
    pairs: int
    differ: int
    """Pairs whose success, return or length is not the same."""
    success: float | None
    """Success rate of the run minus that of the first; None where the environment knows no success."""
    success_interval: Interval | None
    """95 %, score interval for paired proportions."""
    return_: float | None
    """Mean return minus that of the first, over pairs without errors."""
    return_interval: Interval | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs in the order given, and every further one against the first."""

    runs: tuple[Run, ...]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "runs": [
                {
                    "name": run.name,
                    **run.results.header,
                    "complete": run.results.complete,
                    "totals": asdict(run.results.totals),
                }
                for run in self.runs
            ],
            "differences": [{key.rstrip("_"): value for key, value in asdict(each).items()} for each in self.differences],
        }


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """The evaluations in ``directories``; ``ConfigError`` names one that holds none."""
    if not directories:
        raise ConfigError("report: expected at least one directory of results")
    runs = tuple(Run(str(directory), load(directory)) for directory in directories)
    return Comparison(runs, tuple(difference(run, runs[0]) for run in runs[1:]))


def load(directory: Path) -> Results:
    """Results from the journal, which is never behind, or from ``results.json`` where there is only that."""
    summary = _summary(directory / results.FILE)
    try:
        if (directory / journal.FILE).exists():
            header, episodes = journal.read(directory)
        elif summary is not None:
            header = {key: summary[key] for key in ("plan", "policy", "strategy", "environment", "latency") if key in summary}
            episodes = [_episode(plain) for plain in summary["episodes"]]
        else:
            raise ConfigError(f"{directory}: no evaluation here; expected {journal.FILE} or {results.FILE}")
        plan = Plan.from_dict(header["plan"])
        episodes.sort(key=lambda e: (plan.tasks.index(e.task), e.episode))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{directory}: not the results of an evaluation ({type(error).__name__}: {error})") from error
    complete = len(episodes) == len(plan.trials)
    return Results(header, tuple(episodes), complete, (summary or {}).get("config", {}), directory)


def difference(run: Run, first: Run) -> Difference:
    """``run`` minus ``first`` over the trials that both have."""
    theirs = {episode.trial: episode for episode in first.results.episodes}
    pairs = [(episode, theirs[episode.trial]) for episode in run.results.episodes if episode.trial in theirs]
    success = success_interval = return_ = return_interval = None
    if pairs and knows_success([episode for pair in pairs for episode in pair]):
        success, success_interval = intervals.paired_rates([bool(a.success) for a, _ in pairs], [bool(b.success) for _, b in pairs])
    sound = [(a.return_, b.return_) for a, b in pairs if a.error is None and b.error is None]
    if sound:
        return_, return_interval = intervals.paired_means([a for a, _ in sound], [b for _, b in sound])
    differ = sum(a.outcome != b.outcome for a, b in pairs)
    return Difference(run.name, len(pairs), differ, success, success_interval, return_, return_interval)


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        plain: dict[str, Any] = json.loads(path.read_bytes())
        if not {"plan", "policy", "strategy", "environment", "episodes"} <= plain.keys():
            raise ValueError("keys are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not the results of an evaluation: {error}") from error
    return plain


def _episode(plain: Mapping[str, Any]) -> EpisodeResult:
    """An episode of ``results.json``: of its latencies only the mean is known."""
    mean_ms = plain["latency_mean_ms"]
    return EpisodeResult.from_dict({**plain, "latencies_ms": [] if mean_ms is None else [mean_ms] * plain["requests"]})
