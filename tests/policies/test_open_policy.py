"""Every way to write a policy that is not an address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphs as graphs
import pytest

from actlink.errors import ConfigError
from actlink.policies._open import bundled, open_policy
from actlink.types import Request, Runtime

pytest.importorskip("onnxruntime")

USER = '''
from actlink import Field, Policy, Request, Spec, ActionChunk
import numpy as np

class Constant(Policy):
    """A user's own."""

    def __init__(self, value: float = 1.0, horizon: int = 2, runtime=None):
        self.spec = Spec({"state": Field((3,))}, Field((2,)), action_horizon=horizon)
        self.value, self.runtime = value, runtime

    def infer(self, requests):
        return [ActionChunk(np.full((self.spec.action_horizon, 2), self.value, np.float32)) for _ in requests]

ready = Constant(5.0)

def factory(value: float):
    return Constant(value)

def drive(observation):
    return np.zeros((1, 2), np.float32)

drive.spec = Constant().spec
number = 3

def broken():
    raise RuntimeError("no such weights")
'''

FAMILY = '''
"""A family of somebody else's."""
from dataclasses import dataclass
from pathlib import Path
from actlink import Field, Spec
from actlink.policies._callable import CallablePolicy
import numpy as np

@dataclass(frozen=True)
class Config:
    gain: float = 1.0

def load(source, config, runtime):
    value = float(Path(source).read_text()) * config.gain
    return CallablePolicy(lambda observation: np.full((1, 1), value, np.float32), Spec({}, Field((1,))))
