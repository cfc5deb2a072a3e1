"""How an episode moved: seams, jerk, traffic. Law: it looks on, at the controller's commands and the policy's answers.

A *seam* is where one control step's action rests on another observation than the step's before, or where either is a hold: where
chunks meet, or fail to. The way from the first hold to the first action is none. Its jump is the largest change of any entry of the
action across it, in that entry's unit. The same measure of steps inside a chunk tells what the policy thinks a normal step is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actlink.asking import Arrival, Asker
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.ticks import Tick
from actlink.types import Array, Observation


@dataclass(frozen=True, slots=True)
class Motion:
    """The figures of one episode; all of discrete actions are empty."""

    seams: tuple[float, ...] = ()
    """Jump at every seam, in the action's unit."""
    inside: float | None = None
    """Largest step inside a chunk, of those that ran."""
    jerk: float | None = None
    """Mean over control steps of the largest third difference of any entry, per second cubed (without a rate: per step)."""
    sent_bytes: int = 0
    """What the questions hold, as raw arrays: the wire may compress, and adds its headers."""
    received_bytes: int = 0


class Onlooker:
    """A controller's ``Log`` that keeps what ``Motion`` needs, of one episode at a time."""

    def __init__(self, rate_hz: float | None = None) -> None:
        self._per_s3 = (rate_hz or 1.0) ** 3
        self.begin(0.0)

    def begin(self, start_s: float) -> None:
        self._last: Tick | None = None
        self._begun = False  # before the first action the embodiment holds, and where that takes it is no seam
        self._actions: deque[Array] = deque(maxlen=4)
        self._seams: list[float] = []
        self._inside: float | None = None
        self._jerks = 0.0
        self._jerk_steps = 0
        self.sent_bytes = self._received_bytes = 0

    def tick(self, tick: Tick, arrivals: Sequence[Arrival]) -> None:
        self._received_bytes += sum(arrival.chunk.actions.nbytes for arrival in arrivals if arrival.chunk is not None)
        if not np.issubdtype(tick.action.dtype, np.floating):
            return
        last, self._last = self._last, tick
        self._begun = self._begun or (last is None and not tick.held)
        if tick.skipped:
            self._actions.clear()
        self._actions.append(np.array(tick.action, np.float64))
        if last is None:
            return
        begun, self._begun = self._begun, self._begun or not tick.held
        if begun and not (last.held and tick.held):
            jump = float(np.abs(tick.action.astype(np.float64) - last.action).max())
            if last.held or tick.held or last.basis != tick.basis:
                self._seams.append(jump)
            else:
                self._inside = max(self._inside or 0.0, jump)
        if len(self._actions) == 4:
            a, b, c, d = self._actions
            self._jerks += float(np.abs(d - 3 * c + 3 * b - a).max())
            self._jerk_steps += 1

    @property
    def motion(self) -> Motion:
        """Of the episode so far."""
        jerk = self._jerks / self._jerk_steps * self._per_s3 if self._jerk_steps else None
        return Motion(tuple(self._seams), self._inside, jerk, self.sent_bytes, self._received_bytes)


class Metered:
    """An ``Asker`` that tells the onlooker how much is sent."""

    def __init__(self, inner: Asker, spec: Spec, onlooker: Onlooker) -> None:
        self._inner = inner
        self._keys = tuple(spec.observation)
        self._onlooker = onlooker

    @property
    def dropped(self) -> int:
        return self._inner.dropped

    def begin(self, episode: int) -> None:
        self._inner.begin(episode)

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        values = [observation[key] for key in self._keys if key in observation]
        sizes = (len(value.encode()) if isinstance(value, str) else value.nbytes for value in values)
        self._onlooker.sent_bytes += sum(sizes) + (0 if replan.prefix is None else replan.prefix.nbytes)
        self._inner.ask(observation, replan, now_s)

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        return self._inner.arrived(now_s)

    def close(self) -> None:
        self._inner.close()
