"""A run's times, beside what LeRobot's guide expects. Law: pure; a figure that the wire cannot give is not made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actlink.ticks import Reply, Tick

GOALS = {"one way": 50.0, "inference": 100.0}
"""Milliseconds that LeRobot's guide to asynchronous inference expects at most."""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds, one value per chunk; empty where the wire does not tell."""

    up_ms: tuple[float, ...] = ()
    """From the client to the server."""
    down_ms: tuple[float, ...] = ()
    """And back."""
    way_ms: tuple[float, ...] = ()
    """Half of both together, where only their sum is known."""
    inference_ms: tuple[float, ...] = ()
    """The policy's own call."""
    round_ms: tuple[float, ...] = ()
    """From question to answer, by the client's clock."""
    acted_ms: tuple[float, ...] = ()
    """From an observation to the first command that rests on it: end to end."""
    rate_hz: float = math.nan
    """Control steps per second, as they came."""
    jitter_ms: tuple[float, ...] = ()
    """For every control step, how long after its moment it began."""


def measure(ticks: Sequence[Tick], replies: Sequence[Reply], start_s: float, offset_ms: float | None) -> Times:
    """``start_s``: the client's clock at the start of the run; ``offset_ms``: the server's clock minus the client's, if known."""
    good = [reply for reply in replies if reply.actions is not None]
    up, down, way = [], [], []
    for reply in good:
        both_ms = 1e3 * (reply.arrived_s - reply.sent_s) - reply.timing.get("server_ms", math.nan)
        if offset_ms is not None and "clock_s" in reply.timing and "server_ms" in reply.timing:
            written_ms = 1e3 * reply.timing["clock_s"] - offset_ms  # by the client's clock
            up.append(written_ms - reply.timing["server_ms"] - 1e3 * (start_s + reply.sent_s))
            down.append(1e3 * (start_s + reply.arrived_s) - written_ms)
        elif math.isfinite(both_ms):
            way.append(both_ms / 2)
    return Times(
        tuple(up),
        tuple(down),
        tuple(way),
        tuple(reply.timing["infer_ms"] for reply in good if "infer_ms" in reply.timing),
        tuple(1e3 * (reply.arrived_s - reply.sent_s) for reply in good),
        _acted(ticks),
        _rate(ticks),
        tuple(1e3 * tick.late_s for tick in ticks),
    )


def _acted(ticks: Sequence[Tick]) -> tuple[float, ...]:
    seen = {tick.step: tick.at_s for tick in ticks if tick.requested}
    found: dict[int, float] = {}
    for tick in ticks:
        if not tick.held and tick.basis is not None and tick.basis in seen:
            found.setdefault(tick.basis, 1e3 * (tick.at_s - seen[tick.basis]))
    return tuple(found.values())


def _rate(ticks: Sequence[Tick]) -> float:
    lasted_s = ticks[-1].at_s - ticks[0].at_s if len(ticks) > 1 else 0.0
    return (len(ticks) - 1) / lasted_s if lasted_s > 0 else math.nan


def lines(times: Times, target_hz: float, *, local: bool = False) -> list[str]:
    """The table for people; ``local``: the policy is in this process, and there is no way to it."""
    rows: list[tuple[str, str, str]] = []
    for name, values, goal in (
        ("one way, to the server", times.up_ms, GOALS["one way"]),
        ("one way, back", times.down_ms, GOALS["one way"]),
        ("one way, half of both", times.way_ms, GOALS["one way"]),
        ("inference", times.inference_ms, GOALS["inference"]),
        ("question to answer", times.round_ms, None),
        ("observation to action", times.acted_ms, None),
        ("control step late by", times.jitter_ms, None),
    ):
        if values:
            rows.append((name, _spread(values), "" if goal is None else f"usual: below {goal:g} ms"))
    if not (times.up_ms or times.way_ms or local):
        rows.append(("one way", "not known: this wire tells neither clock nor server time", ""))
    if not times.inference_ms and times.round_ms and not local:
        rows.append(("inference", "not known: this wire does not tell it", ""))
    rows.append(("rate", f"{times.rate_hz:.2f} Hz", f"target: {target_hz:g} Hz"))
    wide = max(len(name) for name, _, _ in rows)
    middle = max(len(text) for _, text, _ in rows)
    return [f"  {name.ljust(wide)}  {text.ljust(middle)}  {goal}".rstrip() for name, text, goal in rows]


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)

    def percentile(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return f"p50 {percentile(0.5):.1f}  p95 {percentile(0.95):.1f}  p99.9 {percentile(0.999):.1f} ms"
