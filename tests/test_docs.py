"""The documents tell the truth: links lead somewhere, commands parse, examples compile, and those that name a file really run."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from actlink import ActlinkError, Field, Spec, cli, connect, loading
from actlink.commands import _options
from actlink.dialects._base import Frame, Reset
from actlink.errors import RemoteProtocolError
from actlink.policies._callable import as_policy
from actlink.serving.server import Server
from actlink.testing.dialects import check_dialect
from actlink.testing.robots import check_robot
from cli_world import actlink

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ADDING = ROOT / "docs" / "adding.md"

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE_PATH = re.compile(r"`((?:docs|src|tests|examples|scripts|benchmarks|\.ci)/[\w./-]+\.\w+)`")


def blocks(path: Path) -> Iterator[tuple[str, str, str]]:
    """Language, what stands beside it, and content of every fenced block."""
    for found in BLOCK.finditer(path.read_text(encoding="utf-8")):
        yield found[1], found[2].strip(), found[3]


def commands(path: Path) -> Iterator[str]:
    """Every line of a shell block that calls actlink, continued lines joined, prompts and comments taken off."""
    for language, _, content in blocks(path):
        if language in ("sh", "bash", "console", "shell"):
            for line in content.replace("\\\n", " ").splitlines():
                line = re.sub(r"^\$ ", "", line.strip()).partition(" #")[0]
                line = re.split(r"\s[&>|]", line.removesuffix("&"))[0]
                if line.startswith("actlink"):
                    yield line


def test_the_documents_that_belong_here_are_here() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "architecture.md", "glossary.md", "adding.md", "serving.md"} <= names
    assert {"evaluation.md", "troubleshooting.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.name}: broken link {target}"
    places = [ROOT, ROOT / "compat"] if path.name == "mission.md" else [ROOT]  # there commands are typed in compat/
    for target in CODE_PATH.findall(text):
        assert any((place / target).exists() for place in places), f"{path.name}: names {target}, which is not there"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the real parser, except that a --config file need not exist."""
    monkeypatch.chdir(tmp_path)
    for line in commands(path):
        words = shlex.split(line)[1:]
        if not words or words[0].startswith("-"):
            assert words in (["--help"], ["--version"]), line
            continue
        assert words[0] in cli.COMMANDS, f"{path.name}: {line}"
        if "--help" in words:
            continue
        if "--config" in words:
            index = words.index("--config")
            del words[index : index + 2]
            words += {"eval": ["--policy", "p", "--env", "e"], "serve": ["p"]}.get(words[0], [])
        module = importlib.import_module(f"actlink.commands.{cli.COMMANDS[words[0]].module}")
        try:
            _options.parse(module, words[0], words[1:])
        except SystemExit:
            pytest.fail(f"{path.name}: does not parse: {line}")


def test_a_wrong_command_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "x.md"
    document.write_text("```sh\n$ actlink serve p --no-such-thing 1 # why\n```\n")
    assert list(commands(document)) == ["actlink serve p --no-such-thing 1"]
    with pytest.raises(pytest.fail.Exception, match="does not parse"):
        test_commands_parse(document, monkeypatch, tmp_path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_compiles_and_its_imports_exist(path: Path) -> None:
    for language, _, content in blocks(path):
        if language != "python":
            continue
        compile(content, str(path), "exec")
        for line in re.findall(r"^(?:from actlink[\w.]* import [\w, ]+|import actlink[\w.]*)", content, re.MULTILINE):
            exec(line, {})  # the line names this package only


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_yaml_is_yaml(path: Path) -> None:
    import yaml

    for language, _, content in blocks(path):
        if language == "yaml":
            yaml.safe_load(content)


def test_every_fence_is_closed() -> None:
    for path in DOCUMENTS:
        assert len(re.findall(r"^```", path.read_text(encoding="utf-8"), re.MULTILINE)) % 2 == 0, path.name


# The examples of adding.md, run for real.


def example(name: str) -> str:
    """The block of adding.md that is marked as the file ``name``."""
    found = [content for _, beside, content in blocks(ADDING) if beside == f"file={name}"]
    assert len(found) == 1, f"adding.md: expected one block with file={name}, got {len(found)}"
    return found[0]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every example of adding.md as a file, as a reader would have it."""
    for _, beside, content in blocks(ADDING):
        if beside.startswith("file="):
            (tmp_path / beside.removeprefix("file=")).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def installed(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, but in the package's own folders: each file where it would be put."""
    places = {"linear.py": "policies", "acme.py": "dialects", "slider.py": "robots"}
    for name, folder in places.items():
        package = importlib.import_module(f"actlink.{folder}")
        place = written / folder
        place.mkdir()
        shutil.copy(written / name, place)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])
    yield written
    for name, folder in places.items():
        module = f"actlink.{folder}.{Path(name).stem}"
        sys.modules.pop(module, None)
        monkeypatch.delattr(importlib.import_module(f"actlink.{folder}"), Path(name).stem, raising=False)


