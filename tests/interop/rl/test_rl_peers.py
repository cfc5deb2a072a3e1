"""Checkpoints made by the libraries themselves give here what the libraries answer: Equinox, Orbax, Stable-Baselines3, torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_environment import run

from actlink.codecs import torch_files
from actlink.errors import ConfigError, MissingPackageError
from actlink.policies import sb3, vibe
from actlink.types import Request, Runtime

TOLERANCE = 1e-5


def actions(policy: Any, states: np.ndarray, batch: int) -> np.ndarray:
    """Asked in batches of that size."""
    requests = [Request({"state": state}) for state in states]
    parts = [policy.infer(requests[at : at + batch]) for at in range(0, len(requests), batch)]
    return np.stack([chunk.actions[0] for part in parts for chunk in part])


@pytest.fixture(scope="module")
def vibe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vibe") / "made"
    run("jax", "make_equinox.py", place)
    return place


@pytest.fixture(scope="module")
def sb3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sb3")
    run("rl", "make_sb3.py", place)
    return place


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("torch")
    run("rl", "make_torch_files.py", "write", place)
    return place


@pytest.mark.timeout(1200)
def test_equinox_networks(vibe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.parent.name for path in vibe_folder.glob("*/expected.npz"))
    assert len(names) == 7
    for name in names:
        policy = vibe.load(str(vibe_folder / name), vibe.Config(), Runtime())
        with np.load(vibe_folder / name / "expected.npz") as expected:
            states, wanted = expected["states"], expected["actions"]
        for batch in (1, 8):
            got = actions(policy, states, batch)
            worst = float(np.abs(got - wanted.reshape(got.shape)).max())
            assert worst <= TOLERANCE, (name, worst)
        with capsys.disabled():
            print(f"\n{name}: {policy.facts['layout']}, largest difference {worst:.1e}", end="")


ORBAX = """
import json, sys
import numpy as np
from actlink.policies import vibe
from actlink.types import Request, Runtime
states = np.load(sys.argv[2])["states"]
told = []
for options in ({}, {"step": 200}, {"step": 100}):
    policy = vibe.load(sys.argv[1], vibe.Config(algorithm="ppo", **options), Runtime())
    told.append([int(chunk.actions[0, 0]) for chunk in policy.infer([Request({"state": state}) for state in states])])
print(json.dumps(told))
"""


@pytest.mark.timeout(1200)
def test_orbax_directories(vibe_folder: Path) -> None:
    expected = vibe_folder / "cartpole_ppo" / "expected.npz"
    newest, second, zeros = json.loads(run("jax", ORBAX, vibe_folder / "orbax", expected, ours=True).splitlines()[-1])
    assert newest == second == np.load(expected)["actions"].tolist() and len(set(newest)) > 1
    assert set(zeros) == {0}, "step 100 was saved with zeros"
    with pytest.raises(MissingPackageError, match=r"pip install 'actlink\[jax\]'"):
        vibe.load(str(vibe_folder / "orbax"), vibe.Config(), Runtime())


@pytest.mark.timeout(1200)
def test_stable_baselines3(sb3_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sorted(path for path in sb3_folder.rglob("*.zip") if path.stem != "cnn")
    assert len(found) == 11
    for path in found:
        policy = sb3.load(str(path), sb3.Config(), Runtime())
        with np.load(path.with_suffix(".npz")) as expected:
            states, wanted = expected["states"], expected["actions"]
        for batch in (1, 8):
            got = actions(policy, states, batch)
            worst = float(np.abs(got - wanted.reshape(got.shape)).max())
            assert worst <= TOLERANCE, (path.name, worst)
        with capsys.disabled():
            print(f"\n{path.stem}: {policy.facts['family']} {policy.facts['layout']}, largest difference {worst:.1e}", end="")


@pytest.mark.timeout(1200)
def test_a_policy_of_pictures_is_refused(sb3_folder: Path) -> None:
    with pytest.raises(ConfigError, match="pictures"):
        sb3.load(str(sb3_folder / "cnn.zip"), sb3.Config(), Runtime())


@pytest.mark.timeout(1200)
def test_what_torch_writes_is_read_bit_for_bit(torch_folder: Path) -> None:
    read = torch_files.load(torch_folder / "value.pt")
    with np.load(torch_folder / "value.npz") as expected:
        assert sorted(read) == sorted(expected.files) and len(read) > 35
        for name in expected.files:
            assert read[name].dtype == expected[name].dtype and read[name].shape == expected[name].shape, name
            np.testing.assert_array_equal(read[name], expected[name], err_msg=name)
    assert np.shares_memory(read["turned"], read["whole"]) and np.shares_memory(read["row"], read["whole"])
    assert all(not array.flags.writeable for array in read.values())


@pytest.mark.timeout(1200)
def test_checkpoints_with_more_in_them(torch_folder: Path) -> None:
    value = torch_files.load(torch_folder / "lightning.ckpt")
    assert (
        value["epoch"] == 3 and value["callbacks"] == {"best": [0.5]} and value["hyper_parameters"].state["betas"] == (0.9, 0.999)
    )
    assert str(value["dtype"]) == "torch.float32" and value["numpy"][999] == 999.0
    with np.load(torch_folder / "network.npz") as expected:
        for file in ("lightning.ckpt", "plain.pt"):
            read = torch_files.state_dict(torch_folder / file)
            assert {name: array.tolist() for name, array in read.items()} == {n: expected[n].tolist() for n in expected.files}


@pytest.mark.timeout(1200)
def test_what_is_refused_comes_with_a_command_that_works(torch_folder: Path, tmp_path: Path) -> None:
    """The command in the message is typed as it stands, where torch is; then the file is read."""
    for file, reason in (("whole.pt", "the module was saved whole"), ("legacy.pt", "before torch 1.6")):
        shutil.copy(torch_folder / file, tmp_path)
        with pytest.raises(ConfigError, match=reason) as caught:
            torch_files.state_dict(tmp_path / file)
        code = str(caught.value).split('python -c "')[1].rstrip('"')
        run("rl", f"import os, sys\nos.chdir(sys.argv[1])\n{code}\n", tmp_path)
        with np.load(torch_folder / "network.npz") as expected:
            np.testing.assert_array_equal(torch_files.state_dict(tmp_path / f"weights_{file}")["weight"], expected["weight"])


@pytest.mark.timeout(1200)
def test_what_is_written_here_torch_reads_with_weights_only(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8", "b1"]
    tensors = {kind: random.integers(0, 2, (3, 4, 5)).astype(kind) for kind in kinds}
    tensors |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3), "f4"), "turned": random.normal(size=(4, 6)).T}
    tensors["tied"] = tensors["f4"]
    torch_files.save(tmp_path / "ours.pt", tensors)
    run("rl", "make_torch_files.py", "read", tmp_path)
    with np.load(tmp_path / "ours.npz") as read:
        assert list(read.files) == list(tensors)
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype and read[name].shape == array.shape
            np.testing.assert_array_equal(read[name], array)
