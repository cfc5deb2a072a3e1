"""Time as an argument. Law: monotonic seconds only; nothing else in the package reads a clock to decide anything."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """Monotonic time in seconds, and waiting for a moment of it."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since an arbitrary fixed moment; never goes back."""

    @abstractmethod
    def wait_until(self, moment_s: float) -> None:
        """Return when ``now() >= moment_s``; at once if that has passed."""


class MonotonicClock(Clock):
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment_s: float) -> None:
        remaining_s = moment_s - time.monotonic()
        if remaining_s > 0:
            time.sleep(remaining_s)


class ManualClock(Clock):
    """Time that moves only when told to: for tests and simulated time. Waiting jumps."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now(self) -> float:
        return self._now_s

    def wait_until(self, moment_s: float) -> None:
        self._now_s = max(self._now_s, moment_s)

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time cannot go back: advance({seconds})")
        self._now_s += seconds
