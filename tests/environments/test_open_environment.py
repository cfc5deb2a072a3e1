"""Every way to write an environment, and the order that names bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actlink import loading
from actlink.environments import _open
from actlink.environments._open import open_environment
from actlink.environments._wrappers import Transformed
from actlink.errors import ConfigError, MissingPackageError
from actlink.spec import Field, Spec
from actlink.transform import parse

WORLD = '''
"""A world of somebody else's: the state is the sum of all actions."""
from dataclasses import dataclass
import numpy as np
from actlink import Field, Spec, Step
from actlink.environments._base import Environment
from actlink.errors import ConfigError, SimulationError

@dataclass(frozen=True)
class Config:
    start: float = 0.0

class World(Environment):
    def __init__(self, config, task="", wanted=None):
        self.start, self.wanted, self.closed = config.start, wanted, False
        names = ("a", "b", "c")
        self.spec = Spec({"state": Field((3,), names=names), "images.cam": Field((3, 4, 4), "uint8")}, Field((3,), names=names))

    def tasks(self):
        return ("sum", "product")

    def reset(self, task, seed):
        if task not in self.tasks():
            raise ConfigError("no such task")
        self.state = np.full(3, self.start, np.float32)
        return self.seen()

    def step(self, action):
        self.last = action
        self.state = self.state + action
        return Step(self.seen(), 0.0, None, False, False)

    def hold_action(self, last):
        return np.zeros(3, np.float32) if last is None else last

    def render(self):
        raise SimulationError("nothing to see")

    def close(self):
        self.closed = True

    def seen(self):
        return {"state": self.state.copy(), "images.cam": np.zeros((3, 4, 4), np.uint8)}

class Stranger:
    pass
