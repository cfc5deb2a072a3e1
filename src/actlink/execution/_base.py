"""The contract of an execution strategy.

A strategy decides, for one episode, when to ask for a chunk and which action runs at which control step. It is pure: the step is
an argument, and an action meant for another step can never run. A strategy file defines ``Config`` (frozen dataclass) and a final
subclass named ``Strategy``, made as ``Strategy(config, spec)``.

Between two calls of ``reset`` steps never go back. Chunks may be lost, late, repeated or out of order: a strategy takes a chunk for
what its step says, and the caller has thrown away those of another episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from actlink.types import ActionChunk, Array


@dataclass(frozen=True, slots=True, eq=False)
class Replan:
    """Ask the policy now, with the observation of control step ``step``."""

    step: int
    prefix: Array | None = None
    """Planned actions ``(n, action_dim)`` from ``step`` on, for policies that accept them."""
    inference_delay: int = 0
    """Control steps that will pass before the chunk arrives, as far as known: that many rows of ``prefix`` will have run."""
    must_go: bool = False
    """There is no action left to run: the embodiment holds until the answer comes."""


class Strategy(ABC):
    """Which action runs at which control step of one episode."""

    honest: ClassVar[bool] = True
    """False: this strategy plays actions at steps they were not meant for. For comparison in evaluations; a robot refuses it."""

    @abstractmethod
    def replan(self, step: int) -> Replan | None:
        """Whether to ask for a chunk at ``step``; None while one is awaited or not needed yet."""

    @abstractmethod
    def add(self, chunk: ActionChunk, step: int) -> None:
        """A chunk has arrived at ``step``; its row 0 is the action for ``chunk.step <= step``."""

    def lost(self, step: int) -> None:  # noqa: B027 - a strategy that awaits nothing has nothing to do
        """The chunk asked for at ``step`` will not come: ``replan`` may ask again."""

    @abstractmethod
    def action(self, step: int) -> Array | None:
        """The action ``(action_dim,)`` for exactly ``step``; None when there is none: the embodiment then holds."""

    @abstractmethod
    def observed(self, step: int) -> int | None:
        """Control step of the newest observation on which ``action(step)`` rests; None where that is None."""

    def stopped(self) -> None:
        """The embodiment has been stopped: what is planned will not run, and a new chunk is not to be mixed with it."""
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget everything: a new episode begins at step 0."""
