"""Bimanual ALOHA in MuJoCo (gym-aloha): transfer_cube and insertion, joint control at 50 Hz.

Law: gym-aloha's physics, rewards and start positions, exactly; everything random comes from the seed of ``reset``; nothing is
rendered that nobody asked for, so physics and a policy on ``state`` need neither a display nor an OpenGL library.

``state`` is one vector: 14 joints in action order (radians; grippers 0 closed to 1 open), then position (m) and quaternion
(w, x, y, z) of the cube, or of peg and socket. ``success`` is the task's maximum reward. In the transfer that reward is given at
the left hand's first touch of a lifted cube, while the right hand may still hold it, so the episode goes on until the left hand
alone has held the cube for 15 steps (``metrics["strict_success"]``), or for 50 more steps.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from actlink.environments import _aloha_task as task_of
from actlink.environments import _base
from actlink.errors import ConfigError, SimulationError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Step

if TYPE_CHECKING:
    from actlink.environments._aloha_render import Painter

REQUIRES = ("mujoco", "dm_control", "gym_aloha")
EXTRA = "sim"
if sys.version_info >= (3, 13):
    INSTALL = task_of.INSTALL_WITHOUT_LABMAZE

HOLD_STEPS = 15
"""Steps in a row for which the left hand alone must hold the cube: strict success."""
GRACE_STEPS = 50
"""Steps a transfer goes on after the maximum reward while strict success is awaited."""
_DRAWS = 0x616C6F68  # keeps the adapter's own draws apart from any other use of the same seed


@dataclass(frozen=True)
class Config:
    """Options of the ``aloha`` environment."""

    max_steps: int = 400
    """Control steps (0.02 s) after which an episode is cut off."""
    push_cube_m: float = 0.0
    """Transfer: the cube is moved by this distance in a random horizontal direction, once, while it lies untouched.

    ``metrics["pushed"]`` tells whether it was (0 or 1): a cube already touched when its step comes is left alone.
    """
    push_window: tuple[int, int] = (10, 50)
    """First and last control step at which the push may come; which one is random."""
    yaw_deg: float = 0.0
    """Transfer: at reset the cube is turned about the vertical by a random angle of at most this many degrees."""
    camera_height: int = 480
    """Height in pixels of a policy's camera that leaves it open, and of the video."""
    camera_width: int = 640
    """Width in pixels of a policy's camera that leaves it open, and of the video."""
    render_camera: str = "top"
    """Camera of the video: top, angle, front_close, left_pillar, right_pillar, left_wrist or right_wrist."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ConfigError(f"max_steps: expected at least 1, got {self.max_steps}")
        if not 0 <= self.push_window[0] <= self.push_window[1]:
            raise ConfigError(f"push_window: expected first <= last step, from 0 on, got {self.push_window}")
        if self.push_cube_m < 0 or self.yaw_deg < 0:
            raise ConfigError("push_cube_m and yaw_deg: expected magnitudes of at least 0")
        _check_camera(self.render_camera)


@dataclass(frozen=True)
class _Disturbance:
    """What the seed decides beside gym-aloha's own draw; both are drawn always, so that one option does not shift the other."""

    yaw_rad: float
    push_step: int
    push: Array
    """Displacement of the cube, (3,) metres."""

    @classmethod
    def draw(cls, config: Config, seed: int) -> _Disturbance:
        random = np.random.default_rng([_DRAWS, seed])
        yaw = random.uniform(-1.0, 1.0) * np.deg2rad(config.yaw_deg)
        first, last = config.push_window
        step = int(random.integers(first, last, endpoint=True))
        direction = random.uniform(0.0, 2 * np.pi)
        push = config.push_cube_m * np.array([np.cos(direction), np.sin(direction), 0.0])
        return cls(float(yaw), step, push)


