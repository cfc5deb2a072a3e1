"""What a control loop did, tick by tick: kept in bounded memory, written as lines of JSON. Law: it records, it decides nothing.

The file has one line that says what the run was (``{"run": ...}``), then a line per tick and per answer, in the order of time.
``docs/run.md`` has the fields.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actlink.asking import Arrival
from actlink.errors import ConfigError
from actlink.types import Array

TICKS = 120_000
"""Kept at most, the newest: an hour and more at 30 Hz."""
ANSWERS = 20_000
FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One control step that had a command."""

    step: int
    at_s: float
    """When it began, after the start of the run."""
    late_s: float
    """How long after its own moment that was."""
    requested: bool
    """Whether a chunk was asked for, with an observation of this step (or, where looking took longer than it, of a skipped one)."""
    basis: int | None
    """Control step of the newest observation that the strategy's action rests on; None: no action, or not known."""
    starved: bool
    """The strategy had no action."""
    held: bool
    """The embodiment held: starved, or the guard let nothing through."""
    reasons: tuple[str, ...]
    """What the guard had to say."""
    latched: bool
    """The arm is stopped until it is armed again."""
    skipped: int
    """Control steps just before this one that passed without a tick."""
    action: Array
    """What was commanded ``(action_dim,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """One question and what became of it, as a recording has it."""

    step: int
    """Control step it was asked for."""
    arrived: int
    """Control step at which the answer was taken in."""
    sent_s: float
    """Before ``arrived_s`` by the latency; both after the start of the run."""
    arrived_s: float
    actions: Array | None
    """``(action_horizon, action_dim)``; None: it was lost."""
    error: str | None
    timing: Mapping[str, float]


class Log(Protocol):
    """Who is told of every tick; called in the loop, so it must be quick and must not fail."""

    def begin(self, start_s: float) -> None:
        """A run begins, at ``start_s`` of the loop's clock."""

    def tick(self, tick: Tick, arrivals: Sequence[Arrival]) -> None:
        """``arrivals``: the answers that were taken in at this tick."""


class Recorder:
    """A ``Log`` that keeps the newest ticks and answers."""

    def __init__(self, *, ticks: int = TICKS, answers: int = ANSWERS) -> None:
        self.start_s = 0.0
        """The loop's clock at the start."""
        self.ticks: deque[Tick] = deque(maxlen=ticks)
        self.replies: deque[Reply] = deque(maxlen=answers)
        self.forgotten = 0
        """Ticks that were kept no longer."""

    def begin(self, start_s: float) -> None:
        self.start_s = start_s
        self.ticks.clear()
        self.replies.clear()
        self.forgotten = 0

    def tick(self, tick: Tick, arrivals: Sequence[Arrival]) -> None:
        self.forgotten += len(self.ticks) == self.ticks.maxlen
        self.ticks.append(tick)
        for arrival in arrivals:
            self.replies.append(self._reply(arrival, tick))

    def _reply(self, arrival: Arrival, tick: Tick) -> Reply:
        error = None if arrival.error is None else f"{arrival.error.code}: {arrival.error}"
        chunk = arrival.chunk
        actions, timing = (None, {}) if chunk is None else (chunk.actions, dict(chunk.timing))
        times = arrival.sent_s - self.start_s, arrival.arrived_s - self.start_s
        return Reply(arrival.step, tick.step, *times, actions, error, timing)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A run as it was written."""

    run: Mapping[str, Any]
    """What it was: ``rate_hz``, ``strategy``, ``policy``, ``robot``, ``names`` of the action's entries, ..."""
    ticks: Sequence[Tick]
    replies: Sequence[Reply]


def write(path: Path, run: Mapping[str, Any], ticks: Sequence[Tick], replies: Sequence[Reply]) -> None:
    """The recording as ``path``, in the order of time; ``ConfigError`` where it cannot be written."""
    lines = [(tick.at_s, 1, _tick_line(tick)) for tick in ticks] + [(reply.arrived_s, 0, _reply_line(reply)) for reply in replies]
    lines.sort(key=lambda line: line[:2])
    try:
        with path.open("w", encoding="utf-8") as file:
            print(_json({"run": {"format": FORMAT, **run}}), file=file)
            for _, _, line in lines:
                print(_json(line), file=file)
    except OSError as error:
        raise ConfigError(f"{path}: the recording cannot be written: {error.strerror or error}") from error


def read(path: Path) -> Recording:
    """What ``write`` wrote; ``ConfigError`` names the line that it did not."""
    run: Mapping[str, Any] | None = None
    ticks: list[Tick] = []
    replies: list[Reply] = []
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for text in file:
                number += 1
                ((kind, value),) = json.loads(text).items()
                if kind == "run":
                    run = _expect_format(value)
                elif kind == "tick":
                    ticks.append(_tick(value))
                else:
                    replies.append(_reply({"answer": value}[kind]))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}, line {number}: expected a line of a recorded run, got: {error}") from error
    if run is None:
        raise ConfigError(f"{path}: expected a recorded run, whose first line says what it was; got {number} lines without that")
    return Recording(run, ticks, replies)


def _expect_format(value: Any) -> Mapping[str, Any]:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']!r}, and this program reads {FORMAT}")
    return dict(value)


def _tick_line(tick: Tick) -> dict[str, Any]:
    return {
        "tick": {
            "step": tick.step,
            "at_s": round(tick.at_s, 6),
            "late_s": round(tick.late_s, 6),
            "requested": tick.requested,
            "basis": tick.basis,
            "starved": tick.starved,
            "held": tick.held,
            "reasons": list(tick.reasons),
            "latched": tick.latched,
            "skipped": tick.skipped,
            "action": _plain(tick.action),
        }
    }


def _reply_line(reply: Reply) -> dict[str, Any]:
    return {
        "answer": {
            "step": reply.step,
            "arrived": reply.arrived,
            "sent_s": round(reply.sent_s, 6),
            "arrived_s": round(reply.arrived_s, 6),
            "actions": None if reply.actions is None else _plain(reply.actions),
            "error": reply.error,
            "timing": {key: round(float(value), 3) for key, value in reply.timing.items()},
        }
    }


def _tick(value: Any) -> Tick:
    given = {**value, "reasons": tuple(value["reasons"]), "action": np.array(value["action"], np.float32)}
    return Tick(**given)


def _reply(value: Any) -> Reply:
    actions = None if value["actions"] is None else np.array(value["actions"], np.float32)
    return Reply(**{**value, "actions": actions})


def _plain(array: Array) -> Any:
    """Six digits are more than any motor has."""
    if np.issubdtype(array.dtype, np.floating):
        return np.array([float(f"{value:.6g}") for value in array.ravel()]).reshape(array.shape).tolist()
    return array.tolist()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=True, separators=(",", ":"))
