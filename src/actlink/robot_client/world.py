"""A robot as the controller's world, and the watchdog beside it. Law: whatever fails, the arm is left holding."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np

from actlink.clock import Clock
from actlink.errors import ActlinkError, CameraError, LinkError, SimulationError
from actlink.robots._base import Robot
from actlink.safety import Watchdog
from actlink.spec import Spec
from actlink.types import Array, Observation

logger = logging.getLogger("actlink.run")

SAME_S = 0.01
"""An observation this old is not that of now."""


class RobotWorld:
    """What the control loop sees of a robot; used by the loop's thread only."""

    def __init__(
        self,
        robot: Robot,
        clock: Clock,
        over: Callable[[], bool],
        *,
        prompt: str | None = None,
        dry_run: bool = False,
        camera_failures: int = 30,
        watchdog: Watchdog | None = None,
        watchdog_s: float = 0.2,
    ) -> None:
        """``over``: asked after every step whether that was the last. ``prompt``: goes into every observation, if there is one."""
        self._robot = robot
        self._clock = clock
        self._over = over
        self._prompt = prompt
        self._dry_run = dry_run
        self._allowed = camera_failures
        self._watchdog = watchdog
        self._watchdog_s = watchdog_s
        self._entries = pose_entries(robot.spec)
        self._dim = robot.spec.action_dim or 1
        self._seen: Observation | None = None  # of this control step
        self._looked_s: float | None = None  # when
        self._look_began_s = -float("inf")
        self._pose: Array | None = None
        self._measured = False  # the pose is of this control step
        self._hold: Array | None = None
        self._holding = True
        self._ticked_s = self._alive_s = clock.now()
        self._posed_s: float | None = None  # when the present tick was decided on
        self._in_a_row = 0
        self.failures = 0
        """Observations that could not be had."""
        self.holds = 0
        """How often the arm was brought to hold."""

    def observe(self) -> Observation | None:
        """The observation of this step, taken once; None if the robot could not give one."""
        self._look_once()
        return self._seen

    def pose(self) -> Array | None:
        """The measured pose in the units of the action: of now where the arm stands or may have been held, else the last.

        NaN where the robot could not be seen now; None where its observation does not tell the pose.
        """
        measured = self._measured_pose()
        self._posed_s = self._clock.now()
        return measured

    def _measured_pose(self) -> Array | None:
        if self._entries is None:
            return None
        # Half of what the watchdog waits: whenever the guard finds a tick late, what it starts from has been measured.
        if not self._holding and self._clock.now() - self._ticked_s <= self._watchdog_s / 2:
            return self._pose
        self._look_once()
        if not self._holding and self._look_began_s < self._alive_s + self._watchdog_s <= self._clock.now():
            self._look()  # the watchdog held the arm during that look, perhaps after its joints were read
        return self._pose if self._measured else np.full(self._dim, np.nan, np.float32)

    def act(self, action: Array) -> bool:
        now_s = self._clock.now()
        decided_s = now_s if self._posed_s is None else self._posed_s
        outlived = now_s - decided_s > self._watchdog_s  # it was decided before a standstill
        if action is self._hold or outlived or self._over():
            self._stand()
        elif not self._dry_run:
            self._robot.act(action)
            self._holding = False
        self._ticked_s, self._alive_s = decided_s, self._clock.now()
        if self._watchdog is not None:
            self._watchdog.tick(self._alive_s)
        self._looked_s, self._seen = None, None
        return not self._over()

    def hold_action(self, last: Array | None) -> Array:
        """Stands for the robot's own hold, which ``act`` then runs; its value, the last command, is what is recorded."""
        pose = self._pose if last is None else last
        self._hold = np.zeros(self._dim, np.float32) if pose is None else np.array(pose)
        return self._hold

    def _stand(self) -> None:
        """Once: holding anew at every step would follow an arm that sags."""
        if not self._holding:
            self._robot.hold()
            self.holds += 1
        self._holding = True

    def _look_once(self) -> None:
        """Not a second time within a control step; a step that waits for its first chunk is one that looks again."""
        if self._looked_s is None or self._clock.now() - self._looked_s > SAME_S:
            self._look()
            self._looked_s = self._clock.now()

    def _look(self) -> None:
        self._seen, self._measured = None, False
        self._look_began_s = self._clock.now()
        try:
            seen = self._robot.observe()
        except CameraError as error:  # the arm itself is well
            self._measure(error.observation)
            self._missed(error)
            return
        except (SimulationError, LinkError) as error:
            self._missed(error)
            return
        if self._in_a_row:
            logger.info("the robot can be seen again, after %d failures", self._in_a_row)
        self._in_a_row = 0
        self._measure(seen)
        self._seen = seen if self._prompt is None else {**seen, "prompt": self._prompt}

    def _measure(self, seen: Observation) -> None:
        if self._entries is not None and "state" in seen:
            self._pose = np.asarray(seen["state"], np.float32)[self._entries]
            self._measured = True

    def _missed(self, error: ActlinkError) -> None:
        self.failures += 1
        self._in_a_row += 1
        if self._in_a_row > self._allowed:
            raise SimulationError(f"no observation {self._in_a_row} times in a row (camera_failures {self._allowed}): {error}")
        if self._in_a_row == 1:
            logger.error("Error capturing observation: %s; this step is skipped", error)


def pose_entries(robot: Spec) -> Array | None:
    """Where in ``state`` the entries of the action are measured; None if that is not said by their names, or their number."""
    state = robot.observation.get("state")
    if state is None or robot.control_type != "abs" or robot.action.dtype != "float32":
        return None
    if state.names is not None and robot.action.names is not None:
        if not set(robot.action.names) <= set(state.names):
            return None
        return np.array([state.names.index(name) for name in robot.action.names])
    same = state.shape == robot.action.shape and state.names is None and robot.action.names is None
    return np.arange(robot.action.shape[0] or 0) if same else None


class Watch:
    """A thread that holds the arm when the control loop has stopped ticking. It shares nothing with the loop but one number."""

    def __init__(self, watchdog: Watchdog, stop: Callable[[], None], clock: Clock, limit_s: float) -> None:
        self._watchdog = watchdog
        self._stop = stop
        self._clock = clock
        self._period_s = limit_s / 8
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="actlink-watchdog", daemon=True)
        self.trips = 0
        """How often the loop was found standing still."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.end()
        self._ended.set()
        self._thread.join(5.0)

    def look(self, tripped: bool) -> bool:
        """Hold the arm if it is time; whether the loop stands still. ``tripped``: whether it did at the last look."""
        if not self._watchdog.due(self._clock.now()):
            return False
        if tripped:  # held already, and holding anew would follow an arm that sags
            return True
        try:
            self._stop()
        except Exception as error:  # whatever it is, the next look tries again
            logger.error("the watchdog could not hold the arm: %s", error)
            return tripped
        self.trips += 1
        logger.error("the control loop stands still: the watchdog holds the arm")
        return True

    def _run(self) -> None:
        tripped = False
        while not self._ended.wait(self._period_s):
            tripped = self.look(tripped)
