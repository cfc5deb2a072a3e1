"""A loop that stands still in the middle of a tick: what the watchdog did meanwhile, and what may be commanded afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from actlink.clock import ManualClock
from actlink.controller import Controller
from actlink.execution import asynchronous
from actlink.robot_client.world import RobotWorld, Watch
from actlink.robots import _base as robots
from actlink.safety import Config, Guard, Watchdog
from actlink.spec import Field, Spec
from actlink.ticks import Recorder
from actlink.types import Array, Observation
from robot_client.virtual import Link

RATE_HZ = 30.0
SPEED = 0.05
RESUME = 0.01
ROWS = 60


def leaps(at: int) -> Callable[[int, int], Array]:
    """A slow plan that leaps at one step: nothing forbids that while the arm is moving, and everything after an outage."""

    def plan(step: int, rows: int) -> Array:
        steps = np.arange(step, step + rows)
        return np.asarray((0.005 * steps + 1.0 * (steps >= at))[:, None], np.float32)

    return plan


@dataclass
class Arm(robots.Robot):
    """One joint that lags behind what it is told; every call may last, and then the watchdog looks, as its thread would."""

    clock: ManualClock
    looks_s: Callable[[int], float] = lambda n: 0.0
    meanwhile: Callable[[], object] = lambda: None
    at: float = 0.0
    target: float = 0.0
    looked: int = 0
    sent: list[tuple[float, float, float]] = field(default_factory=list)
    """When, what, and where the arm was."""

    def __post_init__(self) -> None:
        joint = Field((1,), names=("a",), range=(-10.0, 10.0))
        self.spec = Spec({"state": Field((1,), names=("a",))}, joint, rate_hz=RATE_HZ)

    def connect(self) -> None:
        pass

    def observe(self) -> Observation:
        seen = {"state": np.array([self.at], np.float32)}  # first the joints, then the cameras
        lasts_s = self.looks_s(self.looked)
        self.looked += 1
        if lasts_s:
            self.stand(lasts_s)
        return seen

    def stand(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.025)):
            self.clock.advance(0.025)
            self.at += float(np.clip(self.target - self.at, -0.75 * SPEED, 0.75 * SPEED))
            self.meanwhile()

    def act(self, action: Array) -> Array:
        self.sent.append((self.clock.now(), float(action[0]), self.at))
        self.target = float(action[0])
        self.at += 0.5 * (self.target - self.at)
        return action

    def hold(self) -> None:
        self.target = self.at

    def stop(self) -> None:
        self.hold()

    def close(self) -> None:
        pass


@dataclass
class Ran:
    arm: Arm
    recorder: Recorder
    trips: int
    missed: int


def drive(
    seconds: float,
    leap: int,
    looks_s: Callable[[int], float] = lambda n: 0.0,
    between: Callable[[Arm, int], None] = lambda arm, tick: None,
) -> Ran:
    """``between``: called with the arm and the tick's number after the guard has decided and before the command is sent."""
    clock = ManualClock(100.0)
    arm, watchdog = Arm(clock, looks_s), Watchdog(0.2)
    watch = Watch(watchdog, arm.stop, clock, 0.2)
    tripped = False

    def look() -> None:
        nonlocal tripped
        tripped = watch.look(tripped)

    arm.meanwhile = look
    spec = Spec(arm.spec.observation, arm.spec.action, action_horizon=ROWS)
    guard = Guard(Config(resume_step=(RESUME,)), arm.spec.action, RATE_HZ, action_horizon=ROWS)
    world = RobotWorld(arm, clock, lambda: clock.now() >= 100.0 + seconds, watchdog=watchdog)
    act, ticks = world.act, 0

    def late(action: Array) -> bool:
        nonlocal ticks
        ticks += 1
        between(arm, ticks)
        return act(action)

    world.act = late  # type: ignore[method-assign]
    link = Link(delay_s=lambda now_s: 0.1, rows=ROWS, plans=leaps(leap))
    recorder = Recorder()
    strategy = asynchronous.Strategy(asynchronous.Config(actions_per_chunk=ROWS), spec)
    controller = Controller(link, strategy, clock, rate_hz=RATE_HZ, guard=guard, pose=world.pose, log=recorder)
    record = controller.run(world)
    return Ran(arm, recorder, watch.trips, record.missed)


def after_the_pause(ran: Ran) -> tuple[float, float]:
    """The first command after the longest silence, and where the arm was then."""
    moments = [moment for moment, _, _ in ran.arm.sent]
    pauses = np.diff(moments)
    assert max(pauses) > 0.2
    _, action, at = ran.arm.sent[int(np.argmax(pauses)) + 1]
    return action, at


@pytest.mark.parametrize("lasts_s", [0.25, 0.5])
def test_a_look_that_outlasts_the_watchdog_is_an_outage_in_that_very_tick(lasts_s: float) -> None:
    ran = drive(3.0, 30, lambda n: lasts_s if n == 4 else 0.0)  # the question of step 30
    assert ran.trips == 1
    action, at = after_the_pause(ran)
    assert abs(action - at) <= RESUME + 1e-6, "the first command after the watchdog's hold starts where the arm is"


def test_what_was_planned_for_steps_that_passed_during_a_look_does_not_run() -> None:
    ran = drive(3.0, 1000, lambda n: 0.15 if n == 4 else 0.0)
    ticks = list(ran.recorder.ticks)
    assert all(abs(tick.late_s) < 1 / RATE_HZ for tick in ticks), "commanded within its own step"
    assert sum(tick.skipped for tick in ticks) == 4 == ran.missed
    assert [tick.step for tick in ticks] == sorted({tick.step for tick in ticks})


def test_a_decision_that_a_standstill_has_outlived_is_not_carried_out() -> None:
    """The process is stopped between the guard's word and the driver: what it said was for another moment."""
    ran = drive(3.0, 39, between=lambda arm, tick: arm.stand(0.5) if tick == 40 else None)
    assert ran.trips == 1
    action, at = after_the_pause(ran)
    assert abs(action - at) <= RESUME + 1e-6
