"""Real-time chunking: the next chunk continues the plan that runs while it is inferred. Law: skips exactly the steps that passed.

The client's half of Black et al. 2025 (arXiv 2506.07339, algorithm 1), keyed by control step. A chunk is asked for
``execution_horizon`` steps after the last one was (or at once where the plan would not last until the answer), with what is left of
the plan as prefix and with the number of its rows that will have run by then: the delay, which is *measured* as control steps
between question and answer. How the policy continues the prefix, by guidance or as a hard beginning (training-time real-time
chunking, arXiv 2512.05964), is the policy's affair; it sends whole chunks either way, and the rows of the steps that passed are
skipped.

- The estimate is a quantile (as in the paper: the largest) of the last ``delay_window`` delays. Those of the first
  ``warmup_chunks`` chunks, when models compile and connections open, count only as long as there is nothing better, and then the
  smallest does, and leaves an execution horizon of the chunk to the policy. A lost chunk counts for nothing, and no delay is longer
  than a chunk.
- A prefix shorter than the delay is drawn out by what the embodiment will do meanwhile: it holds. Rows of zeros would be a command.
- What the policy could not continue is joined: where the step across the seam is larger than any inside the chunks, it is brought
  down to that, entry by entry (``_joined``). Guidance alone is approximate, an estimate can be too small, and a policy that accepts
  no prefix continues nothing.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np

from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.types import ActionChunk, Array

logger = logging.getLogger("actlink.execution")


@dataclass(frozen=True)
class Config:
    """Options of the ``realtime`` strategy."""

    execution_horizon: int | None = None
    """Control steps from one question to the next; None: half the policy's chunk."""
    delay_window: int = 10
    """How many of the last delays the estimate is made of."""
    delay_quantile: float = 1.0
    """Which quantile of them is expected next; 1: the largest."""
    warmup_chunks: int = 2
    """Chunks of an episode whose delay does not count once there are others: the first, and the first that has a prefix."""
    blend_steps: int | None = None
    """Over how many steps two chunks with too large a seam are joined at most; None: execution_horizon, 0: not at all."""

    def __post_init__(self) -> None:
        for name, least in (("execution_horizon", 1), ("delay_window", 1), ("warmup_chunks", 0), ("blend_steps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: expected at least {least}, got {value}")
        if not 0 < self.delay_quantile <= 1:
            raise ConfigError(f"delay_quantile: expected above 0, at most 1, got {self.delay_quantile}")


@final
class Strategy(_base.Strategy):
    """One plan, continued before it ends; see the module."""

    def __init__(self, config: Config, spec: Spec) -> None:
        """``ConfigError`` for discrete actions, which have no continuation."""
        name = spec.name or "this policy"
        if spec.action.dtype != "float32":
            raise ConfigError(
                f"the realtime strategy continues actions, and those of {name} are discrete ({spec.action.dtype}); "
                "use the receding strategy"
            )
        self._config = config
        self._chunk_rows = spec.action_horizon
        self._horizon = config.execution_horizon or max(1, spec.action_horizon // 2)
        self._sends_prefix = spec.accepts_prefix
        self._holds_by_zero = spec.control_type == "delta"  # a difference of zero holds; elsewhere the last action again
        self._blend_steps = self._horizon if config.blend_steps is None else config.blend_steps
        if not self._sends_prefix:
            how = f"joined over at most {self._blend_steps} steps" if self._blend_steps else "not joined"
            logger.warning("realtime: %s accepts no prefix; its chunks are not continued but %s", name, how)
        self.reset()

    def reset(self) -> None:
        self.stopped()
        self._delays: deque[int] = deque(maxlen=self._config.delay_window)
        self._warmups: list[int] = []

    def stopped(self) -> None:
        """Forgets the plan; how long an answer takes is known as before."""
        self._plan: Array | None = None
        self._first = 0  # control step of the plan's row 0, and of the observation it rests on
        self._arrived = 0  # first control step at which it may run
        self._before: Array | None = None  # what ran at the step before the plan arrived
        self._pace: Array | None = None  # of the plan's chunk, as the policy gave it
        self._asked: int | None = None  # control step of the last question
        self._awaited = False

    @property
    def delay(self) -> int:
        """Control steps expected to pass between the next question and its answer."""
        if self._delays:
            return sorted(self._delays)[math.ceil(self._config.delay_quantile * len(self._delays)) - 1]
        return min([*self._warmups, max(self._chunk_rows - self._horizon, 0)]) if self._warmups else 0

    def replan(self, step: int) -> Replan | None:
        if self._awaited:
            return None
        left = self._left(step)
        delay = min(self.delay, self._chunk_rows)
        if self._asked is not None and step < self._asked + self._horizon and left > delay:
            return None
        self._asked, self._awaited = step, True
        prefix = self._prefix(step, delay) if self._sends_prefix else None
        return Replan(step, prefix, delay if prefix is not None else 0, must_go=left == 0)

    def add(self, chunk: ActionChunk, step: int) -> None:
        """Takes the chunk's rows from ``step`` on; one that is no newer than the plan, or ended before it came, changes nothing."""
        if self._awaited and self._asked is not None and chunk.step >= self._asked:
            self._awaited = False
            self._measure(step - chunk.step)
        if (self._plan is not None and chunk.step <= self._first) or chunk.step + len(chunk) <= step:
            return
        plan = np.array(chunk.actions, dtype=np.float32)  # ours: the policy may write its next chunk into the same buffer
        if self._blend_steps:
            plan = self._blended(plan, max(step - chunk.step, 0), step)
        self._plan, self._first, self._arrived = plan, chunk.step, step

    def lost(self, step: int) -> None:
        self._awaited = False
        self._asked = None  # at once, not after another execution horizon

    def action(self, step: int) -> Array | None:
        return np.array(self._plan[step - self._first]) if self._plan is not None and self._left(step) else None

    def observed(self, step: int) -> int | None:
        return self._first if self._left(step) else None

    def _left(self, step: int) -> int:
        """Rows of the plan from ``step`` on."""
        if self._plan is None or step < max(self._arrived, self._first):
            return 0
        return max(self._first + len(self._plan) - step, 0)

    def _measure(self, delay: int) -> None:
        if len(self._warmups) < self._config.warmup_chunks:
            self._warmups.append(delay)
        else:
            self._delays.append(delay)

    def _blended(self, plan: Array, start: int, step: int) -> Array:
        """The new plan joined to the old plan's action of the step before; as it is where that had run out and the arm held.

        What was held is meant for a step that is over, and a start from rest is for the embodiment and its guard to bound.
        """
        if self._plan is not None and step > self._arrived:
            row = step - 1 - self._first
            self._before = self._plan[row] if row < len(self._plan) else None
        pace, known = _pace(plan), self._pace
        self._pace = pace
        paces = [each for each in (pace, known) if each is not None]
        if self._before is None or not paces:
            return plan
        return _joined(plan, start, self._before, np.maximum.reduce(paces), self._blend_steps)

    def _prefix(self, step: int, delay: int) -> Array | None:
        """What is left of the plan, at most a chunk's rows and at least ``delay``; None where nothing is left."""
        if self._plan is None or not self._left(step):
            return None
        rest = self._plan[step - self._first :][: self._chunk_rows]
        held = np.zeros_like(rest[-1]) if self._holds_by_zero else rest[-1]
        return np.concatenate([rest, np.repeat(held[None], max(delay - len(rest), 0), axis=0)])


def _pace(plan: Array) -> Array | None:
    """Entry by entry the largest step inside a chunk; None where it has but one row."""
    return np.abs(np.diff(plan, axis=0)).max(axis=0) if len(plan) > 1 else None


def _joined(plan: Array, start: int, before: Array, pace: Array, most: int) -> Array:
    """``plan`` ``(n, action_dim)`` so that its row ``start`` can follow the action ``before``; ``pace`` is the step that passes.

    Entry by entry: where the step across the seam is no larger than ``pace``, the plan is left as it is. Else the step becomes
    ``allowed = max(pace, step / (most + 1))``, and what is missing then is taken down in equal parts no larger than that, over the
    next ``most`` steps at the longest.
    """
    step = plan[start] - before
    allowed = np.maximum(pace, np.abs(step) / (most + 1))
    missing = np.sign(step) * np.maximum(np.abs(step) - allowed, 0)
    parts = np.clip(np.ceil(np.abs(missing) / np.where(allowed > 0, allowed, 1)), 1, most)
    after = np.arange(len(plan) - start, dtype=np.float32)[:, None]
    joined = plan.copy()
    joined[start:] -= missing * np.clip(1 - after / parts, 0, None)
    return joined
