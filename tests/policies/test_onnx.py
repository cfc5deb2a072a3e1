"""The onnx family: what it computes, and how it says that a directory is wrong."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphs as graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink.errors import ConfigError, MissingPackageError
from actlink.policies import _hardware, _onnx_graph, _onnx_protobuf, onnx
from actlink.types import ActionChunk, Request, Runtime

pytest.importorskip("onnxruntime")


def opened(folder: Path, runtime: Runtime | None = None, **options: Any) -> Any:
    return onnx.load(str(folder), onnx.Config(**options), runtime or Runtime())


def actions(policy: Any, *observations: dict[str, Any]) -> list[np.ndarray]:
    results = policy.infer([Request(one) for one in observations])
    assert all(isinstance(result, ActionChunk) for result in results)
    return [result.actions for result in results]


def spec(**changes: Any) -> dict[str, Any]:
    return {**graphs.description()["spec"], **changes}


# What it computes


def test_a_state_goes_through_the_graph(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graph=graphs.linear([[1, 2], [3, 4]])))
    (found,) = actions(policy, {"state": np.array([1, 10], np.float32)})
    np.testing.assert_array_equal(found, np.array([[31, 42]], np.float32))
    assert found.dtype == np.float32
    assert policy.spec.name == "two" and policy.spec.max_batch_size == 4


def test_a_chunk_has_the_graphs_horizon(tmp_path: Path) -> None:
    plain = graphs.description(spec=spec(action={"shape": [1]}, action_horizon=3))
    policy = opened(graphs.write(tmp_path, plain, graphs.linear([[1, 2, 3], [0, 0, 0]], horizon=3)))
    (found,) = actions(policy, {"state": np.array([2, 5], np.float32)})
    np.testing.assert_array_equal(found, [[2], [4], [6]])


def test_a_horizon_of_one_may_leave_the_axis_out(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graph=graphs.linear(np.eye(2), flat=True)))
    assert actions(policy, {"state": np.ones(2, np.float32)})[0].shape == (1, 2)


def test_inputs_and_output_are_normalised(tmp_path: Path) -> None:
    plain = graphs.description(
        inputs={"state": {"key": "state", "scale": 2.0, "mean": [1.0, -1.0], "std": [0.5, 4.0]}},
        output={"name": "actions", "mean": [10.0, 20.0], "std": [2.0, 3.0]},
    )
    policy = opened(graphs.write(tmp_path, plain))
    state = np.array([0.3, -0.7], np.float32)
    expected = (2 * state - [1, -1]) / [0.5, 4.0] * [2, 3] + [10, 20]
    np.testing.assert_allclose(actions(policy, {"state": state})[0][0], expected, rtol=1e-6)


def test_mean_alone_and_std_alone_work(tmp_path: Path) -> None:
    for statistics, expected in (({"mean": [1.0, 2.0]}, [2.0, 2.0]), ({"std": [2.0, 4.0]}, [1.5, 1.0])):
        plain = graphs.description(inputs={"state": {"key": "state", **statistics}})
        policy = opened(graphs.write(tmp_path, plain))
        np.testing.assert_allclose(actions(policy, {"state": np.array([3.0, 4.0], np.float32)})[0][0], expected)


def test_named_entries_are_selected_in_the_graphs_order(tmp_path: Path) -> None:
    plain = graphs.description(
        spec=spec(observation={"state": {"shape": [4], "names": ["a", "b", "c", "d"]}}),
        inputs={"state": {"key": "state", "select": ["d", "b"], "mean": [1.0, 0.0], "std": [1.0, 2.0]}},
    )
    policy = opened(graphs.write(tmp_path, plain))
    np.testing.assert_array_equal(actions(policy, {"state": np.array([1, 2, 3, 4], np.float32)})[0], [[3, 1]])


def picture_policy(folder: Path, dtype: str, **given: Any) -> Any:
    """The means of a picture's three channels, for a picture of 4 x 6 pixels."""
    chw = given.get("layout") == "chw"
    plain = graphs.description(
        spec={"observation": {"images.top": {"shape": [4, 6, 3], "dtype": "uint8"}}, "action": {"shape": [3]}, "max_batch_size": 2},
        inputs={"picture": {"key": "images.top", **given}},
    )
    return opened(graphs.write(folder, plain, graphs.picture_means(dtype, [3, 4, 6] if chw else [4, 6, 3])))


