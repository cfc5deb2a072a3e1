"""Asynchronous: a queue topped up before it runs dry, overlaps aggregated. Law: an action runs at its own step or never.

The queue of LeRobot's asynchronous inference (Cadene et al., ``lerobot.async_inference.robot_client``, release 0.6.1), keyed by
control step instead of by order. As there: a new chunk is asked for once the actions left are no more than ``chunk_size_threshold``
of a chunk; a chunk that arrives *becomes* the queue, its rows for steps that have passed are thrown away, and a row for a step that
the queue had already becomes ``aggregate(old, new)``. What differs, on purpose:

- One chunk is awaited at a time; there every tick below the threshold sends an observation, and the server drops most of them.
- A chunk that is no newer than the one before it (repeated, overtaken) is ignored; there it is aggregated like news.
- A chunk of which every step has passed is ignored; there it empties a queue that was still good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from actlink import loading
from actlink.errors import ConfigError
from actlink.execution import _base
from actlink.execution._base import Replan
from actlink.spec import Spec
from actlink.types import ActionChunk, Array

Aggregate = Callable[[Array, Array], Array]
"""From the queue's action and the new one for the same step, ``(action_dim,)`` float32 each, to the one that runs."""

AGGREGATE_FUNCTIONS: dict[str, Aggregate] = {
    "weighted_average": lambda old, new: 0.3 * old + 0.7 * new,
    "latest_only": lambda old, new: new,
    "average": lambda old, new: 0.5 * old + 0.5 * new,
    "conservative": lambda old, new: 0.7 * old + 0.3 * new,
}
"""The four by name, with LeRobot's weights. They are elementwise, so they take whole overlaps ``(n, action_dim)`` as well."""


@dataclass(frozen=True)
class Config:
    """Options of the ``asynchronous`` strategy."""

    actions_per_chunk: int = 50
    """Actions used of each chunk; usual are 10 to 100. A policy may give fewer."""
    chunk_size_threshold: float = 0.5
    """A new chunk is asked for when this share of a chunk, or less, is left: 0 (when it is empty) to 1 (always)."""
    aggregate_fn_name: str = "weighted_average"
    """For steps in both queue and chunk: weighted_average, latest_only, average, conservative, or module:function(old, new)."""

    def __post_init__(self) -> None:
        if self.actions_per_chunk < 1:
            raise ConfigError(f"actions_per_chunk: expected at least 1, got {self.actions_per_chunk}")
        if not 0 <= self.chunk_size_threshold <= 1:
            raise ConfigError(f"chunk_size_threshold: expected 0 to 1, got {self.chunk_size_threshold}")
        if self.aggregate_fn_name not in AGGREGATE_FUNCTIONS and not loading.is_reference(self.aggregate_fn_name):
            known = ", ".join(AGGREGATE_FUNCTIONS)
            raise ConfigError(f"aggregate_fn_name: expected {known} or module:function, got {self.aggregate_fn_name!r}")


@final
class Strategy(_base.Strategy):
    """The queue; see the module. No prefix is sent: the queue's past is in the aggregation."""

    def __init__(self, config: Config, spec: Spec) -> None:
        if spec.action.dtype != "float32" and config.aggregate_fn_name != "latest_only":
            raise ConfigError(
                f"the {config.aggregate_fn_name} function mixes actions, and those of {spec.name or 'this policy'} are discrete "
                f"({spec.action.dtype}); use aggregate_fn_name latest_only"
            )
        self._config = config
        self._aggregate = aggregate_function(config.aggregate_fn_name)
        self.reset()

    def reset(self) -> None:
        self._queue: Array | None = None  # row i is the action for control step first + i
        self._first = 0
        self._newest = -1  # control step of the observation behind the queue
        self._chunk_size = 1  # the longest chunk so far
        self._awaited: int | None = None

    def replan(self, step: int) -> Replan | None:
        left = self._left(step)
        if self._awaited is not None or left / self._chunk_size > self._config.chunk_size_threshold:
            return None
        self._awaited = step
        return Replan(step, must_go=left == 0)

    def add(self, chunk: ActionChunk, step: int) -> None:
        if self._awaited is not None and chunk.step >= self._awaited:
            self._awaited = None
        rows = chunk.actions[: self._config.actions_per_chunk]
        if chunk.step <= self._newest or chunk.step + len(rows) <= step:
            return
        self._chunk_size = max(self._chunk_size, len(rows))
        passed = max(step - chunk.step, 0)
        queue = np.array(rows[passed:])  # ours: the policy may write its next chunk into the same buffer
        start = chunk.step + passed
        left = self._left(start)
        if self._queue is not None and left:
            both = min(left, len(queue))
            old = self._queue[start - self._first : start - self._first + both]
            queue[:both] = self._aggregate(old, queue[:both])
        self._queue, self._first, self._newest = queue, start, chunk.step

    def lost(self, step: int) -> None:
        self._awaited = None

    def action(self, step: int) -> Array | None:
        return np.array(self._queue[step - self._first]) if self._queue is not None and self._left(step) else None

    def observed(self, step: int) -> int | None:
        return self._newest if self._left(step) else None

    def _left(self, step: int) -> int:
        """Actions in the queue from ``step`` on; none before the queue begins."""
        if self._queue is None or step < self._first:
            return 0
        return max(self._first + len(self._queue) - step, 0)


def aggregate_function(name: str) -> Aggregate:
    """One of the four, or the callable ``module:function``, which is given one action at a time and held to what it returns.

    ``ConfigError`` if there is none of that name.
    """
    if name in AGGREGATE_FUNCTIONS:
        return AGGREGATE_FUNCTIONS[name]
    given = loading.resolve(name)
    if not callable(given):
        raise ConfigError(f"aggregate_fn_name {name!r}: expected a function of (old, new), got {type(given).__name__}")

    def each(old: Array, new: Array) -> Array:
        return np.stack([_checked(given(a.copy(), b.copy()), b, name) for a, b in zip(old, new, strict=True)])

    return each


def _checked(value: object, like: Array, name: str) -> Array:
    try:
        action = np.asarray(value, like.dtype)
    except (TypeError, ValueError):
        raise ConfigError(f"aggregate_fn_name {name!r}: expected {like.dtype} {like.shape}, got {type(value).__name__}") from None
    if action.shape != like.shape or not np.isfinite(action).all():
        raise ConfigError(f"aggregate_fn_name {name!r}: expected finite {like.dtype} {like.shape}, got {action!r}")
    return action
