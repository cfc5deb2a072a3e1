"""The Gymnasium adapter: spaces, seeds, success, and what it says when it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from actlink import options
from actlink.environments import gymnasium as adapter
from actlink.errors import ConfigError, SimulationError
from actlink.types import Step

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces


def made(task: str, **given: Any) -> adapter.Environment:
    return adapter.Environment(options.build(adapter.Config, given, "gymnasium"), task=task)


class Probe(gymnasium.Env):  # type: ignore[misc,name-defined]
    """Shows the action it was given; its spaces, rewards and infos are what the test says."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self, seen: Any = None, done: Any = None, infos: Any = (), tau: float | None = None, render_mode: Any = None
    ) -> None:
        self.observation_space = seen if seen is not None else spaces.Box(-1, 1, (1,))
        self.action_space = done if done is not None else spaces.Discrete(2)
        self.infos, self.given, self.render_mode = list(infos), [], render_mode
        if tau is not None:
            self.tau = tau

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = iter(self.infos)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.given.append(action)
        return self.observation_space.sample(), 1.0, False, False, next(self.left, {})

    def render(self) -> Any:
        raise RuntimeError("no pencil")


@pytest.fixture(autouse=True)
def probe() -> Iterator[None]:
    gymnasium.register("ActlinkProbe-v0", entry_point=Probe, max_episode_steps=5)
    yield
    del gymnasium.registry["ActlinkProbe-v0"]


def probed(**kwargs: Any) -> tuple[adapter.Environment, Any]:
    environment = adapter.Environment(adapter.Config(kwargs=kwargs), task="ActlinkProbe-v0")
    return environment, environment._inner.unwrapped


# Spaces


def test_cartpole_is_a_state_and_a_choice() -> None:
    environment = made("CartPole-v1")
    spec = environment.spec
    assert spec.observation["state"].shape == (4,) and spec.observation["state"].dtype == "float32"
    assert (spec.action.shape, spec.action.dtype, spec.action.range) == ((1,), "int64", (0, 1))
    assert spec.rate_hz == 50.0, "from its time step of 0.02 s"
    step = environment.reset("CartPole-v1", 0) and environment.step(np.array([1], np.int64))
    assert isinstance(step, Step) and step.reward == 1.0 and step.success is None


def test_pendulum_takes_a_number_and_tells_its_own_rate() -> None:
    spec = made("Pendulum-v1").spec
    assert (spec.action.shape, spec.action.dtype, spec.action.range) == ((1,), "float32", (-2, 2))
    assert spec.rate_hz == 20.0, "its time step is 0.05 s; 30 frames per second are its pictures"


@pytest.mark.parametrize(("kwargs", "rate_hz"), [({}, 25.0), ({"tau": 0.01}, 100.0), ({"tau": 0.0}, 25.0)])
def test_the_rate_is_the_time_steps_or_else_the_pictures(kwargs: dict[str, Any], rate_hz: float) -> None:
    assert probed(**kwargs)[0].spec.rate_hz == rate_hz


OBSERVATIONS: dict[str, tuple[Any, dict[str, tuple[str, tuple[int, ...]]]]] = {
    "vector": (spaces.Box(-1, 1, (3,), np.float64), {"state": ("float32", (3,))}),
    "matrix": (spaces.Box(-1, 1, (2, 3)), {"state": ("float32", (6,))}),
    "picture": (spaces.Box(0, 255, (4, 5, 3), np.uint8), {"images.main": ("uint8", (4, 5, 3))}),
    "grey picture": (spaces.Box(0, 255, (4, 5), np.uint8), {"state": ("float32", (20,))}),
    "choice": (spaces.Discrete(3), {"state": ("int64", (1,))}),
    "choices": (spaces.MultiDiscrete([2, 3]), {"state": ("int64", (2,))}),
    "bits": (spaces.MultiBinary(4), {"state": ("int64", (4,))}),
    "several": (
        spaces.Dict(
            {
                "observation": spaces.Box(-1, 1, (3,)),
                "wrist": spaces.Box(0, 255, (4, 5, 3), np.uint8),
                "goal": spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "word": spaces.Text(8)}),
            }
        ),
        {
            "observation": ("float32", (3,)),
            "images.wrist": ("uint8", (4, 5, 3)),
            "goal.place": ("float32", (2,)),
            "goal.word": ("str", ()),
        },
    ),
    "tuple": (spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))]), {"0": ("int64", (1,)), "1": ("float32", (2,))}),
}


