"""Examiner of environments. Law: it sees an environment as a rollout does, and judges only what the contract says.

``check_environment(environment)`` raises ``AssertionError`` saying what the environment did wrong. Actions are drawn from a fixed
seed, within the action's range, or around the hold action where it has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from actlink.environments._base import Environment
from actlink.errors import ActlinkError, SimulationError, SpecError
from actlink.spec import Spec
from actlink.types import Array, Observation, Step

SEED = 3


def check_environment(environment: Environment, *, task: str = "", steps: int = 20, spread: float = 0.05) -> None:
    """Examine ``environment`` on ``task`` (default: its first) over episodes of at most ``steps`` steps.

    ``spread``: how far actions without a range are drawn from the hold action.
    """
    task = _names_its_tasks(environment, task)
    _has_a_spec(environment)
    _refuses_an_unknown_task(environment)
    _holds(environment, task)
    first = _episode(environment, task, steps, spread)
    again = _episode(environment, task, steps, spread)
    _are_the_same(first, again)
    _draws_or_says_why_not(environment)


def _names_its_tasks(environment: Environment, task: str) -> str:
    tasks = environment.tasks()
    named = isinstance(tasks, tuple) and tasks and all(isinstance(name, str) and name for name in tasks)
    assert named, f"tasks(): expected a tuple of at least one name, got {tasks!r}"
    assert not task or task in tasks, f"tasks(): expected {task!r} among them, got {', '.join(tasks)}"
    return task or tasks[0]


def _has_a_spec(environment: Environment) -> None:
    spec = getattr(environment, "spec", None)
    assert isinstance(spec, Spec), f"environment.spec: expected a Spec, got a {type(spec).__name__}"
    assert spec.observation, "environment.spec.observation: expected at least one value, got none"
    assert spec.action_dim, f"environment.spec.action: expected the number of its entries, got {spec.action_dim}"
    assert spec.action_horizon == 1, f"environment.spec.action_horizon: expected 1, got {spec.action_horizon}"


def _refuses_an_unknown_task(environment: Environment) -> None:
    try:
        environment.reset("a task that nobody has", 0)
    except ActlinkError:
        return
    raise AssertionError("reset with a task it does not have: expected a ConfigError, got an observation")


def _episode(environment: Environment, task: str, steps: int, spread: float) -> list[tuple[Observation, Step | None]]:
    """Observations and steps of one episode, each examined and copied when it came."""
    random = np.random.default_rng(0)
    observation = environment.reset(task, SEED)
    _fits(observation, environment.spec, "reset")
    record: list[tuple[Observation, Step | None]] = [(_copied(observation), None)]
    held, last, solved = observation, None, False
    for index in range(steps):
        action = _action(environment, last, random, spread)
        before = action.copy()
        step = environment.step(action)
        assert np.array_equal(action, before), f"step {index} changed the action it was given"
        _is_a_step(step, index, solved)
        _fits(step.observation, environment.spec, f"step {index}")
        same = _equal(held, record[-1][0])
        assert same, f"step {index} wrote into the observation returned before: each observation needs its own arrays"
        record.append((_copied(step.observation), step))
        held, last, solved = step.observation, action, bool(step.success)
        if step.terminated or step.truncated:
            break
    return record


def _fits(observation: Observation, spec: Spec, where: str) -> None:
    """Exactly what the spec says: here nothing is cast."""
    assert isinstance(observation, Mapping), f"{where}: expected an observation (a mapping), got a {type(observation).__name__}"
    unknown = sorted(spec.unknown(observation))
    assert not unknown, f"{where}: observation has {', '.join(unknown)}, which the spec does not name"
    try:
        checked = spec.check(observation)
    except SpecError as error:
        raise AssertionError(f"{where}: observation does not fit the environment's own spec: {error}") from error
    for key in checked:
        expected, value = spec.observation[key].dtype, observation[key]
        got = "str" if isinstance(value, str) else str(getattr(value, "dtype", type(value).__name__))
        assert got == expected, f"{where}: observation[{key!r}]: expected {expected}, got {got}"


def _action(environment: Environment, last: Array | None, random: np.random.Generator, spread: float) -> Array:
    field, hold = environment.spec.action, environment.hold_action(last)
    if field.range is not None:
        low, high = field.range
        drawn: Array = random.uniform(low, high, hold.shape)
    else:
        drawn = hold + spread * random.standard_normal(hold.shape)
    return (np.round(drawn) if field.dtype == "int64" else drawn).astype(field.dtype)


def _is_a_step(step: Step, index: int, solved: bool) -> None:
    where = f"step {index}"
    assert isinstance(step, Step), f"{where}: expected a Step, got a {type(step).__name__}"
    number = isinstance(step.reward, float) and math.isfinite(step.reward)
    assert number, f"{where}: reward: expected a finite float, got {step.reward!r}"
    for name in ("terminated", "truncated"):
        value = getattr(step, name)
        assert isinstance(value, bool), f"{where}: {name}: expected a bool, got a {type(value).__name__}"
    assert step.success is None or isinstance(step.success, bool), (
        f"{where}: success: expected a bool or None, got {step.success!r}"
    )
    assert step.success or not solved, f"{where}: success went back: expected True from the step at which the task was solved"
    for name, metric in step.metrics.items():
        fits = isinstance(name, str) and isinstance(metric, int | float) and math.isfinite(metric)
        assert fits, f"{where}: metrics[{name!r}]: expected a finite number, got {metric!r}"


def _are_the_same(first: list[tuple[Observation, Step | None]], again: list[tuple[Observation, Step | None]]) -> None:
    assert len(first) == len(again), f"the same task, seed and actions: {len(first) - 1} steps at first, then {len(again) - 1}"
    for index, ((one, step), (other, repeated)) in enumerate(zip(first, again, strict=True)):
        where = "reset" if step is None else f"step {index - 1}"
        assert _equal(one, other), f"{where}: the same task, seed and actions gave another observation"
        assert _outcome(step) == _outcome(repeated), f"{where}: the same task, seed and actions gave another outcome"


def _outcome(step: Step | None) -> Any:
    return step and (step.reward, step.success, step.terminated, step.truncated, dict(step.metrics))


def _holds(environment: Environment, task: str) -> None:
    environment.reset(task, SEED)
    at_start = _held(environment, None, "hold_action(None)")
    environment.step(at_start.copy())
    _held(environment, at_start, "hold_action(last)")


def _held(environment: Environment, last: Array | None, where: str) -> Array:
    action = environment.hold_action(last)
    try:
        environment.spec.check_actions(action[None], where)
    except (SpecError, TypeError, IndexError) as error:
        raise AssertionError(f"{where}: expected an action of the environment's spec: {error}") from error
    expected = environment.spec.action.dtype
    assert action.dtype == expected, f"{where}: expected {expected}, got {action.dtype}"
    return action


def _draws_or_says_why_not(environment: Environment) -> None:
    try:
        picture = environment.render()
    except SimulationError as error:
        assert str(error), "render: a SimulationError should say what to install"
        return
    fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    got = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else f"a {type(picture).__name__}"
    assert fits, f"render: expected uint8 (height, width, 3), got {got}"


def _equal(one: Observation, other: Observation) -> bool:
    return set(one) == set(other) and all(np.array_equal(np.asarray(one[key]), np.asarray(other[key])) for key in one)


def _copied(observation: Observation) -> Observation:
    return {key: value if isinstance(value, str) else np.array(value) for key, value in observation.items()}
