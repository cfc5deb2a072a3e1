"""Examiner of robots. Law: it moves a robot only within its stated range, and ends in hold; run it on hardware with care.

``check_robot(robot)`` raises ``AssertionError`` saying what the robot did wrong. It wants a robot that is not connected yet,
connects it, commands small steps around a safe start, and closes it.
"""

from __future__ import annotations

import numpy as np

from actlink.errors import ActlinkError
from actlink.robots._base import Robot
from actlink.spec import Spec
from actlink.types import Array, Observation

STEPS = 5


def check_robot(robot: Robot, *, start: Array | None = None, reach: float = 0.02) -> None:
    """Examine ``robot``.

    ``start`` ``(action_dim,)``: an action that is safe right after connecting; default: the middle of the range.
    ``reach``: how far the commanded steps go from ``start``, in the units of the action.
    """
    _has_a_spec(robot)
    _refuses_before_connect(robot)
    robot.connect()
    try:
        action = _start(robot.spec) if start is None else np.asarray(start, np.float32)
        _observes(robot)
        for step in range(STEPS):
            _acts(robot, action + reach * (-1) ** step)
        _stays_within_its_range(robot)
        _holds(robot)
        robot.stop()
        _observes(robot)
    finally:
        robot.close()
    robot.close()  # a second time: closing must always be safe
    _refuses_before_connect(robot, "after close")


def _has_a_spec(robot: Robot) -> None:
    spec = getattr(robot, "spec", None)
    assert isinstance(spec, Spec), f"robot.spec: expected a Spec before connect, got a {type(spec).__name__}"
    assert spec.observation, "robot.spec.observation: expected at least one value, got none"
    assert spec.action_dim, f"robot.spec.action: expected the number of its entries, got {spec.action_dim}"
    assert spec.action.range is not None, "robot.spec.action.range: expected the limits of an action, got none"
    assert spec.rate_hz, "robot.spec.rate_hz: expected the rate that the robot wants, got none"


def _refuses_before_connect(robot: Robot, when: str = "before connect") -> None:
    try:
        robot.observe()
    except ActlinkError:
        return
    raise AssertionError(f"observe {when}: expected a SimulationError or LinkError, got an observation")


def _start(spec: Spec) -> Array:
    assert spec.action.range is not None
    return np.full(spec.action.shape[0] or 1, sum(spec.action.range) / 2, np.float32)


def _observes(robot: Robot) -> Observation:
    observation = robot.observe()
    missing = [key for key, field in robot.spec.observation.items() if field.required and key not in observation]
    assert not missing, f"observe: expected the spec's keys, missing: {', '.join(missing)}"
    try:
        robot.spec.check(observation, "observe")
    except ActlinkError as error:
        raise AssertionError(f"the observation does not fit the robot's own spec: {error}") from error
    kept = {key: np.array(value) for key, value in observation.items()}
    robot.observe()
    same = all(np.array_equal(kept[key], np.asarray(observation[key])) for key in kept)
    assert same, "observe wrote into the observation returned before: each needs its own arrays"
    return observation


def _acts(robot: Robot, action: Array) -> Array:
    given = action.copy()
    sent = robot.act(action)
    assert np.array_equal(action, given), "act changed the action it was given"
    assert isinstance(sent, np.ndarray), f"act: expected the action that was really sent, got a {type(sent).__name__}"
    assert sent.shape == action.shape, f"act: expected what was sent with shape {action.shape}, got {sent.shape}"
    assert np.isfinite(sent).all(), f"act: expected finite values to be sent, got {sent}"
    return sent


def _stays_within_its_range(robot: Robot) -> None:
    """What is out of range is clamped, and said so, or refused; either way the arm does not go there."""
    assert robot.spec.action.range is not None
    low, high = robot.spec.action.range
    beyond = np.full(robot.spec.action.shape[0] or 1, high + (high - low), np.float32)
    try:
        sent = robot.act(beyond)
    except ActlinkError:
        return
    assert (sent <= high + 1e-6).all(), f"act beyond the range: expected at most {high:g} to be sent, got {sent}"


def _holds(robot: Robot) -> None:
    robot.hold()
    held = _numbers(robot.spec, robot.observe())
    for _ in range(STEPS):
        now = _numbers(robot.spec, robot.observe())
        moved = max((float(np.abs(now[key] - held[key]).max()) for key in held), default=0.0)
        assert moved <= 0.05 * _span(robot.spec), f"after hold: expected the pose to stay, it moved by {moved:g}"


def _numbers(spec: Spec, observation: Observation) -> dict[str, Array]:
    return {
        key: np.asarray(observation[key]) for key, field in spec.observation.items() if field.dtype == "float32" and field.names
    }


def _span(spec: Spec) -> float:
    assert spec.action.range is not None
    return float(spec.action.range[1] - spec.action.range[0])
