"""One action per observation, for wires that want that. Law: the same strategies as on the client, one for each lane.

A ``Stepper`` belongs to one lane of a session and one episode at a time. It says whether an observation needs the policy at all,
and turns the chunk that comes back, or the one that is still running, into the action of this very step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actlink import loading, options
from actlink.dialects._base import Execution, Lane
from actlink.errors import ActlinkError, PolicyError
from actlink.execution._base import Strategy
from actlink.policies._base import Result
from actlink.spec import Spec
from actlink.types import ActionChunk


class Stepper:
    """Executes the chunks of one lane."""

    def __init__(self, execution: Execution, spec: Spec) -> None:
        """``ConfigError`` if there is no such strategy, or it has no such option, or cannot execute this policy's actions."""
        module = loading.load("execution", execution.strategy)
        config = options.build(module.Config, execution.options, f"strategy {execution.strategy!r}")
        self._strategy: Strategy = module.Strategy(config, spec)

    def reset(self) -> None:
        self._strategy.reset()

    def question(self, lane: Lane, step: int) -> Lane | None:
        """What to ask the policy at ``step``; None where the running chunk has the action."""
        replan = self._strategy.replan(step)
        if replan is None:
            return None
        return replace(lane, step=step, prefix=replan.prefix, inference_delay=replan.inference_delay)

    def answer(self, result: Result | None, step: int) -> Result:
        """The one-row chunk for ``step``; ``result`` is what the policy said, None where it was not asked."""
        if isinstance(result, ActlinkError):
            self._strategy.lost(step)
            return result
        if result is not None:
            self._strategy.add(result, step)
        action = self._strategy.action(step)
        if action is None:
            return PolicyError(f"no action for control step {step}: the chunk has ended before it")
        return ActionChunk(np.asarray(action)[None], step, timing={} if result is None else result.timing)
