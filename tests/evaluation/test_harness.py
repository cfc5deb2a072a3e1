from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actlink.client import connect
from actlink.errors import ConfigError, LinkError, ServerAwayError, SimulationError, StoppedError
from actlink.evaluation import comparison, journal
from actlink.evaluation.harness import EvalConfig, command, default_out, evaluate
from actlink.evaluation.results import Results

TOY = Path(__file__).parent / "toy_reach.py"
PROGRAM = Path(__file__).parent / "run_evaluation.py"


def config(out: Path, **changes: Any) -> EvalConfig:
    return replace(EvalConfig(f"{TOY}:Chase", f"{TOY}:Reach", episodes=6, seed=10, out=out, deterministic=True), **changes)


def run(config: EvalConfig) -> tuple[Results, str]:
    said = io.StringIO()
    return evaluate(config, console=Console(file=said, width=200)), said.getvalue()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The table that every run of ``config`` must give, whatever happens to it."""
    return run(config(tmp_path_factory.mktemp("undisturbed")))[0].table


def test_an_evaluation_leaves_journal_and_results(tmp_path: Path, undisturbed: str) -> None:
    results, said = run(config(tmp_path / "x"))
    assert results.complete and results.table == undisturbed
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["journal.jsonl", "results.json"]
    plain = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [episode["seed"] for episode in plain["episodes"]] == [10, 11, 12, 13, 14, 15]
    assert plain["totals"]["success"]["successes"] == 6
    assert plain["totals"]["rates"]["strict_success"]["rate"] == 1.0
    assert plain["policy"] == {"name": "chase", "digest": "sha256:1.0", "options": {}, "deterministic": True}
    assert plain["strategy"] == {"name": "receding", "execution_horizon": None}
    assert "[6/6] reach seed" in said and "success 100.0%" in said


def test_workers_compute_with_one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    results, _ = run(config(tmp_path / "x", episodes=1))
    assert results.episodes[0].metrics["threads"] == 1
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    results, _ = run(config(tmp_path / "y", episodes=1))
    assert results.episodes[0].metrics["threads"] == 3


@pytest.mark.parametrize(
    ("strategy", "given", "expected"),
    [
        (
            "asynchronous",
            {"actions_per_chunk": 6, "aggregate_fn_name": "conservative"},
            {"actions_per_chunk": 6, "chunk_size_threshold": 0.5, "aggregate_fn_name": "conservative"},
        ),
        (
            "realtime",
            {"execution_horizon": 2, "strategy_options": ("delay_window=3",)},
            {
                "execution_horizon": 2,
                "delay_window": 3,
                "delay_quantile": 1.0,
                "warmup_chunks": 2,
                "blend_steps": None,
            },
        ),
        ("naive", {}, {"execution_horizon": None}),
    ],
)
def test_every_strategy_can_be_evaluated(tmp_path: Path, strategy: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    results, _ = run(config(tmp_path, strategy=strategy, episodes=1, **given))
    assert results.header["strategy"] == {"name": strategy, **expected}
    assert results.episodes[0].error is None


@pytest.mark.parametrize("workers", [2, 4])
def test_episodes_that_do_not_divide_by_the_workers(tmp_path: Path, undisturbed: str, workers: int) -> None:
    results, _ = run(config(tmp_path, workers=workers))
    assert results.table == undisturbed
    assert {episode.workers for episode in results.episodes} == {workers}


def test_the_same_command_again_runs_nothing_twice(tmp_path: Path, undisturbed: str) -> None:
    run(config(tmp_path))
    before = (tmp_path / "journal.jsonl").read_bytes()
    results, said = run(config(tmp_path))
    assert results.table == undisturbed
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert "going on after 6 of 6 episodes" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 11}, "plan.seed: there 10, now 11"),
        ({"episodes": 7}, "plan.episodes: there 6, now 7"),
        ({"policy_options": ("gain=0.5",)}, 'policy.digest: there "sha256:1.0", now "sha256:0.5"'),
        ({"strategy": "ensemble"}, 'strategy.name: there "receding", now "ensemble"'),
        ({"execution_horizon": 2}, "strategy.execution_horizon: there null, now 2"),
        ({"env_options": ("far=2",)}, 'environment.options.far: there null, now "2"'),
        ({"deterministic": False}, "policy.deterministic: there true, now false"),
    ],
)
def test_a_directory_of_another_evaluation_is_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], says: str
) -> None:
    out = tmp_path_factory.getbasetemp() / "refused"
    run(config(out))
    before = (out / "journal.jsonl").read_bytes(), (out / "results.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        run(config(out, **changes))
    assert says in str(caught.value)
    assert ((out / "journal.jsonl").read_bytes(), (out / "results.json").read_bytes()) == before


def test_the_strategy_and_its_options_reach_the_controller(tmp_path: Path) -> None:
    results, _ = run(config(tmp_path, strategy="ensemble", k=0.5, weights="newest", episodes=1))
    assert results.header["strategy"] == {"name": "ensemble", "execution_horizon": 1, "k": 0.5, "weights": "newest"}
    (episode,) = results.episodes
    assert len(episode.latencies_ms) == episode.steps


# What goes wrong with one episode


def test_a_policy_error_is_that_episodes_alone(tmp_path: Path) -> None:
    results, said = run(config(tmp_path, policy=f"{TOY}:Picky", episodes=20, seed=0))
    failed = [episode for episode in results.episodes if episode.error]
    assert failed and len(failed) < 20
    assert {episode.error for episode in failed} == {"policy: too far for me"}
    assert results.totals.errors == len(failed) and results.totals.infrastructure_errors == 0
    assert results.totals.success is not None and results.totals.success.successes == 20 - len(failed)
    assert said.count("policy: too far for me") == 1


def test_a_simulator_error_is_that_episodes_alone(tmp_path: Path) -> None:
    results, said = run(config(tmp_path, env_options=("raise_at=12",)))
    assert [episode.error is not None for episode in results.episodes] == [False, False, True, False, False, False]
    assert "Traceback" in said  # for whoever has to mend the simulator


# What goes wrong with link, server and worker


def test_a_lost_link_costs_an_attempt_and_no_success(tmp_path: Path, undisturbed: str) -> None:
    options = (f"count={tmp_path / 'count'}", "times=3")
    results, said = run(config(tmp_path / "x", policy=f"{TOY}:Flaky", policy_options=options))
    assert results.table == undisturbed
    assert sum(episode.attempts for episode in results.episodes) == 6 + 3
    assert results.totals.infrastructure_errors == 3 and results.totals.errors == 0
    assert "the link broke; trying again for up to 60 s" in said


def test_a_server_that_comes_back_as_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"came back with another policy.*sha256:0\.5"):
        run(config(tmp_path / "x", policy=f"{TOY}:Changing", policy_options=(f"count={tmp_path / 'count'}",)))


def test_a_server_that_stays_away_ends_with_the_command_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ServerAwayError, match="nobody answers") as caught:
        run(config(tmp_path / "x", policy=f"{TOY}:Away", server_timeout_s=0.2))
    assert caught.value.exit_code == 3
    assert "no episode was finished" in str(caught.value)
    assert caught.value.resume in str(caught.value)
    assert f"--out {tmp_path / 'x'}" in caught.value.resume and "--server-timeout-s 0.2" in caught.value.resume


def test_a_trial_that_kills_its_workers_is_put_aside_and_the_others_are_run(tmp_path: Path, undisturbed: str) -> None:
    with pytest.raises(StoppedError, match="3 workers died of it, the last of SIGKILL") as caught:
        run(config(tmp_path, env_options=("die_at=12",), workers=2))
    assert caught.value.exit_code == 1 and "5 of 6 episodes are kept" in str(caught.value)
    finished = json.loads((tmp_path / "results.json").read_text())
    assert not finished["complete"]
    assert [episode["seed"] for episode in finished["episodes"]] == [10, 11, 13, 14, 15]


class Gate:
    """Stops an evaluation in the middle of the episode with ``seed``, in a way the test can wait for."""

    def __init__(self, directory: Path, seed: int) -> None:
        directory.mkdir()
        self.pipe, self.go = directory / "pipe", directory / "go"
        os.mkfifo(self.pipe)
        os.mkfifo(self.go)
        self.environment = {**os.environ, "ACTLINK_TEST_GATE": f"{seed}:{directory}", "OMP_NUM_THREADS": "1"}

    def start(self, config: EvalConfig) -> subprocess.Popen[str]:
        options = json.dumps({**asdict(config), "out": str(config.out)})
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), options],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def open(self) -> None:
        """Let the episode go on."""
        os.close(os.open(self.go, os.O_WRONLY))


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_and_run_again(tmp_path: Path, undisturbed: str, workers: int) -> None:
    gate = Gate(tmp_path / "gate", seed=13)
    with gate.start(config(tmp_path / "x", workers=workers)) as program:
        with gate.pipe.open() as reached:
            reached.readline()
            program.kill()
            assert reached.read() == ""  # ends when the worker is gone too
        assert program.wait() == -signal.SIGKILL
    _, kept = journal.read(tmp_path / "x")
    assert 0 < len(kept) < 6
    results, said = run(config(tmp_path / "x", workers=workers))
    assert results.table == undisturbed
    assert f"going on after {len(kept)} of 6 episodes" in said
    assert len((tmp_path / "x" / "journal.jsonl").read_text().splitlines()) == 7


def test_a_killed_worker_is_replaced_and_its_trial_run_again(tmp_path: Path, undisturbed: str) -> None:
    gate = Gate(tmp_path / "gate", seed=13)
    with gate.start(config(tmp_path / "x")) as program:
        with gate.pipe.open() as reached:
            os.kill(int(reached.readline()), signal.SIGKILL)
        table, said = program.communicate()
    assert program.returncode == 0
    assert table.rstrip("\n") == undisturbed.rstrip("\n")
    assert "its worker died of SIGKILL; running it again in another" in said
    _, episodes = journal.read(tmp_path / "x")
    assert {episode.seed: episode.attempts for episode in episodes} == {10: 1, 11: 1, 12: 1, 13: 2, 14: 1, 15: 1}


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path, undisturbed: str) -> None:
    gate = Gate(tmp_path / "gate", seed=13)
    with gate.start(config(tmp_path / "x")) as program:
        with gate.pipe.open() as reached:
            reached.readline()
            program.send_signal(signal.SIGINT)
            assert reached.read() == ""
        _, said = program.communicate()
    assert program.returncode == 130
    assert "interrupted" in said and "3 of 6 episodes are kept" in said and "actlink eval --policy" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "x" / "results.json").read_text())["complete"] is False
    assert run(config(tmp_path / "x"))[0].table == undisturbed


# A real server


class Served:
    """A server process with the toy policy, always at the same address."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"native+tcp://127.0.0.1:{probe.getsockname()[1]}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, policy: str = "Chase") -> None:
        command = [sys.executable, "-m", "actlink", "serve", f"{TOY}:{policy}", "--listen", self.address, "-q"]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def answers(self) -> Served:
        """Itself, once the server is there: for an evaluation that waits no longer than a process may take to start."""
        while True:
            assert self.processes[-1].poll() is None
            with contextlib.suppress(LinkError):
                connect(self.address).close()
                return self
            time.sleep(0.02)  # looks again; nothing is measured

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait()


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    found.start()  # an evaluation waits until it answers
    yield found
    found.kill()


