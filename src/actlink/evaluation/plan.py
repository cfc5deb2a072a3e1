"""Which episodes an evaluation consists of. Law: the same tasks, number and seed give the same plan, on any machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actlink.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Trial:
    """One episode to run; two runs of a trial meet the same start, bit for bit."""

    task: str
    episode: int
    """Counted from 0 within the task."""
    seed: int
    """For ``Environment.reset``: the plan's seed + episode, so that equal episodes of two runs can be compared in pairs."""

    def __str__(self) -> str:
        return f"episode {self.episode}{f' of {self.task}' if self.task else ''} (seed {self.seed})"


@dataclass(frozen=True, slots=True)
class Plan:
    """``episodes`` of each task, with the seeds ``seed``, ``seed + 1``, ..."""

    tasks: tuple[str, ...]
    episodes: int
    seed: int

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes: expected at least 1, got {self.episodes}")
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, got {self.seed}")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks: expected one or more different names, got {list(self.tasks)}")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order of the results."""
        return tuple(Trial(task, i, self.seed + i) for task in self.tasks for i in range(self.episodes))

    def left(self, finished: Collection[Trial]) -> tuple[Trial, ...]:
        """The trials still to be run."""
        done = set(finished)
        return tuple(trial for trial in self.trials if trial not in done)

    def to_dict(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks), "episodes": self.episodes, "seed": self.seed}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        return cls(tuple(plain["tasks"]), int(plain["episodes"]), int(plain["seed"]))


def shard(trials: Sequence[Trial], index: int, count: int) -> tuple[Trial, ...]:
    """Part ``index`` of ``count``: parts are disjoint, together complete, and differ in size by at most one."""
    if not 0 <= index < count:
        raise ConfigError(f"shard: expected an index from 0 to {count - 1}, got {index}")
    return tuple(trials[index::count])