'''


@pytest.fixture
def world(tmp_path: Path) -> str:
    path = tmp_path / "world.py"
    path.write_text(WORLD)
    return f"{path}:World"


def wanted(names: tuple[str, ...], actions: tuple[str, ...] | None = None) -> Spec:
    return Spec({"state": Field((len(names),), names=names)}, Field((3,), names=actions))


def test_a_file_with_its_task() -> None:
    pytest.importorskip("gymnasium")
    environment, task = open_environment("gymnasium:CartPole-v1?max_steps=7")
    assert task == "CartPole-v1" and environment.tasks() == ("CartPole-v1",)
    environment.close()


@pytest.mark.parametrize(
    ("name", "file", "task"),
    [
        ("aloha", "aloha", ""),
        ("aloha_transfer_cube", "aloha", "transfer_cube"),
        ("aloha:transfer_cube", "aloha", "transfer_cube"),
        ("gymnasium:CartPole-v1", "gymnasium", "CartPole-v1"),
        ("gymnasium:package.module:Env-v0", "gymnasium", "package.module:Env-v0"),
        ("aloha_real_cube", "aloha_real", "cube"),
        ("aloha_real", "aloha_real", ""),
        ("mine.py:World", None, ""),
        ("package.mine:World", None, ""),
    ],
)
def test_the_longest_file_name_wins(monkeypatch: pytest.MonkeyPatch, name: str, file: str | None, task: str) -> None:
    monkeypatch.setattr(loading, "names", lambda folder: ["aloha", "aloha_real", "gymnasium"])
    assert _open._split(name) == (file, task)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no environment 'alohatransfer'; there are: .*aloha.*gymnasium"):
        open_environment("alohatransfer")


def test_options_stand_in_the_name_and_beside_it(world: str) -> None:
    for reference, options, expected in ((f"{world}?start=2", None, 2), (f"{world}?start=2", {"start": "3"}, 3), (world, {}, 0)):
        environment, task = open_environment(reference, options=options)
        assert task == "sum"
        assert environment.reset(task, 0)["state"].tolist() == [expected] * 3


def test_a_third_partys_task_is_an_option(world: str) -> None:
    assert open_environment(f"{world}?task=product")[1] == "product"
    with pytest.raises(ConfigError, match="no task 'quotient'; there are: sum, product"):
        open_environment(f"{world}?task=quotient")


def test_what_is_wrong_with_a_third_partys_is_explained(world: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown option 'speed'; known options: start"):
        open_environment(f"{world}?speed=1")
    with pytest.raises(ConfigError, match=r"expected a subclass of actlink.environments._base.Environment, got <class .*Stranger"):
        open_environment(world.replace("World", "Stranger"))
    bare = tmp_path / "bare.py"
    bare.write_text(WORLD.replace("class Config", "class Options"))
    with pytest.raises(ConfigError, match="its module has no 'Config'"):
        open_environment(f"{bare}:World")
    needy = tmp_path / "needy.py"
    needy.write_text(WORLD + "\nREQUIRES = ('no_such_simulator',)\n")
    with pytest.raises(MissingPackageError, match="needs no_such_simulator; install with: pip install no_such_simulator"):
        open_environment(f"{needy}:World")


# Order by name


def test_named_entries_come_in_the_policys_order(world: str) -> None:
    policy = wanted(("c", "a"), ("b", "c", "a"))
    environment, task = open_environment(world, policy)
    assert environment.spec.observation["state"].names == ("c", "a") and environment.spec.action.names == ("b", "c", "a")
    environment.reset(task, 0)
    step = environment.step(np.array([2, 3, 1], np.float32))  # b, c, a
    assert step.observation["state"].tolist() == [3, 1]  # c, a
    assert environment.hold_action(np.array([2, 3, 1], np.float32)).tolist() == [2, 3, 1]


def test_what_has_no_names_or_others_stays_as_it_is(world: str) -> None:
    for policy in (None, Spec({"state": Field((3,))}, Field((3,))), wanted(("a", "z"))):
        environment, _ = open_environment(world, policy)
        assert environment.spec.observation["state"].names == ("a", "b", "c")


# A transform


def test_a_transform_wraps_any_environment(world: str) -> None:
    lines = "- rename: {images.cam: images.top}\n- transpose: {images.top: chw->hwc}\n- resize: {images.top: [2, 2]}"
    policy = Spec({"images.top": Field((2, 2, 3), "uint8"), "state": Field((1,), names=("b",))}, Field((3,)))
    environment, task = open_environment(world, policy, {"transform": lines})
    assert environment.spec.observation["images.top"].shape == (2, 2, 3)
    observation = environment.reset(task, 0)
    assert policy.check(observation)["images.top"].shape == (2, 2, 3)
    inner = environment._inner._inner  # type: ignore[attr-defined]
    assert "images.cam" in inner.wanted.observation, "the environment is asked under its own names"


def test_a_transform_that_does_not_fit_is_explained(world: str) -> None:
    with pytest.raises(ConfigError, match="no 'pose' in the observation"):
        open_environment(world, options={"transform": "[{select: {pose: [a]}}]"})
    with pytest.raises(ConfigError, match="the policy's actions are not known here"):
        open_environment(world, options={"transform": "[{actions: {select: [a]}}]"})
    with pytest.raises(ConfigError, match="the environment takes 3 entries, the transform gives 1"):
        open_environment(world, wanted(("a",), ("a", "b", "c")), {"transform": "[{actions: {select: [a]}}]"})


def test_actions_that_the_environment_does_not_take_keep_their_value_while_it_holds(world: str) -> None:
    policy = Spec({}, Field((5,), names=("x", "c", "b", "a", "y")))
    environment, task = open_environment(world, policy, {"transform": "[{actions: {select: [a, b, c]}}]"})
    environment.reset(task, 0)
    step = environment.step(np.array([9, 3, 2, 1, 9], np.float32))
    assert step.observation["state"].tolist() == [1, 2, 3]
    assert environment.hold_action(None).tolist() == [0] * 5
    assert environment.hold_action(np.array([7, 3, 2, 1, 8], np.float32)).tolist() == [7, 3, 2, 1, 8]


def test_everything_else_passes(world: str) -> None:
    environment, _ = open_environment(world)
    wrapped = Transformed(environment, parse("[{rename: {state: pose}}]"))
    assert wrapped.tasks() == environment.tasks()
    with pytest.raises(Exception, match="nothing to see"):
        wrapped.render()
    wrapped.close()
    assert environment.closed  # type: ignore[attr-defined]