def test_a_picture_is_scaled_normalised_per_channel_and_put_channels_first(tmp_path: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]
    policy = picture_policy(tmp_path, "float32", scale=1 / 255, mean=mean, std=std, layout="chw")
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    expected = ((picture / 255 - mean) / std).mean((0, 1))
    np.testing.assert_allclose(actions(policy, {"images.top": picture})[0][0], expected, atol=1e-5)


def test_a_graph_may_take_bytes(tmp_path: Path) -> None:
    policy = picture_policy(tmp_path, "uint8")
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_allclose(actions(policy, {"images.top": picture})[0][0], picture.mean((0, 1)), rtol=1e-5)


def test_a_discrete_action_leaves_as_an_integer(tmp_path: Path) -> None:
    plain = graphs.description(spec=spec(action={"shape": [1], "dtype": "int64", "range": [0, 1]}))
    policy = opened(graphs.write(tmp_path, plain, graphs.greedy([[0, 1], [1, 0]])))
    first, second = actions(policy, {"state": np.array([1, 0], np.float32)}, {"state": np.array([0, 1], np.float32)})
    assert first.dtype == np.int64
    assert first.tolist() == [[1]] and second.tolist() == [[0]]


def test_each_answer_names_its_request(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path))
    requests = [Request({"state": np.full(2, i, np.float32)}, step=i, episode=i + 1, session=f"s{i}") for i in range(3)]
    for i, chunk in enumerate(policy.infer(requests)):
        assert (chunk.step, chunk.episode, chunk.session) == (i, i + 1, f"s{i}")
        assert chunk.actions.tolist() == [[i, i]]


def test_the_digest_covers_both_files(tmp_path: Path) -> None:
    digests = {
        opened(graphs.write(tmp_path)).spec.digest,
        opened(graphs.write(tmp_path, graph=graphs.linear(2 * np.eye(2)))).spec.digest,
        opened(graphs.write(tmp_path, graphs.description(output={"name": "actions", "mean": [0.0, 1.0]}))).spec.digest,
    }
    assert len(digests) == 3 and all(digest.startswith("sha256:") for digest in digests)


# How it runs


def test_threads_follow_the_runtime(tmp_path: Path) -> None:
    graphs.write(tmp_path)
    threads = [
        opened(tmp_path, runtime)._session.get_session_options().intra_op_num_threads
        for runtime in (Runtime(threads=3), Runtime(threads=3, deterministic=True), Runtime())
    ]
    assert threads == [3, 1, 1]


def test_a_graph_that_sees_pictures_may_use_several_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((3, 3), (64, 4)):
        monkeypatch.setattr(_onnx_graph, "physical_cores", lambda cores=cores: cores)
        options = picture_policy(tmp_path, "uint8")._session.get_session_options()
        assert options.intra_op_num_threads == expected
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_graph_of_thousands_of_operations_is_loaded_without_a_plan_of_its_memory(tmp_path: Path) -> None:
    """As a sampler's loop that was unrolled."""
    count = 3000
    names = ["state", *(f"after {step}" for step in range(1, count)), "flat"]
    steps = [graphs.node("Add", [before, "one"], after) for before, after in itertools.pairwise(names)]
    graph = graphs.model(
        [*steps, graphs.node("Reshape", ["flat", "shape"], "actions")],
        [graphs.tensor("one", np.ones(2, np.float32)), graphs.tensor("shape", np.array([-1, 1, 2]))],
        [graphs.value("state", "float32", ["batch", 2])],
        [graphs.value("actions", "float32", ["batch", 1, 2])],
    )
    assert _onnx_protobuf.count_nodes(graph) == count + 1
    policy = opened(graphs.write(tmp_path, graph=graph))
    assert not policy._session.get_session_options().enable_mem_reuse
    np.testing.assert_array_equal(actions(policy, {"state": np.array([1, 2], np.float32)})[0], [[3001, 3002]])
    assert opened(graphs.write(tmp_path))._session.get_session_options().enable_mem_reuse


def test_cores_are_counted() -> None:
    assert _hardware.physical_cores() >= 1


def test_the_batch_can_be_bounded(tmp_path: Path) -> None:
    assert opened(graphs.write(tmp_path), max_batch_size=2).spec.max_batch_size == 2
    with pytest.raises(ConfigError, match="max_batch_size: expected at least 1, got 0"):
        opened(tmp_path, max_batch_size=0)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_an_error(tmp_path: Path, device: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ConfigError, match=f"device '{device}': this onnxruntime offers .*CPU.*onnxruntime-gpu"):
        opened(graphs.write(tmp_path), Runtime(device=device))