@pytest.mark.parametrize(("space", "expected"), OBSERVATIONS.values(), ids=OBSERVATIONS.keys())
def test_every_observation_space_becomes_named_values(space: Any, expected: dict[str, Any]) -> None:
    environment, _ = probed(seen=space)
    fields = environment.spec.observation
    assert {key: (field.dtype, field.shape) for key, field in fields.items()} == expected
    observation = environment.reset("ActlinkProbe-v0", 3)
    checked = environment.spec.check(observation)
    for key, value in checked.items():
        assert value is observation[key], f"{key} needed a cast"


ACTIONS: dict[str, tuple[Any, tuple[str, tuple[int, ...], Any], Any, Any]] = {
    "numbers": (spaces.Box(-1, 1, (3,)), ("float32", (3,), (-1, 1)), [0.5, 0, -0.5], np.array([0.5, 0, -0.5])),
    "table": (spaces.Box(-1, 1, (2, 2)), ("float32", (4,), (-1, 1)), [1, 2, 3, 4], np.array([[1, 2], [3, 4]])),
    "doubles": (spaces.Box(-1, 1, (1,), np.float64), ("float32", (1,), (-1, 1)), [0.5], np.array([0.5])),
    "uneven bounds": (spaces.Box(np.array([-1, -2]), np.array([1, 2])), ("float32", (2,), None), [1, 1], np.array([1, 1])),
    "without bounds": (spaces.Box(-np.inf, np.inf, (1,)), ("float32", (1,), None), [7], np.array([7])),
    "choice": (spaces.Discrete(3, start=-1), ("int64", (1,), (-1, 1)), [-1], -1),
    "bits": (spaces.MultiBinary(2), ("int64", (2,), (0, 1)), [1, 0], np.array([1, 0])),
    "even choices": (spaces.MultiDiscrete([3, 3]), ("int64", (2,), (0, 2)), [2, 1], np.array([2, 1])),
    "uneven choices": (spaces.MultiDiscrete([2, 3]), ("int64", (2,), None), [1, 2], np.array([1, 2])),
}


@pytest.mark.parametrize(("space", "expected", "action", "given"), ACTIONS.values(), ids=ACTIONS.keys())
def test_every_action_space_is_served(space: Any, expected: Any, action: Any, given: Any) -> None:
    environment, inner = probed(done=space)
    field = environment.spec.action
    assert (field.dtype, field.shape, field.range) == expected
    environment.reset("ActlinkProbe-v0", 0)
    environment.step(np.asarray(action, field.dtype))
    assert space.contains(inner.given[0]) or not space.contains(given)
    np.testing.assert_array_equal(inner.given[0], given)
    assert isinstance(inner.given[0], int) == isinstance(given, int)


def test_entries_of_unlike_bounds_have_limits_of_their_own() -> None:
    bounds = {
        "uneven bounds": ([-1, -2], [1, 2]),
        "half open": ([-1, 0.5], [np.inf, 2]),
        "uneven choices": ([0, 0], [1, 2]),
        **dict.fromkeys(("numbers", "without bounds", "choice", "bits", "even choices")),
    }
    more = {"half open": spaces.Box(np.array([-1, 0.5]), np.array([np.inf, 2]), dtype=np.float64)}
    for name, expected in bounds.items():
        environment, _ = probed(done=more[name] if name in more else ACTIONS[name][0])
        found = environment.limits
        assert (None if found is None else [each.tolist() for each in found]) == (None if expected is None else list(expected))
        hold = environment.hold_action(None)
        assert found is None or ((found[0] <= hold) & (hold <= found[1])).all()


@pytest.mark.parametrize("kind", ["seen", "done"])
def test_a_space_that_cannot_be_served_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match="cannot be served: Sequence"):
        probed(**{kind: spaces.Sequence(spaces.Discrete(2))})


# Seeds, success, episodes


def test_the_seed_decides_the_episode() -> None:
    environment = made("CartPole-v1")
    first, again, other = (environment.reset("CartPole-v1", seed)["state"].tolist() for seed in (1, 1, 2))
    assert first == again != other


