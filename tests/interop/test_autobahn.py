"""Autobahn's test suite for WebSockets against our framing, which answers with what it is sent.

The suite runs on Python 2.7 only. Its environment is made once, in the folder that ACTLINK_AUTOBAHN names, else beside the packages
of the environment that runs this test.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SUITE = "autobahntestsuite==0.8.2"
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "websocket.md"
CORE = 247
"""Cases of the suite but for 9 (large and many messages, which take longest), 12 and 13 (compression, which is not offered)."""
LARGE = 54
"""Cases of group 9."""

RUN = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()"
"""``addsitedir`` reads the .pth files, without which Python 2 does not find zope.interface."""


def python_2() -> str | None:
    """A Python 2.7 that runs and has pip."""
    candidates = [shutil.which("python2.7"), *map(str, sorted(Path.home().glob(".pyenv/versions/2.7.*/bin/python")))]
    for candidate in filter(None, candidates):
        shown = subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and "python 2.7" in shown.stdout:
            return candidate
    return None


@pytest.fixture(scope="module")
def wstest() -> list[str]:
    """The suite's command."""
    python = python_2()
    if python is None:
        pytest.skip("no Python 2.7 with pip on this machine: Autobahn's cases are NOT TESTED; install Python 2.7")
    place = Path(os.environ.get("ACTLINK_AUTOBAHN") or Path(sys.prefix) / "autobahn")
    done = place / ".installed"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        made = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--target", str(place), SUITE], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.skip(f"{SUITE} cannot be installed here: Autobahn's cases are NOT TESTED: {made.stderr[-300:]}")
        done.write_text(SUITE)
    return [python, "-c", RUN, str(place)]


@contextlib.contextmanager
def echo(log: Path) -> Iterator[str]:
    """Our server; ``host:port``."""
    command = [sys.executable, "-m", "actlink.testing.echo", "native+ws://127.0.0.1:0"]
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def explained() -> dict[str, str]:
    """Case -> verdict, from the table in the document."""
    return dict(re.findall(r"^\| `([\d.]+)` \| (\S+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))


def judge(wstest: list[str], place: Path, cases: list[str], excluded: list[str]) -> dict[str, dict[str, Any]]:
    """What the suite says of every case."""
    with echo(place / "server.log") as where:
        spec = {
            "outdir": str(place / "reports"),
            "servers": [{"agent": "actlink", "url": f"ws://{where}"}],
            "cases": cases,
            "exclude-cases": excluded,
            "exclude-agent-cases": {},
        }
        (place / "spec.json").write_text(json.dumps(spec))
        command = [*wstest, "-m", "fuzzingclient", "-s", str(place / "spec.json")]
        ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "Traceback" not in (place / "server.log").read_text()
    verdicts: dict[str, dict[str, Any]] = json.loads((place / "reports" / "index.json").read_text())["actlink"]
    return verdicts


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("cases", "excluded", "count"), [(["*"], ["9.*", "12.*", "13.*"], CORE), (["9.*"], [], LARGE)], ids=["core", "large"]
)
def test_no_case_fails_that_is_not_explained(
    wstest: list[str], tmp_path: Path, cases: list[str], excluded: list[str], count: int
) -> None:
    verdicts = judge(wstest, tmp_path, cases, excluded)
    print(f"{len(verdicts)} cases: {dict(collections.Counter(one['behavior'] for one in verdicts.values()))}")
    assert len(verdicts) == count
    not_ok = {
        case: one["behavior"] if one["behavior"] != "OK" else one["behaviorClose"]
        for case, one in verdicts.items()
        if {one["behavior"], one["behaviorClose"]} != {"OK"}
    }
    print(f"not OK: {not_ok}")
    assert set(not_ok.items()) <= set(explained().items()), f"docs/websocket.md does not explain: {not_ok}"


def test_the_document_explains_a_few_cases() -> None:
    assert "FAILED" not in explained().values(), "a failure needs more than a line in a table"
    assert 0 < len(explained()) < 10
