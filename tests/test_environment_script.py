"""``scripts/environment`` on machines that lack something: it says what, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "environment"


def make(tmp_path: Path, python: str, purpose: str = "demo") -> subprocess.CompletedProcess[str]:
    """Run the script where there is no uv, with ``python`` as PYTHON."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "dirname", "touch"):
        found = shutil.which(name)
        assert found is not None
        if not (tools / name).exists():
            (tools / name).symlink_to(found)
    environment = {"PATH": str(tools), "PYTHON": python, "HOME": os.environ.get("HOME", "/")}
    command = [str(SCRIPT), str(tmp_path / "venv"), purpose]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def stub(tmp_path: Path, body: str) -> str:
    """An interpreter that behaves as the shell lines ``body`` say, and otherwise as this one."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\n{body}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_no_python(tmp_path: Path) -> None:
    done = make(tmp_path, "python-of-nobody")
    assert done.returncode == 1
    assert "no 'python-of-nobody' here; name a Python 3.10 or newer with 'make PYTHON=" in done.stderr


def test_an_old_python(tmp_path: Path) -> None:
    old = stub(tmp_path, 'case "$*" in *version_info*) exit 1;; --version) echo Python 3.8.1; exit 0;; esac')
    done = make(tmp_path, old)
    assert done.returncode == 1
    assert "Python 3.8.1 is too old, 3.10 or newer is needed" in done.stderr


def test_a_python_without_venv(tmp_path: Path) -> None:
    bare = stub(tmp_path, 'case "$*" in *"import ensurepip, venv"*) exit 1;; esac')
    done = make(tmp_path, bare)
    assert done.returncode == 1
    assert "has no venv module; install it (Debian, Ubuntu: apt install python3-venv) or install uv" in done.stderr
    assert not (tmp_path / "venv" / ".made-for-demo").exists()


def test_an_install_that_fails_leaves_no_stamp(tmp_path: Path) -> None:
    """A made environment is one whose packages are there: make tries again the next time."""
    pip = tmp_path / "venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\ncase "$*" in *install*) exit 7;; esac\n')
    pip.chmod(0o755)
    done = make(tmp_path, sys.executable)
    assert done.returncode == 7
    assert not (tmp_path / "venv" / ".made-for-demo").exists()
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    assert make(tmp_path, sys.executable).returncode == 0
    assert (tmp_path / "venv" / ".made-for-demo").exists()
    assert "-e .[server,onnx,sim,video,images]" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("purpose", ["party", ""])
def test_an_unknown_purpose(purpose: str, tmp_path: Path) -> None:
    done = make(tmp_path, sys.executable, purpose)
    assert done.returncode == 2
    assert "demo" in done.stderr
