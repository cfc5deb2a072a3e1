"""A scripted expert for the ALOHA cube transfer: way-points for both hands, inverse kinematics, one plan of joint targets.

The plan is made once from where the cube lies and where the arms are, then replayed open loop; ask for a new plan when the
cube has moved. The right hand comes from above and behind, its fingers along the cube's sides (they follow the cube's yaw),
lifts the cube to a meeting point and turns it straight on the way; the left hand waits there with its fingers one above the
other, takes the cube, and the right hand lets go.

Inverse kinematics without branch flips: tracking a Cartesian path from the start pose would lead the right arm through its
wrist singularity (wrist_angle 0), where forearm_roll and wrist_rotate jump by half a turn, in a direction that depends on the
cube's place: demonstrations with two modes, which behaviour cloning averages. So the pose above the cube is solved once, from a
seed with a bent wrist, and reached in joint space; only from there on a Cartesian path is tracked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from gym_aloha.constants import ASSETS_DIR

Array = npt.NDArray[np.float64]

GRASP_POINT_M = 0.140
"""How far ahead of the gripper link the cube's centre lies in a grasp (the finger tips end at 0.154)."""
OPEN, HOLD = 0.95, 0.30
"""Normalised gripper targets. The 4 cm cube stops the fingers at 0.61, so 0.30 presses firmly."""
MEETING_POINT = np.array([0.0, 0.5, 0.25])
LEFT_HAND = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Gripper link of the left hand: looking level towards the right arm, fingers one above the other."""
RIGHT_PITCH = np.deg2rad(60.0)
"""How far the right hand looks down."""
GRASP_HEIGHT_M = 0.022
HIGH_M, LOW_M = 0.09, 0.065
"""Heights above the cube's centre at which the hand arrives, and down to which it sinks before the last descent."""


@dataclass(frozen=True)
class Timing:
    """Durations in control steps (0.02 s). The last descent starts late enough that a cube pushed early is still seen."""

    approach: int = 50
    sink: int = 30
    descend: int = 25
    close: int = 13
    lift: int = 28
    carry: int = 40
    settle: int = 6
    reach: int = 24
    take: int = 14
    release: int = 12
    retreat: int = 30
    left_delay: int = 4
    """Steps from the right hand's closing to the left hand's departure."""
    rest: int = 60
    """Steps held at the end."""

    def jittered(self, rng: np.random.Generator, spread: int) -> Timing:
        """Each duration but the last two moved by up to ``spread`` steps."""
        names = [name for name in self.__dataclass_fields__ if name not in ("left_delay", "rest")]
        shifts = rng.integers(-spread, spread + 1, len(names))
        return Timing(**{name: max(4, getattr(self, name) + int(s)) for name, s in zip(names, shifts, strict=True)})


@dataclass(frozen=True)
class Pose:
    """Where a hand's grasp point is (3,) and the gripper link's rotation (3, 3), world frame."""

    position: Array
    rotation: Array


class Arm:
    """Forward and inverse kinematics of one arm, on a private copy of the simulation's data."""

    def __init__(self, model: Any, side: str) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, f"vx300s_{side}/gripper_link")
        first = 0 if side == "left" else 8
        self._joints = slice(first, first + 6)  # arm joints come first, so qpos and dof indices agree
        self._limits = model.jnt_range[self._joints]
        self._jacobian = np.zeros((6, model.nv))

    def pose(self, joints: Array) -> Pose:
        """Grasp point and rotation at ``joints`` (6,) radians."""
        self._data.qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._body].reshape(3, 3).copy()
        return Pose(self._data.xpos[self._body] + GRASP_POINT_M * rotation[:, 0], rotation)

    def solve(self, goal: Pose, seed: Array, iterations: int) -> Array:
        """Joints (6,) near ``seed`` whose pose is ``goal``: damped least squares, orientation weighted by 0.3."""
        joints = seed.copy()
        for _ in range(iterations):
            here = self.pose(joints)
            error = np.concatenate([goal.position - here.position, 0.3 * _rotation_error(here.rotation, goal.rotation)])
            if np.abs(error).max() < 1e-5:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jac(self._model, self._data, self._jacobian[:3], self._jacobian[3:], here.position, self._body)
            jacobian = self._jacobian[:, self._joints].copy()
            jacobian[3:] *= 0.3
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-5 * np.eye(6), error)
            joints = np.clip(joints + np.clip(step, -0.2, 0.2), self._limits[:, 0], self._limits[:, 1])
        return joints