@final
class Environment(_base.Environment):
    """One task of gym-aloha, see the module."""

    def __init__(self, config: Config | None = None, *, task: str = "", wanted: Spec | None = None) -> None:
        self._config = config = config or Config()
        self._task = task or "transfer_cube"
        if self._task not in task_of.OBJECTS:
            raise ConfigError(f"aloha has no task {self._task!r}; there are: {', '.join(task_of.OBJECTS)}")
        if self._task != "transfer_cube" and (config.push_cube_m or config.yaw_deg):
            raise ConfigError(f"push_cube_m and yaw_deg move the cube of transfer_cube; {self._task} has none")
        self._simulation = task_of.Simulation(self._task)
        self.limits = self._simulation.limits()
        self._cameras = _cameras(config, wanted)
        self.on_request = {f"images.{name}": Field((None, None, 3), "uint8") for name in task_of.CAMERAS}
        self._painter: Painter | None = None
        self.spec = _spec(self._task, self._cameras)
        self._disturbance: _Disturbance | None = None
        self._progress = _Progress(self._simulation.max_reward, self._task == "transfer_cube")
        self._steps, self._pushed = 0, False

    def tasks(self) -> tuple[str, ...]:
        """The one task it was made for: the two differ in their state."""
        return (self._task,)

    def reset(self, task: str, seed: int) -> Observation:
        """Arms to the start pose, objects where gym-aloha's ``env.reset(seed=seed)`` puts them (the cube turned if asked)."""
        if task and task != self._task:
            raise ConfigError(f"this environment was made for {self._task!r}, not for {task!r}")
        self._disturbance = _Disturbance.draw(self._config, seed)
        poses = task_of.sample_poses(self._task, seed)
        if self._disturbance.yaw_rad:
            half = self._disturbance.yaw_rad / 2
            poses[3:7] = [np.cos(half), 0.0, 0.0, np.sin(half)]
        self._simulation.reset(poses)
        self._progress = _Progress(self._simulation.max_reward, self._task == "transfer_cube")
        self._steps, self._pushed = 0, False
        return self._observe()

    def step(self, action: Array) -> Step:
        """Hold the joint targets ``action`` (14,) for 0.02 s. Targets are taken as they are; the actuators clip at their limits."""
        if self._disturbance is None:
            raise SimulationError("aloha: step called before reset")
        if np.shape(action) != (len(task_of.JOINTS),):
            raise SimulationError(f"aloha: action: expected shape (14,), got {np.shape(action)}")
        self._push_cube(self._disturbance)
        reward = self._simulation.step(np.asarray(action, dtype=np.float64))
        self._steps += 1
        self._progress.note(reward, self._simulation.touching())
        terminated = self._progress.over
        return Step(
            observation=self._observe(),
            reward=reward,
            success=self._progress.success,
            terminated=terminated,
            truncated=not terminated and self._steps >= self._config.max_steps,
            metrics=self._metrics(),
        )

    def hold_action(self, last: Array | None) -> Array:
        """Position control: the last targets keep the arms where they are; before the first action, the start pose."""
        return self._simulation.start_pose() if last is None else np.array(last, dtype=np.float32)

    def render(self) -> Array:
        """uint8 (camera_height, camera_width, 3) from ``render_camera``."""
        return self._paint(self._config.render_camera, self._config.camera_height, self._config.camera_width)

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def _push_cube(self, disturbance: _Disturbance) -> None:
        due = self._config.push_cube_m > 0 and self._steps == disturbance.push_step
        if due and self._simulation.touching() <= {task_of.TABLE}:
            self._simulation.shift_object(disturbance.push)
            self._pushed = True

    def _metrics(self) -> dict[str, float]:
        pushed = {"pushed": float(self._pushed)} if self._config.push_cube_m else {}
        return self._progress.metrics() | pushed

    def _observe(self) -> Observation:
        observation: dict[str, Array | str] = {"state": self._simulation.state()}
        for name, (height, width) in self._cameras.items():
            observation[f"images.{name}"] = self._paint(name, height, width)
        return observation

    def _paint(self, camera: str, height: int, width: int) -> Array:
        if self._painter is None:
            from actlink.environments._aloha_render import Painter

            self._painter = Painter(self._simulation.model)
        return self._painter.paint(self._simulation.data, camera, height, width)


class _Progress:
    """Reads success off the rewards and contacts of one episode."""

    def __init__(self, max_reward: float, transfer: bool) -> None:
        self._max_reward, self._transfer = max_reward, transfer
        self._best = 0.0
        self._held = 0
        self._since_success = 0
        self.success = False
        self._strict = False

    def note(self, reward: float, touching: frozenset[str]) -> None:
        """Take in one step's reward and the geoms that touch an object."""
        self._since_success += self.success
        self._best = max(self._best, reward)
        self.success = self.success or reward >= self._max_reward
        left_alone = touching >= task_of.LEFT_FINGERS and not touching & (task_of.RIGHT_FINGERS | {task_of.TABLE})
        self._held = self._held + 1 if left_alone else 0
        self._strict = self._strict or self._held >= HOLD_STEPS

    @property
    def over(self) -> bool:
        """Whether the task's rules end the episode."""
        if not self._transfer:
            return self.success
        return self._strict or self._since_success >= GRACE_STEPS

    def metrics(self) -> dict[str, float]:
        """``max_reward`` so far, and for the transfer ``strict_success`` (0 or 1)."""
        metrics = {"max_reward": self._best}
        if self._transfer:
            metrics["strict_success"] = float(self._strict)
        return metrics


def _cameras(config: Config, wanted: Spec | None) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) for every image the policy asks for."""
    cameras = {}
    for name, field in (wanted.cameras if wanted is not None else {}).items():
        _check_camera(name)
        height, width = field.shape[0], field.shape[1]
        cameras[name] = (height or config.camera_height, width or config.camera_width)
    return cameras


def _check_camera(name: str) -> None:
    if name not in task_of.CAMERAS:
        raise ConfigError(f"aloha has no camera {name!r}; there are: {', '.join(task_of.CAMERAS)}")


def _spec(task: str, cameras: dict[str, tuple[int, int]]) -> Spec:
    names = task_of.state_names(task)
    observation = {"state": Field(shape=(len(names),), names=names)}
    for camera, (height, width) in cameras.items():
        observation[f"images.{camera}"] = Field(shape=(height, width, 3), dtype="uint8")
    action = Field(shape=(len(task_of.JOINTS),), names=task_of.JOINTS, unit="rad")
    return Spec(observation=observation, action=action, rate_hz=task_of.CONTROL_RATE_HZ, name=f"aloha_{task}")