@pytest.mark.parametrize("device", ["mps", "cuda:x", "gpu"])
def test_a_device_of_another_kind_is_an_error(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="runs on cpu, cuda or cuda:<index>"):
        opened(graphs.write(tmp_path), Runtime(device=device))


def test_without_its_package_it_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "REQUIRES", ("no_such_package",))
    with pytest.raises(MissingPackageError, match=r"no_such_package.*pip install 'actlink\[onnx\]'"):
        opened(graphs.write(tmp_path))


# What it recognises, and what it refuses


def test_it_recognises_its_directories_and_files(tmp_path: Path) -> None:
    graphs.write(tmp_path)
    assert all(onnx.recognises(path) for path in (tmp_path, tmp_path / "policy.json", tmp_path / "model.onnx"))
    (tmp_path / "other").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert not any(onnx.recognises(tmp_path / name) for name in ("other", "notes.txt", "nothing"))
    assert opened(tmp_path / "model.onnx").spec.name == "two"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such directory; expected one with policy\.json and model\.onnx"):
        opened(tmp_path / "nowhere")
    graphs.write(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx: no such file; 'model' of .*policy\.json names it"):
        opened(tmp_path)
    (tmp_path / "policy.json").unlink()
    with pytest.raises(ConfigError, match=r"policy\.json: no such file"):
        opened(tmp_path)


NAN = float("nan")
STATE = {"key": "state"}

WRONG: dict[str, tuple[dict[str, Any] | str, str]] = {
    "cut short": ('{"format": 1, "spec"', "expected JSON"),
    "nested without end": ("[" * 100_000, "expected JSON"),
    "a list": ("[]", "expected a JSON object, got a list"),
    "another format": ({"format": 2}, "'format': expected 1, got 2"),
    "unknown key": ({"horizon": 3}, "unknown key 'horizon'"),
    "no spec": ({"spec": None}, "'spec': expected an object, got nothing"),
    "spec with a wrong key": ({"spec": {"action": {"shape": [2]}, "colour": 1}}, "spec: unknown key 'colour'"),
    "spec without an action": ({"spec": {"observation": {}}}, "spec: expected a mapping 'observation' and a field 'action'"),
    "no inputs": ({"inputs": {}}, "'inputs': expected at least one"),
    "inputs are a list": ({"inputs": ["state"]}, "'inputs': expected an object"),
    "input is a word": ({"inputs": {"state": "state"}}, "expected an object with 'key', got 'state'"),
    "input without a key": ({"inputs": {"state": {}}}, "'key': expected one of the spec's: state; got None"),
    "unknown observation": ({"inputs": {"state": {"key": "pose"}}}, "'key': expected one of the spec's: state; got 'pose'"),
    "unknown setting": ({"inputs": {"state": {**STATE, "sd": [1, 1]}}}, "unknown key 'sd'"),
    "unknown entry": ({"inputs": {"state": {**STATE, "select": ["a", "z"]}}}, "no entry 'z'; it has: a, b"),
    "select is a word": ({"inputs": {"state": {**STATE, "select": "a"}}}, "'select': expected a list of names"),
    "deviation of zero": ({"inputs": {"state": {**STATE, "std": [1, 0]}}}, "'std': expected finite numbers above 0"),
    "mean is no number": ({"inputs": {"state": {**STATE, "mean": [NAN, 0]}}}, "'mean': expected finite numbers"),
    "mean too short": ({"inputs": {"state": {**STATE, "mean": [1]}}}, r"'mean': expected 2 numbers, got shape \(1,\)"),
    "mean is words": ({"inputs": {"state": {**STATE, "mean": ["a", "b"]}}}, "'mean': expected a list of numbers"),
    "mean is ragged": ({"inputs": {"state": {**STATE, "mean": [[1], [1, 2]]}}}, "'mean': expected a list of numbers"),
    "scale of zero": ({"inputs": {"state": {**STATE, "scale": 0}}}, "'scale': expected a finite number other than 0"),
    "scale is a word": ({"inputs": {"state": {**STATE, "scale": "1/255"}}}, "'scale': expected a finite number"),
    "layout of a state": ({"inputs": {"state": {**STATE, "layout": "chw"}}}, "'layout': expected hwc, or chw for an image"),
    "no output": ({"output": {}}, "'name': expected the name of a graph output, got None"),
    "output too long": ({"output": {"name": "actions", "std": [1, 1, 1]}}, "'std': expected 2 numbers"),
    "model above": ({"model": "../model.onnx"}, "expected the name of a file in this directory, got '../model.onnx'"),
    "model elsewhere": ({"model": "/etc/passwd"}, "expected the name of a file in this directory, got '/etc/passwd'"),
    "model is a number": ({"model": 3}, "expected the name of a file in this directory, got 3"),
    "model is the directory": ({"model": "."}, "cannot be read"),
    "model of another name": ({"model": "weights.onnx"}, r"weights\.onnx: no such file"),
    "text for a graph": (
        {"spec": {"observation": {"prompt": {"dtype": "str"}}, "action": {"shape": [2]}}, "inputs": {"state": {"key": "prompt"}}},
        "'prompt' is text",
    ),
    "optional for a graph": (
        {"spec": {"observation": {"state": {"shape": [2], "required": False}}, "action": {"shape": [2]}}},
        "'state' is optional",
    ),
    "statistics of a choice": (
        {
            "spec": {**graphs.description()["spec"], "action": {"shape": [1], "dtype": "int64"}},
            "output": {"name": "actions", "mean": [1]},
        },
        "a int64 action has no mean and std",
    ),
    "select without names": (
        {
            "spec": {**graphs.description()["spec"], "observation": {"state": {"shape": [2]}}},
            "inputs": {"state": {**STATE, "select": ["a"]}},
        },
        "'select' goes by name, and the spec names no entries",
    ),
}


@pytest.mark.parametrize(("plain", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_policy_json_is_explained(tmp_path: Path, plain: dict[str, Any] | str, message: str) -> None:
    graphs.write(tmp_path, plain if isinstance(plain, str) else graphs.description(**plain))
    with pytest.raises(ConfigError, match=message) as raised:
        opened(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    folder = graphs.write(tmp_path / "policy")
    (tmp_path / "outside.onnx").write_bytes(graphs.linear(np.eye(2)))
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(ConfigError, match="expected the name of a file in this directory"):
        opened(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"\x00" * 64, graphs.linear(np.eye(2))[:-7], b"version https://git-lfs.github.com/spec/v1\n"],
    ids=["empty", "a web page", "zeros", "cut short", "a pointer"],
)
def test_a_corrupt_model_is_named(tmp_path: Path, content: bytes) -> None:
    graphs.write(tmp_path, graph=content)
    with pytest.raises(ConfigError, match=r"model\.onnx: (expected an ONNX model|onnxruntime cannot load it)"):
        opened(tmp_path)


MISFITS: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "input name": ({"inputs": {"pose": STATE}}, graphs.linear(np.eye(2)), "the graph's inputs are state, policy.json feeds pose"),
    "output name": (
        {"output": {"name": "a"}},
        graphs.linear(np.eye(2)),
        "the graph's outputs are actions, policy.json expects 'a'",
    ),
    "state size": (
        {},
        graphs.linear(np.eye(3)[:, :2]),
        r"input 'state': the graph has shape \('batch', 3\), policy.json says \(batch, 2\)",
    ),
    "action size": ({}, graphs.linear(np.eye(2)[:, :1]), "output 'actions': the graph has shape"),
    "horizon": ({}, graphs.linear(np.ones((2, 4)), horizon=2), "output 'actions': the graph has shape"),
    "fixed batch": ({}, graphs.linear(np.eye(2), batch=1), "batch axis is fixed at 1, max_batch_size is 4"),
    "number for a choice": (
        {"spec": {**graphs.description()["spec"], "action": {"shape": [2], "dtype": "int64"}}},
        graphs.linear(np.eye(2)),
        r"the graph gives tensor\(float\), the spec's action is int64",
    ),
    "choice for a number": (
        {"spec": {**graphs.description()["spec"], "action": {"shape": [1]}}},
        graphs.greedy(np.eye(2)),
        r"the graph gives tensor\(int64\), the spec's action is float32",
    ),
    "picture of floats for bytes": (
        {
            "spec": {"observation": {"p": {"shape": [4, 6, 3]}}, "action": {"shape": [3]}},
            "inputs": {"picture": {"key": "p"}},
        },
        graphs.picture_means("uint8", [4, 6, 3]),
        r"the graph wants tensor\(uint8\), 'p' is float32",
    ),
    "normalised bytes": (
        {
            "spec": {"observation": {"p": {"shape": [4, 6, 3], "dtype": "uint8"}}, "action": {"shape": [3]}},
            "inputs": {"picture": {"key": "p", "scale": 0.5}},
        },
        graphs.picture_means("uint8", [4, 6, 3]),
        "scale, mean and std need a graph input of floats",
    ),
}


@pytest.mark.parametrize(("changes", "graph", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_graph_that_policy_json_does_not_describe_is_refused_when_loaded(
    tmp_path: Path, changes: dict[str, Any], graph: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(graphs.write(tmp_path, graphs.description(**changes), graph))


def test_a_fixed_batch_of_one_serves_one_at_a_time(tmp_path: Path) -> None:
    policy = opened(graphs.write(tmp_path, graph=graphs.linear(np.eye(2), batch=1)), max_batch_size=1)
    assert actions(policy, {"state": np.ones(2, np.float32)})[0].shape == (1, 2)


# Weights in other files


def test_weights_in_another_file_are_refused_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.eye(2, dtype=np.float32).tobytes())
    graphs.write(tmp_path, graph=graphs.linear(np.eye(2), elsewhere="secret.bin"))
    with pytest.raises(ConfigError, match=r"model\.onnx: its weights are in another file; export the model as one file"):
        opened(tmp_path)


def elsewhere() -> bytes:
    return graphs.tensor("t", np.zeros(2, np.float32), elsewhere="/etc/passwd")


def long_length(field: int, content: bytes) -> bytes:
    """A block whose length is written in one byte more than it needs."""
    return graphs.varint(field << 3 | 2) + bytes([len(content) & 0x7F | 0x80, len(content) >> 7 | 0x80, 0]) + content


HIDING_PLACES = {
    "constant": graphs.block(7, graphs.block(1, graphs.block(5, graphs.block(5, elsewhere())))),
    "list of tensors": graphs.block(7, graphs.block(1, graphs.block(5, graphs.block(10, elsewhere())))),
    "branch": graphs.block(7, graphs.block(1, graphs.block(5, graphs.block(6, graphs.block(5, elsewhere()))))),
    "sparse": graphs.block(7, graphs.block(15, graphs.block(1, elsewhere()))),
    "sparse attribute": graphs.block(7, graphs.block(1, graphs.block(5, graphs.block(22, graphs.block(2, elsewhere()))))),
    "function": graphs.block(25, graphs.block(7, graphs.block(5, graphs.block(5, elsewhere())))),
    "training": graphs.block(20, graphs.block(1, graphs.block(5, elsewhere()))),
    "a second graph": graphs.linear(np.eye(2)) + graphs.block(7, graphs.block(5, elsewhere())),
    "long lengths": long_length(7, long_length(5, elsewhere())),
    "without a location flag": graphs.block(7, graphs.block(5, graphs.block(13, graphs.block(1, "location")))),
}


@pytest.mark.parametrize("content", HIDING_PLACES.values(), ids=HIDING_PLACES.keys())
def test_other_files_are_found_wherever_a_tensor_may_stand(content: bytes) -> None:
    with pytest.raises(ConfigError, match="in another file"):
        _onnx_protobuf.refuse_external_data(content, "model.onnx")


def test_nesting_has_a_bound() -> None:
    content = b""
    for _ in range(200):
        content = graphs.block(1, graphs.block(5, graphs.block(6, content)))
    with pytest.raises(ConfigError, match="nested too deeply"):
        _onnx_protobuf.refuse_external_data(graphs.block(7, content), "model.onnx")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, 300).map(lambda n: graphs.linear(np.eye(2))[:n]))
def test_any_bytes_are_taken_or_refused_by_our_own_error(content: bytes) -> None:
    try:
        _onnx_protobuf.refuse_external_data(content, "model.onnx")
    except ConfigError as error:
        assert "model.onnx" in str(error)


def test_statistics_say_where_values_lay_in_training() -> None:
    """Joints and cube are normalised by two inputs; together they cover the state, and the output the action."""
    models = Path(onnx.__file__).parent.parent / "models"
    spec = onnx.load(str(models / "aloha_transfer_cube"), onnx.Config(), Runtime()).spec
    state, action = spec.observation["state"], spec.action
    assert state.typical is not None and len(state.typical) == 21 and action.typical is not None and len(action.typical) == 14
    assert all(low < high for low, high in (*state.typical, *action.typical))
    elbow = (state.names or ()).index("left_elbow")
    assert state.typical[elbow][0] < 1.16 < state.typical[elbow][1], "ALOHA's start pose"
