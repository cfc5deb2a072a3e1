"""A gripper that takes an object off a moving belt and drops it into a bin: 50 Hz, numpy only, and it punishes waiting.

Law: the same seed gives the same belt, object and bin; nothing else is random; time goes on whether an action came or not.

Side view: x runs along the belt, z is the height of the fingertips, in metres. The gripper follows target positions like a
damped spring with bounded acceleration and speed, so it has momentum and lags what it follows by a fifth of a second. The object
must be gripped in passing: fingers that touch it off its middle, or at another speed than the belt's, or above its lower half,
topple it, and that ends the episode; so does an object that reaches the belt's end or misses the bin. A plan that knows the belt's
speed stays right while the next one is being computed. A gripper that stands still for the answer does not, and nor does one that
plays each answer from its beginning, late. ``hold_action`` stops the gripper where it is and keeps its grip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from actlink.environments import _base
from actlink.errors import ConfigError, SimulationError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Step

RATE_HZ = 50.0
DT_S = 1 / RATE_HZ
STIFFNESS, DAMPING = 100.0, 20.0
"""Of the spring to the target, per unit of mass: 1/s^2, 1/s. Critical damping."""
MOST_ACCELERATION, MOST_SPEED = 6.0, 1.0
"""m/s^2 and m/s, along x and along z."""
CLOSING_PER_STEP = 0.1
"""Change of the opening (0 closed, 1 open) in one step: 0.2 s from one end to the other."""
REACH_X, REACH_Z = (-0.2, 1.4), (0.0, 0.4)
HALF_GAP_M = 0.04
"""From the middle of the open gripper to a finger."""
FINGER_M = 0.01
HALF_OBJECT_M, OBJECT_HEIGHT_M = 0.018, 0.05
GRIP_HEIGHT_M = 0.03
"""Fingertips must be at most this high to grip."""
BELT_END_M = 0.8
BIN_HALF_M, BIN_HEIGHT_M = 0.05, 0.08
GRAVITY = 9.81

STATE = ("x", "z", "x_speed", "z_speed", "opening", "object_x", "object_z", "belt_speed", "bin_x", "held")
ACTION = ("x", "z", "grip")
TASK = "intercept"


@dataclass(frozen=True)
class Config:
    """Options of the ``conveyor`` environment."""

    max_steps: int = 350
    """Control steps (0.02 s) after which an episode is cut off."""
    belt_speed: tuple[float, float] = (0.12, 0.25)
    """Slowest and fastest belt (m/s); each episode has its own constant speed."""
    off_middle_m: float = 0.012
    """How far from the object's middle the gripper may close."""
    off_speed: float = 0.08
    """How much faster or slower than the belt (m/s) it may then move."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ConfigError(f"max_steps: expected at least 1, got {self.max_steps}")
        if not 0 <= self.belt_speed[0] <= self.belt_speed[1] <= MOST_SPEED:
            raise ConfigError(f"belt_speed: expected slowest <= fastest within 0..{MOST_SPEED:g}, got {self.belt_speed}")
        if not (self.off_middle_m > 0 and self.off_speed > 0):
            raise ConfigError("off_middle_m and off_speed: expected numbers above 0")


@final
class Environment(_base.Environment):
    """See the module."""

    def __init__(self, config: Config | None = None, *, task: str = "", wanted: Spec | None = None) -> None:
        self._config = config or Config()
        if task not in ("", TASK):
            raise ConfigError(f"conveyor has no task {task!r}; there is: {TASK}")
        self.spec = Spec(
            observation={"state": Field((len(STATE),), names=STATE)},
            action=Field((len(ACTION),), names=ACTION),
            rate_hz=RATE_HZ,
            control_space="ee",
            name=f"conveyor_{TASK}",
        )
        low, high = zip(REACH_X, REACH_Z, (0.0, 1.0), strict=True)
        self.limits = np.array(low, np.float32), np.array(high, np.float32)
        self._begun = False
        self._set(np.random.default_rng(0))

    def tasks(self) -> tuple[str, ...]:
        return (TASK,)

    def reset(self, task: str, seed: int) -> Observation:
        """Belt speed, object, bin and gripper's start are drawn from ``seed``."""
        if task not in ("", TASK):
            raise ConfigError(f"conveyor has no task {task!r}; there is: {TASK}")
        self._set(np.random.default_rng(seed))
        self._begun = True
        return self._observe()

    def step(self, action: Array) -> Step:
        """Follow the targets ``action`` (3,) for 0.02 s: x and z in metres, grip 0 (closed) to 1 (open)."""
        if not self._begun:
            raise SimulationError("conveyor: step called before reset")
        if np.shape(action) != (len(ACTION),):
            raise SimulationError(f"conveyor: action: expected shape (3,), got {np.shape(action)}")
        x, z, grip = (float(value) for value in action)
        if not math.isfinite(x + z + grip):
            raise SimulationError(f"conveyor: action: expected finite numbers, got {[x, z, grip]}")
        self._steps += 1
        self._move(min(max(x, REACH_X[0]), REACH_X[1]), min(max(z, REACH_Z[0]), REACH_Z[1]), min(max(grip, 0.0), 1.0))
        self._move_object()
        over = bool(self._fate)
        return Step(
            observation=self._observe(),
            reward=float(self._fate == "binned"),
            success=self._fate == "binned",
            terminated=over,
            truncated=not over and self._steps >= self._config.max_steps,
            metrics={"gripped": float(self._gripped), "toppled": float(self._fate == "toppled")},
        )

    def hold_action(self, last: Array | None) -> Array:
        """The position it has now, and the grip it was last told to keep (open at first)."""
        return np.array([self._x, self._z, 1.0 if last is None else last[2]], np.float32)

    def render(self) -> Array:
        """uint8 (240, 480, 3), side view."""
        from actlink.environments._conveyor_render import draw

        half_gap = HALF_GAP_M * self._opening
        return draw(
            self._x, self._z, half_gap, (self._object_x, self._object_z), self._bin_x, self._belt_speed * self._steps * DT_S
        )

    def _set(self, random: np.random.Generator) -> None:
        self._steps = 0
        self._belt_speed = float(random.uniform(*self._config.belt_speed))
        self._object_x, self._object_z = float(random.uniform(0.0, 0.1)), 0.0
        self._bin_x = float(random.uniform(0.95, 1.15))
        self._x, self._z = float(random.uniform(0.25, 0.7)), float(random.uniform(0.18, 0.3))
        self._x_speed = self._z_speed = 0.0
        self._opening = 1.0
        self._offset = (0.0, 0.0)  # of the held object from the fingertips
        self._fall = (0.0, 0.0)  # speed of the falling object
        self._phase = "belt"  # where the object is: belt, held or falling
        self._fate = ""  # how the episode ended: binned, toppled or lost
        self._gripped = False

    def _move(self, x: float, z: float, grip: float) -> None:
        self._x_speed = _followed(x - self._x, self._x_speed)
        self._z_speed = _followed(z - self._z, self._z_speed)
        self._x += self._x_speed * DT_S
        self._z += self._z_speed * DT_S
        if self._z < 0.0:  # the table
            self._z = self._z_speed = 0.0
        self._opening += min(max(grip - self._opening, -CLOSING_PER_STEP), CLOSING_PER_STEP)

    def _move_object(self) -> None:
        if self._phase == "belt":
            self._object_x += self._belt_speed * DT_S
            if self._touched():
                self._grip_or_topple()
            elif self._object_x > BELT_END_M:
                self._fate = "lost"
        elif self._phase == "held":
            self._object_x, self._object_z = self._x + self._offset[0], max(self._z + self._offset[1], 0.0)
            if self._half_gap > HALF_OBJECT_M + 0.004:
                self._phase, self._fall = "falling", (self._x_speed, self._z_speed)
        else:
            self._fall = (self._fall[0], self._fall[1] - GRAVITY * DT_S)
            self._object_x += self._fall[0] * DT_S
            self._object_z += self._fall[1] * DT_S
            if self._object_z < BIN_HEIGHT_M:
                self._fate = "binned" if abs(self._object_x - self._bin_x) < BIN_HALF_M else "lost"

    @property
    def _half_gap(self) -> float:
        return HALF_GAP_M * self._opening

    def _touched(self) -> bool:
        """Whether a finger is in the object: low enough, and neither clear of its sides nor beside it."""
        apart = abs(self._object_x - self._x)
        inside = apart + HALF_OBJECT_M < self._half_gap
        beside = apart > self._half_gap + FINGER_M + HALF_OBJECT_M
        return self._z < OBJECT_HEIGHT_M and not inside and not beside

    def _grip_or_topple(self) -> None:
        apart, slip = abs(self._object_x - self._x), abs(self._x_speed - self._belt_speed)
        if self._z <= GRIP_HEIGHT_M and apart <= self._config.off_middle_m and slip <= self._config.off_speed:
            self._phase, self._gripped = "held", True
            self._offset = (self._object_x - self._x, self._object_z - self._z)
        else:
            self._fate = "toppled"

    def _observe(self) -> Observation:
        held = float(self._phase == "held")
        gripper = (self._x, self._z, self._x_speed, self._z_speed, self._opening)
        return {"state": np.array((*gripper, self._object_x, self._object_z, self._belt_speed, self._bin_x, held), np.float32)}


def _followed(distance: float, speed: float) -> float:
    """The speed one step later, towards a target that far away."""
    acceleration = STIFFNESS * distance - DAMPING * speed
    speed += min(max(acceleration, -MOST_ACCELERATION), MOST_ACCELERATION) * DT_S
    return min(max(speed, -MOST_SPEED), MOST_SPEED)