def remote(out: Path, served: Served, **changes: Any) -> EvalConfig:
    return config(out, policy=served.address, deterministic=False, **changes)


def test_a_served_policy_gives_the_same_episodes(tmp_path: Path, undisturbed: str, served: Served) -> None:
    results, _ = run(remote(tmp_path, served, workers=2))
    assert results.table == undisturbed
    assert results.header["policy"] == {"name": "chase", "digest": "sha256:1.0", "options": {}, "deterministic": False}
    assert results.totals.inference_mean_ms is not None


def test_a_server_killed_in_the_middle_and_started_again(tmp_path: Path, undisturbed: str, served: Served) -> None:
    gate = Gate(tmp_path / "gate", seed=13)
    with gate.start(remote(tmp_path / "x", served)) as program:
        with gate.pipe.open() as reached:
            reached.readline()
        served.kill()
        served.start()
        gate.open()
        table, said = program.communicate()
    assert program.returncode == 0, said
    assert table.rstrip("\n") == undisturbed.rstrip("\n")


def test_a_server_gone_for_good_exits_with_3_and_the_command_goes_on(tmp_path: Path, undisturbed: str, served: Served) -> None:
    gate = Gate(tmp_path / "gate", seed=13)
    with gate.start(remote(tmp_path / "x", served.answers(), server_timeout_s=3.0, workers=2)) as program:
        with gate.pipe.open() as reached:
            reached.readline()
        served.kill()
        gate.open()
        _, said = program.communicate()
    assert program.returncode == 3, said
    kept = len(journal.read(tmp_path / "x")[1])
    assert f"{kept} of 6 episodes are kept" in said and kept < 6
    resume = shlex.split(said.rstrip().splitlines()[-1])
    assert resume[:2] == ["actlink", "eval"]
    served.start()
    served.answers()
    done = subprocess.run([sys.executable, "-m", *resume], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on after {kept} of 6 episodes" in done.stderr
    assert comparison.load(tmp_path / "x").table == undisturbed


# What is wrong from the start


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": f"{TOY}:Nothing"}, "has no 'Nothing'"),
        ({"env": "nothing"}, "no environment 'nothing'"),
        ({"policy": "nothing"}, "no policy 'nothing'"),
        ({"env_options": ("colour=red",)}, "unknown option 'colour'"),
        ({"policy_options": ("colour=red",)}, "colour"),
        ({"policy": f"{TOY}:Wide"}, "policy and environment do not fit"),
    ],
)
def test_what_is_written_wrong_is_said_once(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    said = io.StringIO()
    with pytest.raises(ConfigError) as caught:
        evaluate(config(tmp_path / "x", workers=3, **changes), console=Console(file=said, width=200))
    assert str(caught.value).count(says) == 1
    assert not (tmp_path / "x").exists()


def test_a_simulator_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    said = io.StringIO()
    with pytest.raises(SimulationError, match="Reach cannot be opened: RuntimeError: no such simulator"):
        evaluate(config(tmp_path / "x", workers=3, env_options=("refuse=true",)), console=Console(file=said, width=200))
    assert said.getvalue().count("RuntimeError: no such simulator") == 1  # with its traceback
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"episodes": 0}, "episodes: expected at least 1"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"execution_horizon": 0}, "execution_horizon: expected at least 1"),
        ({"timeout_s": 0.0}, "timeout_s: expected more than 0"),
        ({"server_timeout_s": float("nan")}, "server_timeout_s: expected more than 0"),
        ({"policy": "tcp://host:1"}, "start it with 'actlink serve --deterministic'"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "hope"}, "no strategy 'hope'; there are: asynchronous, ensemble, naive, realtime, receding"),
        ({"aggregate_fn_name": "average"}, "aggregate_fn_name: the receding strategy has no such option"),
        (
            {"strategy": "asynchronous", "aggregate_fn_name": "median"},
            "aggregate_fn_name: expected weighted_average,.*got 'median'",
        ),
        ({"strategy": "asynchronous", "strategy_options": ("chunk_size_threshold=2",)}, "chunk_size_threshold: expected 0 to 1"),
        ({"strategy": "realtime", "execution_horizon": 2, "strategy_options": ("execution_horizon=3",)}, "given twice"),
        ({"k": 0.1}, "k: the receding strategy has no such option; it has: execution_horizon"),
        ({"env_options": ("far",)}, "expected option=value, got 'far'"),
        ({"transform": "[]", "env_options": ("transform=[]",)}, "transform: given twice"),
    ],
)
def test_options_that_are_refused_before_a_worker_is_started(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(config(tmp_path / "x", **changes))
    assert not (tmp_path / "x").exists()


# Videos


def test_every_nth_episode_becomes_a_video(tmp_path: Path, undisturbed: str) -> None:
    pytest.importorskip("imageio_ffmpeg")
    results, _ = run(config(tmp_path, video_every=3, workers=2))
    names = ["reach-episode-0000-seed-10.mp4", "reach-episode-0003-seed-13.mp4"]
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == names
    assert [episode.video for episode in results.episodes if episode.video] == [f"videos/{name}" for name in names]
    assert results.table == undisturbed


def test_without_a_display_the_evaluation_goes_on(tmp_path: Path) -> None:
    results, said = run(config(tmp_path, video_every=3, env_options=("blind=true",)))
    assert results.complete and results.totals.errors == 0
    assert said.count("no display") == 2


# Names


def test_the_command_line_of_a_configuration() -> None:
    given = EvalConfig("a b", "toy", ("x=1", "y=[1, 2]"), out=Path("r"), deterministic=True, execution_horizon=25)
    assert command(given) == (
        "actlink eval --policy 'a b' --env toy --env-options x=1 'y=[1, 2]' --out r --execution-horizon 25 --deterministic"
    )


@pytest.mark.parametrize(
    ("env", "begins"),
    [
        ("gymnasium:CartPole-v1", "gymnasium-CartPole-v1-2"),
        ("a/b.py:Class?x=1", "b.py-Class-2"),
        ("aloha_insertion", "aloha_insertion-2"),
    ],
)
def test_the_default_directory_is_named_after_the_environment(env: str, begins: str) -> None:
    out = default_out(EvalConfig("p", env))
    assert out.parent == Path("results") and out.name.startswith(begins)
