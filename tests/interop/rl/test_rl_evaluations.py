"""The bundled policies and the same weights as ``state.eqx``, served by compat's own command: equal returns, episode by episode."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMPAT = Path(__file__).parent.parent.parent.parent / "compat"
EPISODES = 10
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""}


@contextmanager
def served(preset: str, run: str) -> Iterator[str]:
    command = [sys.executable, "scripts/serve_policy.py", preset, "--checkpoint_dir", f"runs/{run}/checkpoints"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"], cwd=COMPAT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        found = next(match for line in lines if (match := re.search(r"PolicyServer listening at (vibe\+ws://\S+:\d+)", line)))
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def returns(policy: str, environment: str, out: Path) -> list[float]:
    command = [sys.executable, "-m", "actlink", "eval", "--policy", policy, "--env", environment]
    done = subprocess.run(
        [*command, "--episodes", str(EPISODES), "--seed", "1000", "--out", str(out)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and not any(episode["error"] for episode in results["episodes"])
    return [episode["return"] for episode in results["episodes"]]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("preset", "run", "environment"),
    [("cartpole_ppo", "cartpole", "gymnasium:CartPole-v1"), ("pendulum_sac", "pendulum", "gymnasium:Pendulum-v1")],
)
def test_the_same_weights_do_the_same(
    preset: str, run: str, environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gymnasium", reason="gymnasium is not installed: these evaluations are NOT RUN")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: these evaluations are NOT RUN")
    native = returns(preset, environment, tmp_path / "native")
    with served(preset, run) as url:
        remote = returns(url, environment, tmp_path / "remote")
    # numpy and onnxruntime round differently, and 200 steps of a pendulum carry it further: the returns agree to a hundredth.
    assert remote == pytest.approx(native, rel=0.01, abs=0.05)
    with capsys.disabled():
        mean = sum(remote) / len(remote), sum(native) / len(native)
        print(f"\n{preset}: mean return {mean[0]:.2f} as state.eqx over vibe+ws, {mean[1]:.2f} bundled, {EPISODES} episodes")
