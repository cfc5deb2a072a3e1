"""What an evaluation found. Law: frozen records in, numbers and JSON out; a results file is whole or not there.

The share of errors counts against the policy: an episode that ended in an error is a trial without success. Mean return and length
are over the episodes without errors, because half an episode has half a return.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from actlink.errors import StoppedError
from actlink.evaluation import intervals
from actlink.evaluation.intervals import Interval
from actlink.evaluation.plan import Trial

FILE = "results.json"


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One finished episode."""

    task: str
    episode: int
    seed: int
    success: bool | None
    """None where the environment knows no success; False after an error."""
    return_: float
    """Sum of the rewards (``return`` in JSON)."""
    length: int
    """Control steps until success first came; all of them where it did not."""
    steps: int
    """All control steps."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The environment's own numbers as of the last step."""
    error: str | None = None
    """Why the episode ended before its time, as ``code: message``."""
    attempts: int = 1
    """How often it was begun; more than once after failures of link, server or worker."""
    starved: int = 0
    """Control steps that held for want of an action."""
    wall_s: float = 0.0
    """From reset to end, without the time that a video took."""
    workers: int = 1
    """Workers that ran side by side when this ran."""
    latencies_ms: tuple[float, ...] = ()
    """For every request, from asking to the chunk."""
    inference_ms: float | None = None
    """Mean time of the policy itself, where replies tell it."""
    batched: int = 0
    """Requests that shared a batch with others, as far as replies tell it."""
    video: str | None = None
    """File, relative to the results."""
    missed: int = 0
    """Control steps that passed without a command, because one before took too long (real time only)."""
    seconds: float | None = None
    """Control steps times their duration, where the environment has a rate."""
    finish_s: float | None = None
    """The same until success first came; None where it did not."""
    seams: tuple[float, ...] = ()
    """Where chunks meet, the largest change of any entry of the action from one control step to the next, in the action's unit."""
    inside: float | None = None
    """The largest such change inside a chunk, of what ran."""
    jerk: float | None = None
    """Mean of the largest third difference of any entry of the action, per second cubed (per step cubed without a rate)."""
    sent_bytes: int = 0
    """What the questions hold, as raw arrays."""
    received_bytes: int = 0
    """What the chunks hold."""

    @property
    def trial(self) -> Trial:
        return Trial(self.task, self.episode, self.seed)

    @property
    def outcome(self) -> tuple[bool | None, float, int]:
        """What is the same in every run of a deterministic policy."""
        return self.success, self.return_, self.length

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name.rstrip("_"): getattr(self, f.name) for f in fields(self)}
        rounded = {
            "latencies_ms": [round(ms, 3) for ms in self.latencies_ms],
            "seams": [float(f"{jump:.4g}") for jump in self.seams],
        }
        return plain | {"metrics": dict(self.metrics)} | rounded

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EpisodeResult:
        """The inverse of ``to_dict``; ``AttributeError``, ``TypeError`` or ``ValueError`` for anything else.

        Keys may be unknown, and those with a default absent: other versions wrote them.
        """
        values = {f.name: plain[key] for f in fields(cls) if (key := f.name.rstrip("_")) in plain}
        numbers = {name: tuple(float(each) for each in plain.get(name, ())) for name in ("latencies_ms", "seams")}
        return cls(**{**values, **numbers})


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of the episodes, with its Wilson 95 % interval."""

    successes: int
    episodes: int
    rate: float
    interval: Interval

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        n, k = len(outcomes), sum(outcomes)
        return cls(k, n, k / n, intervals.wilson(k, n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.successes}/{self.episodes} = {self.rate:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything the episodes add up to."""

    episodes: int
    errors: int
    """Episodes that ended in an error of policy or environment."""
    infrastructure_errors: int
    """Attempts lost to link, server or worker, each run again and counted nowhere else."""
    success: Rate | None
    """None where the environment knows no success."""
    rates: Mapping[str, Rate]
    """Metrics that are a success of their own (``strict_success``), each with its interval."""
    metrics: Mapping[str, float]
    """Means of all other metrics."""
    mean_return: float | None
    mean_length: float | None
    requests: int
    batched: int
    """Requests that shared a batch with others, as far as replies tell it."""
    starved: int
    latency_mean_ms: float | None
    latency_p95_ms: float | None
    inference_mean_ms: float | None
    steps_per_s: float | None
    """Environment steps per second, all workers together, while they worked."""
    episodes_per_hour: float | None
    control_steps: int = 0
    missed: int = 0
    finish_mean_s: float | None = None
    """Mean time to success, of the episodes that had it."""
    seam_p50: float | None = None
    seam_p99: float | None = None
    seam_max: float | None = None
    inside_max: float | None = None
    """Largest step inside a chunk, of what ran."""
    jerk_mean: float | None = None
    mbit_s: float | None = None
    """Questions and chunks as raw arrays, per second of control."""


