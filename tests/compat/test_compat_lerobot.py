"""``python -m lerobot.async_inference.policy_server``, as documented: which models, which defaults, which lines."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grpc", reason="grpcio is not installed: compat's policy_server is NOT TESTED")

import cli_world
from actlink.client import connect
from actlink.errors import ConfigError, RefusedError, UnknownModelError
from actlink.policies._open import MODELS
from actlink.spec import Field, Spec

COMPAT = Path(__file__).parent.parent.parent / "compat"
SPEC = Spec({"state": Field((4,))}, Field((1,), "int64"), action_horizon=1)
START_S = 60.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """``compat`` with two checkpoints below its ``outputs/train``, one of them behind a link."""
    copy = tmp_path / "compat"
    shutil.copytree(COMPAT, copy, ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    run = copy / "outputs" / "train" / "cart"
    shutil.copytree(MODELS / "cartpole_ppo", run / "checkpoints" / "000100" / "pretrained_model")
    (run / "checkpoints" / "last").symlink_to("000100")
    (run / "round").symlink_to(run)
    (run / "out").symlink_to(COMPAT)
    return copy


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def command(place: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "lerobot.async_inference.policy_server", *options]
    with (place / "log").open("wb") as log:
        return subprocess.Popen(line, cwd=place, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)


@contextlib.contextmanager
def running(place: Path, *options: str) -> Iterator[str]:
    """The server; yields its address."""
    port = free_port()
    process = command(place, f"--port={port}", *options)
    try:
        end_s = time.monotonic() + START_S
        while "PolicyServer started" not in (log := (place / "log").read_text()):
            assert process.poll() is None and time.monotonic() < end_s, log
            time.sleep(0.02)  # looks again; nothing is measured
        yield f"lerobot+grpc://127.0.0.1:{port}"
    finally:
        process.terminate()
        code = process.wait(START_S)
    assert code == 0, (place / "log").read_text()


def test_clients_may_have_what_is_below_outputs_train(place: Path) -> None:
    name = "outputs/train/cart/checkpoints/000100/pretrained_model"
    with running(place, "--host=127.0.0.1", "--fps=30", "--inference_latency=0.033", "--obs_queue_timeout=1.0") as where:
        for model in (name, name.replace("000100", "last") + "/"):
            with connect(f"{where}/{model}", spec=SPEC) as policy:
                assert policy.infer_one({"state": np.zeros(4, np.float32)}).actions.shape == (1, 1)
        for other in (str(place / name), "outputs/train/cart", "ckpt", "../compat/ckpt", "cartpole_ppo", f"./{name}"):
            with pytest.raises(UnknownModelError):
                connect(f"{where}?pretrained_name_or_path={other}", spec=SPEC)
    log = (place / "log").read_text()
    assert f"clients may ask for: {name}, outputs/train/cart/checkpoints/last/pretrained_model (" in log
    assert "widen or narrow" in log
    assert "PolicyServer started on 127.0.0.1:" in log
    assert "Client connected and ready" in log
    assert log.count("loading model") == 2
    assert "Server terminated" in log


def test_without_a_checkpoint_it_starts_and_says_so(place: Path) -> None:
    shutil.rmtree(place / "outputs")
    with running(place, "--host=localhost") as where:
        with pytest.raises(UnknownModelError):
            connect(f"{where}/outputs/train/x", spec=SPEC)
        with pytest.raises((ConfigError, RefusedError), match="no checkpoint there"):
            connect(f"{where}/outputs/train", spec=SPEC)
    assert "no checkpoint below" in (place / "log").read_text()


def test_a_wide_address_is_for_networks_around(place: Path) -> None:
    with (
        running(place, "--host=0.0.0.0") as where,
        connect(f"{where}/outputs/train/cart/checkpoints/last/pretrained_model", spec=SPEC) as policy,
    ):
        assert policy.infer_one({"state": np.zeros(4, np.float32)}).actions.shape == (1, 1)
    log = (place / "log").read_text()
    assert "loopback, private and link-local" in log and "--allow=" in log


@pytest.mark.parametrize(
    ("option", "words"),
    [("--port=0", "port"), ("--fps=0", "fps"), ("--obs_queue_timeout=-1", "obs_queue_timeout"), ("--hots=x", "--hots")],
)
def test_options_that_cannot_be(place: Path, option: str, words: str) -> None:
    process = command(place, option)
    assert process.wait(START_S) in (1, 2)
    log = (place / "log").read_text()
    assert words in log and "Traceback" not in log


ARM = Path(__file__).parent.parent / "robot_client" / "virtual.py"


ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
CLIENT = (sys.executable, "-m", "lerobot.async_inference.robot_client")


def client(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLIENT, *options], cwd=place, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, check=False)


@contextlib.contextmanager
def driving(place: Path, *options: str) -> Iterator[cli_world.Process]:
    """The robot client as long as the block lasts; its log is what is waited for."""
    printed, log = place / "printed", place / "told"
    with printed.open("wb") as out, log.open("wb") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen([*CLIENT, *options], cwd=place, env=ENVIRONMENT, **streams)
    try:
        yield cli_world.Process(process, log, printed)
    finally:
        process.kill()
        process.wait()


ROBOT = ("--robot.type=simulated", f"--robot.env={ARM}:Arm")
DOCUMENTED = (
    "--task=Pick the cube to place",
    "--policy_type=smolvla",
    "--policy_device=cuda",
    "--actions_per_chunk=50",
    "--chunk_size_threshold=0.5",
    "--aggregate_fn_name=weighted_average",
)


def test_the_robot_client_with_the_documented_options(place: Path) -> None:
    pytest.importorskip("matplotlib")
    (place / "arm.yaml").write_text(
        "observation: {state: {shape: [2], names: [waist, elbow]}}\naction: {shape: [2]}\naction_horizon: 50\n"
    )
    model = "outputs/train/arm"
    (place / model).mkdir()
    served = f"scripted:constant?spec={place / 'arm.yaml'}&value=0.5"
    port = free_port()
    with cli_world.running(place, "serve", served, "--listen", f"lerobot+grpc://127.0.0.1:{port}?any_model=true") as server:
        server.wait_for("lerobot")
        # Until it has acted, however long that takes; a machine that stands still for a second is no reason to leave.
        more = (f"--pretrained_name_or_path={model}", "--debug_visualize_queue_size=True", "--on_link_loss=hold")
        with driving(place, f"--server_address=127.0.0.1:{port}", *ROBOT, *DOCUMENTED, *more) as process:
            process.wait_for("the first action")
            assert process.end(signal.SIGINT) == 0, process.out()
        log, printed = process.out(), process.err()
        assert "Connected to policy server" in log and "Client stopped" in log
        assert "target: 30 Hz" in printed
        (picture,) = place.glob("runs/*/queue.png")
        assert str(picture.relative_to(place)) in printed
        assert "Client connected and ready" in server.err()


def test_a_robot_client_without_a_server_ends_at_once(place: Path) -> None:
    where = f"--server_address=127.0.0.1:{free_port()}"
    done = client(place, where, *ROBOT, *DOCUMENTED, "--pretrained_name_or_path=outputs/train/x")
    assert done.returncode == 1 and "Failed to connect to policy server" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--robot.type=no_such", "--pretrained_name_or_path=x"), "no robot 'no_such'"),
        ((*ROBOT, "--pretrained_name_or_path=x", "--speed=3"), "unknown option --speed"),
        ((*ROBOT, "--pretrained_name_or_path=x", "--aggregate_fn_name=best"), "aggregate_fn_name: expected weighted_average"),
        ((*ROBOT,), "--pretrained_name_or_path"),
    ],
)
def test_what_a_robot_client_cannot_do_is_said(place: Path, options: tuple[str, ...], says: str) -> None:
    done = client(place, "--server_address=127.0.0.1:1", "--policy_type=act", *options)
    assert done.returncode in (1, 2) and says in done.stderr and "Traceback" not in done.stderr, done.stderr
