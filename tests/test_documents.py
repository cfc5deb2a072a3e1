"""YAML in a file or in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from actlink import documents
from actlink.errors import ConfigError
from actlink.spec import Field, Spec


def test_brackets_and_lines_are_the_document_itself() -> None:
    assert documents.read("[1, {a: b}]", "here") == [1, {"a": "b"}]
    assert documents.read("a: 1\nb: 2", "here") == {"a": 1, "b": 2}
    assert documents.read("- rename: {a: b}", "here") == documents.read("[rename: {a: b}]", "here") == [{"rename": {"a": "b"}}]
    assert documents.read("rename: {a: b}", "here") == {"rename": {"a": "b"}}


def test_anything_else_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "some file.yaml"
    path.write_text("a: [1]")
    assert documents.read(str(path), "here") == {"a": [1]}


def test_errors_say_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"here: nowhere\.yaml: no such file"):
        documents.read("nowhere.yaml", "here")
    with pytest.raises(ConfigError, match="here: not YAML: "):
        documents.read("[1, 2", "here")
    with pytest.raises(ConfigError, match="cannot be read"):
        documents.read(str(tmp_path), "here")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="bytes: cannot be read"):
        documents.read(str(tmp_path / "bytes"), "here")


def test_only_plain_values_are_read() -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        documents.read("[!!python/object/apply:os.getcwd []]", "here")


def test_a_spec_survives_the_way_through_yaml() -> None:
    import yaml

    spec = Spec({"state": Field((2,), names=("a", "b"))}, Field((1,), "int64", range=(0, 3)), 5, 20.0)
    text = yaml.safe_dump(spec.to_dict())
    assert documents.read_spec(text, "here").to_dict() == spec.to_dict()
    with pytest.raises(ConfigError, match="here: expected a mapping with 'observation' and 'action', got a list"):
        documents.read_spec("[1]", "here")
