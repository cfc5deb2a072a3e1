"""Every environment passes the shipped examiner; broken environments do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actlink import loading
from actlink.environments._base import Environment
from actlink.environments._open import open_environment
from actlink.environments._wrappers import Transformed
from actlink.errors import ConfigError, SimulationError
from actlink.spec import Field, Spec
from actlink.testing.environments import check_environment
from actlink.transform import parse
from actlink.types import Step

EXAMPLES: dict[str, tuple[str, ...]] = {
    "aloha": ("aloha_transfer_cube", "aloha_insertion"),
    "conveyor": ("conveyor",),
    "gymnasium": ("gymnasium:CartPole-v1", "gymnasium:Pendulum-v1", "gymnasium:FrozenLake-v1", "gymnasium:Blackjack-v1"),
}
"""File -> what is examined. A new environment needs a line here."""


@pytest.mark.parametrize("file", loading.names("environments"))
def test_every_environment_conforms(file: str) -> None:
    module = loading.load("environments", file)
    assert file in EXAMPLES, f"{file}: no example to examine; add one to EXAMPLES"
    if lacking := loading.missing(module):
        pytest.skip(f"{file} needs {', '.join(lacking)}: {loading.pip_line(module)}")
    for reference in EXAMPLES[file]:
        environment, task = open_environment(reference)
        check_environment(environment, task=task)
        environment.close()


class Sound(Environment):
    """A sound world to break one thing of: the state is moved by the actions, and by noise of the seed."""

    def __init__(self) -> None:
        self.spec = Spec({"state": Field((2,)), "prompt": Field((), "str")}, Field((2,), range=(-1, 1)))

    def tasks(self) -> tuple[str, ...]:
        return ("walk",)

    def reset(self, task: str, seed: int) -> Any:
        if task not in self.tasks():
            raise ConfigError(f"no task {task!r}")
        self.random = np.random.default_rng(seed)
        self.state = self.random.standard_normal(2).astype(np.float32)
        self.count = 0
        return self.seen()

    def step(self, action: Any) -> Any:
        self.state = self.state + action + self.random.standard_normal(2).astype(np.float32)
        self.count += 1
        return Step(self.seen(), float(self.state.sum()), self.count >= 5, False, self.count >= 10, {"count": self.count})

    def hold_action(self, last: Any) -> Any:
        return np.zeros(2, np.float32)

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8)

    def seen(self) -> Any:
        return {"state": self.state, "prompt": "walk"}


def test_a_sound_environment_and_its_wrapper_conform() -> None:
    check_environment(Sound())
    check_environment(Sound(), task="walk", steps=3)
    check_environment(Transformed(Sound(), parse("[{rename: {state: pose}}, {select: {pose: [1]}}]")))


def test_an_environment_that_cannot_draw_may_say_so() -> None:
    class Blind(Sound):
        def render(self) -> Any:
            raise SimulationError("pip install eyes")

    check_environment(Blind())


def test_the_task_must_be_one_of_its_own() -> None:
    with pytest.raises(AssertionError, match="tasks\\(\\): expected 'run' among them, got walk"):
        check_environment(Sound(), task="run")


class NoTasks(Sound):
    def tasks(self) -> Any:
        return ()


class ListOfTasks(Sound):
    def tasks(self) -> Any:
        return ["walk"]


class AnyTask(Sound):
    def reset(self, task: str, seed: int) -> Any:
        return super().reset("walk", seed)


class OwnRandomness(Sound):
    def reset(self, task: str, seed: int) -> Any:
        super().reset(task, seed)
        self.state = np.random.default_rng().standard_normal(2).astype(np.float32)
        return self.seen()


class SeededOnce(Sound):
    def reset(self, task: str, seed: int) -> Any:
        before = getattr(self, "random", None)
        observation = super().reset(task, seed)
        if before is not None:
            self.random = before
        return observation


class OwnReward(Sound):
    calls = 0

    def step(self, action: Any) -> Any:
        self.calls += 1
        return replace(super().step(action), reward=float(self.calls))


class LongerEveryTime(Sound):
    episodes = 0

    def reset(self, task: str, seed: int) -> Any:
        self.episodes += 1
        return super().reset(task, seed)

    def step(self, action: Any) -> Any:
        return replace(super().step(action), truncated=self.count > self.episodes)


class Doubles(Sound):
    def seen(self) -> Any:
        return {"state": self.state.astype(np.float64), "prompt": "walk"}


class Lists(Sound):
    def seen(self) -> Any:
        return {"state": self.state.tolist(), "prompt": "walk"}


class WrongShape(Sound):
    def seen(self) -> Any:
        return {"state": self.state[:1], "prompt": "walk"}


class MissingKey(Sound):
    def seen(self) -> Any:
        return {"state": self.state}


class UnknownKey(Sound):
    def seen(self) -> Any:
        return {**super().seen(), "secret": self.state}


class Pair(Sound):
    def reset(self, task: str, seed: int) -> Any:
        return super().reset(task, seed), {}


class Overwriting(Sound):
    def step(self, action: Any) -> Any:
        step = super().step(action)
        self.first = getattr(self, "first", self.state)
        self.first[...] = self.state
        self.state = self.first
        return replace(step, observation=self.seen())


class ChangesTheAction(Sound):
    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


class GymnasiumStep(Sound):
    def step(self, action: Any) -> Any:
        return self.seen(), 0.0, False, False, {}


class NumpyFlags(Sound):
    def step(self, action: Any) -> Any:
        return replace(super().step(action), terminated=np.False_)


class WholeReward(Sound):
    def step(self, action: Any) -> Any:
        return replace(super().step(action), reward=1)


class NanReward(Sound):
    def step(self, action: Any) -> Any:
        return replace(super().step(action), reward=float("nan"))


class FleetingSuccess(Sound):
    def step(self, action: Any) -> Any:
        step = super().step(action)
        return replace(step, success=self.count == 5)


class SuccessAsNumber(Sound):
    def step(self, action: Any) -> Any:
        return replace(super().step(action), success=1)


class WordsForMetrics(Sound):
    def step(self, action: Any) -> Any:
        return replace(super().step(action), metrics={"mood": "good"})


class HoldsInDoubles(Sound):
    def hold_action(self, last: Any) -> Any:
        return np.zeros(2)


class HoldsNothing(Sound):
    def hold_action(self, last: Any) -> Any:
        return np.zeros(2, np.float32) if last is None else None


class FloatPicture(Sound):
    def render(self) -> Any:
        return np.zeros((4, 4, 3))


class Chunky(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, action_horizon=2)


class Senseless(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = Spec({}, Field((2,)))


BROKEN: dict[type[Environment], str] = {
    NoTasks: "tasks(): expected a tuple of at least one name, got ()",
    ListOfTasks: "tasks(): expected a tuple of at least one name, got ['walk']",
    AnyTask: "reset with a task it does not have: expected a ConfigError",
    OwnRandomness: "reset: the same task, seed and actions gave another observation",
    SeededOnce: "step 0: the same task, seed and actions gave another observation",
    OwnReward: "step 0: the same task, seed and actions gave another outcome",
    LongerEveryTime: "the same task, seed and actions: ",
    Doubles: "reset: observation['state']: expected float32, got float64",
    Lists: "reset: observation['state']: expected float32, got list",
    WrongShape: "reset: observation does not fit the environment's own spec",
    MissingKey: "observation['prompt']: missing",
    UnknownKey: "reset: observation has secret, which the spec does not name",
    Pair: "reset: expected an observation (a mapping), got a tuple",
    Overwriting: "wrote into the observation returned before",
    ChangesTheAction: "step 0 changed the action it was given",
    GymnasiumStep: "step 0: expected a Step, got a tuple",
    NumpyFlags: "step 0: terminated: expected a bool, got a bool",
    WholeReward: "step 0: reward: expected a finite float, got 1",
    NanReward: "step 0: reward: expected a finite float, got nan",
    FleetingSuccess: "step 5: success went back",
    SuccessAsNumber: "step 0: success: expected a bool or None, got 1",
    WordsForMetrics: "step 0: metrics['mood']: expected a finite number, got 'good'",
    HoldsInDoubles: "hold_action(None): expected float32, got float64",
    HoldsNothing: "hold_action(last): expected an action of the environment's spec",
    FloatPicture: "render: expected uint8 (height, width, 3), got float64 (4, 4, 3)",
    Chunky: "environment.spec.action_horizon: expected 1, got 2",
    Senseless: "environment.spec.observation: expected at least one value",
}


@pytest.mark.parametrize(("broken", "message"), BROKEN.items(), ids=[each.__name__ for each in BROKEN])
def test_a_broken_environment_is_rejected_for_what_it_does(broken: Callable[[], Environment], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_environment(broken())


def test_something_without_a_spec_is_rejected() -> None:
    class Bare(Sound):
        def __init__(self) -> None:
            pass

    with pytest.raises(AssertionError, match=r"environment\.spec: expected a Spec, got a NoneType"):
        check_environment(Bare())
