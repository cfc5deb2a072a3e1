"""An environment around an environment. Law: it changes one thing and leaves everything else to what it wraps."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from actlink.environments._base import Environment
from actlink.errors import ConfigError
from actlink.spec import Spec
from actlink.transform import Transform
from actlink.types import Array, Observation, Step


@final
class Transformed(Environment):
    """An environment that offers what a policy wants, and takes the policy's actions.

    ``wanted`` is the policy's spec; it is needed where the transform chooses among the policy's actions.
    """

    def __init__(self, inner: Environment, transform: Transform, wanted: Spec | None = None) -> None:
        if transform.action is not None and wanted is None:
            raise ConfigError("transform actions: the policy's actions are not known here; put the transform on the policy")
        offered = inner.spec
        action = offered.action if wanted is None or transform.action is None else wanted.action
        if transform.action is not None and transform.actions(action).shape != offered.action.shape:
            raise ConfigError(
                f"transform actions: the environment takes {offered.action_dim} entries, the transform gives "
                f"{len(transform.action.entries)}"
            )
        self._inner = inner
        self._bound = transform.bind(offered.observation, action)
        self.spec = replace(offered, observation=transform.fields(offered.observation), action=action)

    def tasks(self) -> tuple[str, ...]:
        return self._inner.tasks()

    def reset(self, task: str, seed: int) -> Observation:
        return self._bound.observation(self._inner.reset(task, seed))

    def step(self, action: Array) -> Step:
        step = self._inner.step(self._bound.actions(action))
        return replace(step, observation=self._bound.observation(step.observation))

    def hold_action(self, last: Array | None) -> Array:
        """The inner environment's, in the policy's order; entries it does not take keep their last value, or 0."""
        inner_last = None if last is None else self._bound.actions(last)
        return self._bound.restore(self._inner.hold_action(inner_last), last)

    def render(self) -> Array:
        return self._inner.render()

    def close(self) -> None:
        self._inner.close()
