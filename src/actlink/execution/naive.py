"""Naive: a chunk is played from its first row on, whenever it arrives. Law: it says so (``honest = False``); for comparison only.

What a client does that takes the reply for "the next actions": the rows of the steps that passed meanwhile are not skipped, so
everything runs as late as the link and the policy are slow. An evaluation measures what that costs; a robot refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.types import ActionChunk, Array


@dataclass(frozen=True)
class Config:
    """Options of the ``naive`` strategy."""

    execution_horizon: int | None = None
    """Control steps from a chunk's arrival to the next replan, the chunk runs on meanwhile; None: half the policy's chunk."""

    def __post_init__(self) -> None:
        if self.execution_horizon is not None and self.execution_horizon < 1:
            raise ConfigError(f"execution_horizon: expected at least 1, got {self.execution_horizon}")


@final
class Strategy(_base.Strategy):
    """The newest chunk, from its arrival on; see the module."""

    honest: ClassVar[bool] = False

    def __init__(self, config: Config, spec: Spec) -> None:
        self._horizon = config.execution_horizon or max(1, spec.action_horizon // 2)
        self.reset()

    def reset(self) -> None:
        self._actions: Array | None = None
        self._arrived = 0  # control step at which row 0 is played
        self._observed = 0
        self._awaited = False

    def replan(self, step: int) -> Replan | None:
        starved = self._row(step) is None
        if self._awaited or (step < self._arrived + self._horizon and not starved):
            return None
        self._awaited = True
        return Replan(step, must_go=starved)

    def add(self, chunk: ActionChunk, step: int) -> None:
        self._awaited = False
        self._actions = np.array(chunk.actions)
        self._arrived, self._observed = step, chunk.step

    def lost(self, step: int) -> None:
        self._awaited = False

    def action(self, step: int) -> Array | None:
        row = self._row(step)
        return None if row is None else np.array(row)

    def observed(self, step: int) -> int | None:
        return None if self._row(step) is None else self._observed

    def _row(self, step: int) -> Array | None:
        if self._actions is None or not 0 <= step - self._arrived < len(self._actions):
            return None
        row: Array = self._actions[step - self._arrived]
        return row
