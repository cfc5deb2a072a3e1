"""The project's own promises: one version, a licence, nothing large, nothing of the machine it was written on."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import actlink

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
LARGEST_BYTES = 10_000_000
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".js", ".mjs", ".cfg", ".txt", ""}

# Written in pieces, so that this file does not find itself.
# (docs/mission.md quotes others' commands as they are documented; gpuserver is a person there.)
_PLACES = "|".join(("work", "root", "farm", "home/(?!gpuserver/)[a-z]+"))
MACHINE_PATHS = re.compile(rf"(?<![\w.~$}}/-])/({_PLACES})/|/tmp/" + "venvs")
_HOSTS = (
    r"pypi\.org/" + "simple",
    "files.python" + "hosted",
    "registry.npm" + "js",
    r"proxy\.go" + "lang",
    "dev" + "pi",
    "arti" + "factory",
)
REGISTRIES = re.compile("|".join(_HOSTS))
MARKS = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b")


def tracked() -> list[Path]:
    """Files under version control, or without git (an unpacked archive) all files but the generated ones."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode == 0 and git.stdout:
        return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]
    generated = re.compile(r"(^|/)(\.venv[^/]*|\.git|__pycache__|\.[a-z]+_cache|results|build|dist)/")
    return [path for path in ROOT.rglob("*") if path.is_file() and not generated.search(str(path.relative_to(ROOT)))]


def texts() -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in tracked() if path.suffix in TEXT]


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_changelog_speaks_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert versions[0] == actlink.__version__
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{versions[0]}]")


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert importlib.metadata.version("actlink") == actlink.__version__


def test_the_licence(project: dict[str, object]) -> None:
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_types_are_shipped() -> None:
    assert (ROOT / "src" / "actlink" / "py.typed").is_file()


def test_the_light_install_is_light(project: dict[str, object]) -> None:
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    assert {re.split("[<>=]", line)[0] for line in dependencies} == {"numpy", "msgpack", "pyyaml", "tyro", "rich"}


def test_extras(project: dict[str, object]) -> None:
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    assert {"server", "async", "serving", "onnx", "sim", "video", "plot", "images", "train", "dev", "all"} <= set(extras)
    # The names that others' documents use, with the wire that they mean by them.
    assert extras["async"] == ["actlink[server,grpc]"]
    assert extras["serving"] == ["actlink[server]", "websockets>=14.0"]
    heavy = [line for line in extras["all"] if re.match("torch|jax|lerobot|ray|actlink\\[.*train", line)]
    assert heavy == [], "'all' is everything but torch, jax, lerobot and ray"


def test_every_extra_an_adapter_names_exists(project: dict[str, object]) -> None:
    from actlink import loading

    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    for folder in loading.FOLDERS:
        for name in loading.names(folder):
            extra = getattr(loading.load(folder, name), "EXTRA", None)
            assert extra is None or extra in extras, f"{folder}/{name}.py: no extra {extra!r} in pyproject.toml"


def test_nothing_large_is_tracked() -> None:
    assert [f"{path}: {path.stat().st_size} bytes" for path in tracked() if path.stat().st_size > LARGEST_BYTES] == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("machine path", MACHINE_PATHS), ("registry host", REGISTRIES), ("mark of something unfinished", MARKS)],
    ids=["machine-paths", "registries", "marks"],
)
def test_no_tracked_text_holds_a(what: str, pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], what


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATHS, "/" + "work/main/x.py"),
        (MACHINE_PATHS, "see `/" + "root/x`"),
        (MACHINE_PATHS, "cd /" + "home/somebody/project"),
        (REGISTRIES, "https://pypi.org/" + "simple"),
        (MARKS, "# TO" + "DO: later"),
    ],
)
def test_these_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


def test_no_lock_file_is_tracked() -> None:
    """It would record the addresses from which one machine downloaded."""
    assert [path.name for path in tracked() if path.name in ("uv.lock", "poetry.lock", "package-lock.json")] == []


def test_scripts_can_be_run() -> None:
    for path in [*(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix), ROOT / ".ci" / "run"]:
        assert path.stat().st_mode & 0o111, f"{path.name} is not executable"
        assert path.read_text(encoding="utf-8").startswith("#!"), path.name
