"""What the guard knows of the motion so far: how far a step goes, and how fast the last one was. Law: pure; told step by step.

``Shown``: where neither an option nor the range tells how far a step goes, the run does. ``Easing``: a limit of acceleration.
"""

from __future__ import annotations

import math

import numpy as np

from actlink.types import Array

RESUME_S = 1.0
"""Where a run itself shows how far a step goes, an entry that has hardly moved yet is back at the plan within this time."""


class Shown:
    """The longest step on the way from a measured pose to the plan."""

    def __init__(self, told: Array, rate_hz: float) -> None:
        """``told`` float64 ``(action_dim,)``: by options and range; infinite for the entries of which they tell nothing."""
        self.complete = bool(np.isfinite(told).all())
        """Nothing has to be learnt from the run."""
        self._told = told
        self._steps = math.ceil(RESUME_S * rate_hz)
        self._largest: Array | None = None  # of each entry, between two commands in a row that ran as planned
        self.begin()

    def begin(self) -> None:
        """A new episode of the same run."""
        self._step: int | None = None  # control step of the last command that ran as planned
        self._back_step = 0  # at which the present way is over

    def way(self, step: int, planned: Array, reference: Array | None, outage: bool) -> Array:
        """How far this command may be from ``reference``; ``outage``: the way begins with it.

        For an entry of which nothing is told: its largest step so far. One that has hardly moved yet would never arrive by that, so
        it may take an even share of what is left of ``RESUME_S``. Infinite while the run has shown nothing.
        """
        if self.complete or self._largest is None or reference is None:
            return self._told
        if outage:
            self._back_step = step + self._steps
        left = self._back_step - step
        if left < 2:
            return self._told
        share = np.abs(planned.astype(np.float64) - reference) / left
        return np.where(np.isfinite(self._told), self._told, np.maximum(self._largest, share))

    def ran(self, step: int, action: Array, before: Array | None) -> None:
        """``action`` ran as planned at ``step``, after the command ``before``."""
        if not self.complete and self._step == step - 1 and before is not None:
            change = np.abs(action.astype(np.float64) - before)
            self._largest = change if self._largest is None else np.maximum(self._largest, change)
        self._step = step


class Easing:
    """A step differs from the one before by no more than the acceleration allows.

    The command follows the plan as fast as lets it still stop at it, and at the ends of the range. Where the plan itself keeps to
    the limit, and the command is on it, it is the plan.
    """

    def __init__(self, limit: Array, lower: Array, upper: Array) -> None:
        """``limit`` float64 ``(action_dim,)``: the largest change of the step from one command to the next."""
        self._limit, self._lower, self._upper = limit, lower, upper
        self._speed = np.zeros(limit.shape)  # the last command's step
        self._plan: Array | None = None  # of the command before

    def eased(self, plan: Array, reference: Array, from_rest: bool, most: Array | None) -> Array:
        """The command, float64, no further from ``reference`` than ``most``; ``plan`` is inside the range."""
        centre = reference.astype(np.float64)
        start = centre if self._plan is None or from_rest else self._plan
        speed = np.zeros_like(self._speed) if from_rest else self._speed
        gap = start - centre  # how far it was behind the plan
        wanted = plan - start + np.sign(gap) * np.minimum(np.abs(gap), self._stoppable(np.abs(gap)))
        step = np.clip(wanted, speed - self._limit, speed + self._limit)
        step = np.clip(step, -self._stoppable(centre - self._lower), self._stoppable(self._upper - centre))
        eased: Array = centre + (step if most is None else np.clip(step, -most, most))
        return eased

    def ran(self, command: Array | None, reference: Array | None, plan: Array | None) -> None:
        """``command`` was given, None: the embodiment's own hold. ``plan``: what was planned, None on the way to rest."""
        self._speed = np.zeros(self._limit.shape)
        if command is not None and reference is not None:
            self._speed = command.astype(np.float64) - reference
        self._plan = None if plan is None else plan.astype(np.float64)

    def _stoppable(self, way: Array) -> Array:
        """The longest step from which slowing down by the limit ends within ``way``, that step included."""
        way = np.clip(way, 0.0, 1e12 * self._limit)
        more = np.floor((np.sqrt(1 + 8 * way / self._limit) - 1) / 2)  # steps that follow it
        longest: Array = (way + self._limit * more * (more + 1) / 2) / (more + 1)
        return longest
