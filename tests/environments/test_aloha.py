"""The aloha environment: gym-aloha's numbers, its own episode rules, and no OpenGL unless a picture is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actlink.environments import _aloha_task, aloha
from actlink.environments.aloha import GRACE_STEPS, HOLD_STEPS, Config, Environment, _Progress
from actlink.errors import ConfigError, SimulationError
from actlink.loading import missing
from actlink.spec import Field, Spec
from actlink.types import Array

_LACKING = ", ".join(missing(aloha))
pytestmark = pytest.mark.skipif(bool(_LACKING), reason=f"{_LACKING} not installed: pip install 'actlink[sim]'")

CUBE = slice(14, 17)
HOLDING = frozenset(_aloha_task.LEFT_FINGERS)


@pytest.fixture
def env() -> Iterator[Environment]:
    made = Environment()
    yield made
    made.close()


def _state(env: Environment, seed: int, steps: int) -> Array:
    """State after holding the start pose for ``steps``."""
    state = np.asarray(env.reset("", seed)["state"])
    for _ in range(steps):
        state = np.asarray(env.step(env.hold_action(None)).observation["state"])
    return state


def test_state_is_one_named_vector(env: Environment) -> None:
    field = env.spec.observation["state"]
    assert field.shape == (21,)
    assert field.names is not None
    assert field.names[:2] == ("left_waist", "left_shoulder")
    assert field.names[13:] == ("right_gripper", "cube_x", "cube_y", "cube_z", "cube_qw", "cube_qx", "cube_qy", "cube_qz")
    assert env.spec.action.names == field.names[:14]
    assert env.spec.check(env.reset("transfer_cube", 0))["state"].shape == (21,)  # type: ignore[union-attr]


def test_insertion_has_two_objects() -> None:
    env = Environment(task="insertion")
    observation = env.reset("insertion", 5)
    assert env.spec.check(observation)["state"].shape == (28,)  # type: ignore[union-attr]
    step = env.step(env.hold_action(None))
    assert step.success is False
    assert "strict_success" not in step.metrics


@pytest.mark.parametrize("seed", [0, 1000, 4999])
def test_cube_lies_where_gym_aloha_puts_it(env: Environment, seed: int) -> None:
    from gym_aloha.utils import sample_box_pose

    np.testing.assert_array_equal(np.asarray(env.reset("", seed)["state"])[14:], sample_box_pose(seed).astype(np.float32))


def test_rewards_and_joints_are_those_of_gym_alohas_task(env: Environment) -> None:
    """A stock task, its three renderings cut out, stepped by dm_control's own loop."""
    with _aloha_task._without_gl():
        from dm_control import mujoco
        from dm_control.rl import control
        from gym_aloha.constants import ASSETS_DIR, DT
        from gym_aloha.tasks import sim

    class Stock(sim.TransferCubeTask):  # type: ignore[misc]
        def get_observation(self, physics: object) -> dict[str, Array]:
            return {"qpos": self.get_qpos(physics), "env_state": self.get_env_state(physics)}

    physics = mujoco.Physics.from_xml_path(str(ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"))
    stock = control.Environment(physics, Stock(random=0), float("inf"), control_timestep=DT)
    env.reset("", 7)
    sim.BOX_POSE[0] = _aloha_task.sample_poses("transfer_cube", 7)
    stock.reset()
    noise = np.random.default_rng(0)
    for _ in range(50):
        action = env.hold_action(None) + noise.normal(0.0, 0.1, 14)
        ours, theirs = env.step(action), stock.step(action)
        assert ours.reward == theirs.reward
        expected = np.concatenate([theirs.observation["qpos"], theirs.observation["env_state"]])
        np.testing.assert_array_equal(ours.observation["state"], expected.astype(np.float32))


def test_same_seed_same_bits_in_another_process() -> None:
    config = Config(push_cube_m=0.02, yaw_deg=15.0)
    code = (
        "from actlink.environments.aloha import *\n"
        "env = Environment(Config(push_cube_m=0.02, yaw_deg=15.0)); env.reset('', 3)\n"
        "for _ in range(60): step = env.step(env.hold_action(None))\n"
        "print(step.observation['state'].tobytes().hex())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    env = Environment(config)
    assert _state(env, 3, 60).tobytes().hex() == there
    assert _state(env, 3, 60).tobytes().hex() == there, "a second episode must not remember the first"


def test_push_moves_the_cube_once_by_the_distance(env: Environment) -> None:
    pushed = Environment(Config(push_cube_m=0.02))
    moved = _state(pushed, 11, 60)[CUBE] - _state(env, 11, 60)[CUBE]
    assert np.hypot(moved[0], moved[1]) == pytest.approx(0.02, abs=1e-4)
    assert pushed.step(pushed.hold_action(None)).metrics["pushed"] == 1.0
    np.testing.assert_array_equal(_state(pushed, 11, 10)[CUBE], _state(env, 11, 10)[CUBE])
    assert "pushed" not in env.step(env.hold_action(None)).metrics


def test_push_comes_at_different_steps() -> None:
    env = Environment(Config(push_cube_m=0.02, push_window=(10, 50)))
    steps = set()
    for seed in range(8):
        before = _state(env, seed, 9)
        for step in range(9, 60):
            after = np.asarray(env.step(env.hold_action(None)).observation["state"])
            if np.hypot(*(after - before)[14:16]) > 0.01:
                steps.add(step)
            before = after
    assert len(steps) > 3
    assert min(steps) >= 10
    assert max(steps) <= 50


def test_a_touched_cube_is_not_pushed(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = Environment(Config(push_cube_m=0.02))
    monkeypatch.setattr(_aloha_task.Simulation, "touching", lambda _: frozenset({_aloha_task.TABLE, *HOLDING}))
    np.testing.assert_array_equal(_state(pushed, 11, 60)[CUBE], _state(env, 11, 60)[CUBE])
    assert pushed.step(pushed.hold_action(None)).metrics["pushed"] == 0.0


def test_yaw_turns_the_cube_within_bounds_and_does_not_move_it(env: Environment) -> None:
    turned = Environment(Config(yaw_deg=15.0))
    angles = []
    for seed in range(20):
        state = np.asarray(turned.reset("", seed)["state"])
        angles.append(np.rad2deg(2 * np.arctan2(state[20], state[17])))
        np.testing.assert_array_equal(state[CUBE], np.asarray(env.reset("", seed)["state"])[CUBE])
    assert max(np.abs(angles)) <= 15.0
    assert min(angles) < -3.0 < 3.0 < max(angles)


def test_an_episode_is_cut_off_after_max_steps() -> None:
    env = Environment(Config(max_steps=3))
    env.reset("", 0)
    ends = [env.step(env.hold_action(None)).truncated for _ in range(3)]
    assert ends == [False, False, True]


def test_strict_success_needs_the_left_hand_alone_for_fifteen_steps() -> None:
    progress = _Progress(4.0, transfer=True)
    for _ in range(HOLD_STEPS - 1):
        progress.note(4.0, HOLDING)
    assert progress.success
    assert not progress.over
    progress.note(4.0, HOLDING | {next(iter(_aloha_task.RIGHT_FINGERS))})
    for _ in range(HOLD_STEPS):
        assert not progress.over
        progress.note(4.0, HOLDING)
    assert progress.over
    assert progress.metrics() == {"max_reward": 4.0, "strict_success": 1.0}


def test_without_strict_success_a_transfer_ends_fifty_steps_after_the_reward() -> None:
    progress = _Progress(4.0, transfer=True)
    progress.note(4.0, frozenset())
    for _ in range(GRACE_STEPS - 1):
        progress.note(0.0, frozenset())
    assert not progress.over
    assert progress.success, "success stays once it was reached"
    progress.note(0.0, frozenset())
    assert progress.over
    assert progress.metrics()["strict_success"] == 0.0


def test_insertion_ends_with_the_reward() -> None:
    progress = _Progress(4.0, transfer=False)
    progress.note(3.0, frozenset())
    assert not progress.over
    progress.note(4.0, frozenset())
    assert progress.over


def test_hold_action_is_the_last_targets_or_the_start_pose(env: Environment) -> None:
    last = np.linspace(-1, 1, 14, dtype=np.float32)
    np.testing.assert_array_equal(env.hold_action(last), last)
    start = np.asarray(env.reset("", 0)["state"])[:14]
    np.testing.assert_allclose(env.hold_action(None), start, atol=1e-6)


def test_limits_are_the_actuators_own(env: Environment) -> None:
    """Beyond them a target changes nothing; a gripper's, 0 and 1, hold both ends of what its fingers can do."""
    from gym_aloha.constants import normalize_puppet_gripper_position

    assert env.limits is not None
    low, high = env.limits
    ranges = np.array(env._simulation.model.actuator_ctrlrange)
    for side in (0, 1):
        np.testing.assert_allclose(np.stack([low, high], 1)[7 * side : 7 * side + 6], ranges[8 * side : 8 * side + 6], atol=1e-6)
        assert (low[7 * side + 6], high[7 * side + 6]) == (0.0, 1.0)
        closed, opened = normalize_puppet_gripper_position(ranges[8 * side + 6])
        assert 0 < closed < 0.1 and 0.9 < opened < 1
    start = env.hold_action(None)
    assert (low <= start).all() and (start <= high).all()
    beyond = np.array(start, np.float64)
    beyond[[2, 4, 6, 9, 11, 13]] = 1.9, 2.5, -0.5, 1.9, 2.5, 1.5  # elbows, wrists, grippers
    far = np.linspace(start, beyond, 40)
    assert ((far < low) | (far > high)).any(axis=0).sum() == 6
    ended = []
    for targets in (far, np.clip(far, low, high)):
        env.reset("", 0)
        ended.append([np.asarray(env.step(target).observation["state"]) for target in targets][-1])
    np.testing.assert_allclose(ended[0], ended[1], atol=1e-4)


def test_cameras_are_those_the_policy_asks_for() -> None:
    wanted = Spec(
        observation={"images.top": Field((48, 64, 3), "uint8"), "images.angle": Field((None, None, 3), "uint8")},
        action=Field((14,)),
    )
    env = Environment(Config(camera_height=24, camera_width=32), wanted=wanted)
    assert {name: field.shape for name, field in env.spec.cameras.items()} == {"top": (48, 64, 3), "angle": (24, 32, 3)}


def test_pictures_or_an_error_that_says_what_to_install() -> None:
    wanted = Spec(observation={"images.top": Field((48, 64, 3), "uint8")}, action=Field((14,)))
    env = Environment(Config(camera_height=480, camera_width=640), wanted=wanted)
    try:
        observation = env.reset("", 0)
    except SimulationError as error:
        assert "apt-get install" in str(error)
        pytest.skip(f"no OpenGL here: {error}")
    image = np.asarray(observation["images.top"])
    red = (image[..., 0] > 200) & (image[..., 1] < 90)
    assert red.any(), "the red cube is in the picture"
    assert env.render().shape == (480, 640, 3)
    env.close()


_NO_GL = """
import ctypes, ctypes.util, sys
real, find = ctypes.CDLL.__init__, ctypes.util.find_library
def load(self, name, *args, **kwargs):
    if name and any(part in str(name).lower() for part in ("libgl", "egl", "osmesa", "opengl", "glfw", "libx11")):
        raise OSError(f"{name}: hidden")
    real(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = load
ctypes.util.find_library = lambda n: None if any(p in n.lower() for p in ("gl", "osmesa", "x11")) else find(n)
from actlink.environments.aloha import Environment
from actlink.errors import SimulationError
env = Environment()
env.reset("", 0)
env.step(env.hold_action(None))
try:
    env.render()
except SimulationError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="hides the libraries as Linux names them")
@pytest.mark.parametrize("chosen", [None, "egl", "glfw"])
def test_physics_runs_without_any_opengl_library(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    done = subprocess.run([sys.executable, "-c", _NO_GL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "apt-get install libegl1 libgl1" in done.stdout
    assert "libosmesa6" in done.stdout


def test_importing_the_adapter_loads_no_simulator() -> None:
    code = "import sys, actlink.environments.aloha; print([m for m in ('mujoco', 'dm_control', 'gym_aloha') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": 0}, "max_steps"),
        ({"push_window": (50, 10)}, "push_window"),
        ({"push_cube_m": -0.01}, "push_cube_m"),
        ({"render_camera": "nose"}, "no camera 'nose'; there are: top"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**options)  # type: ignore[arg-type]


def test_wrong_use_is_an_error(env: Environment) -> None:
    with pytest.raises(SimulationError, match="before reset"):
        env.step(np.zeros(14))
    env.reset("", 0)
    with pytest.raises(SimulationError, match=r"expected shape \(14,\), got \(7,\)"):
        env.step(np.zeros(7))
    with pytest.raises(ConfigError, match="no task 'juggle'; there are: transfer_cube, insertion"):
        Environment(task="juggle")
    with pytest.raises(ConfigError, match="insertion has none"):
        Environment(Config(yaw_deg=5.0), task="insertion")
    with pytest.raises(ConfigError, match="no camera 'nose'"):
        Environment(wanted=Spec(observation={"images.nose": Field((48, 64, 3), "uint8")}, action=Field((14,))))


def test_the_bundled_model_was_not_trained_on_evaluation_seeds() -> None:
    card = Path(_aloha_task.__file__).parents[1] / "models" / "aloha_transfer_cube" / "CARD.md"
    if not card.exists():
        pytest.skip("no bundled model")
    assert "seeds from 100000 on" in " ".join(card.read_text(encoding="utf-8").split())
