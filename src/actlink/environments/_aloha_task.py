"""gym-aloha's two bimanual tasks as bare physics. Law: no rendering, no seeds, no episode rules; those are ``aloha.py``'s.

The tasks, their rewards and their XML are gym-aloha's own, so that what is measured here is what it measures; only the
observation is replaced, because the stock one renders three cameras at every step (some 180 ms instead of 0.4 ms).
dm_control chooses an OpenGL library when it is imported and fails where a chosen one is absent; physics needs none, so it is
imported with rendering switched off and pictures are made by ``_aloha_render`` from the same model and data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from actlink.errors import MissingPackageError
from actlink.types import Array

CONTROL_RATE_HZ = 50.0
PHYSICS_STEPS_PER_CONTROL_STEP = 10
"""The XML's physics step is 0.002 s, gym-aloha's control step 0.02 s."""

_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")
JOINTS: tuple[str, ...] = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _ARM)
"""The 14 actions, and the first 14 dimensions of ``state``, in order."""
_GRIPPERS = [6, 13]
OBJECTS: dict[str, tuple[str, ...]] = {"transfer_cube": ("cube",), "insertion": ("peg", "socket")}
"""Free bodies of each task, in the order of their poses in ``state``."""
CAMERAS = ("top", "angle", "front_close", "left_pillar", "right_pillar", "left_wrist", "right_wrist")

LEFT_FINGERS = frozenset({"vx300s_left/10_left_gripper_finger", "vx300s_left/10_right_gripper_finger"})
RIGHT_FINGERS = frozenset({"vx300s_right/10_left_gripper_finger", "vx300s_right/10_right_gripper_finger"})
TABLE = "table"

_INSTALL = "pip install 'actlink[sim]'"
INSTALL_WITHOUT_LABMAZE = "pip install 'actlink[sim]' && pip install --no-deps dm_control==1.0.41 gym-aloha"
"""On Python 3.13 and later: dm_control asks for labmaze, which does not build there and is not needed for these tasks.

The version is the one that goes with MuJoCo 3.8, the newest that gym-aloha allows; ``--no-deps`` would take a newer one.
"""


def state_names(task: str) -> tuple[str, ...]:
    """Names of the dimensions of ``state``: 14 joints, then position (m) and unit quaternion (w first) of each object."""
    return JOINTS + tuple(f"{name}_{part}" for name in OBJECTS[task] for part in _POSE)


@contextmanager
def _without_gl() -> Iterator[None]:
    """dm_control reads MUJOCO_GL once, on import: hide the caller's value from it, and give it back."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


def _load() -> tuple[ModuleType, ModuleType, ModuleType]:
    """``dm_control.mujoco``, gym-aloha's tasks and its constants, imported only when a simulation is made."""
    try:
        with _without_gl():
            from dm_control import mujoco
            from gym_aloha import constants
            from gym_aloha.tasks import sim
    except ModuleNotFoundError as error:
        line = _INSTALL if sys.version_info < (3, 13) else INSTALL_WITHOUT_LABMAZE
        raise MissingPackageError(f"the aloha environment needs {error.name}; install with: {line}") from error
    return mujoco, sim, constants


def sample_poses(task: str, seed: int) -> Array:
    """Where gym-aloha's own ``env.reset(seed)`` puts the objects: float64 ``(7,)`` per object, one after the other."""
    _load()
    from gym_aloha.utils import sample_box_pose, sample_insertion_pose

    poses = sample_box_pose(seed) if task == "transfer_cube" else np.concatenate(sample_insertion_pose(seed))
    return np.asarray(poses, dtype=np.float64)


