"""Nothing in the package may run what a peer or a checkpoint sent. Read from the syntax tree, so words in texts do not count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "actlink"

BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_ATTRIBUTES = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("_pickle", "loads"),
    ("marshal", "loads"),
    ("shelve", "open"),
    ("torch", "load"),
    ("joblib", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
}
BANNED_METHODS = {"recv_pyobj"}
BANNED_MODULES = {"cloudpickle", "dill", "pickle", "_pickle", "marshal", "shelve"}
"""Wires and checkpoints in pickle are read by a decoder of our own that calls nothing."""


def banned(code: str, name: str = "<code>") -> Iterator[str]:
    """Every banned construct in ``code``, one line each."""
    for node in ast.walk(ast.parse(code, name)):
        if isinstance(node, ast.Import):
            yield from (f"{name}:{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in BANNED_MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in BANNED_MODULES:
                yield f"{name}:{node.lineno}: from {module} import ..."
            yield from (
                f"{name}:{node.lineno}: from {module} import {a.name}" for a in node.names if (module, a.name) in BANNED_ATTRIBUTES
            )
        elif isinstance(node, ast.Attribute):
            if node.attr in BANNED_METHODS or (
                isinstance(node.value, ast.Name) and (node.value.id, node.attr) in BANNED_ATTRIBUTES
            ):
                yield f"{name}:{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
                yield f"{name}:{node.lineno}: {node.func.id}(...)"
            yield from _banned_keywords(node, name)


def _banned_keywords(call: ast.Call, name: str) -> Iterator[str]:
    for keyword in call.keywords:
        true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if (keyword.arg == "allow_pickle" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)) or (
            keyword.arg == "shell" and true
        ):
            yield f"{name}:{call.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"


def test_the_package_runs_nothing_it_was_sent() -> None:
    found = [
        line
        for path in sorted(SOURCE.rglob("*.py"))
        for line in banned(path.read_text(encoding="utf-8"), str(path.relative_to(SOURCE)))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as harmless",
        "def f(x):\n    import pickle\n    return pickle.loads(x)",
        "eval('1')",
        "exec(text)",
        "import torch\ntorch.load(path)",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "socket.recv_pyobj()",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_a_planted_one_is_found(code: str) -> None:
    assert list(banned(code))


@pytest.mark.parametrize(
    "code",
    [
        "'pickle.loads(x) is never called'",
        "model.eval()",
        "import re\nre.compile('x')",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "policy.load(source)",
    ],
)
def test_what_is_harmless_is_not_reported(code: str) -> None:
    assert list(banned(code)) == []
