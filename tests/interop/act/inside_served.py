"""Run by a Python with torch (test_act_inside.py starts it): the same weights behind four wires do the same in the simulator.

The bundled ONNX file is evaluated in this process; its weights, written in three layouts, are served over the wire of each layout's
own program and evaluated there with the same seeds. Few episodes here; ``docs/checkpoints.md`` has the figures of 25.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actlink.evaluation.harness import EvalConfig, evaluate
from cli_world import running
from documented import COMPAT, as_printed

TRAINING = COMPAT.parent / "examples" / "training"
BUNDLED = "aloha_transfer_cube"
EPISODES, DRAWN = 4, 2
SLACK = 5
"""Control steps by which an episode's length may differ: actions agree to 1e-5, and contacts amplify that."""


def made(layout: str, place: Path) -> Path:
    command = [sys.executable, str(TRAINING / "act_layouts.py"), layout, "--out", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    return place


def episodes(policy: str, place: Path, **options: Any) -> list[tuple[bool | None, int]]:
    """Success and length of every episode."""
    found = evaluate(EvalConfig(policy=policy, env=BUNDLED, episodes=EPISODES, out=place, video_every=0, **options))
    return [(each.success, each.length) for each in found.episodes]


def agree(ours: list[tuple[bool | None, int]], native: list[tuple[bool | None, int]]) -> None:
    assert len(ours) == EPISODES and [success for success, _ in ours] == [success for success, _ in native]
    assert sum(bool(success) for success, _ in native) >= EPISODES - 1, "a policy that fails shows nothing"
    assert all(abs(one - other) <= SLACK for (_, one), (_, other) in zip(ours, native, strict=True)), (ours, native)


WIRES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "original": ("act+zmq", "original", {"strategy": "ensemble", "k": 0.01}),
    "lerobot": ("lerobot+grpc", "lerobot", {}),
    "ilstudio": ("ilstudio+tcp", "ilstudio", {}),
}
"""Layout -> wire, and how the wire executes chunks: the ACT server ensembles by itself, the others leave it to the client."""


@pytest.mark.parametrize("name", WIRES)
def test_success_is_that_of_the_native_run(name: str, tmp_path: Path) -> None:
    wire, layout, strategy = WIRES[name]
    place = made(layout, tmp_path / "checkpoint")
    native = episodes(BUNDLED, tmp_path / "native", **strategy)
    with running(tmp_path, "serve", str(place), "--listen", f"{wire}://127.0.0.1:0") as server:
        address = server.wait_for(rf"^  ({re.escape(wire)}://\S+)$")[1]
        served = episodes(address, tmp_path / "served", like=BUNDLED)
    agree(served, native)


def programs(*words: str) -> dict[str, Any]:
    return {"args": [sys.executable, *words], "cwd": COMPAT, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}}


def until(process: subprocess.Popen[str], words: str) -> str:
    """The line of its output with these words."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return line
    raise AssertionError(f"ended without {words!r}: {''.join(said)}")


def with_server(words: tuple[str, ...], ready: str, place: Path, work: Callable[[str], None]) -> None:
    """Do ``work`` with the port of a program of ``compat/`` while it runs."""
    options = programs(*words) | {"cwd": place}
    with subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as process:
        try:
            work(re.findall(r":?(\d+)", until(process, ready).partition(ready)[2])[-1 if "🚀" in ready else 0])
        finally:
            process.kill()


def test_the_documented_programs_agree_too(tmp_path: Path) -> None:
    """``start_policy_server.py`` with the directory that it finds by default, ``eval_remote.py --env aloha``."""
    native = episodes(BUNDLED, tmp_path / "native", execution_horizon=64)[:DRAWN]
    out = tmp_path / "remote"

    def work(port: str) -> None:
        words = ("eval_remote.py", "--model_name_or_path", f"localhost:{port}", "--env", "aloha", "--num_rollout", str(DRAWN))
        done = subprocess.run(**programs(*words, "--output_dir", str(out)), capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr

    with_server(("start_policy_server.py", "--host", "127.0.0.1", "--port", "0"), "🚀 Policy Server started on ", COMPAT, work)
    found = json.loads((out / "aloha" / "sim_transfer_cube_scripted.json").read_text())
    assert found["total"] == DRAWN and found["total_success"] == sum(bool(success) for success, _ in native)
    assert all(abs(one - other) <= SLACK for one, (_, other) in zip(found["horizon"], native, strict=True)), (found, native)


def test_the_test_client_prints_what_is_documented(tmp_path: Path) -> None:
    """Line by line, against a 17 -> 16 checkpoint with three cameras that ``act_random.py`` made."""
    import shutil

    for name in ("inference_server.py", "constants.py", "opening.py"):
        shutil.copy(COMPAT / name, tmp_path)
    subprocess.run(
        [sys.executable, str(TRAINING / "act_random.py"), "--out", str(tmp_path / "ckpt")], check=True, capture_output=True
    )
    program = tmp_path / "inference_server.py"
    program.write_text(program.read_text(encoding="utf-8").replace('PORT = "5555"', 'PORT = "0"'), encoding="utf-8")

    def work(port: str) -> None:
        done = subprocess.run(**programs("test_zmq_client.py", "--port", port), capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert as_printed("C5", done.stdout.replace(port, "5555")), done.stdout

    with_server(("inference_server.py",), "ACT inference server listening on port ", tmp_path, work)


def test_normalize_json_that_is_missing_is_said_as_documented(tmp_path: Path) -> None:
    place = made("ilstudio", tmp_path / "ckpt" / "my_model")
    (place / "normalize.json").unlink()
    words = ("start_policy_server.py", "--host", "127.0.0.1", "--port", "0", "--model_name_or_path", str(place))
    done = subprocess.run(**programs(*words), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "FileNotFoundError: No normalize.json found in " in done.stderr, done.stderr
    assert str(place.parent) in done.stderr and "--allow-identity-normalization" in done.stderr and "Traceback" not in done.stderr
    with_server((*words, "--allow-identity-normalization"), "🚀 Policy Server started on ", COMPAT, lambda port: None)
