"""The conveyor: its rules, one by one, and what standing still costs."""

from __future__ import annotations

import numpy as np
import pytest

from actlink.environments import conveyor
from actlink.environments._open import open_environment
from actlink.environments.conveyor import Config, Environment
from actlink.errors import ConfigError, SimulationError
from actlink.testing.environments import check_environment
from actlink.types import Array, Step

X, Z, OPENING, OBJECT_X, OBJECT_Z, BELT, BIN, HELD = 0, 1, 4, 5, 6, 7, 8, 9
OPEN, CLOSED = 1.0, 0.0


def begun(seed: int = 0, **options: object) -> Environment:
    env = Environment(Config(**options))
    env.reset("", seed)
    return env


def go(env: Environment, steps: int, *, above: float = 0.0, z: float = 0.2, grip: float = OPEN) -> Step:
    """Ride along with the object, ``above`` metres beside its middle; the last step."""
    for _ in range(steps):
        state = env._observe()["state"]
        lead = conveyor.DAMPING / conveyor.STIFFNESS * state[BELT]  # what the spring lags behind a moving target
        step = env.step(np.array([state[OBJECT_X] + state[BELT] * conveyor.DT_S + lead + above, z, grip]))
        if step.terminated:
            break
    return step


def state_of(step: Step) -> Array:
    return np.asarray(step.observation["state"])


def test_it_is_an_environment() -> None:
    check_environment(Environment())


def test_it_is_found_by_name() -> None:
    env, task = open_environment("conveyor")
    assert task == "intercept" and env.spec.name == "conveyor_intercept" and env.spec.rate_hz == 50.0
    with pytest.raises(ConfigError, match="no task 'juggle'"):
        open_environment("conveyor:juggle")


def test_beyond_its_limits_a_target_changes_nothing() -> None:
    env = begun()
    assert env.limits is not None
    low, high = env.limits
    random = np.random.default_rng(5)
    far = random.normal(0.0, 2.0, (30, 3))
    assert ((far < low) | (far > high)).sum() > 30
    ended = []
    for targets in (far, np.clip(far, low, high)):
        env.reset("", 0)
        ended.append([state_of(env.step(target)) for target in targets][-1])
    np.testing.assert_allclose(ended[0], ended[1], atol=1e-6)