class Simulation:
    """One task's physics: put the objects down, apply joint targets, read joints, poses, reward and contacts."""

    def __init__(self, task: str) -> None:
        mujoco, sim, constants = _load()
        files = {"transfer_cube": "bimanual_viperx_transfer_cube.xml", "insertion": "bimanual_viperx_insertion.xml"}
        tasks = {"transfer_cube": sim.TransferCubeTask, "insertion": sim.InsertionTask}
        self._sim = sim
        self._physics: Any = mujoco.Physics.from_xml_path(str(constants.ASSETS_DIR / files[task]))
        # A seed for the task's own generator, which neither task draws from; unseeded it would read the system's entropy.
        self._task: Any = tasks[task](random=0)
        model = self._physics.model
        self._geoms = [model.id2name(index, "geom") for index in range(model.ngeom)]
        self._object_geoms = [
            index for index in range(model.ngeom) if model.body_rootid[model.geom_bodyid[index]] in self._free_bodies()
        ]
        self.max_reward = float(self._task.max_reward)

    def _free_bodies(self) -> frozenset[int]:
        model = self._physics.model
        free = 0  # mjJNT_FREE
        return frozenset(int(model.jnt_bodyid[j]) for j in range(model.njnt) if model.jnt_type[j] == free)

    @property
    def model(self) -> Any:
        """The raw ``mujoco.MjModel``, for whoever renders."""
        return self._physics.model.ptr

    @property
    def data(self) -> Any:
        """The raw ``mujoco.MjData``, for whoever renders."""
        return self._physics.data.ptr

    def start_pose(self) -> Array:
        """Joint targets that keep both arms where an episode starts, float32 ``(14,)``."""
        _, _, constants = _load()
        pose = np.asarray(constants.START_ARM_POSE, dtype=np.float64)
        gripper = constants.normalize_puppet_gripper_position
        return np.concatenate([pose[:6], [gripper(pose[6])], pose[8:14], [gripper(pose[14])]]).astype(np.float32)

    def limits(self) -> tuple[Array, Array]:
        """Smallest and largest joint targets, float32 ``(14,)`` each: the actuators' own, beyond which they clip.

        A gripper's are 0 and 1, by what its target means; its fingers stop a little inside of both.
        """
        low, high = np.array(self._physics.model.actuator_ctrlrange, np.float64).T
        joints = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]  # an arm has six joints and two fingers, of which one counts
        low, high = low[joints], high[joints]
        low[_GRIPPERS], high[_GRIPPERS] = 0.0, 1.0
        return low.astype(np.float32), high.astype(np.float32)

    def reset(self, poses: Array) -> None:
        """Arms to their start pose, objects to ``poses`` (float64, 7 per object)."""
        # gym-aloha takes the poses from a module global; it is read inside initialize_episode and nowhere else.
        self._sim.BOX_POSE[0] = poses
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)

    def step(self, action: Sequence[float] | Array) -> float:
        """Hold ``action`` ((14,): radians, grippers 0 closed to 1 open) for one control step; the task's reward after it."""
        self._task.before_step(action, self._physics)
        self._physics.step(PHYSICS_STEPS_PER_CONTROL_STEP)
        self._task.after_step(self._physics)
        return float(self._task.get_reward(self._physics))

    def state(self) -> Array:
        """float32 ``(21,)`` or ``(28,)``, see ``state_names``."""
        joints = self._task.get_qpos(self._physics)
        return np.concatenate([joints, self._task.get_env_state(self._physics)]).astype(np.float32)

    def touching(self) -> frozenset[str]:
        """Names of the geoms that touch an object, the objects' own excepted."""
        contact = self._physics.data.contact
        names = set()
        for first, second in zip(contact.geom1, contact.geom2, strict=True):
            if (first in self._object_geoms) != (second in self._object_geoms):
                names.add(self._geoms[second if first in self._object_geoms else first])
        return frozenset(names)

    def shift_object(self, offset: Array) -> None:
        """Move the first object by ``offset`` (3,) metres at once, its orientation and speed kept."""
        import mujoco

        joint = self._physics.model.jnt_qposadr[self._physics.model.jnt_type == 0][0]
        self._physics.data.qpos[joint : joint + 3] += offset
        mujoco.mj_forward(self.model, self.data)
