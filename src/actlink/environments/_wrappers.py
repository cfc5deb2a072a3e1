"""An environment around an environment. Law: it changes one thing and leaves everything else to what it wraps."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np

from actlink.environments._base import Environment
from actlink.errors import ConfigError, SimulationError
from actlink.spec import Field, Spec
from actlink.transform import Transform
from actlink.types import Array, Observation, Step


@final
class Transformed(Environment):
    """An environment that offers what a policy wants, and takes the policy's actions.

    ``wanted`` is the policy's spec; it is needed where the transform chooses among the policy's actions.
    """

    def __init__(self, inner: Environment, transform: Transform, wanted: Spec | None = None) -> None:
        if (transform.action is not None or transform.units) and wanted is None:
            raise ConfigError("transform actions: the policy's actions are not known here; put the transform on the policy")
        offered = inner.spec
        changed = transform.action is not None or bool(transform.units)
        action = wanted.action if wanted is not None and changed else offered.action
        if changed and transform.actions(action).shape != offered.action.shape:
            raise ConfigError(
                f"transform actions: the environment takes {offered.action_dim} entries, the transform gives "
                f"{transform.actions(action).shape[0]}"
            )
        self._rate = transform.rate
        if self._rate is not None and offered.rate_hz and abs(self._rate.giver_hz - offered.rate_hz) > 0.01 * offered.rate_hz:
            raise ConfigError(
                f"transform rate: the environment's control rate is {offered.rate_hz:g} Hz, the transform says "
                f"{self._rate.giver_hz:g}"
            )
        self._steps = 0
        self._last: Step | None = None
        self._inner = inner
        self.on_request = inner.on_request
        self._bound = transform.bind(offered.observation, action)
        self.limits = self._limits(*inner.limits, action) if changed and inner.limits is not None else inner.limits
        self.spec = replace(
            offered,
            observation=transform.fields(offered.observation),
            action=action,
            rate_hz=offered.rate_hz if self._rate is None else self._rate.policy_hz,
        )

    def _limits(self, lower: Array, upper: Array, action: Field) -> tuple[Array, Array]:
        """The inner environment's in the policy's entries and units; an entry that it does not take has none."""
        free = np.full(action.shape[0] or 0, np.inf, np.float32)
        return self._bound.restore(lower, -free), self._bound.restore(upper, free)

    def tasks(self) -> tuple[str, ...]:
        return self._inner.tasks()

    def reset(self, task: str, seed: int) -> Observation:
        found = self._bound.observation(self._inner.reset(task, seed))
        self._steps, self._last = 0, Step(found, 0.0, None, False, False)
        return found

    def step(self, action: Array) -> Step:
        """With a rate: the inner control steps that fall into this one, all with ``action``; where none does, nothing moves."""
        count = 1 if self._rate is None else self._rate.inner_steps(self._steps)
        self._steps += 1
        if not count:
            if self._last is None:
                raise SimulationError("step called before reset")
            return replace(self._last, reward=0.0)
        inner_action, reward = self._bound.actions(action), 0.0
        for _ in range(count):
            step = self._inner.step(inner_action)
            reward += step.reward
            if step.terminated or step.truncated:
                break
        self._last = replace(step, observation=self._bound.observation(step.observation), reward=reward)
        return self._last

    def hold_action(self, last: Array | None) -> Array:
        """The inner environment's, in the policy's order; entries it does not take keep their last value, or 0."""
        inner_last = None if last is None else self._bound.actions(last)
        return self._bound.restore(self._inner.hold_action(inner_last), last)

    def render(self) -> Array:
        return self._inner.render()

    def close(self) -> None:
        self._inner.close()
