"""``actlink run`` as a process, and servers that come and go as processes."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from pathlib import Path

import pytest

from actlink import ticks
from actlink.commands._options import nested
from cli_world import Process, actlink, running, serving
from robot_client.virtual import HERE

POLICY = "scripted:constant?state=2&action=2&horizon=20&value=0.5&rate_hz=30&batch=4"
ROBOT = ("--robot.type=simulated", f"--robot.env={HERE}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def client(directory: Path, name: str, address: str, *options: str) -> contextlib.AbstractContextManager[Process]:
    place = directory / name
    place.mkdir()
    return running(place, "run", *ROBOT, "--policy", address, "--out", str(place / "out"), *options)


class Told:
    """What a client's log says."""

    def __init__(self, process: Process) -> None:
        self.process = Process(process.process, process.stderr, process.stdout)  # waits on the log

    def until(self, pattern: str) -> None:
        self.process.wait_for(pattern)

    def until_keyed(self, pattern: str) -> None:
        """Pressing the key of a client that has no terminal: once, and again where no fresh action came in the time after it."""
        while pattern not in self.process.out():
            assert self.process.process.poll() is None, self.process.out()
            self.process.process.send_signal(signal.SIGUSR1)
            threading.Event().wait(0.2)


def test_nested_options_are_one_option() -> None:
    given = ["--robot.type=x", "--fps", "30", "--robot.cameras", "{a: {b: c=d}}", "--robot", "p=1", "q=2", "--plot"]
    assert nested(given, "robot") == ["--fps", "30", "--plot", "--robot", "type=x", "cameras={a: {b: c=d}}", "p=1", "q=2"]
    assert nested(given, None) == given
    assert nested(["--robot=simulated"], "robot") == ["--robot", "simulated"]


def test_a_start_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    for options, code, says in (
        (("--policy", f"tcp://127.0.0.1:{free_port()}"), 1, "connection refused"),
        (("--policy", POLICY, "--strategy", "naive"), 2, "not for robots"),
        (("--policy", "scripted:zero?state=5&action=5"), 2, "policy and robot do not fit"),
    ):
        assert actlink("run", *ROBOT, *options) == code
        assert says in capsys.readouterr().err


def test_options_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"robot: {{type: simulated, env: '{HERE}'}}\npolicy: {POLICY!r}\nduration_s: 0.3\nfps: 20\n")
    assert actlink("run", "--config", str(file)) == 0
    assert "target: 20 Hz" in capsys.readouterr().out


def test_a_driver_that_hangs_keeps_nobody(tmp_path: Path) -> None:
    file = tmp_path / "stuck.py"
    file.write_text(
        "import threading\n"
        "from actlink.robots import simulated\n"
        "from actlink.robots.simulated import Config\n"
        "class Stuck(simulated.Robot):\n"
        "    def connect(self):\n"
        "        threading.Event().wait()\n"
    )
    robot = (f"--robot.type={file}:Stuck", f"--robot.env={HERE}")
    with running(tmp_path, "run", *robot, "--policy", POLICY, "--start-timeout-s", "0.3") as process:
        assert process.process.wait(60) == 1
    assert "stuck.py:Stuck: its driver does not come back from connecting within 0.3 s (--start-timeout-s)" in process.err()


def test_ctrl_c_ends_in_hold_with_a_summary_and_a_recording(tmp_path: Path) -> None:
    with serving(tmp_path, POLICY) as (_, ws, _tcp), client(tmp_path, "one", ws) as process:
        Told(process).until("control loop at 30 Hz")
        assert process.end(signal.SIGINT) == 0, process.err()
    assert "ended: stopped by the operator" in process.out() and "one way, to the server" in process.out()
    assert ticks.read(tmp_path / "one" / "out" / "run.jsonl").ticks


def test_a_model_that_cannot_be_loaded_moves_nothing(tmp_path: Path) -> None:
    """The server ends with a message, or refuses the one model; the client says so before it touches the arm."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "policy.json").write_text("{")
    with running(tmp_path, "serve", str(broken)) as server:
        assert server.process.wait(60) == 2 and "policy.json" in server.err()
    with serving(tmp_path, POLICY) as (_, ws, _tcp), client(tmp_path, "one", f"{ws}/other") as process:
        assert process.process.wait(60) == 1
    assert "no model 'other'" in process.err() and "control loop" not in process.err()


def test_a_server_that_is_killed_and_started_again_is_survived_and_the_key_arms_again(tmp_path: Path) -> None:
    address = f"native+tcp://127.0.0.1:{free_port()}"
    first_place, second_place = tmp_path / "first", tmp_path / "second"
    first_place.mkdir()
    second_place.mkdir()
    with running(first_place, "serve", POLICY, "--listen", address) as first:
        first.wait_for("native")
        with client(tmp_path, "one", address) as process:
            log = Told(process)
            log.until("the first action")
            first.process.kill()
            log.until("latched")
            with running(second_place, "serve", POLICY, "--listen", address) as second:
                second.wait_for("native")
                log.until("the server is back")
                log.until_keyed("armed again")
                assert process.end(signal.SIGINT) == 0, process.err()
    found = ticks.read(tmp_path / "one" / "out" / "run.jsonl")
    latched = next(tick for tick in found.ticks if tick.latched)
    resumed = next(tick for tick in found.ticks if tick.step > latched.step and not tick.latched)
    assert not resumed.held and resumed.basis is not None and resumed.basis >= latched.step
    assert any(reply.error for reply in found.replies)


def test_another_policy_at_the_old_address_ends_the_run(tmp_path: Path) -> None:
    address = f"native+tcp://127.0.0.1:{free_port()}"
    first_place, second_place = tmp_path / "first", tmp_path / "second"
    first_place.mkdir()
    second_place.mkdir()
    with running(first_place, "serve", POLICY, "--listen", address) as first:
        first.wait_for("native")
        with client(tmp_path, "one", address, "--rearm") as process:
            Told(process).until("the first action")
            first.process.kill()
            first.process.wait()
            with running(second_place, "serve", POLICY.replace("horizon=20", "horizon=10"), "--listen", address):
                assert process.process.wait(60) == 1
    assert "the server came back with another policy" in process.out()
