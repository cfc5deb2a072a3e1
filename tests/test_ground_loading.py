"""Loading by name: the folder is the registry, and third parties come by reference."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from actlink import loading
from actlink.errors import ConfigError, MissingPackageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place in which files become robots of the package, and stop being so afterwards."""
    robots = importlib.import_module("actlink.robots")
    monkeypatch.setattr(robots, "__path__", [str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("actlink.robots.")]:
        if name != "actlink.robots._base":
            del sys.modules[name]
            monkeypatch.delattr(robots, name.rpartition(".")[2], raising=False)


def test_every_file_without_an_underscore_is_an_adapter(folder: Path) -> None:
    for name in ("zebra.py", "arm.py", "_private.py", "notes.txt"):
        (folder / name).write_text('"""A robot."""')
    assert loading.names("robots") == ["arm", "zebra"]


def test_the_file_named_is_imported(folder: Path) -> None:
    (folder / "arm.py").write_text("JOINTS = 6")
    assert loading.load("robots", "arm").JOINTS == 6


def test_an_unknown_name_lists_what_there_is(folder: Path) -> None:
    (folder / "arm.py").touch()
    with pytest.raises(ConfigError, match=r"no robot 'leg'; there are: arm"):
        loading.load("robots", "leg")


def test_a_folder_is_called_by_its_singular() -> None:
    with pytest.raises(ConfigError, match="no policy family 'nonsense'"):
        loading.load("policies", "nonsense")


def test_private_modules_are_not_adapters() -> None:
    with pytest.raises(ConfigError, match="no dialect '_base'"):
        loading.load("dialects", "_base")


def test_an_adapter_says_what_it_is_and_what_it_lacks(folder: Path) -> None:
    (folder / "arm.py").write_text('"""An arm.\n\nMore.\n"""\nREQUIRES = ("numpy", "no_such_package_1")\nEXTRA = "arms"')
    found = loading.describe("robots", "arm")
    assert found == loading.Adapter("arm", "An arm.", ("no_such_package_1",), "pip install 'actlink[arms]'")


def test_an_adapter_that_lacks_nothing_shows_no_pip_line(folder: Path) -> None:
    (folder / "arm.py").write_text('REQUIRES = ("numpy",)')
    assert loading.describe("robots", "arm") == loading.Adapter("arm", "", (), "")


def module(**attributes: object) -> ModuleType:
    made = ModuleType("arm")
    vars(made).update(attributes)
    return made


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ({"EXTRA": "sim", "REQUIRES": ("mujoco",)}, "pip install 'actlink[sim]'"),
        ({"REQUIRES": ("mujoco", "yaml")}, "pip install mujoco yaml"),
        ({"INSTALL": "pip install --no-deps x", "EXTRA": "sim"}, "pip install --no-deps x"),
    ],
)
def test_the_line_that_installs_it(attributes: dict[str, object], line: str) -> None:
    assert loading.pip_line(module(**attributes)) == line


def test_a_module_of_an_absent_package_is_lacking() -> None:
    module = ModuleType("adapter")
    module.REQUIRES = ("no_such_package.cameras", "json.decoder")  # type: ignore[attr-defined]
    assert loading.missing(module) == ("no_such_package.cameras",)


def test_require_names_the_packages_and_the_line() -> None:
    loading.require(module())
    loading.require(module(REQUIRES=("numpy",)))
    with pytest.raises(MissingPackageError, match=r"arm needs no_such_1, no_such_2; install with: pip install 'actlink\[x\]'"):
        loading.require(module(REQUIRES=("no_such_1", "numpy", "no_such_2"), EXTRA="x"))


def test_a_reference_to_a_module() -> None:
    assert loading.resolve("actlink.clock:ManualClock") is importlib.import_module("actlink.clock").ManualClock


def test_a_reference_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
    found = loading.resolve(f"{tmp_path}/mine.py:Mine")
    assert found.__name__ == "Mine"
    assert loading.resolve(f"{tmp_path}/mine.py:Mine") is found, "the same file is run once"


def test_files_of_one_name_in_two_places_are_two_modules(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.py").write_text(f"WHERE = {place!r}")
    assert [loading.resolve(f"{tmp_path}/{place}/mine.py:WHERE") for place in ("a", "b")] == ["a", "b"]


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    """dataclasses look their module up while it is still running."""
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Config:\n    rate: float = 1.0\n"
    )
    assert loading.resolve(f"{tmp_path}/mine.py:Config")().rate == 1.0


def test_a_file_that_fails_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        loading.resolve(f"{path}:Mine")
    path.write_text("Mine = 'whole again'  # longer than before")
    assert loading.resolve(f"{path}:Mine") == "whole again"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("actlink.clock", "expected 'module:Class'"),
        (":Class", "expected 'module:Class'"),
        ("actlink.clock:", "expected 'module:Class'"),
        ("actlink.no_such_module:Class", "no module named 'actlink.no_such_module'"),
        ("no_such_package.deeper:Class", "no module named 'no_such_package'"),
        ("no/such/file.py:Class", "no such file: no/such/file.py"),
        ("actlink.clock:Stopwatch", "Stopwatch"),
    ],
)
def test_a_wrong_reference_says_what_is_wrong(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.resolve(reference)
    assert message in str(caught.value)


def test_a_module_whose_own_import_fails_keeps_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more_for_actlink_test.py").write_text("import no_such_package_2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_2"):
        loading.resolve("needs_more_for_actlink_test:Class")


def test_a_file_that_the_import_system_cannot_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.setattr("importlib.util.spec_from_file_location", lambda *_: None)
    with pytest.raises(ConfigError, match="not a Python file that can be imported"):
        loading.resolve(f"{tmp_path}/mine.py:Mine")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("mine.py:Policy", True),
        ("/a b/mine.py:Policy", True),
        ("package.module:Policy", True),
        ("module:Policy", True),
        ("aloha_transfer_cube", False),
        ("host:8000", False),
        ("ws://host:port", False),
        ("a-b.c:Policy", False),
        ("mine.py:", False),
        (":Policy", False),
        ("", False),
    ],
)
def test_what_looks_like_a_reference(text: str, is_one: bool) -> None:
    assert loading.is_reference(text) is is_one


@pytest.mark.parametrize("folder_name", loading.FOLDERS)
def test_every_shipped_adapter_can_be_described(folder_name: str) -> None:
    """Without its framework: one line of summary, and a pip line exactly when something is missing."""
    for name in loading.names(folder_name):
        found = loading.describe(folder_name, name)
        assert found.summary, f"{folder_name}/{name}.py has no docstring"
        assert bool(found.missing) == bool(found.install)