@pytest.mark.parametrize("examined", ["my_policy.py:MyPolicy", "reach.py:Reach"])
def test_the_examples_pass_the_examination(examined: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", examined) == 0
    assert f"{examined} passes the conformance suite" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_the_family_is_found_by_its_name_and_recognises_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "arm.linear.npz", weights=np.eye(2, 4))
    assert actlink("list", "policies") == 0
    assert "Linear policies: weights in a .linear.npz file." in capsys.readouterr().out
    assert actlink("check", str(tmp_path / "arm.linear.npz"), "--policy-options", "scale=2") == 0
    np.savez(tmp_path / "bad.linear.npz", biases=np.eye(2))
    assert actlink("check", str(tmp_path / "bad.linear.npz")) == 2
    assert "expected an npz file with 'weights'" in capsys.readouterr().err


def test_the_family_outside_the_package(written: Path) -> None:
    np.savez(written / "arm.linear.npz", weights=np.eye(2, 4))
    assert actlink("check", "linear.py:arm.linear.npz") == 0


@pytest.fixture
def acme(installed: Path) -> ModuleType:
    return loading.load("dialects", "acme")


def test_the_dialect_passes_the_examination(acme: ModuleType) -> None:
    check_dialect(acme, spec=Spec({"state": Field((3,))}, Field((2,)), action_horizon=4))


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"[1]", b"{}", b'{"joints": "x"}', b'{"joints": [[1]]}', b"\xff\xfe", b"[" * 100_000]
)
def test_the_dialect_refuses_garbage(data: bytes, acme: ModuleType) -> None:
    client = acme.Client(acme.Config())
    client.send(Reset())
    for half in (acme.Server(acme.Config()), client):
        with pytest.raises(RemoteProtocolError):
            half.receive(Frame((data,)))


@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_the_dialect_works_in_an_address(transport: str, acme: ModuleType, written: Path) -> None:
    policy: Any = loading.resolve("my_policy.py:MyPolicy")()
    with (
        Server({"mine": as_policy(policy, "mine")}, [f"acme+{transport}://127.0.0.1:0"]) as server,
        connect(server.addresses[0], spec=policy.spec) as remote,
    ):
        remote.reset()
        chunk = remote.infer_one({"state": np.ones(4, np.float32)}, step=3)
        assert chunk.actions.shape == (8, 4)
        assert chunk.step == 3
        with pytest.raises(ActlinkError):
            remote.infer_one({"state": np.ones(5, np.float32)})


def test_the_robot(installed: Path) -> None:
    module = loading.load("robots", "slider")
    check_robot(module.Slider(module.Config(limit_m=0.2)))
    robot = module.Slider(module.Config(limit_m=0.2))
    with pytest.raises(ActlinkError, match="before connect"):
        robot.observe()
    robot.connect()
    robot.spec.check(robot.observe())
    assert robot.act(np.array([9.0], np.float32)) == pytest.approx([0.2])
    robot.observe()
    robot.hold()
    held = robot.observe()["state"]
    assert robot.observe()["state"] == pytest.approx(held)
    robot.stop()
    robot.close()


def test_the_policy_runs_in_the_environment(written: Path) -> None:
    """What adding.md says one can type, with a policy that fits."""
    spec = "{observation: {state: {shape: [4]}}, action: {shape: [2]}}"
    assert actlink("check", "scripted:zero", "reach.py:Reach", "--policy-options", f"spec={spec}") == 0
    assert actlink("check", "my_policy.py:MyPolicy", "reach.py:Reach") == 1


@pytest.mark.usefixtures("acme")
def test_commands_are_told_the_spec_of_a_wire_that_announces_none(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written / "spec.yaml").write_text(
        "{observation: {state: {shape: [4]}}, action: {shape: [4]}, action_horizon: 8, max_batch_size: 4}"
    )
    with Server({"mine": as_policy(loading.resolve("my_policy.py:MyPolicy")(), "mine")}, ["acme+tcp://127.0.0.1:0"]) as server:
        url = server.addresses[0]
        assert actlink("ping", url) == 2
        assert "spec" in capsys.readouterr().err
        assert actlink("ping", url, "--spec", "spec.yaml") == 0
        out = capsys.readouterr().out
        assert "state: float32 (4)" in out
        assert "the acme wire has no ping" in out
        assert actlink("check", url, "--like", "my_policy.py:MyPolicy") == 0
