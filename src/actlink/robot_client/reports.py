"""What a run tells while it goes on: a line when something changes, never one per step. Law: it reports, it decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from actlink.asking import Arrival
from actlink.controller import Record
from actlink.safety import REASONS
from actlink.ticks import Recorder, Tick

logger = logging.getLogger("actlink.run")


class Reports:
    """A log that also tells people what the guard does, when it changes; and keeps count should the run end by an error."""

    def __init__(self, recorder: Recorder, dry_run: bool, begun: Callable[[], None]) -> None:
        """``begun``: called before the first tick."""
        self._recorder = recorder
        self._dry_run = dry_run
        self._begun = begun
        self._latched = False
        self._starved = False
        self._moved = False
        self.record = Record()

    def begin(self, start_s: float) -> None:
        self._recorder.begin(start_s)
        self._begun()

    def tick(self, tick: Tick, arrivals: Sequence[Arrival]) -> None:
        self._recorder.tick(tick, arrivals)
        self.record = replace(
            self.record,
            steps=self.record.steps + 1,
            starved=self.record.starved + tick.starved,
            guarded=self.record.guarded + (tick.held and not tick.starved),
            missed=self.record.missed + tick.skipped,
        )
        if not (tick.held or self._moved):
            self._moved = True
            logger.info("step %d: the first action%s", tick.step, " (not sent: dry run)" if self._dry_run else "")
        if tick.latched != self._latched:
            self._latched = tick.latched
            if tick.latched:
                why = ", ".join(REASONS[reason] for reason in tick.reasons if reason != "latched") or "stopped"
                logger.error("latched: %s; the arm holds, and Enter (or SIGUSR1) arms it again", why)
            else:
                logger.warning("armed again: motion resumes")
        if tick.starved != self._starved:
            self._starved = tick.starved
            if tick.starved and tick.step:
                logger.warning("step %d: the queue is empty; the arm holds", tick.step)