SUCCESSES: dict[str, tuple[Any, float | None, list[bool | None]]] = {
    "not told": ([{}, {}, {}], None, [None, None, None]),
    "is_success": ([{"is_success": False}, {"is_success": np.True_}, {"is_success": False}], None, [False, True, True]),
    "success": ([{"success": 0.0}, {"success": 1.0}, {}], None, [False, True, True]),
    "told late": ([{}, {"success": True}, {}], None, [None, True, True]),
    "by return": ([{}, {}, {}], 2.0, [False, True, True]),
    "told beats return": ([{"success": False}] * 3, 1.0, [False, False, False]),
}


@pytest.mark.parametrize(("infos", "goal", "expected"), SUCCESSES.values(), ids=SUCCESSES.keys())
def test_success_is_told_or_reached_and_then_stays(infos: Any, goal: float | None, expected: list[bool | None]) -> None:
    environment = adapter.Environment(adapter.Config(success_return=goal, kwargs={"infos": infos}), task="ActlinkProbe-v0")
    for _ in range(2):
        environment.reset("ActlinkProbe-v0", 0)
        assert [environment.step(np.zeros(1, np.int64)).success for _ in range(3)] == expected


def test_the_length_of_an_episode_is_an_option() -> None:
    for given, expected in (({}, 5), ({"max_steps": 2}, 2)):
        environment = made("ActlinkProbe-v0", **given)
        environment.reset("ActlinkProbe-v0", 0)
        ends = [environment.step(np.zeros(1, np.int64)).truncated for _ in range(expected)]
        assert ends == [False] * (expected - 1) + [True]


def test_keyword_arguments_reach_the_environment() -> None:
    assert made("Pendulum-v1", kwargs="{g: 9.81}")._inner.unwrapped.g == 9.81


def test_holding_is_zero_or_the_last_position() -> None:
    last = np.array([1.5], np.float32)
    assert made("Pendulum-v1").hold_action(last).tolist() == [0.0]
    assert made("Pendulum-v1", hold="last").hold_action(last).tolist() == [1.5]
    assert made("Pendulum-v1", hold="last").hold_action(None).tolist() == [0.0]
    assert probed(done=spaces.Discrete(3, start=2))[0].hold_action(None).tolist() == [2]
    assert probed(done=spaces.Box(1, 2, (2,)))[0].hold_action(None).tolist() == [1, 1]


# Pictures


def test_it_draws_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    environment = made("CartPole-v1")
    environment.reset("CartPole-v1", 0)
    picture = environment.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.min() < picture.max()
    assert "SDL_VIDEODRIVER" not in os.environ, "and leaves the process as it was"
    environment.close()


def test_what_cannot_be_drawn_says_so() -> None:
    environment, _ = probed()
    environment.reset("ActlinkProbe-v0", 0)
    with pytest.raises(SimulationError, match=r"cannot be drawn: no pencil \(try: pip install 'gymnasium\[all\]'"):
        environment.render()


def test_without_a_render_mode_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "metadata", {"render_modes": []})
    environment, _ = probed()
    with pytest.raises(SimulationError, match="it has no render mode rgb_array"):
        environment.render()
    assert environment.spec.rate_hz is None


# What it refuses


WRONG = {
    "no id": ("", {}, "which environment\\? Write its id: gymnasium:CartPole-v1"),
    "unknown id": ("CartPol-v1", {}, "gymnasium:CartPol-v1: NameNotFound: .*Did you mean: `CartPole`"),
    "unknown module": ("no_such_module:Env-v0", {}, "ModuleNotFoundError: No module named 'no_such_module'"),
    "unknown keyword": ("CartPole-v1", {"kwargs": "{gravity: 3}"}, "unexpected keyword argument 'gravity'"),
    "unknown option": (
        "CartPole-v1",
        {"steps": 3},
        "unknown option 'steps'; known options: max_steps, success_return, hold, kwargs",
    ),
    "wrong hold": ("CartPole-v1", {"hold": "still"}, "option 'hold': expected"),
}


@pytest.mark.parametrize(("task", "given", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_explained(task: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(task, **given)


def test_it_has_one_task() -> None:
    with pytest.raises(ConfigError, match="no task 'Pendulum-v1'; this environment is CartPole-v1"):
        made("CartPole-v1").reset("Pendulum-v1", 0)
