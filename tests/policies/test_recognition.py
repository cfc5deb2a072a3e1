"""What is at a path: one family, several, none or half a checkpoint; and what a person is told of what was found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx_graphs as graphs
import pytest

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies import _recognise
from actlink.policies._open import MODELS, open_policy
from actlink.policies._wrappers import Described, OneByOne, Transformed
from actlink.transform import parse
from actlink.types import Runtime

HEAVY = ("torch", "jax", "lerobot", "onnxruntime", "safetensors", "transformers")


def family(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """A further family in the folder, made of ``content``."""
    module = ModuleType(name)
    vars(module).update(content)
    known, load = loading.names, loading.load
    monkeypatch.setattr(loading, "names", lambda folder: sorted([*known(folder), name]) if folder == "policies" else known(folder))
    monkeypatch.setattr(loading, "load", lambda folder, asked: module if asked == name else load(folder, asked))


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as found:
        open_policy(str(path))
    return str(found.value)


def test_looking_loads_no_framework() -> None:
    """In a fresh interpreter: every family looks, and none has brought its framework along."""
    code = (
        "import sys; from pathlib import Path; from actlink.policies import _recognise\n"
        f"assert _recognise.families_of(Path({str(MODELS / 'pendulum_sac')!r})) == ['onnx']\n"
        f"assert _recognise._look(Path({str(MODELS)!r})) == ([], dict()), 'a family could not look'\n"
        f"_recognise.looks_for(); print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_every_family_that_looks_at_files_says_what_for() -> None:
    for name in loading.names("policies"):
        module = loading.load("policies", name)
        assert hasattr(module, "recognises") == hasattr(module, "LOOKS_FOR"), name


def test_nothing_recognised_lists_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "weights").mkdir()
    text = refusal(tmp_path)
    assert "no policy family recognises it" in text and "say which: --policy-type <family>" in text
    assert "onnx: policy.json and model.onnx in one directory" in text
    assert "there is: notes.txt, weights/" in text
    assert refusal(tmp_path / "notes.txt").count("one file, notes.txt (0 bytes)") == 1
    assert "an empty directory" in refusal(tmp_path / "weights")


def test_a_long_directory_is_cut_short(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index:02}.txt").write_text("")
    assert "11.txt and 8 more" in refusal(tmp_path)


def test_half_a_checkpoint_is_recognised_and_what_is_missing_is_named(tmp_path: Path) -> None:
    graphs.write(tmp_path)
    (tmp_path / "policy.json").unlink()
    assert "policy.json: no such file" in refusal(tmp_path)


def test_several_families_are_listed_and_one_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    graphs.write(tmp_path)
    family(monkeypatch, "jolly", recognises=lambda path: True, LOOKS_FOR="anything at all")
    text = refusal(tmp_path)
    assert "several policy families recognise it: jolly, onnx" in text
    assert "jolly: anything at all" in text and "there is: model.onnx, policy.json" in text
    assert open_policy(str(tmp_path), options={"policy_type": "onnx"}).facts["family"] == "onnx"
    assert open_policy(f"{tmp_path}?policy_type=onnx").spec.name == "two"


def test_a_family_that_cannot_look_does_not_keep_others_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def fails(path: Path) -> bool:
        raise ModuleNotFoundError("No module named 'exotic'")

    family(monkeypatch, "broken", recognises=fails, LOOKS_FOR="exotic files")
    assert open_policy(str(graphs.write(tmp_path / "mine"))).facts["family"] == "onnx"
    (tmp_path / "empty").mkdir()
    assert "broken: could not look (ModuleNotFoundError: No module named 'exotic')" in refusal(tmp_path / "empty")


def test_a_family_that_cannot_be_imported_does_not_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    load = loading.load

    def fails(folder: str, name: str) -> ModuleType:
        if name == "scripted":
            raise ImportError("cannot import name 'x'")
        return load(folder, name)

    monkeypatch.setattr(loading, "load", fails)
    assert _recognise.families_of(graphs.write(tmp_path / "mine")) == ["onnx"]
    assert "onnx" in _recognise.looks_for() and "scripted" not in _recognise.looks_for()


def test_a_directory_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    assert _recognise.there(tmp_path) == "a directory that cannot be read (Permission denied)"


def test_the_chosen_family_may_be_a_bundled_policys_and_must_exist() -> None:
    pytest.importorskip("onnxruntime")
    assert open_policy("pendulum_sac", options={"policy_type": "onnx"}).spec.action_dim == 1
    assert open_policy(f"onnx:{MODELS / 'pendulum_sac'}", options={"policy_type": "onnx"}).spec.digest
    with pytest.raises(ConfigError, match=r"policy_type: no policy family 'onyx'; there are: .*onnx"):
        open_policy("pendulum_sac", options={"policy_type": "onyx"})


# What is told of it


def test_facts_of_a_graph() -> None:
    pytest.importorskip("onnxruntime")
    facts = open_policy("aloha_transfer_cube").facts
    assert facts["family"] == "onnx" and facts["parameters"] == "1.1 M" and facts["device"] == "cpu"
    assert facts["normalisation"] == "policy.json (mean/std of state, action)"


def test_facts_survive_every_wrapper() -> None:
    policy = open_policy("scripted:zero?state=2&action=2")
    assert policy.facts["family"] == "scripted"
    for wrapped in (Described(policy, policy.spec), OneByOne(policy), Transformed(policy, parse("[{rename: {pose: state}}]"))):
        assert wrapped.facts == policy.facts
    everything = open_policy("scripted:zero?state=2&action=2&transform=[{rename: {pose: state}}]", Runtime(deterministic=True))
    assert everything.facts["family"] == "scripted" and "pose" in everything.spec.observation


def test_what_comes_from_files_has_a_digest_of_weights_and_normalisation(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = graphs.write(tmp_path / "mine")
    before = open_policy(str(folder)).spec.digest
    assert before.startswith("sha256:")
    text = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(text.replace('"output"', '"description": "another", "output"', 1))
    assert open_policy(str(folder)).spec.digest != before


def test_full_memory_at_load_names_the_device_and_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("def make():\n    raise MemoryError('cannot have 99 GB')\n")
    with pytest.raises(
        PolicyError, match=r"device 'cuda:1' is out of memory during loading .*99 GB.*use --device cpu, a smaller chunk"
    ):
        open_policy(f"{tmp_path / 'big.py'}:make", Runtime("cuda:1"))


def test_a_graph_keeps_its_own_precision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the precision it was exported in; got dtype 'float16'"):
        open_policy(str(graphs.write(tmp_path)), Runtime(dtype="float16"))
