"""Receding horizon: run some actions of a chunk, then ask for the next one and wait. Law: an action runs at its own step or never.

The count begins when the chunk arrives, not when it was asked for: in a world that moves meanwhile the rows of the steps that have
passed are skipped, and the execution horizon is still run in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.types import ActionChunk, Array


@dataclass(frozen=True)
class Config:
    """Options of the ``receding`` strategy."""

    execution_horizon: int | None = None
    """Actions of a chunk that run before the next replan; None, or more than a chunk holds: all of them."""

    def __post_init__(self) -> None:
        if self.execution_horizon is not None and self.execution_horizon < 1:
            raise ConfigError(f"execution_horizon: expected at least 1, got {self.execution_horizon}")


@final
class Strategy(_base.Strategy):
    """One chunk at a time; see the module."""

    def __init__(self, config: Config, spec: Spec) -> None:
        self._horizon = config.execution_horizon
        self._sends_prefix = spec.accepts_prefix
        self.reset()

    def reset(self) -> None:
        self._actions: Array | None = None
        self._first = 0  # control step of row 0
        self._until = 0  # first control step that needs a new chunk
        self._awaited: int | None = None  # control step of the question that waits for its chunk

    def replan(self, step: int) -> Replan | None:
        if self._awaited is not None or step < self._until:
            return None
        self._awaited = step
        return Replan(step, self._tail(step), must_go=True)

    def add(self, chunk: ActionChunk, step: int) -> None:
        """Replaces the current chunk; one that ended before it arrived leaves nothing to run and is asked for again.

        One that is no newer than the current chunk (repeated, overtaken) is ignored.
        """
        if self._awaited is not None and chunk.step >= self._awaited:
            self._awaited = None
        if self._actions is not None and chunk.step <= self._first:
            return
        self._actions = np.array(chunk.actions)  # ours: the policy may write its next chunk into the same buffer
        self._first = chunk.step
        end = chunk.step + len(chunk)
        self._until = end if self._horizon is None else min(step + self._horizon, end)

    def lost(self, step: int) -> None:
        self._awaited = None

    def action(self, step: int) -> Array | None:
        if self._actions is None or not self._first <= step < self._until:
            return None
        return np.array(self._actions[step - self._first])

    def observed(self, step: int) -> int | None:
        return self._first if self._actions is not None and self._first <= step < self._until else None

    def _tail(self, step: int) -> Array | None:
        """What the current chunk still holds from ``step`` on, for a policy that continues it."""
        if not self._sends_prefix or self._actions is None:
            return None
        rest = self._actions[max(step - self._first, 0) :]
        return np.array(rest, dtype=np.float32) if len(rest) else None
