"""Temporal ensembling: every chunk that covers a step votes on its action. Law: a chunk's vote counts at its own steps only.

The weights are ACT's (Zhao et al. 2023, arXiv 2304.13705, algorithm 2 and its program): ``exp(-k * i)``, normalised, in double
precision, with ``i = 0`` for the oldest chunk that covers the step. With a positive ``k`` older chunks therefore weigh more,
whatever the comment in the original says; ``weights="newest"`` turns the order round. Unlike the original, which took a row with a
zero in it for an empty one, a zero is an action like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.types import ActionChunk, Array


@dataclass(frozen=True)
class Config:
    """Options of the ``ensemble`` strategy."""

    execution_horizon: int = 1
    """Control steps from a chunk's arrival to the next replan."""
    k: float = 0.01
    """Decay of the weights exp(-k * i); 0 = plain mean."""
    weights: Literal["oldest", "newest"] = "oldest"
    """Which chunk has i = 0, the largest weight: the oldest that covers the step (as ACT does it) or the newest."""

    def __post_init__(self) -> None:
        if self.execution_horizon < 1:
            raise ConfigError(f"execution_horizon: expected at least 1, got {self.execution_horizon}")
        if not np.isfinite(self.k):
            raise ConfigError(f"k: expected a finite number, got {self.k}")


@final
class Strategy(_base.Strategy):
    """The weighted mean of all chunks that cover a step; see the module."""

    def __init__(self, config: Config, spec: Spec) -> None:
        if spec.action.dtype != "float32":
            raise ConfigError(
                f"the ensemble strategy averages actions, and those of {spec.name or 'this policy'} are discrete "
                f"({spec.action.dtype}); use the receding strategy"
            )
        self._config = config
        self._sends_prefix = spec.accepts_prefix
        self.reset()

    def reset(self) -> None:
        self._chunks: dict[int, Array] = {}  # control step of row 0 -> actions, oldest first
        self._until = 0  # control step of the next replan
        self._awaited: int | None = None  # control step of the question that waits for its chunk

    def replan(self, step: int) -> Replan | None:
        if self._awaited is not None or (step < self._until and self._covering(step)):
            return None
        self._awaited = step
        return Replan(step, self._plan(step), must_go=not self._covering(step))

    def add(self, chunk: ActionChunk, step: int) -> None:
        """Keeps the chunk while it covers ``step`` or later; a second chunk for the same step replaces the first."""
        if self._awaited is not None and chunk.step >= self._awaited:
            self._awaited = None
        if chunk.step > max(self._chunks, default=-1):
            self._until = step + self._config.execution_horizon
        kept = {**self._chunks, chunk.step: np.array(chunk.actions, dtype=np.float32)}
        self._chunks = {first: kept[first] for first in sorted(kept) if first + len(kept[first]) > step}

    def lost(self, step: int) -> None:
        self._awaited = None

    def action(self, step: int) -> Array | None:
        rows = self._covering(step)
        if not rows:
            return None
        order = np.arange(len(rows)) if self._config.weights == "oldest" else np.arange(len(rows))[::-1]
        exponents = -self._config.k * order
        weights = np.exp(exponents - exponents.max())  # a common factor that cannot overflow and cancels below
        weights /= weights.sum()
        mean: Array = (np.stack(rows) * weights[:, None]).sum(axis=0)
        return mean.astype(np.float32)

    def observed(self, step: int) -> int | None:
        return max((first for first, actions in self._chunks.items() if first <= step < first + len(actions)), default=None)

    def _covering(self, step: int) -> list[Array]:
        """Row for ``step`` of every chunk that has one, oldest chunk first."""
        return [actions[step - first] for first, actions in self._chunks.items() if first <= step < first + len(actions)]

    def _plan(self, step: int) -> Array | None:
        """The ensembled actions from ``step`` on, for a policy that continues them."""
        if not self._sends_prefix:
            return None
        planned: list[Array] = []
        while (action := self.action(step + len(planned))) is not None:
            planned.append(action)
        return np.stack(planned) if planned else None
