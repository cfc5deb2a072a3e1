"""``actlink check --robot``: each item of the list, right and wrong, with the simulated robot and real servers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from actlink.client import PingResult, RemotePolicy
from actlink.commands import _checklist
from actlink.errors import LinkClosedError
from actlink.policies._open import open_policy
from actlink.serving.server import Server
from cli_world import actlink, running

pytest.importorskip("gymnasium")
ROBOT = ("--robot.type=simulated", "--robot.env=gymnasium:Pendulum-v1")


def lines(text: str, name: str) -> list[str]:
    return re.findall(rf"^(?:ok|FAIL|skip) +{name} .*$", text, re.MULTILINE)


def test_everything_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "serve", "scripted:zero?state=3&action=1&horizon=5", "--listen", "tcp://127.0.0.1:0") as server:
        address = server.wait_for(r"^  (native\+tcp://\S+)$")[1]
        code = actlink("check", address, *ROBOT)
    out = capsys.readouterr().out
    assert code == 0, out
    for name in ("packages", "motors", "server", "disk"):
        assert lines(out, name)[0].startswith("ok"), out
    assert "fits this robot, at 20 Hz" in out and "round trip  min" in out
    assert lines(out, "device")[0].startswith("skip")
    assert out.endswith("everything is as it should be\n")


def test_no_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", *ROBOT) == 0
    assert "none was named" in lines(capsys.readouterr().out, "server")[0]


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "tcp://127.0.0.1:1", *ROBOT) == 1
    out = capsys.readouterr().out
    assert lines(out, "server")[0].startswith("FAIL") and "1 of these must be put right" in out


def test_a_server_that_goes_away_meanwhile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(policy: RemotePolicy, count: int) -> list[PingResult]:
        raise LinkClosedError("the server closed the connection")

    monkeypatch.setattr(_checklist, "measure", gone)
    with Server({"zero": open_policy("scripted:zero?state=3&action=1&horizon=5")}, ["native+tcp://127.0.0.1:0"]) as server:
        assert actlink("check", server.addresses[0], *ROBOT) == 1
    out = capsys.readouterr().out
    assert lines(out, "server") == ["FAIL  server    the server closed the connection"]
    assert lines(out, "disk")  # the rest of the list is walked


def test_a_policy_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "scripted:zero?state=7&action=2", *ROBOT) == 1
    out = capsys.readouterr().out
    assert "policy and robot do not fit" in out


def test_a_robot_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check", "--robot.type=simulated", "--robot.env=nowhere") == 1
    out = capsys.readouterr().out
    assert lines(out, "packages")[0].startswith("FAIL") and lines(out, "motors")[0].startswith("skip")


def test_neither_policy_nor_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("check") == 2
    assert "expected a policy, an environment, or --robot.type=NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("/dev/ttyNOTHING", "is not there; serial ports here: "),
        ("/dev/shm", "is no serial port"),
        ("/dev/null", "can be read and written"),
    ],
)
def test_ports(port: str, told: str) -> None:
    checked = _checklist.Checked(("simulated", f"left_arm_config={{port: {port}}}"), "")
    item = next(item for item in _checklist.items(checked) if item.name == "port")
    assert told in item.text
    assert item.state == ("ok" if port == "/dev/null" else "FAIL")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=2**20))
    assert actlink("check", *ROBOT) == 1
    assert "0.00 GiB free in" in lines(capsys.readouterr().out, "disk")[0]