'''


@pytest.fixture
def user(tmp_path: Path) -> str:
    path = tmp_path / "my_policy.py"
    path.write_text(USER)
    return str(path)


def first_action(policy: object) -> list[float]:
    return policy.infer([Request({})])[0].actions[0].tolist()  # type: ignore[attr-defined]


# Bundled, directories, families


def test_bundled_policies_are_known_and_open() -> None:
    assert {"cartpole_ppo", "pendulum_sac"} <= set(bundled())
    for name in ("cartpole_ppo", "pendulum_sac"):
        policy = open_policy(name)
        assert policy.spec.name == name and policy.spec.digest
        (chunk,) = policy.infer([Request(policy.spec.zeros())])
        policy.spec.check_actions(chunk.actions)
        policy.close()


def test_a_directory_and_its_file_open(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "mine")
    for reference in (str(folder), str(folder / "model.onnx"), f"onnx:{folder}"):
        assert open_policy(reference).spec.action_dim == 2


def test_a_policy_without_a_name_has_its_folders(tmp_path: Path) -> None:
    plain = graphs.description()
    del plain["name"]
    assert open_policy(str(graphs.write(tmp_path / "mine", plain))).spec.name == "mine"


def test_options_stand_in_the_reference_and_beside_it(tmp_path: Path) -> None:
    assert open_policy("scripted:zero?state=3&action=2&horizon=4").spec.action_horizon == 4
    assert open_policy("scripted:zero?state=3&action=2&horizon=4", options={"horizon": "9"}).spec.action_horizon == 9
    with pytest.raises(ConfigError, match="unknown option 'speed'"):
        open_policy(str(graphs.write(tmp_path)), options={"speed": "1"})


def test_deterministic_means_one_request_at_a_time() -> None:
    policy = open_policy("cartpole_ppo", Runtime(deterministic=True))
    assert policy.spec.max_batch_size == 1 and open_policy("cartpole_ppo").spec.max_batch_size > 1
    assert len(policy.infer([Request(policy.spec.zeros())] * 3)) == 3


def test_a_name_that_is_bundled_and_here_is_asked_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graphs.write(tmp_path / "cartpole_ppo")
    with pytest.raises(ConfigError, match=r"a bundled policy and also a checkpoint here; write \./cartpole_ppo or "):
        open_policy("cartpole_ppo")
    assert open_policy("./cartpole_ppo").spec.name == "two"


def test_a_folder_of_that_name_that_is_no_checkpoint_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cartpole_ppo").mkdir()
    assert open_policy("cartpole_ppo").spec.name == "cartpole_ppo"


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no policy 'cartpole': no such file.*cartpole_ppo.*families: .*onnx.*scripted"):
        open_policy("cartpole")


# A user's own code


def test_a_class_is_made_with_the_options(user: str) -> None:
    policy = open_policy(f"{user}:Constant?value=2.5&horizon=3")
    assert first_action(policy) == [2.5, 2.5]
    assert policy.spec.action_horizon == 3 and policy.spec.name == "Constant"


def test_a_class_that_asks_for_the_runtime_gets_it(user: str) -> None:
    policy = open_policy(f"{user}:Constant", Runtime(device="cuda:1"))
    assert policy._inner.runtime.device == "cuda:1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "expected"), [("ready", 5.0), ("factory?value=3", 3.0), ("drive", 0.0)])
def test_objects_factories_and_functions_with_a_spec_do_too(user: str, name: str, expected: float) -> None:
    assert first_action(open_policy(f"{user}:{name}")) == [expected, expected]


def test_a_module_on_the_import_path_does_too(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(user).parent))
    assert first_action(open_policy("my_policy:Constant")) == [1.0, 1.0]


WRONG = {
    "unknown option": ("Constant?speed=1", r"unexpected keyword argument 'speed'; it is called as Constant\(value: float"),
    "missing option": ("factory", "missing a required argument: 'value'"),
    "options for an object": ("ready?value=2", "it is an object, not a class, and takes no options; got value"),
    "no policy": ("number", "expected an actlink.Policy, an object with 'spec' and 'infer', or a callable with 'spec'"),
    "no such class": ("Constnat", "has no 'Constnat'; it has: .*Constant"),
}


@pytest.mark.parametrize(("name", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_explained(user: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_policy(f"{user}:{name}")


def test_the_users_own_exceptions_stay_theirs(user: str) -> None:
    with pytest.raises(RuntimeError, match="no such weights"):
        open_policy(f"{user}:broken")


def test_no_such_file_or_module() -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*nowhere\.py"):
        open_policy("nowhere.py:Policy")
    with pytest.raises(ConfigError, match="no module named 'no_such_module'"):
        open_policy("no_such_module:Policy")


def test_a_third_partys_family_is_a_family(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    (tmp_path / "weights.txt").write_text("2.5")
    policy = open_policy(f"{tmp_path / 'family.py'}:{tmp_path / 'weights.txt'}?gain=2")
    assert first_action(policy) == [5.0]
    with pytest.raises(ConfigError, match="unknown option 'gian'; known options: gain"):
        open_policy(f"{tmp_path / 'family.py'}:{tmp_path / 'weights.txt'}?gian=2")


# A transform around it


def test_a_transform_wraps_any_policy(tmp_path: Path) -> None:
    policy = open_policy(str(graphs.write(tmp_path)), options={"transform": "[{rename: {pose: state}}, {select: {state: [2, 0]}}]"})
    assert list(policy.spec.observation) == ["pose"]
    (chunk,) = policy.infer([Request({"pose": np.array([1, 2, 3], np.float32)})])
    assert chunk.actions.tolist() == [[3, 1]]


def test_the_givers_spec_lets_a_transform_go_by_name(tmp_path: Path) -> None:
    graphs.write(tmp_path)
    wrapped = {
        "transform": "[{select: {state: [z, x]}}]",
        "giver": "{observation: {state: {shape: [3], names: [x, y, z]}}, action: {shape: [2]}}",
    }
    policy = open_policy(str(tmp_path), options=wrapped)
    assert policy.infer([Request({"state": np.array([1, 2, 3], np.float32)})])[0].actions.tolist() == [[3, 1]]
    with pytest.raises(ConfigError, match="the names of its entries are not known here"):
        open_policy(str(tmp_path), options={"transform": wrapped["transform"]})
    with pytest.raises(ConfigError, match="'giver' goes with the option 'transform'"):
        open_policy(str(tmp_path), options={"giver": wrapped["giver"]})


HEAVY = """
from pathlib import Path

class Heavy(Constant):
    def close(self):
        Path(__file__).with_name("closed").touch()
"""


def test_a_policy_whose_transform_does_not_fit_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(USER + HEAVY)
    with pytest.raises(ConfigError, match="nowhere"):
        open_policy(f"{tmp_path / 'heavy.py'}:Heavy", options={"transform": "[{rename: {pose: nowhere}}]"})
    assert (tmp_path / "closed").exists()
