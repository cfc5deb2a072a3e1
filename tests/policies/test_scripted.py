"""The scripted family: what each fake does, and the options that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import options
from actlink.errors import ConfigError, PolicyError
from actlink.policies import scripted
from actlink.policies._base import Policy
from actlink.types import ActionChunk, Request, Runtime

SPEC = """
observation:
  state: {shape: [3]}
action: {shape: [2], names: [x, y]}
action_horizon: 4
max_batch_size: 5
"""


def made(kind: str, **given: Any) -> Policy:
    return scripted.load(kind, options.build(scripted.Config, given, "scripted"), Runtime())


def ask(policy: Policy, step: int = 0, **observation: Any) -> Any:
    (result,) = policy.infer([Request(observation, step=step)])
    return result


def test_zero_gives_zeros() -> None:
    policy = made("zero", state=3, action=2, horizon=4)
    chunk = ask(policy, step=9, state=np.ones(3, np.float32))
    assert chunk.step == 9 and chunk.actions.shape == (4, 2) and chunk.actions.dtype == np.float32
    assert not chunk.actions.any()


def test_the_short_options_make_the_spec() -> None:
    spec = made("zero", state="14", action="7", horizon="50", cameras="top:480x640,wrist:240x320", rate_hz="50", batch="8").spec
    assert spec.observation["state"].shape == (14,) and spec.action.shape == (7,)
    assert {name: field.shape for name, field in spec.cameras.items()} == {"top": (480, 640, 3), "wrist": (240, 320, 3)}
    assert (spec.action_horizon, spec.rate_hz, spec.max_batch_size, spec.name) == (50, 50.0, 8, "zero")


def test_a_discrete_action_is_an_integer() -> None:
    policy = made("zero", discrete=3)
    assert policy.spec.action.range == (0, 2)
    assert ask(policy).actions.dtype == np.int64


@pytest.mark.parametrize("form", ["file", "in place"])
def test_a_spec_document_makes_the_spec(tmp_path: Path, form: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    spec = made("zero", spec=str(path) if form == "file" else "{observation: {}, action: {shape: [2]}, action_horizon: 4}").spec
    assert spec.action_horizon == 4 and spec.action_dim == 2
    assert spec.max_batch_size == (5 if form == "file" else 1)


def test_constant_gives_its_value() -> None:
    assert ask(made("constant", action=2, horizon=2, value="1,-2")).actions.tolist() == [[1, -2], [1, -2]]
    assert ask(made("constant", action=3, value=0.5)).actions.tolist() == [[0.5, 0.5, 0.5]]
    assert ask(made("constant", discrete=4, value=3)).actions.tolist() == [[3]]


def test_echo_gives_the_state_back() -> None:
    state = np.array([1.5, -2.5, 3.5], np.float32)
    np.testing.assert_array_equal(ask(made("echo", state=3, action=2, horizon=3), state=state).actions, [state[:2]] * 3)


def test_echo_of_a_state_of_any_length_says_when_it_is_too_short() -> None:
    policy = made("echo", spec="{observation: {state: {shape: [null]}}, action: {shape: [2]}}")
    result = ask(policy, state=np.ones(1, np.float32))
    assert isinstance(result, PolicyError) and "expected a state of at least 2 entries, got 1" in str(result)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_replay_gives_the_row_of_the_step_and_then_the_last(tmp_path: Path, suffix: str) -> None:
    rows = np.arange(10, dtype=np.float64).reshape(5, 2)
    path = tmp_path / f"actions{suffix}"
    np.save(path, rows) if suffix == ".npy" else np.savez(path, actions=rows, other=rows[0])
    policy = made("replay", file=str(path), horizon=3)
    assert policy.spec.action_dim == 2 and policy.spec.digest
    np.testing.assert_array_equal(ask(policy, step=1).actions, rows[1:4])
    np.testing.assert_array_equal(ask(policy, step=4).actions, [rows[4]] * 3)


def test_slow_takes_its_time_once_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(scripted.time, "sleep", slept.append)
    policy = made("slow", action=1, delay_ms=20)
    results = policy.infer([Request({}), Request({}), Request({})])
    assert len(results) == 3 and all(isinstance(result, ActionChunk) for result in results)
    assert slept == [0.02]


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such kind": ("random", {}, "no scripted policy 'random'; there are: zero, constant, replay, slow, echo"),
    "no kind": ("", {}, "no scripted policy ''"),
    "no spec": ("zero", {}, "needs to know what it serves: spec=spec.yaml"),
    "spec and short": ("zero", {"spec": "{action: {shape: [1]}}", "state": 2}, "give either spec or state, not both"),
    "spec is no mapping": ("zero", {"spec": "[1, 2]"}, "expected a mapping with 'observation' and 'action', got a list"),
    "spec without action": ("zero", {"spec": "{observation: {}}"}, "a field 'action'"),
    "no such spec file": ("zero", {"spec": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    "action of any size": ("zero", {"spec": "{action: {shape: [null]}}"}, "must say how many entries an action has"),
    "camera": ("zero", {"action": 1, "cameras": "top"}, "expected name:HEIGHTxWIDTH, as in top:480x640, got 'top'"),
    "camera size": ("zero", {"action": 1, "cameras": "top:big"}, "expected name:HEIGHTxWIDTH"),
    "another kind's option": ("zero", {"action": 1, "delay_ms": 3}, "option 'delay_ms' belongs to scripted:slow"),
    "constant without value": ("constant", {"action": 1}, "needs the option 'value'"),
    "value too long": ("constant", {"action": 2, "value": "1,2,3"}, "value: expected 1 or 2 numbers, got 3"),
    "no such choice": ("constant", {"discrete": 2, "value": 5}, r"value: expected integers 0..1, got 5"),
    "slow backwards": ("slow", {"action": 1, "delay_ms": -1}, "expected milliseconds above 0"),
    "echo without state": ("echo", {"action": 1}, "needs a float32 'state'"),
    "echo of too little": ("echo", {"state": 1, "action": 2}, "the state has 1 entries, an action 2"),
    "echo of a choice": ("echo", {"state": 1, "discrete": 2}, "needs a float32 'state' of one axis and a float32 action"),
    "replay of nothing": ("replay", {"file": "nowhere.npy"}, r"nowhere.npy: expected a .npy or .npz file"),
    "unknown option": ("zero", {"actions": 1}, "unknown option 'actions'; known options: spec, state, action"),
}


@pytest.mark.parametrize(("kind", "given", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_options_are_explained(kind: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(kind, **given)


CONTENTS: dict[str, tuple[Any, str]] = {
    "one axis": (np.zeros(3), r"expected actions \(N, action_dim\), got shape \(3,\)"),
    "no rows": (np.zeros((0, 2)), "expected actions"),
    "not a number": (np.full((2, 1), np.nan), "expected finite float32 values"),
    "words": (np.array([["a"]]), "expected float32"),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_a_recording_that_is_none_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ConfigError, match=message):
        made("replay", file=str(tmp_path / "a.npy"))


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"expected a .npy or .npz file of actions"):
        made("replay", file=str(tmp_path / "a.npy"))
    np.savez(tmp_path / "b.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(ConfigError, match="expected an array 'actions', got a, b"):
        made("replay", file=str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", actions=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"expected a .npy or .npz file of actions"):
        made("replay", file=str(tmp_path / "c.npz"))
