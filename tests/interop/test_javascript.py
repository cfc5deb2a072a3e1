"""A client in JavaScript, written from the wire's specification, against a live server with a trained policy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actlink import connect
from cli_world import Process, serving

CLIENT = Path(__file__).parent.parent.parent / "examples" / "javascript" / "native_client.mjs"


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip(
            "no node on this machine: the JavaScript client is NOT TESTED against a live server; install Node.js 20 or later"
        )
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str, str]]:
    place = tmp_path_factory.mktemp("server")
    (place / "tokens").write_text("for-javascript\n")
    with serving(place, "aloha_transfer_cube", "--deterministic", "--token-file", str(place / "tokens")) as running:
        yield running


def ask(node: str, address: str, token: str) -> subprocess.CompletedProcess[str]:
    host, port = address.rpartition("//")[2].split(":")
    environment = {**os.environ, "ACTLINK_TOKEN": token}
    return subprocess.run(
        [node, str(CLIENT), host, port], capture_output=True, text=True, timeout=100, env=environment, check=False
    )


def test_it_gets_the_very_actions_that_ours_gets(node: str, server: tuple[Process, str, str]) -> None:
    done = ask(node, server[2], "for-javascript")
    assert done.returncode == 0, done.stderr
    shown = re.search(r"first action: (.*)", done.stdout)
    assert shown is not None, done.stdout
    with connect(server[2], token="for-javascript") as policy:
        ours = policy.infer_one(policy.spec.zeros()).actions[0]
    assert np.array_equal(np.array(shown[1].split(), np.float32), ours)


def test_it_is_turned_away_with_the_servers_reason(node: str, server: tuple[Process, str, str]) -> None:
    done = ask(node, server[2], "wrong")
    assert done.returncode == 1
    assert done.stderr.startswith("unauthorized:")
