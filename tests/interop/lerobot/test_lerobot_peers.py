"""LeRobot's own programs, from the package index, in an environment of their own: its robot client against our server with a robot
that is none, and our client against its policy server with a tiny ACT checkpoint made on the spot.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import connect
from actlink.errors import PolicyError
from actlink.spec import Field, Spec
from cli_world import running
from venvs import surroundings

pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
ECHO = "scripted:echo?state=6&action=6&horizon=10&cameras=top:24x32"
ITS_OWN_END = ("Channel closed!", "Client not running.")
"""What the client reports of its own end: it closes the channel under its receiving thread, and asks once more when stopped."""


@contextlib.contextmanager
def serving(directory: Path, policy: str, *options: str) -> Iterator[str]:
    """Our server; yields ``host:port``."""
    with running(directory, "serve", policy, "--listen", "lerobot+grpc://127.0.0.1:0", *options) as process:
        yield process.wait_for(r"^  lerobot\+grpc://(\S+)$")[1]


def robot(python: str, address: str, *options: str) -> dict[str, Any]:
    command = [python, str(HERE / "run_robot_client.py"), address, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=surroundings(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told["errors"] = [line for line in told["errors"] if not any(end in line for end in ITS_OWN_END)]
    return told


class TestItsClient:
    def test_200_control_steps(self, python: str, tmp_path: Path) -> None:
        with serving(tmp_path, ECHO) as address:
            told = robot(python, address, "--model", "echo")
        assert (told["started"], told["steps"], told["errors"]) == (True, 200, [])
        # On a busy machine the client now and then runs a step twice, when a chunk takes its queue's place meanwhile.
        assert 150 <= told["latest"] <= 199

    def test_the_bundled_policy(self, python: str, tmp_path: Path) -> None:
        options = ("--motors", "21", "--actuated", "14", "--cameras", "", "--actions", "50", "--model", "aloha_transfer_cube")
        with serving(tmp_path, "aloha_transfer_cube") as address:
            told = robot(python, address, *options)
        assert (told["steps"], told["errors"]) == (200, [])
        assert all(len(action) == 14 for action in told["sent"])

    def test_a_model_that_is_not_served(self, python: str, tmp_path: Path) -> None:
        with serving(tmp_path, ECHO) as address:
            told = robot(python, address, "--model", "outputs/train/other")
        assert not told["started"]
        assert "no model 'outputs/train/other' is served here" in told["errors"][0]

    def test_a_robot_that_does_not_fit(self, python: str, tmp_path: Path) -> None:
        with serving(tmp_path, ECHO) as address:
            told = robot(python, address, "--model", "echo", "--motors", "5", "--limit-s", "2")
            again = robot(python, address, "--model", "echo", "--steps", "20")
        assert told["steps"] == 0
        assert "the policy wants 6 entries; the robot sends 5" in told["errors"][0]
        assert again["steps"] == 20


NAMES = tuple(f"joint_{index}.pos" for index in range(6))
SPEC = Spec({"state": Field((6,), names=NAMES), "images.top": Field((48, 64, 3), "uint8")}, Field((6,)), action_horizon=8)


@pytest.fixture(scope="module")
def server(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """LeRobot's policy server: its address, its checkpoint, the directory it was started with."""
    place = tmp_path_factory.mktemp("lerobot")
    log = place / "stdout"
    with log.open("wb") as out, (place / "stderr").open("wb") as err:
        command = [python, str(HERE / "run_policy_server.py"), str(place)]
        process = subprocess.Popen(command, stdout=out, stderr=err, env=surroundings())
    try:
        end_s = time.monotonic() + 120
        while not (ready := re.search(r"^ready (\d+) (.*)$", log.read_text(), re.MULTILINE)):
            assert process.poll() is None and time.monotonic() < end_s, (place / "stderr").read_text()[-3000:]
            time.sleep(0.05)  # looks again; nothing is measured
        yield f"lerobot+grpc://127.0.0.1:{ready[1]}", Path(ready[2]), place
    finally:
        process.kill()
        process.wait()


def observation() -> dict[str, Any]:
    source = np.random.default_rng(1)
    return {"state": source.standard_normal(6).astype(np.float32), "images.top": source.integers(0, 256, (48, 64, 3), np.uint8)}


class TestItsServer:
    def test_its_actions_arrive_bit_for_bit(self, python: str, server: tuple[str, Path, Path]) -> None:
        address, checkpoint, place = server
        seen = observation()
        np.savez(place / "observation.npz", state=seen["state"], top=seen["images.top"])
        files = [str(place / "observation.npz"), str(place / "chunk.npy")]
        command = [python, str(HERE / "run_policy_server.py"), str(place), "--chunk", *files]
        subprocess.run(command, check=True, capture_output=True, timeout=300, env=surroundings())
        with connect(f"{address}?pretrained_name_or_path={checkpoint}", spec=SPEC) as policy:
            chunks = [policy.infer_one(seen, step=step) for step in (0, 0, 3)]
            policy.reset()
            chunks.append(policy.infer_one(seen, step=0))
        expected = np.load(place / "chunk.npy")
        assert expected.shape == (8, 6)
        assert [chunk.step for chunk in chunks] == [0, 0, 3, 0]
        assert all(np.array_equal(chunk.actions, expected) for chunk in chunks)

    def test_a_checkpoint_that_is_not_there(self, server: tuple[str, Path, Path]) -> None:
        with pytest.raises(PolicyError, match="the server failed"):
            connect(f"{server[0]}?pretrained_name_or_path=/no/such/checkpoint", spec=SPEC)

    def test_an_inference_that_fails_there_is_told_here(self, server: tuple[str, Path, Path]) -> None:
        side = Spec({"state": SPEC.observation["state"], "images.side": Field((48, 64, 3), "uint8")}, Field((6,)), action_horizon=8)
        with connect(f"{server[0]}?pretrained_name_or_path={server[1]}&polls=1", spec=side) as policy:
            seen = observation()
            with pytest.raises(PolicyError, match="no actions"):
                policy.infer_one({"state": seen["state"], "images.side": seen["images.top"]})


def test_an_installed_lerobot_is_found_behind_ours(python: str) -> None:
    """With ``compat`` first on the path, what is not ours there is the installed one's."""
    code = (
        "import lerobot, lerobot.robots, lerobot.async_inference.configs, lerobot.async_inference as ours;"
        "print(lerobot.__version__, lerobot.robots.__file__, ours.__file__)"
    )
    told = subprocess.run(
        [python, "-c", code], cwd=ROOT / "compat", capture_output=True, text=True, timeout=300, env=surroundings(), check=True
    ).stdout.split()
    assert told[0] == "0.6.1"
    assert "site-packages" in told[1] and "compat" in told[2]
