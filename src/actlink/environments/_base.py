"""The contract of an environment.

An environment file defines ``Config`` (frozen dataclass; its fields are the environment's options) and a final class
``Environment``, made as ``Environment(config, task=..., wanted=...)``: ``task`` is the task part of the environment's name
(``aloha_transfer_cube``, ``gymnasium:CartPole-v1``; empty = the default), ``wanted`` is the policy's spec or None, from which
it may learn which cameras to render.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Step


class Environment(ABC):
    """A world that waits: nothing moves between two calls of ``step``."""

    spec: Spec
    """What it offers (observation) and takes (action), and its control rate."""

    limits: tuple[Array, Array] | None = None
    """Smallest and largest value of every entry of the action, float32 ``(action_dim,)`` each; None: the action's range.

    What a robot's guard keeps to where the environment runs in real time (``robots/simulated``). Evaluations clip nothing by it:
    ``step`` takes what comes.
    """

    on_request: Mapping[str, Field] = MappingProxyType({})
    """What it would offer as well to a policy that asked for it, by that key: cameras that are rendered only for those who look."""

    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that ``reset`` accepts; the first is the default."""

    @abstractmethod
    def reset(self, task: str, seed: int) -> Observation:
        """Start an episode; the same task and seed give the same episode, bit for bit, in any process."""

    @abstractmethod
    def step(self, action: Array) -> Step:
        """Run one control step with ``action`` ``(action_dim,)``."""

    @abstractmethod
    def hold_action(self, last: Array | None) -> Array:
        """The action that keeps the embodiment where it is; ``last`` is the previous action, None at the start."""

    @abstractmethod
    def render(self) -> Array:
        """The scene now, uint8 ``(height, width, 3)`` RGB; ``SimulationError`` says what to install where it cannot be drawn."""

    def close(self) -> None:  # noqa: B027 - many environments have nothing to release
        """Release what the environment holds; it is not used afterwards."""
