"""The conveyor with its state told in two parts, as LeRobot's policies without cameras want it: the robot's, the surroundings'.

``state`` is the gripper, ``environment_state`` the object, belt and bin: ``--env examples/training/conveyor_parts.py:Parts``. Both
come from one key, which no transform divides, so it is done here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actlink.environments import _base, conveyor
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Step

Config = conveyor.Config
GRIPPER = 5
"""Entries of the conveyor's state, from the first on, that are the robot's own."""


class Parts(_base.Environment):
    """The conveyor, observed in two parts."""

    def __init__(self, config: conveyor.Config | None = None, *, task: str = "", wanted: Spec | None = None) -> None:
        self._whole = conveyor.Environment(config, task=task)
        names = conveyor.STATE
        observation = {
            "state": Field((GRIPPER,), names=names[:GRIPPER]),
            "environment_state": Field((len(names) - GRIPPER,), names=names[GRIPPER:]),
        }
        # LeRobot's files do not tell the kind of control, which is then taken for joints; of a gantry those are x and z.
        self.spec = replace(self._whole.spec, observation=observation, control_space="joint")

    def tasks(self) -> tuple[str, ...]:
        return self._whole.tasks()

    def reset(self, task: str, seed: int) -> Observation:
        return _divided(self._whole.reset(task, seed))

    def step(self, action: Array) -> Step:
        step = self._whole.step(action)
        return replace(step, observation=_divided(step.observation))

    def hold_action(self, last: Array | None) -> Array:
        return self._whole.hold_action(last)

    def render(self) -> Array:
        return self._whole.render()


def _divided(observation: Observation) -> Observation:
    state = np.asarray(observation["state"])
    return {"state": state[:GRIPPER], "environment_state": state[GRIPPER:]}