def test_a_seed_decides_belt_object_bin_and_start() -> None:
    env = Environment()
    first, again, other = (np.asarray(env.reset("", seed)["state"]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first[[X, Z, OBJECT_X, BELT, BIN]] != other[[X, Z, OBJECT_X, BELT, BIN]]).all()


def test_the_belt_carries_the_object_off_at_its_own_speed() -> None:
    env = begun()
    before = np.asarray(env._observe()["state"])
    for _ in range(10):
        step = env.step(env.hold_action(None))
    assert state_of(step)[OBJECT_X] - before[OBJECT_X] == pytest.approx(0.2 * before[BELT], abs=1e-6)
    while not step.terminated:
        step = env.step(env.hold_action(None))
    assert step.success is False and state_of(step)[OBJECT_X] > conveyor.BELT_END_M and step.metrics["toppled"] == 0


def gripped(env: Environment) -> Step:
    go(env, 80)
    go(env, 40, z=0.012)
    return go(env, 12, z=0.012, grip=CLOSED)


def test_object_gripped_in_passing_goes_with_the_hand_into_the_bin() -> None:
    env = begun(belt_speed=(0.12, 0.12))
    step = gripped(env)
    assert state_of(step)[HELD] == 1 and step.metrics["gripped"] == 1 and not step.terminated
    for _ in range(200):
        step = env.step(np.array([state_of(step)[BIN], 0.24, CLOSED]))
    assert state_of(step)[OBJECT_X] == pytest.approx(state_of(step)[BIN], abs=0.013) and state_of(step)[OBJECT_Z] > 0.2
    while not (step.terminated or step.truncated):
        step = env.step(np.array([state_of(step)[BIN], 0.24, OPEN]))
    assert step.success and step.reward == 1.0


def test_object_dropped_beside_the_bin_is_lost() -> None:
    env = begun(belt_speed=(0.12, 0.12))
    step = gripped(env)
    for _ in range(40):
        step = env.step(np.array([state_of(step)[X], 0.24, CLOSED]))
    while not step.terminated:
        step = env.step(np.array([state_of(step)[X], 0.24, OPEN]))
    assert step.success is False and step.metrics == {"gripped": 1.0, "toppled": 0.0}


@pytest.mark.parametrize("fault", ["stands still", "beside the middle", "too high", "comes down on it"])
def test_touching_it_wrongly_topples_it(fault: str) -> None:
    env = begun(belt_speed=(0.15, 0.15))
    go(env, 80)
    if fault == "stands still":
        step = go(env, 30, z=0.012)
        last = None
        while not step.terminated:
            step, last = env.step(env.hold_action(last)), env.hold_action(last)
    elif fault == "beside the middle":
        step = go(env, 60, above=0.017, z=0.012)
        assert not step.terminated
        step = go(env, 12, above=0.017, z=0.012, grip=CLOSED)
    elif fault == "too high":
        go(env, 50, z=0.04)
        step = go(env, 12, z=0.04, grip=CLOSED)
    else:
        go(env, 40, above=0.04)
        step = go(env, 60, above=0.04, z=0.012)
    assert step.terminated and step.success is False and step.metrics["toppled"] == 1 and step.metrics["gripped"] == 0


def test_gripper_has_momentum_and_bounds() -> None:
    env = begun()
    states = [state_of(env.step(np.array([9.0, 9.0, 0.5]))) for _ in range(60)]
    speeds = np.array([state[2] for state in states])
    assert speeds.max() <= conveyor.MOST_SPEED and np.diff(speeds).max() <= conveyor.MOST_ACCELERATION * conveyor.DT_S + 1e-6
    assert states[-1][Z] < 0.45 and states[-1][OPENING] == pytest.approx(0.5)
    held = env.hold_action(np.array([0.1, 0.1, 0.25], np.float32))
    after = [state_of(env.step(env.hold_action(held))) for _ in range(60)]
    assert after[0][X] > states[-1][X] and abs(after[-1][2]) < 0.05, "it takes a while to stand, and then stands"
    assert held[2] == 0.25 and env.hold_action(None)[2] == OPEN


def test_it_ends_after_max_steps() -> None:
    env = begun(max_steps=2)
    assert not env.step(env.hold_action(None)).truncated and env.step(env.hold_action(None)).truncated


@pytest.mark.parametrize("action", [np.zeros(2), np.array([0.0, np.nan, 0.0]), np.zeros((1, 3))])
def test_a_bad_action_is_refused(action: Array) -> None:
    with pytest.raises(SimulationError, match="conveyor: action: expected"):
        begun().step(action)


def test_step_comes_after_reset() -> None:
    with pytest.raises(SimulationError, match="before reset"):
        Environment().step(np.zeros(3))


@pytest.mark.parametrize(
    "options",
    [{"max_steps": 0}, {"belt_speed": (0.3, 0.1)}, {"belt_speed": (0.1, 3.0)}, {"off_middle_m": 0.0}, {"off_speed": -1.0}],
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Config(**options)


def test_the_picture_shows_object_and_gripper_where_they_are() -> None:
    env = begun()
    before = env.render()
    for _ in range(25):
        env.step(np.array([1.0, 0.3, CLOSED]))
    after = env.render()
    assert before.shape == (240, 480, 3) and before.dtype == np.uint8

    def middle(picture: Array, colour: tuple[int, int, int]) -> float:
        return float(np.nonzero((picture == colour).all(axis=2))[1].mean())

    scale = 480 / 1.4
    state = np.asarray(env._observe()["state"])
    assert middle(after, (224, 122, 60)) == pytest.approx((state[OBJECT_X] + 0.1) * scale, abs=1.5)
    assert middle(after, (40, 44, 52)) == pytest.approx((state[X] + 0.1) * scale, abs=1.5)
    assert middle(before, (40, 44, 52)) < middle(after, (40, 44, 52))