def totals(episodes: Sequence[EpisodeResult]) -> Totals:
    """The sums over ``episodes``."""
    sound = [e for e in episodes if e.error is None]
    latencies = [ms for e in episodes for ms in e.latencies_ms]
    inferences = [e.inference_ms for e in episodes if e.inference_ms is not None]
    wall_s = sum(e.wall_s / e.workers for e in episodes)
    names = sorted({name for e in sound for name in e.metrics})
    seams = [jump for e in episodes for jump in e.seams]
    finishes = [e.finish_s for e in sound if e.finish_s is not None]
    insides = [e.inside for e in episodes if e.inside is not None]
    jerks = [e.jerk for e in episodes if e.jerk is not None]
    seconds = sum(e.seconds or 0.0 for e in episodes)
    return Totals(
        episodes=len(episodes),
        errors=len(episodes) - len(sound),
        infrastructure_errors=sum(e.attempts - 1 for e in episodes),
        success=Rate.of([bool(e.success) for e in episodes]) if episodes and knows_success(episodes) else None,
        rates={n: Rate.of([e.error is None and e.metrics.get(n, 0.0) > 0 for e in episodes]) for n in names if is_rate(n)},
        metrics={n: intervals.mean([e.metrics[n] for e in sound if n in e.metrics]) for n in names if not is_rate(n)},
        mean_return=intervals.mean([e.return_ for e in sound]) if sound else None,
        mean_length=intervals.mean([e.length for e in sound]) if sound else None,
        requests=len(latencies),
        batched=sum(e.batched for e in episodes),
        starved=sum(e.starved for e in episodes),
        latency_mean_ms=intervals.mean(latencies) if latencies else None,
        latency_p95_ms=intervals.quantile(latencies, 0.95) if latencies else None,
        inference_mean_ms=intervals.mean(inferences) if inferences else None,
        steps_per_s=sum(e.steps for e in episodes) / wall_s if wall_s else None,
        episodes_per_hour=3600 * len(episodes) / wall_s if wall_s else None,
        control_steps=sum(e.steps for e in episodes),
        missed=sum(e.missed for e in episodes),
        finish_mean_s=intervals.mean(finishes) if finishes else None,
        seam_p50=intervals.quantile(seams, 0.5) if seams else None,
        seam_p99=intervals.quantile(seams, 0.99) if seams else None,
        seam_max=max(seams, default=None),
        inside_max=max(insides, default=None),
        jerk_mean=intervals.mean(jerks) if jerks else None,
        mbit_s=8e-6 * sum(e.sent_bytes + e.received_bytes for e in episodes) / seconds if seconds else None,
    )


def is_rate(metric: str) -> bool:
    """Whether a metric is a success of its own kind: its name ends so."""
    return metric.endswith("success")


def knows_success(episodes: Sequence[EpisodeResult]) -> bool:
    """Whether the environment tells success: no sound episode leaves it open."""
    return all(e.success is not None for e in episodes if e.error is None)


@dataclass(frozen=True, slots=True)
class Results:
    """An evaluation, finished or not."""

    header: Mapping[str, Any]
    """What was run: plan, policy, strategy, environment; the first line of the journal."""
    episodes: tuple[EpisodeResult, ...]
    """In the order of the plan."""
    complete: bool
    config: Mapping[str, Any] = field(default_factory=dict)
    """The options as given."""
    out: Path | None = None

    @property
    def totals(self) -> Totals:
        return totals(self.episodes)

    @property
    def table(self) -> str:
        """One line per episode, task results only: equal for equal behaviour, whatever the machine and the network did."""
        lines = [f"{e.task}\t{e.episode}\t{e.seed}\t{e.success}\t{e.return_!r}\t{e.length}\t{e.error or ''}" for e in self.episodes]
        return "\n".join(["task\tepisode\tseed\tsuccess\treturn\tlength\terror", *lines])

    def to_dict(self) -> dict[str, Any]:
        sums = asdict(self.totals)
        return {
            "complete": self.complete,
            "totals": sums,
            **self.header,
            "config": dict(self.config),
            "versions": versions(),
            "episodes": [_summary(e) for e in self.episodes],
        }

    def write(self, directory: Path) -> Path:
        """``results.json`` in ``directory``, atomically; ``StoppedError`` where it cannot be written."""
        path = directory / FILE
        partial = path.with_suffix(".json.part")
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(self.to_dict(), file, indent=1, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise StoppedError(f"{path}: cannot be written: {error.strerror}") from error
        return path


def _summary(episode: EpisodeResult) -> dict[str, Any]:
    """An episode in the results file: the single latencies and seams stay in the journal."""
    plain = episode.to_dict()
    latencies = plain.pop("latencies_ms")
    plain.pop("seams")
    return plain | {
        "requests": len(latencies),
        "latency_mean_ms": round(intervals.mean(latencies), 3) if latencies else None,
        "latency_p95_ms": intervals.quantile(latencies, 0.95) if latencies else None,
    }


def versions() -> dict[str, str]:
    """What ran: for whoever wants the same numbers again."""
    import numpy as np

    from actlink import __version__

    return {
        "actlink": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
