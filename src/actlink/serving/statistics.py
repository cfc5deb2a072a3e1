"""What a server has done so far. Law: counted on the event loop only; bounded memory; read from anywhere as a frozen record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

RECENT = 2048
"""Latency percentiles are over this many latest answers."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """One engine's part of a server's numbers."""

    model: str
    device: str = ""
    """Where its policy runs; empty where that is not known."""
    sessions: int = 0
    in_flight: int = 0
    queue_depth: int = 0
    batches: int = 0
    batched: int = 0
    """Requests in those batches."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A server's numbers at one moment. Latencies are the server's part, in milliseconds: frame received to answer written."""

    uptime_s: float = 0.0
    sessions: int = 0
    """Peers that are connected and welcome."""
    sessions_total: int = 0
    requests: int = 0
    """Requests for inference received; each lane of a batched peer counts."""
    answered: int = 0
    """Those answered with a chunk."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Error code -> how often a peer was told it."""
    in_flight: int = 0
    """Requests in the batch that is being inferred."""
    queue_depth: int = 0
    """Requests waiting for inference."""
    batches: int = 0
    mean_batch_size: float = 0.0
    latency_mean_ms: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    latency_p99_ms: float = 0.0
    unknown_keys: int = 0
    """Values in observations that no spec names, and that were ignored."""
    engines: tuple[EngineStatistics, ...] = ()
    """Each engine by itself: one for each model, or for each device of a model."""


class Counters:
    """The same numbers while they grow."""

    def __init__(self) -> None:
        self.sessions = 0
        self.sessions_total = 0
        self.requests = 0
        self.answered = 0
        self.batches = 0
        self.batched = 0
        self.unknown_keys = 0
        self.open_calls = 0
        """Questions accepted and not yet answered."""
        self.errors: dict[str, int] = {}
        self._latency_total_ms = 0.0
        self._latencies = 0
        self._recent_ms = [0.0] * RECENT

    def batch(self, size: int) -> None:
        self.batches += 1
        self.batched += size

    def error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1

    def latency(self, milliseconds: float) -> None:
        self._recent_ms[self._latencies % RECENT] = milliseconds
        self._latencies += 1
        self._latency_total_ms += milliseconds

    @property
    def latency_mean_ms(self) -> float:
        return self._latency_total_ms / self._latencies if self._latencies else 0.0

    def statistics(self, uptime_s: float, engines: tuple[EngineStatistics, ...]) -> Statistics:
        """The record; safe to call from any thread, for it copies each container in one step."""
        recent_ms = sorted(self._recent_ms[: min(self._latencies, RECENT)])
        return Statistics(
            uptime_s=uptime_s,
            sessions=self.sessions,
            sessions_total=self.sessions_total,
            requests=self.requests,
            answered=self.answered,
            errors=dict(self.errors),
            in_flight=sum(engine.in_flight for engine in engines),
            queue_depth=sum(engine.queue_depth for engine in engines),
            batches=self.batches,
            mean_batch_size=self.batched / self.batches if self.batches else 0.0,
            latency_mean_ms=self.latency_mean_ms,
            latency_p50_ms=_percentile(recent_ms, 50),
            latency_p95_ms=_percentile(recent_ms, 95),
            latency_p99_ms=_percentile(recent_ms, 99),
            unknown_keys=self.unknown_keys,
            engines=engines,
        )


def _percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all do not exceed."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else 0.0
