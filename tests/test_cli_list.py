"""``actlink list``: names, one line about each, and the pip line for what is missing."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from actlink import loading
from actlink.commands import listing
from actlink.policies._open import bundled
from cli_world import actlink


def test_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("list") == 0
    out = capsys.readouterr().out
    for folder in loading.FOLDERS:
        for name in loading.names(folder):
            assert f"  {name} " in out
            assert loading.describe(folder, name).summary in out


def test_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("list", "dialects") == 0
    out = capsys.readouterr().out
    assert "  native" in out
    assert "gymnasium" not in out


def test_bundled_policies_say_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("list", "policies") == 0
    out = capsys.readouterr().out
    assert {"aloha_transfer_cube", "cartpole_ppo", "pendulum_sac"} <= set(bundled())
    for name in bundled():
        assert len(listing.description(name)) > 20
        assert listing.description(name) in out


def test_a_damaged_bundle_does_not_hide_the_others(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "policy.json").write_text("{")
    monkeypatch.setattr(listing, "MODELS", tmp_path)
    assert listing.description("bad") == listing.description("absent") == "(its description cannot be read)"


def test_what_is_missing_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec

    def without_onnxruntime(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "onnxruntime" else find(name, package)

    monkeypatch.setattr("importlib.util.find_spec", without_onnxruntime)
    assert actlink("list", "policies") == 0
    out = capsys.readouterr().out
    assert "missing onnxruntime: pip install 'actlink[onnx]'" in out


def test_nothing_yet_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading, "names", lambda folder: [])
    assert actlink("list", "robots") == 0
    assert "none yet" in capsys.readouterr().out


def test_an_unknown_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("list", "robos") == 2
    assert "robots" in capsys.readouterr().err
