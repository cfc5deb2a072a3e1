"""Which of a robot's observations are worth an inference. Law: a step counts as predicted once its actions were sent, not before.

The original marks a step when it begins, so that after a failed inference the robot, which stands still and so sends that step
again, is never answered any more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from actlink.dialects._lerobot_messages import Observed
from actlink.types import Array

REMEMBERED_STEPS = 4096
"""Predicted control steps that are remembered; steps only grow."""
REMEMBERED_UNDER_WAY = 64


class Progress:
    """Which control steps were answered. A step counts as predicted, an observation as processed, once its actions are sent."""

    def __init__(self) -> None:
        self._predicted: OrderedDict[int, None] = OrderedDict()
        self._under_way: dict[int, tuple[Observed, Array | None]] = {}
        self._processed = False
        self._last_state: Array | None = None

    def wants(self, seen: Observed, state: Array | None, similarity: float) -> bool:
        """Whether the observation is worth an inference."""
        if seen.must_go:
            return True
        if seen.timestep in self._under_way:
            return False
        if not self._processed:
            return True
        return seen.timestep not in self._predicted and not self._similar(state, similarity)

    def take(self, seen: Observed, state: Array | None) -> None:
        self._under_way[seen.timestep] = (replace(seen, raw={}), state)
        if len(self._under_way) > REMEMBERED_UNDER_WAY:  # those in between were replaced by newer ones before they ran
            del self._under_way[next(iter(self._under_way))]

    def seen(self, step: int) -> Observed | None:
        return self._under_way[step][0] if step in self._under_way else None

    def done(self, step: int) -> None:
        self._processed = True
        if step in self._under_way:
            self._last_state = self._under_way[step][1]
        self._under_way = {other: value for other, value in self._under_way.items() if other > step}
        self._predicted[step] = None
        if len(self._predicted) > REMEMBERED_STEPS:
            self._predicted.popitem(last=False)

    def failed(self) -> None:
        """Whichever it was: it may come again."""
        self._under_way.clear()

    def _similar(self, state: Array | None, similarity: float) -> bool:
        last = self._last_state
        if not similarity or state is None or last is None or state.shape != last.shape:
            return False
        return bool(np.linalg.norm(state - last) < similarity)
