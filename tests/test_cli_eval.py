"""``actlink eval``, ``report`` and ``demo`` from outside: exit codes, files, and what is printed."""

from __future__ import annotations

import io
import json
import re
import signal
from pathlib import Path

import pytest
from rich.console import Console

from actlink.commands import demo, report
from actlink.errors import InternalError
from actlink.evaluation.comparison import compare_runs
from cli_world import actlink, running, serving

CARTPOLE = ("--policy", "cartpole_ppo", "--env", "gymnasium:CartPole-v1")


@pytest.fixture(autouse=True)
def needs() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("gymnasium")


def test_a_local_evaluation_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("x", "5"), ("y", "6")):
        assert (
            actlink("eval", *CARTPOLE, "--episodes", "2", "--seed", seed, "--max-steps", "30", "--out", str(tmp_path / name)) == 0
        )
    out = capsys.readouterr().out
    assert "mean return" in out
    assert str(tmp_path / "x" / "results.json") in out.replace("\n", "")
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [episode["seed"] for episode in results["episodes"]] == [5, 6]
    assert actlink("report", str(tmp_path / "x"), str(tmp_path / "y"), "--format", "markdown") == 0
    assert capsys.readouterr().out.count("|\n") == 4
    assert actlink("report", str(tmp_path / "x"), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["complete"] is True
    assert actlink("report", str(tmp_path / "x"), str(tmp_path / "y")) == 0
    assert "cartpole_ppo" in capsys.readouterr().out


def test_a_report_on_a_narrow_terminal_has_a_column_per_run(tmp_path: Path) -> None:
    assert actlink("eval", *CARTPOLE, "--episodes", "1", "--max-steps", "3", "--out", str(tmp_path / "x")) == 0
    found = compare_runs([tmp_path / "x"])
    shown = {width: io.StringIO() for width in (60, 240)}
    for width, file in shown.items():
        report.print_table(found, Console(file=file, width=width))
    assert re.search(r"│ policy +│ cartpole_ppo +│", shown[60].getvalue())
    assert re.search(r"│ cartpole_ppo +│ gymnasium:CartPole-v1 +│", shown[240].getvalue())


def test_quiet_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("eval", "-q", *CARTPOLE, "--episodes", "1", "--max-steps", "3", "--out", str(tmp_path / "x")) == 0
    assert capsys.readouterr().err == ""


def test_over_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, "cartpole_ppo") as (_, ws, _):
        arguments = ("--env", "gymnasium:CartPole-v1", "--episodes", "2", "--workers", "2", "--max-steps", "20")
        assert actlink("eval", "--policy", ws, *arguments, "--out", str(tmp_path / "x")) == 0
    assert "cartpole_ppo" in capsys.readouterr().out


def test_a_server_that_stays_away_is_exit_code_3(tmp_path: Path) -> None:
    with serving(tmp_path, "cartpole_ppo") as (server, ws, _):
        (tmp_path / "eval").mkdir()
        options = ("--episodes", "500", "--server-timeout", "0.5", "--out", str(tmp_path / "x"))
        with running(tmp_path / "eval", "eval", "--policy", ws, "--env", "gymnasium:CartPole-v1", *options) as evaluation:
            journal = tmp_path / "x" / "journal.jsonl"
            _until(lambda: journal.exists() and journal.read_text().count("\n") > 2, evaluation)
            server.process.kill()
            assert evaluation.process.wait(60) == 3
            assert re.search(r"^  actlink eval --policy .* --out ", evaluation.err(), re.MULTILINE), evaluation.err()


def _until(done: object, evaluation: object) -> None:
    import time

    from cli_world import START_S, Process

    assert callable(done) and isinstance(evaluation, Process)
    end_s = time.monotonic() + START_S
    while not done():
        assert evaluation.process.poll() is None and time.monotonic() < end_s, evaluation.err()
        time.sleep(0.02)  # looks again; nothing is measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "nothing", "--env", "gymnasium:CartPole-v1"], "no policy 'nothing'"),
        (["--policy", "cartpole_ppo", "--env", "nowhere"], "no environment 'nowhere'"),
        ([*CARTPOLE, "--episodes", "0"], "episodes: expected at least 1, got 0"),
        ([*CARTPOLE, "--strategy", "psychic"], "psychic"),
        (["--policy", "pendulum_sac", "--env", "gymnasium:CartPole-v1"], "expected"),
        (["--policy", "ws://127.0.0.1:1", "--env", "gymnasium:CartPole-v1", "--deterministic"], "actlink serve --deterministic"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("eval", *arguments, "--out", str(tmp_path / "x")) == 2
    assert message in capsys.readouterr().err


def test_a_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("report", str(tmp_path)) == 2
    assert "no evaluation here" in capsys.readouterr().err
    assert actlink("report") == 2


# The demo.


@pytest.mark.timeout(600)
def test_the_demo(tmp_path: Path) -> None:
    """One episode of the real thing: server, network, physics, table, files, and no process left behind."""
    pytest.importorskip("gym_aloha")
    with running(
        tmp_path, "demo", "--episodes", "1", "--workers", "1", "--videos", "0", "--out", str(tmp_path / "demo")
    ) as process:
        assert process.process.wait(400) == 0, process.err()
    out = process.out()
    assert re.search(r"success +│ [01]/1", out)
    assert (tmp_path / "demo" / "results.json").exists()
    log = (tmp_path / "demo" / "server.log").read_text()
    assert "ready at native+ws://127.0.0.1:" in log
    assert "stopping" in log, "the server was told to end, and ended in order"


def test_ctrl_c_in_the_demo_stops_the_server_too(tmp_path: Path) -> None:
    pytest.importorskip("gym_aloha")
    with running(tmp_path, "demo", "--episodes", "500", "--videos", "0", "--out", str(tmp_path / "demo")) as process:
        process.wait_for(r"^serving aloha_transfer_cube at ")
        journal = tmp_path / "demo" / "journal.jsonl"
        _until(lambda: journal.exists() and journal.read_text().count("\n") > 1, process)
        assert process.end(signal.SIGINT) == 130
    assert "Traceback" not in process.err()
    assert "stopping" in (tmp_path / "demo" / "server.log").read_text()


def test_a_demo_server_that_cannot_start_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "POLICY", "no_such_policy")
    with (
        pytest.raises(InternalError, match=r"the server ended with code 2.*\n.*no policy 'no_such_policy'"),
        demo.server(tmp_path / "log"),
    ):
        pass


def test_a_demo_server_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "START_S", 0.0)
    with pytest.raises(InternalError, match="was not ready after 0 s"), demo.server(tmp_path / "log"):
        pass


def test_the_demo_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, package=None: None if name == "onnxruntime" else find(name, package)
    )
    assert actlink("demo") == 2
    assert "pip install 'actlink[onnx]'" in capsys.readouterr().err
