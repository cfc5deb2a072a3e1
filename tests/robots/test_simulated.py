from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actlink.clock import ManualClock
from actlink.errors import ConfigError, SimulationError
from actlink.robots._open import open_robot
from actlink.robots.simulated import Config, Robot
from actlink.spec import Field, Spec
from actlink.testing.robots import check_robot

REACH = f"{Path(__file__).parent.parent / 'evaluation' / 'toy_reach.py'}:Reach"
"""A point on a line: the action is its speed, at most 0.1 a step; 20 Hz, 20 steps."""
RATE_HZ = 20.0


def robot(clock: ManualClock | None = None, env: str = REACH, again: bool = False) -> Robot:
    return Robot(Config(env=env, limits=(-0.1, 0.1), again=again), clock=clock)


def position(robot: Robot) -> float:
    return float(np.asarray(robot.observe()["state"])[0])


def test_passes_the_examiner_on_its_own_thread() -> None:
    check_robot(robot(), start=np.zeros(1, np.float32), reach=0.01)


def test_time_passes_whether_or_not_anybody_commands() -> None:
    clock = ManualClock(5.0)
    arm = robot(clock)
    arm.connect()
    arm.act(np.array([0.05], np.float32))
    assert position(arm) == 0
    clock.advance(3 / RATE_HZ)
    assert position(arm) == pytest.approx(0.15)
    arm.hold()
    clock.advance(5 / RATE_HZ)
    assert position(arm) == pytest.approx(0.15)
    arm.close()


def test_what_is_out_of_range_is_brought_inside_and_said_so() -> None:
    arm = robot(ManualClock())
    arm.connect()
    assert arm.act(np.array([7.0], np.float32)) == pytest.approx([0.1])
    with pytest.raises(SimulationError, match="expected finite"):
        arm.act(np.array([np.nan], np.float32))
    with pytest.raises(SimulationError, match="expected finite"):
        arm.act(np.zeros(3, np.float32))


def test_an_environments_limits_are_the_robots() -> None:
    arm = Robot(Config(env="conveyor"), clock=ManualClock())
    assert arm.limits is not None and arm.spec.action.range == pytest.approx((-0.2, 1.4))
    np.testing.assert_allclose(np.stack(arm.limits), [[-0.2, 0.0, 0.0], [1.4, 0.4, 1.0]], atol=1e-7)
    arm.connect()
    assert arm.act(np.array([9.0, -9.0, 9.0], np.float32)) == pytest.approx([1.4, 0.0, 1.0])
    arm.close()


@pytest.mark.parametrize(
    ("names", "transform", "expected"),
    [
        (("grip", "z", "x"), "", [[0, 0, -0.2], [1, 0.4, 1.4]]),
        (("grip", "z", "spare", "x"), "{select: [x, z, grip]}", [[0, 0, -7, -0.2], [1, 0.4, 8, 1.4]]),
        (("x", "z", "grip"), "{unit: {x: mm->m, z: mm->m}}", [[-200, 0, 0], [1400, 400, 1]]),
    ],
)
def test_limits_go_with_the_entries_into_the_policys_order_and_units(
    names: tuple[str, ...], transform: str, expected: list[list[float]]
) -> None:
    wanted = Spec({"state": Field((10,))}, Field((len(names),), names=names))
    env = f"conveyor?transform=[{{actions: {transform}}}]" if transform else "conveyor"
    arm = Robot(Config(env=env, limits=(-7.0, 8.0)), wanted=wanted)
    assert arm.limits is not None
    np.testing.assert_allclose(np.stack(arm.limits), expected, rtol=1e-6)


def test_after_its_episode_the_scene_stays_or_the_next_begins() -> None:
    for again, expected in ((False, 1.0), (True, 0.0)):
        clock = ManualClock()
        arm = robot(clock, REACH + "?far=100", again)
        arm.connect()
        arm.act(np.array([0.05], np.float32))
        clock.advance(20 / RATE_HZ)
        assert position(arm) == pytest.approx(expected)
        clock.advance(3 / RATE_HZ)  # nobody has commanded the new episode: it holds
        assert position(arm) == pytest.approx(expected)
        arm.close()


def test_a_simulator_that_breaks_says_so_at_the_next_call() -> None:
    clock = ManualClock()
    arm = robot(clock)
    arm.connect()
    arm._simulation._environment.step = lambda action: 1 / 0  # type: ignore[union-attr,assignment]
    clock.advance(1 / RATE_HZ)
    with pytest.raises(SimulationError, match="ZeroDivisionError"):
        arm.observe()
    arm.hold()  # never fails
    arm.close()


def test_an_environment_that_cannot_be_made_is_an_error_at_once() -> None:
    with pytest.raises(ConfigError, match="no environment 'nothing'"):
        Robot(Config(env="nothing"))
    with pytest.raises(ConfigError, match="seed: expected at least 0"):
        Config(seed=-1)


def test_opened_by_name_with_options() -> None:
    arm = open_robot("simulated", {"env": REACH, "limits": "-0.1,0.1"})
    assert arm.spec.action.range == (-0.1, 0.1) and arm.spec.rate_hz == RATE_HZ
    with pytest.raises(ConfigError, match=r"simulated: unknown option 'speed'; known options: env, seed, again, limits"):
        open_robot("simulated?speed=3")


def test_a_robot_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from actlink.robots.simulated import Config, Robot\nclass NoRobot:\n    def __init__(self, config): pass\n")
    assert open_robot(f"{file}:Robot", {"env": REACH}).spec.rate_hz == RATE_HZ
    with pytest.raises(ConfigError, match=r"expected an actlink.robots._base.Robot, got a NoRobot"):
        open_robot(f"{file}:NoRobot")
    with pytest.raises(ConfigError, match="has no 'Nothing'"):
        open_robot(f"{file}:Nothing")


def test_no_robot_of_that_name() -> None:
    with pytest.raises(ConfigError, match=r"no robot 'no such'; there are: .*simulated"):
        open_robot("no such")
