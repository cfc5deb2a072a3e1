"""ONNX graphs that look at several observations, remember, or draw random numbers."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphs as graphs
import pytest

import cli_world
from actlink import connect
from actlink.errors import ConfigError
from actlink.policies import onnx
from actlink.testing.policies import check_policy
from actlink.types import ActionChunk, Array, Request, Runtime

pytest.importorskip("onnxruntime")


def opened(folder: Path, **options: Any) -> Any:
    return onnx.load(str(folder), onnx.Config(**options), Runtime())


def state(*values: float) -> dict[str, Any]:
    return {"state": np.array(values, np.float32)}


def asked(policy: Any, observation: dict[str, Any], step: int = 0, memory: Any = None) -> ActionChunk:
    (chunk,) = policy.infer([Request(observation, step, memory=memory)])
    assert isinstance(chunk, ActionChunk), chunk
    return chunk


def history(length: int = 2, shape: tuple[int, ...] = (2,)) -> bytes:
    """The first entry of each observation of the state ``(batch, length, 2)``."""
    matrix = np.zeros((length * 2, length), np.float32)
    matrix[np.arange(length) * 2, np.arange(length)] = 1
    return graphs.model(
        [
            graphs.node("Flatten", ["state"], "flat"),
            graphs.node("MatMul", ["flat", "matrix"], "product"),
            graphs.node("Reshape", ["product", "shape"], "actions"),
        ],
        [graphs.tensor("matrix", matrix), graphs.tensor("shape", np.array([-1, 1, length]))],
        [graphs.value("state", "float32", ["batch", length, *shape])],
        [graphs.value("actions", "float32", ["batch", 1, length])],
    )


def noisy(*names: str, size: int = 2, dtype: str = "float32") -> bytes:
    """The given noise ``(batch, 1, size)`` of each name, one row of the chunk for each."""
    return graphs.model(
        [graphs.node("Concat", list(names), "actions", graphs.int_attribute("axis", 1))],
        [],
        [
            graphs.value("state", "float32", ["batch", 2]),
            *(graphs.value(name, dtype, ["batch", 1, size]) for name in names),
        ],
        [graphs.value("actions", dtype, ["batch", len(names), size])],
    )


def running_sum(times: int = 1) -> bytes:
    """State plus ``sum``, which the graph hands on, ``times`` over."""
    return graphs.model(
        [
            graphs.node("Add", ["state", "sum"], "total"),
            graphs.node("Reshape", ["total", "shape"], "actions"),
            graphs.node("Concat", ["total"] * times, "next_sum", graphs.int_attribute("axis", 1)),
        ],
        [graphs.tensor("shape", np.array([-1, 1, 2]))],
        [graphs.value("state", "float32", ["batch", 2]), graphs.value("sum", "float32", ["batch", 2])],
        [graphs.value("actions", "float32", ["batch", 1, 2]), graphs.value("next_sum", "float32", ["batch", 2 * times])],
    )


HISTORY = {"inputs": {"state": {"key": "state", "history": 2}}}
NOISE = {"noise": {"noise": {"shape": [1, 2]}}}
SUM = {"memory": {"sum": {"shape": [2], "output": "next_sum"}}}


def with_horizon(horizon: int, **changes: Any) -> dict[str, Any]:
    plain = graphs.description(**changes)
    return {**plain, "spec": {**plain["spec"], "action_horizon": horizon}}


# History


def test_the_graph_sees_the_last_observations_and_at_first_one_of_them_twice(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graphs.description(**HISTORY), history()))
    assert policy.spec.stateful and policy.facts["history"] == "the last 2 observations"
    first = asked(policy, state(1, 0))
    second = asked(policy, state(2, 0), 1, first.memory)
    third = asked(policy, state(3, 0), 2, second.memory)
    assert [chunk.actions.tolist() for chunk in (first, second, third)] == [[[1, 1]], [[1, 2]], [[2, 3]]]
    assert asked(policy, state(9, 0)).actions.tolist() == [[9, 9]], "a request without memory begins an episode"
    assert asked(policy, state(4, 0), 6, second.memory).actions.tolist() == [[4, 4]], "the newest is nearest to the step before it"


def test_sessions_of_one_batch_have_their_own_past(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graphs.description(**HISTORY), history()))
    memories = [asked(policy, state(1, 0)).memory, None, asked(policy, state(5, 0), 4).memory]
    requests = [Request(state(2, 0), 1, memory=memories[0]), Request(state(3, 0)), Request(state(6, 0), 5, memory=memories[2])]
    assert [chunk.actions.tolist() for chunk in policy.infer(requests)] == [[[1, 2]], [[3, 3]], [[5, 6]]]


def test_what_is_remembered_is_a_copy(tmp_path: Path) -> None:
    """Values that came over a wire are views on bytes that the next message overwrites."""
    policy = opened(graphs.write(tmp_path, graphs.description(**HISTORY), history()))
    observation = state(1, 0)
    first = asked(policy, observation)
    observation["state"][:] = 100
    assert asked(policy, state(2, 0), 1, first.memory).actions.tolist() == [[1, 2]]


def test_each_observation_of_a_history_is_normalised(tmp_path: Path) -> None:
    told = {"inputs": {"state": {"key": "state", "history": 2, "mean": [1, 0], "std": [2, 1]}}}
    policy = opened(graphs.write(tmp_path, graphs.description(**told), history()))
    first = asked(policy, state(1, 0))
    assert asked(policy, state(5, 0), 1, first.memory).actions.tolist() == [[0, 2]]


def test_a_server_keeps_the_past_of_each_session_and_forgets_it_at_a_reset(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "policy", graphs.description(**HISTORY), history())
    with (
        cli_world.serving(tmp_path, str(folder)) as (_, ws, tcp),
        connect(ws) as one,
        connect(tcp) as other,
    ):
        found = [one.infer_one(state(1, 0), step=0), other.infer_one(state(7, 0), step=0), one.infer_one(state(2, 0), step=1)]
        one.reset()
        found += [one.infer_one(state(3, 0), step=1), other.infer_one(state(8, 0), step=1)]
    assert [chunk.actions.tolist() for chunk in found] == [[[1, 1]], [[7, 7]], [[1, 2]], [[3, 3]], [[7, 8]]]


# Noise


def test_noise_belongs_to_the_request(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graphs.description(**NOISE), noisy("noise")))
    assert not policy.spec.stateful and "2 random numbers" in policy.facts["noise"]
    expected = np.random.default_rng([0, 3, zlib.crc32(state(1, 2)["state"].tobytes())]).standard_normal((1, 2), np.float32)
    first = asked(policy, state(1, 2), 3).actions
    np.testing.assert_array_equal(first, expected)
    same = policy.infer([Request(state(5, 5), 3), Request(state(1, 2), 3, episode=4, session="other")])
    np.testing.assert_array_equal(same[1].actions, first)
    others = (same[0].actions, asked(policy, state(1, 2), 4).actions, asked(opened(tmp_path, seed=1), state(1, 2), 3).actions)
    assert all((other != first).all() for other in others)


def test_noise_is_normal_or_uniform_and_different_for_each_input(tmp_path: Path) -> None:
    kinds = {"bell": "normal", "flat": "uniform", "again": "uniform"}
    told = {name: {"shape": [1, 4000], "distribution": kind} for name, kind in kinds.items()}
    plain = with_horizon(3, noise=told)
    plain["spec"]["action"] = {"shape": [4000]}
    bell, flat, again = asked(opened(graphs.write(tmp_path, plain, noisy(*kinds, size=4000))), state(1, 2)).actions
    assert abs(bell.mean()) < 0.1 and abs(bell.std() - 1) < 0.1 and bell.min() < -2
    assert 0 <= flat.min() < 0.01 and 0.99 < flat.max() < 1 and abs(flat.std() - 12**-0.5) < 0.02
    assert (flat != again).all()


# Memory of the graph


def test_what_the_graph_hands_on_comes_back_and_starts_at_zero(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graphs.description(**SUM), running_sum()))
    assert policy.spec.stateful
    first = asked(policy, state(1, 10))
    second = asked(policy, state(2, 20), 1, first.memory)
    assert [chunk.actions.tolist() for chunk in (first, second)] == [[[1, 10]], [[3, 30]]]
    both = policy.infer([Request(state(5, 5), 2, memory=second.memory), Request(state(7, 7))])
    assert [chunk.actions.tolist() for chunk in both] == [[[8, 35]], [[7, 7]]]
    again = asked(policy, state(2, 20), 1, first.memory)
    assert again.actions.tolist() == [[3, 30]], "a memory is a value"


PARTS: dict[str, tuple[dict[str, Any], bytes]] = {
    "history": (graphs.description(**HISTORY), history()),
    "noise": (graphs.description(**NOISE), noisy("noise")),
    "memory": (graphs.description(**SUM), running_sum()),
}


@pytest.mark.parametrize("part", PARTS)
def test_it_is_a_policy(tmp_path: Path, part: str) -> None:
    check_policy(opened(graphs.write(tmp_path, *PARTS[part])))


# What is wrong with a directory


def entry(**changes: Any) -> Array | dict[str, Any]:
    return {"noise": {"noise": {"shape": [1, 2], **changes}}}


WRONG: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "no observation at all": (
        {"inputs": {"state": {"key": "state", "history": 0}}},
        history(),
        "'history': expected a number of observations, 1 to 1000, got 0",
    ),
    "history in words": ({"inputs": {"state": {"key": "state", "history": "2"}}}, history(), "'history': expected a number"),
    "history without an end": (
        {"inputs": {"state": {"key": "state", "history": 10**9}}},
        history(),
        "'history': expected a number",
    ),
    "longer history": (
        {"inputs": {"state": {"key": "state", "history": 3}}},
        history(),
        r"input 'state': the graph has shape \('batch', 2, 2\), policy.json says \(batch, 3, 2\)",
    ),
    "history that the graph lacks": (HISTORY, graphs.linear(np.eye(2)), r"policy.json says \(batch, 2, 2\)"),
    "noise in a list": ({"noise": ["noise"]}, noisy("noise"), "policy.json: 'noise': expected an object"),
    "noise is a number": (
        {"noise": {"noise": 3}},
        noisy("noise"),
        r"noise\['noise'\]: expected an object with distribution, shape",
    ),
    "unknown setting": (entry(seed=1), noisy("noise"), "unknown key 'seed'"),
    "another distribution": (entry(distribution="pink"), noisy("noise"), "expected normal or uniform, got 'pink'"),
    "no shape": (entry(shape=None), noisy("noise"), "'shape': expected a list of sizes"),
    "shape of nothing": (entry(shape=[0]), noisy("noise"), "'shape': expected a list of sizes"),
    "shape of yes": (entry(shape=[True]), noisy("noise"), "'shape': expected a list of sizes"),
    "endless shape": (entry(shape=[10**6, 10**6]), noisy("noise"), "'shape': expected a list of sizes"),
    "other shape": (
        entry(shape=[3]),
        noisy("noise"),
        r"'noise': the graph has shape \('batch', 1, 2\), policy.json says \(batch, 3\)",
    ),
    "noise of doubles": (NOISE, noisy("noise", dtype="float64"), "'noise': expected float32"),
    "noise that the graph lacks": (NOISE, graphs.linear(np.eye(2)), "the graph's inputs are state, policy.json feeds noise, state"),
    "noise not told": ({}, noisy("noise"), "the graph's inputs are noise, state, policy.json feeds state"),
    "one input twice": (
        {"noise": {"state": {"shape": [2]}}},
        graphs.linear(np.eye(2)),
        "the graph's inputs are state, policy.json feeds state, state",
    ),
    "memory of the actions": (
        {"memory": {"sum": {"shape": [2], "output": "actions"}}},
        running_sum(),
        "'output': expected the name of a graph output beside the actions",
    ),
    "memory of nothing": (
        {"memory": {"sum": {"shape": [2], "output": "total"}}},
        running_sum(),
        "the graph's outputs are actions, next_sum, policy.json expects 'total'",
    ),
    "memory that grows": (SUM, running_sum(times=2), r"'next_sum': the graph has shape"),
}


@pytest.mark.parametrize(("changes", "graph", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_explained(tmp_path: Path, changes: dict[str, Any], graph: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(graphs.write(tmp_path, graphs.description(**changes), graph))


def test_a_seed_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed: expected at least 0, got -1"):
        opened(graphs.write(tmp_path), seed=-1)
