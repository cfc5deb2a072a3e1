"""The house rule: imports point down. Read from the syntax tree, so imports inside functions and under TYPE_CHECKING count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "actlink"

ADAPTER_FOLDERS = ("dialects", "transports", "policies", "environments", "robots")

FLOORS: dict[str, int] = {
    # ground floor: records, contract, errors, time, loading by name, addresses, options
    "types": 0,
    "spec": 0,
    "errors": 0,
    "clock": 0,
    "loading": 0,
    "address": 0,
    "options": 0,
    "transform": 0,
    "matching": 0,
    "documents": 0,
    "credentials": 0,
    "_operations": 0,
    "_resize": 0,
    "_units": 0,
    "_rate": 0,
    "_judging": 0,
    "_naming": 0,
    "_limits": 0,
    "_motion": 0,
    # pure libraries, and the contracts that adapters fulfil
    "codecs": 1,
    "execution": 1,
    "safety": 1,
    "policies": 2,
    "environments": 2,
    "robots": 3,  # a robot may be a simulation, so its room stands above the environments
    "models": 2,
    "dialects": 3,
    "controller": 3,
    "asking": 3,
    "asking_thread": 3,
    "ticks": 3,
    "transports": 4,
    # the two halves
    "client": 5,
    "_exchange": 5,
    "_remote": 5,
    "_upstream": 5,
    "serving": 5,
    "evaluation": 6,
    "robot_client": 6,
    "link": 6,
    "export": 6,
    # the top: the command line, and the examiners that only it and tests import
    "testing": 7,
    "cli": 8,
    "commands": 8,
    "__main__": 8,
}
"""Floor of each top-level name; a module may import what is on a lower floor, and its own room."""

SHARED = ({"client", "_remote", "_upstream", "_exchange"}, {"controller", "asking", "asking_thread", "ticks"})
"""Rooms in several files."""

TOP = {"cli", "commands", "__main__", "testing"}
"""What may import everything."""

CONTRACTS = ("policies", "environments", "robots")
"""Folders whose adapters nobody imports by name: only their private modules (``_base``, ``_open``) may be imported from above."""


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every actlink import in ``tree``: ``from actlink.a import b`` gives ``actlink.a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "actlink")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "relative"
            elif (node.module or "").split(".")[0] == "actlink":
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_adapter(parts: tuple[str, ...]) -> bool:
    return len(parts) > 1 and parts[0] in ADAPTER_FOLDERS and not parts[1].startswith("_")


def violation(importer: tuple[str, ...], imported: tuple[str, ...]) -> str | None:
    """Why the module ``importer`` may not import ``imported`` (parts of names below ``actlink``); None if it may."""
    room, target = importer[0], imported[0] if imported else ""
    if imported == ("__version__",):
        return None
    if room not in FLOORS:
        return f"{room!r} has no floor: add it to FLOORS and to docs/architecture.md"
    if target not in FLOORS:
        return "the facade is for users; import the module that has it"
    if is_adapter(importer):
        return _adapter_violation(importer, imported)
    if is_adapter(imported) and target in CONTRACTS and room not in TOP:
        return "adapters are imported only when named (actlink.loading)"
    if target == room or FLOORS[target] == 0 == FLOORS[room] or {room, target} <= TOP:
        return None
    if any({room, target} <= files for files in SHARED):
        return None
    if FLOORS[target] >= FLOORS[room]:
        return f"floor {FLOORS[room]} imports floor {FLOORS[target]}"
    return None


def _adapter_violation(importer: tuple[str, ...], imported: tuple[str, ...]) -> str | None:
    private_of_own_folder = imported[0] == importer[0] and not is_adapter(imported)
    contract_of_dialects = importer[0] == "transports" and imported[:2] == ("dialects", "_base")
    if FLOORS[imported[0]] == 0 or imported[0] == "codecs" or private_of_own_folder or contract_of_dialects:
        return None
    return "an adapter imports the ground floor, codecs and its own contract only"


def violations(source: Path) -> list[str]:
    """Every forbidden import under ``source``, one line each."""
    found = []
    for path in sorted(source.rglob("*.py")):
        importer = path.relative_to(source).with_suffix("").parts
        if importer == ("__init__",):
            continue  # the facade, which imports on first use
        for line, dotted in imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            why = "write the whole name" if dotted == "relative" else violation(importer, tuple(dotted.split(".")[1:]))
            if why:
                found.append(f"{path.relative_to(source)}:{line}: {dotted}: {why}")
    return found


def test_imports_point_down() -> None:
    assert violations(SOURCE) == []


def test_the_source_was_read() -> None:
    rooms = {path.relative_to(SOURCE).with_suffix("").parts[0] for path in SOURCE.rglob("*.py")}
    assert {"types", "spec", "dialects", "transports", "policies", "serving", "cli"} <= rooms


PLANTED = {
    "serving imports client": ("serving/server.py", "from actlink.client import connect"),
    "client imports serving": ("client.py", "import actlink.serving.engine"),
    "under TYPE_CHECKING": (
        "client.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from actlink.serving import engine",
    ),
    "inside a function": ("spec.py", "def f():\n    from actlink.codecs import images"),
    "adapter imports adapter": ("policies/onnx.py", "from actlink.policies.scripted import load"),
    "adapter imports execution": ("dialects/act.py", "from actlink.execution import ensemble"),
    "transport imports a dialect": ("transports/tcp.py", "from actlink.dialects import native"),
    "evaluation names an adapter": ("evaluation/harness.py", "from actlink.policies.onnx import load"),
    "evaluation imports testing": ("evaluation/harness.py", "import actlink.testing"),
    "dialects import controller": ("dialects/_base.py", "from actlink.controller import Controller"),
    "through the facade": ("evaluation/plan.py", "from actlink import connect"),
    "the package itself": ("evaluation/plan.py", "import actlink"),
    "relative": ("evaluation/plan.py", "from . import harness"),
    "new room": ("attic.py", "from actlink.spec import Spec"),
}


@pytest.mark.parametrize(("file", "code"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(code, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1 and found[0].startswith(f"{file}:"), found


ALLOWED = {
    "adapter and its private module": ("policies/onnx.py", "from actlink.policies import _base\nfrom actlink.codecs import images"),
    "transport and frames": ("transports/tcp.py", "from actlink.dialects._base import Frame"),
    "evaluation and client": ("evaluation/worker.py", "def f():\n    from actlink.client import connect"),
    "cli joins the halves": (
        "cli.py",
        "from actlink.client import connect\nfrom actlink.serving import server\nimport actlink.testing",
    ),
    "version": ("serving/server.py", "from actlink import __version__"),
    "other packages": ("spec.py", "import numpy as np\nimport actlinkage"),
}


@pytest.mark.parametrize(("file", "code"), ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_allowed_is_not_reported(tmp_path: Path, file: str, code: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code, encoding="utf-8")
    assert violations(tmp_path) == []