class Expert:
    """Makes plans. One instance serves any number of episodes."""

    def __init__(self) -> None:
        model = mujoco.MjModel.from_xml_path(str(ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"))
        self._left, self._right = Arm(model, "left"), Arm(model, "right")

    def plan(self, targets: Array, cube: Array, elapsed: int, timing: Timing) -> Array:
        """Joint targets from now to the end.

        :param targets: (14,) the joint targets in force now.
        :param cube: (7,) the cube's pose, as in ``state``.
        :param elapsed: control steps gone by; an approach begun late gets at least 22 steps.
        :returns: float64 (steps, 14).
        """
        approach = max(22, timing.approach - elapsed)
        right = self._plan_right(targets[7:], cube, approach, timing)
        departure = approach + timing.sink + timing.descend + timing.left_delay
        left = self._plan_left(targets[:7], departure, timing)
        length = max(len(left), len(right)) + timing.rest
        return np.concatenate([_hold_last(left, length), _hold_last(right, length)], axis=1)

    def _plan_right(self, now: Array, cube: Array, approach: int, timing: Timing) -> Array:
        """Above the cube with open fingers, down, close, lift, to the meeting point, wait there, let go, back off: (steps, 7)."""
        yaw = _nearest_face_yaw(cube[3:])
        level = np.array([0.0, 0.0, 1.0])
        on_table = np.array([cube[0], cube[1], 0.02])
        grasp = Pose(np.array([cube[0], cube[1], GRASP_HEIGHT_M]), _right_hand(yaw))
        high = Pose(on_table + HIGH_M * level, _right_hand(yaw))
        low = Pose(on_table + LOW_M * level, _right_hand(yaw))
        lifted = Pose(np.array([cube[0], cube[1], 0.12]), _right_hand(yaw))
        meeting = Pose(MEETING_POINT, _right_hand(0.0))
        away = Pose(MEETING_POINT - 0.10 * _right_hand(0.0)[:, 0], _right_hand(0.0))
        bent = np.array([_bearing(cube), -0.4, 0.6, 0.0, 0.8, 0.0])  # away from the wrist singularity, see above
        above = self._right.solve(high, bent, 100)

        wait = timing.settle + timing.reach + timing.take
        joints = [_joint_path(now[:6], above, approach)]
        path = [(high, 0), (low, timing.sink), (grasp, timing.descend), (grasp, timing.close), (lifted, timing.lift)]
        path += [(meeting, timing.carry), (meeting, wait + timing.release // 2), (away, timing.retreat)]
        joints.append(self._track(self._right, path, above))
        gripper = [_ramp(now[6], OPEN, min(20, approach)), _constant(OPEN, approach - min(20, approach))]
        gripper += [_constant(OPEN, timing.sink + timing.descend), _ramp(OPEN, HOLD, timing.close)]
        gripper += [_constant(HOLD, timing.lift + timing.carry + wait), _ramp(HOLD, OPEN, timing.release)]
        return _beside(np.concatenate(joints), np.concatenate(gripper))

    def _plan_left(self, now: Array, departure: int, timing: Timing) -> Array:
        """Stay until ``departure``, then behind the meeting point, forward, close, and back with the cube: (steps, 7)."""
        behind = Pose(MEETING_POINT + np.array([-0.10, 0.0, 0.0]), LEFT_HAND)
        meeting = Pose(MEETING_POINT, LEFT_HAND)
        back = Pose(MEETING_POINT + np.array([-0.08, 0.0, 0.0]), LEFT_HAND)
        waiting = self._left.solve(behind, np.array([0.0, -0.4, 0.6, 0.0, 0.3, 1.57]), 100)
        travel = _left_travel(timing)
        path = [(behind, timing.settle), (meeting, timing.reach), (meeting, timing.take + timing.release + 16)]
        path += [(back, timing.retreat)]
        joints = np.concatenate(
            [np.tile(now[:6], (departure, 1)), _joint_path(now[:6], waiting, travel), self._track(self._left, path, waiting)]
        )
        gripper = [_constant(now[6], departure), _ramp(now[6], OPEN, travel), _constant(OPEN, timing.settle + timing.reach)]
        gripper += [_ramp(OPEN, HOLD, timing.take)]
        return _beside(joints, np.concatenate(gripper))

    @staticmethod
    def _track(arm: Arm, path: list[tuple[Pose, int]], joints: Array) -> Array:
        """Joint targets along straight lines from way-point to way-point, eased; ``joints`` stand at the first one."""
        rows = []
        here = path[0][0]
        for goal, steps in path:
            for share in _ease(steps):
                position = here.position + share * (goal.position - here.position)
                turn = _rotation_error(here.rotation, goal.rotation)
                joints = arm.solve(Pose(position, _rotate(share * turn) @ here.rotation), joints, 4)
                rows.append(joints)
            here = goal
        return np.stack(rows)


def action_noise(rng: np.random.Generator, steps: int, std: float, correlation: float = 0.9) -> Array:
    """Ornstein-Uhlenbeck noise for the arm joints, (steps, 14) radians of stationary deviation ``std``; none on grippers."""
    kicks = rng.normal(0.0, std * np.sqrt(1.0 - correlation**2), (steps, 14))
    noise = np.zeros((steps, 14))
    for step in range(1, steps):
        noise[step] = correlation * noise[step - 1] + kicks[step]
    noise[:, [6, 13]] = 0.0
    return noise


def _left_travel(timing: Timing) -> int:
    """The left hand arrives behind the meeting point when the cube arrives there."""
    return timing.close + timing.lift + timing.carry - timing.left_delay


def _right_hand(yaw: float) -> Array:
    """Gripper link of the right hand: looking towards the left arm and down, fingers level; turned about the vertical."""
    ahead = np.array([-np.cos(RIGHT_PITCH), 0.0, -np.sin(RIGHT_PITCH)])
    fingers = np.array([0.0, -1.0, 0.0])
    level = np.stack([ahead, fingers, np.cross(ahead, fingers)], axis=1)
    return _rotate(np.array([0.0, 0.0, yaw])) @ level


def _nearest_face_yaw(quaternion: Array) -> float:
    """The cube's turn about the vertical, taken to within an eighth of a turn: its four sides are alike."""
    w, x, y, z = quaternion
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return float((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _bearing(cube: Array) -> float:
    """Waist angle at which the right arm (base at x 0.469, y 0.5, looking to -x) faces the cube."""
    return float(np.arctan2(0.5 - cube[1], 0.469 - cube[0]))


def _rotation_error(here: Array, goal: Array) -> Array:
    """Rotation vector (3,) that turns ``here`` into ``goal``, world frame."""
    turn = goal @ here.T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(turn) - 1) / 2
    angle = np.arctan2(sine, cosine)
    return axis / 2 if angle < 1e-6 else axis / (2 * sine) * angle


def _rotate(vector: Array) -> Array:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _ease(steps: int) -> Array:
    """Shares 0..1 of a way, the start excluded: slow, fast, slow (smoothstep)."""
    share = np.arange(1, steps + 1) / max(steps, 1)
    return share * share * (3 - 2 * share)


def _joint_path(start: Array, goal: Array, steps: int) -> Array:
    return start + _ease(steps)[:, None] * (goal - start)


def _ramp(start: float, goal: float, steps: int) -> Array:
    return start + np.arange(1, steps + 1) / max(steps, 1) * (goal - start)


def _constant(value: float, steps: int) -> Array:
    return np.full(max(steps, 0), value)


def _hold_last(rows: Array, length: int) -> Array:
    return np.concatenate([rows, np.repeat(rows[-1:], length - len(rows), axis=0)])


def _beside(joints: Array, gripper: Array) -> Array:
    """(steps, 6) and (steps,) as (steps, 7); the shorter one holds its last value."""
    length = max(len(joints), len(gripper))
    return np.concatenate([_hold_last(joints, length), _hold_last(gripper[:, None], length)], axis=1)
