"""A recorded run as a picture: what was planned, what was executed, where it starved and how long answers took. Law: draws only."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import ConfigError, MissingPackageError
from actlink.robot_client.queue_view import left
from actlink.ticks import Recording, Reply, Tick

INSTALL = "pip install 'actlink[plot]'"
ENTRIES = 4
"""Entries of the action that are drawn: those that moved most."""
SECONDS = 20.0
"""A longer run is drawn from its first trouble, or from its start, for this long."""


def require() -> None:
    """``MissingPackageError`` if pictures cannot be drawn here."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError(f"pictures need matplotlib; install with: {INSTALL}")


def draw_run(recording: Recording, path: Path, *, from_s: float | None = None, seconds: float = SECONDS) -> Path:
    """Chunks as coloured segments, the executed action on top, starved steps and answers under way marked; ``path`` is a PNG."""
    require()
    ticks, replies = _part(recording, from_s, seconds)
    if not ticks:
        raise ConfigError(f"{path}: nothing to draw: the run has no control step there")
    rate_hz = float(recording.run.get("rate_hz") or 1.0)
    entries = _entries(ticks, replies)
    names = list(recording.run.get("names") or [])
    figure, axes = _figure(len(entries) + 1)
    colours = _colours(len(replies))
    origin_s, rows = _origin(ticks, rate_hz), recording.run.get("rows")
    for axis, entry in zip(axes[:-1], entries, strict=True):
        for reply, colour in zip(replies, colours, strict=True):
            if reply.actions is not None:
                times = origin_s + (reply.step + np.arange(len(reply.actions))) / rate_hz
                axis.plot(times, reply.actions[:, entry], color=colour, linewidth=0.8, alpha=0.6)
                axis.plot(times[:rows], reply.actions[:rows, entry], color=colour, linewidth=3.5, alpha=0.45)
                axis.plot(times[:1], reply.actions[:1, entry], ".", color=colour, markersize=9)
        moments = [tick.at_s for tick in ticks]
        axis.step(moments, [tick.action[entry] for tick in ticks], where="post", color="black", linewidth=1.0)
        _mark_holds(axis, ticks, rate_hz)
        axis.set_ylabel(names[entry] if entry < len(names) else f"action[{entry}]", fontsize=8)
    _draw_questions(axes[-1], replies, colours)
    _mark_holds(axes[-1], ticks, rate_hz)
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(ticks[0].at_s, ticks[-1].at_s + 1 / rate_hz)
    about = recording.run
    starved, held = sum(tick.starved for tick in ticks), sum(tick.held and not tick.starved for tick in ticks)
    axes[0].set_title(
        f"{about.get('strategy', '')} at {rate_hz:g} Hz: {about.get('robot', '')}, {about.get('policy', '')}\n"
        f"black: executed; coloured: chunks from their observation on; red: starved ({starved} steps); "
        f"orange: held by the guard ({held}); {sum(tick.skipped for tick in ticks)} missed",
        fontsize=8,
    )
    return _save(figure, path)


def draw_queue(recording: Recording, path: Path) -> Path:
    """Actions left at every control step, as LeRobot's ``debug_visualize_queue_size`` shows it; ``path`` is a PNG."""
    require()
    ticks = list(recording.ticks)
    if not ticks:
        raise ConfigError(f"{path}: nothing to draw: the run has no control step")
    longest = max((len(reply.actions) for reply in recording.replies if reply.actions is not None), default=1)
    rows = int(recording.run.get("rows") or longest)
    figure, (axis,) = _figure(1)
    axis.step([tick.at_s for tick in ticks], left(ticks, recording.replies, rows), where="post", color="tab:blue")
    _mark_holds(axis, ticks, float(recording.run.get("rate_hz") or 1.0))
    axis.set_title("Action Queue Size Over Time", fontsize=9)
    axis.set_xlabel("seconds")
    axis.set_ylabel("actions left")
    return _save(figure, path)


def _part(recording: Recording, from_s: float | None, seconds: float) -> tuple[list[Tick], list[Reply]]:
    ticks = list(recording.ticks)
    if from_s is None:
        first = ticks[0].at_s if ticks else 0.0
        last = ticks[-1].at_s if ticks else 0.0
        trouble = next((tick.at_s for tick in ticks if tick.held and tick.at_s > first + 1.0), first)
        from_s = first if last - first <= seconds else max(first, min(trouble - seconds / 2, last - seconds))
    ticks = [tick for tick in ticks if from_s <= tick.at_s <= from_s + seconds]
    if not ticks:
        return [], []
    replies = [reply for reply in recording.replies if ticks[0].step <= reply.arrived <= ticks[-1].step]
    return ticks, replies


def _entries(ticks: Sequence[Tick], replies: Sequence[Reply]) -> list[int]:
    """The entries that moved most, in their own order."""
    planned = [reply.actions for reply in replies if reply.actions is not None]
    seen = np.concatenate(planned) if planned else np.stack([tick.action for tick in ticks])
    moved = np.ptp(seen, axis=0)
    return sorted(np.argsort(-moved, kind="stable")[:ENTRIES].tolist())


def _origin(ticks: Sequence[Tick], rate_hz: float) -> float:
    """The moment of step 0: ``at_s - late_s`` is a step's own moment."""
    return ticks[0].at_s - ticks[0].late_s - ticks[0].step / rate_hz


def _mark_holds(axis: Any, ticks: Sequence[Tick], rate_hz: float) -> None:
    """One span for every row of held ticks of a kind."""
    begun: Tick | None = None
    ends = [*(tick.at_s for tick in ticks[1:]), ticks[-1].at_s + 1 / rate_hz]
    for tick, following, end_s in zip(ticks, [*ticks[1:], None], ends, strict=True):
        if not tick.held:
            continue
        begun = begun or tick
        if following is None or not following.held or following.starved != tick.starved:
            axis.axvspan(begun.at_s, end_s, color="red" if tick.starved else "orange", alpha=0.18, linewidth=0)
            begun = None


def _draw_questions(axis: Any, replies: Sequence[Reply], colours: Sequence[Any]) -> None:
    """A bar from question to answer, as high as it is long; crosses where none came."""
    for reply, colour in zip(replies, colours, strict=True):
        lasted_ms = 1e3 * (reply.arrived_s - reply.sent_s)
        if reply.actions is None:
            axis.plot([reply.sent_s], [0], "x", color="red", markersize=6)
        else:
            axis.fill_between([reply.sent_s, reply.arrived_s], [0, 0], [0, lasted_ms], color=colour, alpha=0.7, linewidth=1.5)
    axis.set_ylabel("answer under\nway, ms", fontsize=8)
    axis.set_ylim(bottom=0)


def _colours(count: int) -> list[Any]:
    import matplotlib

    palette = matplotlib.colormaps["tab10"]
    return [palette(index % 10) for index in range(count)]


def _figure(rows: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.2 + 1.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise ConfigError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
    return path
