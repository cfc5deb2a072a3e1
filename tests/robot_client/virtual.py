"""A robot, a link and a server in simulated time: the real loop, guard, world and simulated robot; only the waiting is not real."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actlink import safety
from actlink.asking import Arrival
from actlink.clock import ManualClock
from actlink.controller import Controller, Record
from actlink.environments import _base as environments
from actlink.errors import LinkClosedError, LinkTimeoutError
from actlink.execution import asynchronous
from actlink.execution._base import Replan, Strategy
from actlink.robot_client.world import RobotWorld
from actlink.robots import _base as robots
from actlink.robots import simulated
from actlink.spec import Field, Spec
from actlink.ticks import Recorder, Tick
from actlink.types import ActionChunk, Array, Observation, Step

RATE_HZ = 30.0
SPEED = 0.05
"""How far a joint comes in one control step at most."""
JOINTS = ("waist", "elbow")
RANGE = (-2.0, 2.0)


@dataclass(frozen=True)
class Config:
    """The arm has no options."""


class Arm(environments.Environment):
    """Two joints that follow their targets at a limited speed. Never ends."""

    def __init__(self, config: Config, *, task: str = "", wanted: Spec | None = None) -> None:
        joints = Field((2,), names=JOINTS, range=RANGE)
        self.spec = Spec({"state": Field((2,), names=JOINTS)}, joints, rate_hz=RATE_HZ, name="arm")
        self.pose = np.zeros(2)

    def tasks(self) -> tuple[str, ...]:
        return ("follow",)

    def reset(self, task: str, seed: int) -> Observation:
        self.pose = np.zeros(2)
        return self._observe()

    def step(self, action: Array) -> Step:
        self.pose = self.pose + np.clip(np.asarray(action) - self.pose, -SPEED, SPEED)
        return Step(self._observe(), 0.0, None, False, False)

    def hold_action(self, last: Array | None) -> Array:
        return self.pose.astype(np.float32)

    def render(self) -> Array:
        return np.zeros((2, 2, 3), np.uint8)

    def _observe(self) -> Observation:
        return {"state": self.pose.astype(np.float32)}


HERE = f"{Path(__file__).resolve()}:Arm"


def plan(step: int, rows: int) -> Array:
    """A slow wave, the same whoever asks: row ``i`` is the action for ``step + i``."""
    moments = np.arange(step, step + rows, dtype=np.float64)[:, None]
    return np.asarray(1.0 * np.sin(moments / 60 + np.array([[0.0, 1.0]])) - np.array([[0.0, math.sin(1.0)]]), np.float32)


@dataclass
class Cut:
    """An outage: ``drop`` is noticed at once at both ends, ``stall`` by nobody until ``timeout_s``."""

    from_s: float
    to_s: float
    kind: str = "drop"

    def covers(self, moment_s: float) -> bool:
        return self.from_s <= moment_s < self.to_s


@dataclass
class Link:
    """An ``Asker``: one question under way; what a cut does to it is what TCP and the asking thread make of it."""

    delay_s: Callable[[float], float] = lambda now_s: 0.1
    cuts: Sequence[Cut] = ()
    rows: int = 50
    timeout_s: float = 5.0
    reconnect_s: float = 0.2
    plans: Callable[[int, int], Array] = plan
    dropped: int = 0
    asked: list[tuple[int, float]] = field(default_factory=list)
    _under_way: list[Arrival] = field(default_factory=list)
    _back_s: float = -math.inf

    def begin(self, episode: int) -> None:
        self._under_way = []

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        self.asked.append((replan.step, now_s))
        if now_s < self._back_s:
            self._lose(replan, now_s, now_s)
            return
        arrives_s, cut = now_s + self.delay_s(now_s), None
        for each in self.cuts:
            if each.from_s < arrives_s and now_s < each.to_s:
                cut = each
                break
        if cut is None:
            chunk = ActionChunk(self.plans(replan.step, self.rows), replan.step)
            if arrives_s - now_s > self.timeout_s:
                self._lose(replan, now_s, now_s + self.timeout_s, LinkTimeoutError("no answer in time"))
            else:
                self._under_way.append(Arrival(replan.step, chunk, None, now_s, arrives_s))
        elif cut.kind == "drop":
            self._back_s = cut.to_s + self.reconnect_s
            self._lose(replan, now_s, max(now_s, cut.from_s))
        else:  # sent again by TCP once the way is free, unless that is too late for whoever waits
            arrives_s = cut.to_s + self.delay_s(now_s)
            if arrives_s - now_s > self.timeout_s:
                self._back_s = cut.to_s + self.reconnect_s
                self._lose(replan, now_s, now_s + self.timeout_s, LinkTimeoutError("no answer in time"))
            else:
                chunk = ActionChunk(self.plans(replan.step, self.rows), replan.step)
                self._under_way.append(Arrival(replan.step, chunk, None, now_s, arrives_s))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        found = [arrival for arrival in self._under_way if arrival.arrived_s <= now_s + 5e-7]
        self._under_way = [arrival for arrival in self._under_way if arrival.arrived_s > now_s + 5e-7]
        return found

    def close(self) -> None:
        pass

    def _lose(self, replan: Replan, now_s: float, at_s: float, error: Any = None) -> None:
        self._under_way.append(Arrival(replan.step, None, error or LinkClosedError("the link is cut"), now_s, at_s))


@dataclass
class Watched(robots.Robot):
    """The simulated robot; notes every command and when it came, and may be blind."""

    inner: robots.Robot
    clock: ManualClock
    fails: Callable[[float], Exception | None] = lambda now_s: None
    commands: list[tuple[float, tuple[float, ...] | str]] = field(default_factory=list)
    poses: list[tuple[float, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = self.inner.spec

    def connect(self) -> None:
        self.inner.connect()

    def observe(self) -> Observation:
        error = self.fails(self.clock.now())
        if error is not None:
            raise error
        seen = self.inner.observe()
        self.poses.append((self.clock.now(), np.array(seen["state"])))
        return seen

    def act(self, action: Array) -> Array:
        self.commands.append((self.clock.now(), tuple(map(float, action))))
        return self.inner.act(action)

    def hold(self) -> None:
        self.commands.append((self.clock.now(), "hold"))
        self.inner.hold()

    def stop(self) -> None:
        self.inner.stop()

    def close(self) -> None:
        self.inner.close()


@dataclass
class Ran:
    record: Record
    ticks: list[Tick]
    robot: Watched
    link: Link
    guard: safety.Guard
    start_s: float
    world: RobotWorld

    def at(self, moment_s: float) -> Tick:
        """The tick in force at ``moment_s`` after the start."""
        return max((tick for tick in self.ticks if tick.at_s <= moment_s + 1e-9), key=lambda tick: tick.at_s)


def drive(
    seconds: float,
    link: Link | None = None,
    *,
    rate_hz: float = RATE_HZ,
    fails: Callable[[float], Exception | None] = lambda now_s: None,
    camera_failures: int = 30,
    strategy: Strategy | None = None,
    meanwhile: Callable[[float, safety.Guard], None] = lambda now_s, guard: None,
    **options: Any,
) -> Ran:
    """``seconds`` of the whole loop; moments are counted from its start. ``options`` are the guard's."""
    clock = ManualClock(100.0)
    link = link or Link()
    link.cuts = [Cut(cut.from_s + 100.0, cut.to_s + 100.0, cut.kind) for cut in link.cuts]
    robot = Watched(simulated.Robot(simulated.Config(env=HERE), clock=clock), clock, lambda now_s: fails(now_s - 100.0))
    robot.connect()
    spec = Spec(robot.spec.observation, robot.spec.action, action_horizon=link.rows, rate_hz=rate_hz)
    options.setdefault("resume_step", (SPEED,))
    guard = safety.Guard(safety.Config(**options), robot.spec.action, rate_hz, action_horizon=link.rows)

    def over() -> bool:
        meanwhile(clock.now() - 100.0, guard)
        return clock.now() >= 100.0 + seconds - 1e-6

    world = RobotWorld(robot, clock, over, camera_failures=camera_failures)
    strategy = strategy or asynchronous.Strategy(asynchronous.Config(actions_per_chunk=link.rows), spec)
    recorder = Recorder(ticks=10**6)
    controller = Controller(link, strategy, clock, rate_hz=rate_hz, guard=guard, pose=world.pose, log=recorder)
    record = controller.run(world)
    return Ran(record, list(recorder.ticks), robot, link, guard, 100.0, world)
