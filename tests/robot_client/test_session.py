"""The whole run in this process: a policy on the machine or behind an address, the simulated robot on its own thread."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from actlink import ticks
from actlink.clock import ManualClock, MonotonicClock
from actlink.commands.run import operated
from actlink.errors import ConfigError, ConnectError, SimulationError
from actlink.policies._base import Policy, Result, answer
from actlink.robot_client import latency, picture, session
from actlink.robot_client.config import RunConfig, make_strategy, robot_of
from actlink.robot_client.preparing import address, fit
from actlink.robot_client.queue_view import left
from actlink.robot_client.queue_view import picture as bars
from actlink.robot_client.session import Controls
from actlink.robot_client.world import RobotWorld, Watch, pose_entries
from actlink.robots import _base as robots
from actlink.safety import Config as SafetyConfig
from actlink.safety import Watchdog
from actlink.spec import Field, Spec
from actlink.ticks import Recording, Reply, Tick
from actlink.transform import Transform
from actlink.types import Array, Observation, Request
from cli_world import actlink
from robot_client.virtual import HERE, JOINTS, RANGE, RATE_HZ, plan

POLICY = f"{Path(__file__).resolve()}:Wave"
ROBOT = ("simulated", f"env={HERE}")


class Wave(Policy):
    """A slow wave for the arm of ``virtual``."""

    asked = 0

    def __init__(self) -> None:
        joints = Field((2,), names=JOINTS, range=RANGE)
        self.spec = Spec({"state": Field((2,), names=JOINTS)}, joints, action_horizon=20, rate_hz=RATE_HZ, name="wave")

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        type(self).asked += len(requests)
        return [answer(request, plan(request.step, 20)) for request in requests]


class Counted(robots.Robot):
    """Counts what reaches it; ``blind``: it gives no observation."""

    def __init__(self, blind: bool = False) -> None:
        self.spec = Spec({"state": Field((2,), names=JOINTS)}, Field((2,), names=JOINTS, range=RANGE), rate_hz=RATE_HZ)
        self.calls: list[str] = []
        self.blind = blind

    def connect(self) -> None:
        self.calls.append("connect")

    def observe(self) -> Observation:
        if self.blind:
            raise SimulationError("dark")
        return {"state": np.zeros(2, np.float32)}

    def act(self, action: Array) -> Array:
        self.calls.append("act")
        return action

    def hold(self) -> None:
        self.calls.append("hold")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


REARMED = SafetyConfig(rearm=True)
"""A machine that stands still for a second latches the arm; these runs go on after it."""


class Skipping(MonotonicClock):
    """The machine's clock, of which some may be skipped: a run is over when the test has seen enough of it."""

    skipped_s = 0.0

    def now(self) -> float:
        return super().now() + self.skipped_s

    def wait_until(self, moment_s: float) -> None:
        super().wait_until(moment_s - self.skipped_s)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    robot = Counted()
    monkeypatch.setattr("actlink.robot_client.preparing.open_robot", lambda *_: robot)
    return robot


def test_a_run_ends_in_hold_and_tells_what_it_was_like(counted: Counted) -> None:
    clock, act = Skipping(), counted.act

    def counting(action: Array) -> Array:
        if counted.calls.count("act") == 10:
            clock.skipped_s = 1e6
        return act(action)

    counted.act = counting  # type: ignore[method-assign]
    summary = session.run(RunConfig(POLICY, ROBOT, duration_s=1e6, safety=REARMED), clock=clock)
    assert not summary.failed and summary.ended == "the time was up"
    assert counted.calls[0] == "connect" and counted.calls[-2:] == ["hold", "close"] and "act" in counted.calls
    assert summary.record.steps == len(summary.recorder.ticks) > 5
    assert any(not tick.held for tick in summary.recorder.ticks)
    text = "\n".join(latency.lines(summary.times, summary.rate_hz))
    assert "target: 30 Hz" in text and "one way" in text


def test_the_collector_passes_over_what_was_there_while_the_loop_runs(counted: Counted) -> None:
    controls, seen = Controls.new(), list[tuple[int, float]]()
    before = gc.get_freeze_count(), sys.getswitchinterval()

    def act(action: Array) -> Array:
        seen.append((gc.get_freeze_count(), sys.getswitchinterval()))
        controls.stop()
        return action

    counted.act = act  # type: ignore[method-assign]
    session.run(RunConfig(POLICY, ROBOT), controls)
    assert seen[0][0] > 10_000 and seen[0][1] < before[1]
    assert (gc.get_freeze_count(), sys.getswitchinterval()) == before


def test_the_operator_ends_it(counted: Counted) -> None:
    controls = Controls.new()
    counted.act = lambda action: controls.stop() or action  # type: ignore[method-assign,func-returns-value]
    summary = session.run(RunConfig(POLICY, ROBOT), controls)
    assert summary.ended == "stopped by the operator" and not summary.failed
    assert counted.calls[-2:] == ["hold", "close"]


def test_every_joint_has_its_own_limits(counted: Counted) -> None:
    counted.limits = (np.array([-2.0, -0.1], np.float32), np.array([0.05, 2.0], np.float32))
    sent: list[Array] = []
    controls = Controls.new()

    def act(action: Array) -> Array:
        sent.append(action)
        if action[1] > 0.3:  # it gets there, however long that takes
            controls.stop()
        return action

    counted.act = act  # type: ignore[method-assign]
    session.run(RunConfig("scripted:constant?state=2&action=2&horizon=20&value=1", ROBOT, safety=REARMED), controls)
    assert max(action[0] for action in sent) == np.float32(0.05)


def test_a_robot_whose_pose_is_not_measured_is_said(counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    counted.spec = Spec({"state": Field((2,), names=("x", "y"))}, counted.spec.action, rate_hz=RATE_HZ)
    session.run(RunConfig("scripted:constant?state=2&action=2&horizon=20&value=0", ROBOT, duration_s=0.2))
    assert "does not tell where it stands" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("question", [1, 2])  # the one that warms up, on this thread, and the loop's first, on the asker's
def test_ctrl_c_before_the_loop_begins_moves_nothing(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, question: int
) -> None:
    asked: list[int] = []
    over = threading.Event()

    def hang(self: object, requests: Sequence[Request]) -> list[Result]:
        asked.append(1)
        if len(asked) == question:
            signal.raise_signal(number)
            over.wait(20)
        return [answer(request, plan(request.step, 5)) for request in requests]

    monkeypatch.setattr("actlink.policies.scripted.Constant.infer", hang)
    controls = Controls.new()
    with pytest.raises(KeyboardInterrupt), operated(controls):
        session.run(RunConfig("scripted:constant?state=2&action=2&horizon=5&value=1", ROBOT), controls)
    over.set()
    assert counted.calls == ["connect", "hold", "close"]


def test_after_ctrl_c_no_action_is_sent_any_more(counted: Counted) -> None:
    controls = Controls.new()
    seen = counted.observe

    def observe() -> Observation:
        if "act" in counted.calls:
            counted.calls.append("stop it")
            controls.stop()
        return seen()

    counted.observe = observe  # type: ignore[method-assign]
    session.run(RunConfig(POLICY, ROBOT), controls)
    assert counted.calls[counted.calls.index("stop it") :][-2:] == ["hold", "close"]
    assert "act" not in counted.calls[counted.calls.index("stop it") :]


def test_an_impatient_ctrl_c_does_not_skip_the_hold(counted: Counted) -> None:
    def interrupted() -> None:
        counted.calls.append("hold")
        if counted.calls.count("hold") == 1:
            raise KeyboardInterrupt

    counted.hold = interrupted  # type: ignore[method-assign]
    counted.blind = True
    with pytest.raises(KeyboardInterrupt):
        session.run(RunConfig(POLICY, ROBOT))
    assert counted.calls == ["connect", "hold", "hold", "close"]


def test_a_dry_run_infers_and_never_touches_the_arm(counted: Counted) -> None:
    before = Wave.asked
    session.run(RunConfig(POLICY, ROBOT, duration_s=0.5, dry_run=True))
    assert counted.calls == ["connect", "close"]
    import sys

    wave = next(module.Wave for name, module in sys.modules.items() if name.startswith("_actlink_user_test_session"))
    assert wave.asked > before


def test_whatever_the_robot_raises_ends_the_run_in_hold(counted: Counted) -> None:
    def fail(action: Array) -> Array:
        raise SimulationError("motor 3 is too hot")

    counted.act = fail  # type: ignore[method-assign]
    summary = session.run(RunConfig(POLICY, ROBOT, duration_s=9))
    assert summary.failed and summary.ended == "simulation: motor 3 is too hot"
    assert counted.calls[-2:] == ["hold", "close"]


@pytest.mark.parametrize(
    ("policy", "error", "says"),
    [
        ("tcp://127.0.0.1:1", ConnectError, "refused"),
        ("no_such_policy", ConfigError, "no policy 'no_such_policy'"),
        ("scripted:zero?state=3&action=2", ConfigError, "policy and robot do not fit"),
        ("scripted:zero?state=2&action=5", ConfigError, "policy and robot do not fit"),
    ],
)
def test_a_start_that_fails_touches_nothing(counted: Counted, policy: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        session.run(RunConfig(policy, ROBOT))
    assert counted.calls == []


def test_a_robot_that_cannot_be_seen_at_the_start_is_not_moved(counted: Counted) -> None:
    counted.blind = True
    with pytest.raises(SimulationError, match="no observation at the start"):
        session.run(RunConfig(POLICY, ROBOT))
    assert "act" not in counted.calls


class TestConnecting:
    @pytest.fixture
    def hanging(self, counted: Counted) -> Iterator[tuple[Counted, threading.Event, threading.Event]]:
        """A driver whose ``connect`` waits; what lets it go on, and what says that it was released."""
        back, closed = threading.Event(), threading.Event()

        def connect() -> None:
            counted.calls.append("connect")
            assert back.wait(20)

        counted.connect, counted.close = connect, closed.set  # type: ignore[method-assign]
        yield counted, back, closed
        back.set()

    def test_a_driver_that_hangs_ends_the_start(self, hanging: tuple[Counted, threading.Event, threading.Event]) -> None:
        robot, back, closed = hanging
        with pytest.raises(ConnectError, match=r"robot simulated: .* within 0.2 s \(--start-timeout-s\)"):
            session.run(RunConfig(POLICY, ROBOT, start_timeout_s=0.2))
        assert not closed.is_set()
        back.set()
        assert closed.wait(20), "once it comes back nobody waits for it, and it is released"
        assert robot.calls == ["connect"], "the arm was not touched"

    def test_ctrl_c_does_not_wait_for_it(self, hanging: tuple[Counted, threading.Event, threading.Event]) -> None:
        robot, back, closed = hanging
        connect, controls = robot.connect, Controls.new()
        robot.connect = lambda: (os.kill(os.getpid(), signal.SIGINT), connect())  # type: ignore[method-assign,assignment,return-value]
        with pytest.raises(KeyboardInterrupt), operated(controls):
            session.run(RunConfig(POLICY, ROBOT), controls)
        back.set()
        assert closed.wait(20)
        assert robot.calls == ["connect"]

    @pytest.mark.parametrize("error", [SimulationError("motor 3 is silent"), TimeoutError("the driver's own")])
    def test_what_it_raises_is_raised(self, counted: Counted, error: Exception) -> None:
        def fail() -> None:
            raise error

        counted.connect = fail  # type: ignore[method-assign]
        with pytest.raises(type(error), match=str(error)):
            session.run(RunConfig(POLICY, ROBOT))
        assert counted.calls == []


def test_a_policy_that_fails_at_once_moves_nothing(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = "scripted:constant?state=2&action=2&horizon=5&value=1"
    monkeypatch.setattr("actlink.policies.scripted.Constant.infer", lambda self, requests: 1 / 0)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        session.run(RunConfig(policy, ROBOT))
    assert "act" not in counted.calls


class TestOptions:
    @pytest.mark.parametrize("given", [(), ("env=x",), ("one", "two"), ("one", "type=two")])
    def test_one_robot(self, given: tuple[str, ...]) -> None:
        with pytest.raises(ConfigError, match="--robot: expected one name"):
            robot_of(given)

    def test_options_may_be_nested(self) -> None:
        given = ("type=so101_follower", "id=a", "cameras.top.width=640", "cameras.top.type=opencv", "note=a=b")
        name, options = robot_of(given)
        assert name == "so101_follower"
        assert options == {"id": "a", "cameras": {"top": {"width": "640", "type": "opencv"}}, "note": "a=b"}
        with pytest.raises(ConfigError, match=r"--robot.id.x: id has a value already"):
            robot_of(("a", "id=1", "id.x=2"))

    def test_a_robot_never_runs_naive(self) -> None:
        with pytest.raises(ConfigError, match="strategy 'naive' plays actions at steps they were not meant for"):
            RunConfig(POLICY, ROBOT, strategy="naive")

    @pytest.mark.parametrize("option", [{"fps": 0}, {"duration_s": -1}, {"timeout_s": float("nan")}, {"camera_failures": -1}])
    def test_what_cannot_be(self, option: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=f"{next(iter(option))}: expected"):
            RunConfig(POLICY, ROBOT, **option)  # type: ignore[arg-type]

    def test_outside_the_usual_ranges_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        RunConfig(POLICY, ROBOT, fps=61, actions_per_chunk=9, chunk_size_threshold=0.5).warn_of_ranges()
        assert [record.getMessage() for record in caplog.records] == [
            "fps is 61; the usual range is 10 to 60",
            "actions_per_chunk is 9; the usual range is 10 to 100",
        ]

    def test_an_option_of_another_strategy_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = Wave().spec
        make_strategy(RunConfig(POLICY, ROBOT, strategy="receding", actions_per_chunk=20), spec)
        assert "actions_per_chunk is no option of the receding strategy" in caplog.text
        with pytest.raises(ConfigError, match="unknown option 'speed'"):
            RunConfig(POLICY, ROBOT, strategy_options=("speed=1",))

    def test_jpeg_is_asked_for_on_the_native_wire_alone(self) -> None:
        assert address(RunConfig("ws://h:1/m?a=1", ROBOT)) == "ws://h:1/m?a=1&jpeg=true"
        assert address(RunConfig("ws://h:1?jpeg=false", ROBOT)) == "ws://h:1?jpeg=false"
        assert address(RunConfig("ws://h:1", ROBOT, jpeg=False)) == "ws://h:1"
        assert address(RunConfig("openpi+ws://h:1", ROBOT)) == "openpi+ws://h:1"
        assert address(RunConfig(POLICY, ROBOT)) == POLICY


class TestFit:
    def test_pictures_are_resized_and_entries_ordered_unasked(self) -> None:
        class Seen(Wave):
            def __init__(self) -> None:
                super().__init__()
                image = Field((24, 32, 3), "uint8")
                self.spec = Spec({**self.spec.observation, "images.top": image}, self.spec.action, action_horizon=20)

            def infer(self, requests: Sequence[Request]) -> list[Result]:
                self.request = requests[0]
                return super().infer(requests)

        policy = Seen()
        joints = Field((2,), names=JOINTS[::-1])
        robot = Spec({"state": joints, "images.top": Field((48, 64, 3), "uint8")}, joints)
        fitted = fit(policy, robot, Transform())
        seen = {"state": np.array([1, 2], np.float32), "images.top": np.full((48, 64, 3), 7, np.uint8)}
        (chunk,) = fitted.infer([Request(fitted.spec.check(seen))])
        assert np.asarray(policy.request.observation["state"]).tolist() == [2, 1]
        assert np.shape(policy.request.observation["images.top"]) == (24, 32, 3)
        assert chunk.actions[1].tolist() == plan(0, 20)[1, ::-1].tolist()  # type: ignore[union-attr]

    def test_what_needs_a_decision_is_printed_with_the_line_that_makes_it(self) -> None:
        robot = Spec({"joints": Field((2,), names=JOINTS)}, Field((2,), names=JOINTS))
        with pytest.raises(ConfigError, match=r"the key 'joints'\nput this into a file.*\n  - rename: \{joints: state\}"):
            fit(Wave(), robot, Transform())


class TestWatchdog:
    def test_holds_once_the_loop_stands_still_and_counts_it_once(self, caplog: pytest.LogCaptureFixture) -> None:
        clock, robot = ManualClock(), Counted()
        watchdog = Watchdog(0.2)
        watch = Watch(watchdog, robot.stop, clock, 0.2)
        assert not watch.look(False)  # it has not begun
        watchdog.tick(clock.now())
        clock.advance(0.19)
        assert not watch.look(False)
        clock.advance(0.01)
        assert watch.look(False) and watch.look(True)
        assert robot.calls == ["stop"] and watch.trips == 1, "holding anew would follow an arm that sags"
        watchdog.tick(clock.now())
        assert not watch.look(True)
        watchdog.end()
        clock.advance(9)
        assert not watch.look(False)

    def test_a_stop_that_fails_is_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        clock, calls = ManualClock(), []

        def stop() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise OSError("the port is busy")

        watchdog = Watchdog(0.2)
        watch = Watch(watchdog, stop, clock, 0.2)
        watchdog.tick(0.0)
        clock.advance(1)
        assert not watch.look(False) and watch.look(False)
        assert "the watchdog could not hold the arm: the port is busy" in caplog.text

    def test_its_thread_holds_an_arm_whose_loop_has_stopped(self) -> None:
        stopped, clock, watchdog = threading.Event(), ManualClock(), Watchdog(0.05)
        watchdog.tick(0.0)
        clock.advance(1.0)
        with Watch(watchdog, stopped.set, clock, 0.05):
            assert stopped.wait(20)


class TestWorld:
    def test_holds_once_and_not_at_every_step(self) -> None:
        robot = Counted()
        world = RobotWorld(robot, ManualClock(), lambda: False)
        for action in (None, None, np.zeros(2, np.float32), None, None):
            world.act(world.hold_action(None) if action is None else action)
        assert robot.calls == ["act", "hold"] and world.holds == 1

    def test_the_prompt_goes_into_every_observation(self) -> None:
        seen = RobotWorld(Counted(), ManualClock(), lambda: False, prompt="pick").observe()
        assert seen is not None and seen["prompt"] == "pick"

    @pytest.mark.parametrize(
        ("state", "action", "control", "expected"),
        [
            (Field((3,), names=("a", "b", "c")), Field((2,), names=("c", "a")), "abs", [2, 0]),
            (Field((2,)), Field((2,)), "abs", [0, 1]),
            (Field((3,)), Field((2,)), "abs", None),
            (Field((2,), names=("a", "b")), Field((2,), names=("a", "x")), "abs", None),
            (Field((2,)), Field((2,)), "delta", None),
        ],
    )
    def test_where_the_pose_is_measured(self, state: Field, action: Field, control: str, expected: list[int] | None) -> None:
        found = pose_entries(Spec({"state": state}, action, control_type=control))
        assert (None if found is None else found.tolist()) == expected


def tick(step: int, held: bool = False, basis: int | None = None, at_s: float | None = None) -> Tick:
    at_s = step / 10 if at_s is None else at_s
    return Tick(step, at_s, 0.001, step % 4 == 0, basis, held, held, (), False, 0, np.array([step, 1.0], np.float32))


def reply(step: int, timing: dict[str, float] | None = None, lost: bool = False) -> Reply:
    rows = None if lost else np.arange(16, dtype=np.float32).reshape(8, 2)
    return Reply(step, step + 2, step / 10, step / 10 + 0.2, rows, "closed: gone" if lost else None, timing or {})


class TestTimes:
    def test_each_way_by_the_servers_clock(self) -> None:
        # Written at 0.15 s of our clock after 100 ms on the server: 50 ms up, 50 ms down. The server's clock is 7 s ahead.
        timing = {"clock_s": 100.15 + 7.0, "server_ms": 100.0, "infer_ms": 80.0}
        times = latency.measure([tick(0), tick(2, basis=0)], [reply(0, timing)], 100.0, 7000.0)
        assert times.up_ms == pytest.approx([50.0]) and times.down_ms == pytest.approx([50.0])
        assert times.inference_ms == (80.0,) and times.round_ms == pytest.approx([200.0])
        assert times.acted_ms == pytest.approx([200.0]) and times.rate_hz == pytest.approx(5.0)

    def test_a_wire_without_a_clock_gives_half_of_both_and_one_without_times_says_so(self) -> None:
        times = latency.measure([tick(0)], [reply(0, {"server_ms": 100.0})], 0.0, None)
        assert times.way_ms == pytest.approx([50.0])
        assert "one way, half of both" in "\n".join(latency.lines(times, 30))
        text = "\n".join(latency.lines(latency.measure([tick(0)], [reply(0)], 0.0, 3.0), 30))
        assert "one way" not in "\n".join(latency.lines(latency.measure([tick(0)], [reply(0)], 0.0, None), 30, local=True))
        assert "this wire tells neither clock nor server time" in text and "not known: this wire does not tell it" in text

    def test_a_lost_answer_is_no_latency(self) -> None:
        assert latency.measure([tick(0)], [reply(0, lost=True)], 0.0, None).round_ms == ()


class TestRecording:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "run.jsonl"
        given = [tick(0, held=True), tick(1, basis=0)], [reply(0, {"infer_ms": 1.5}), reply(4, lost=True)]
        ticks.write(path, {"rate_hz": 10.0, "names": ["a", "b"]}, *given)
        found = ticks.read(path)
        assert found.run == {"format": 1, "rate_hz": 10.0, "names": ["a", "b"]}
        assert [each.step for each in found.ticks] == [0, 1] and found.ticks[1].basis == 0
        assert found.ticks[0].held and found.ticks[0].action.tolist() == [0, 1]
        assert found.replies[0].actions is not None and found.replies[0].actions.shape == (8, 2)
        assert found.replies[1].error == "closed: gone" and found.replies[1].actions is None

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "expected a recorded run"),
            ('{"run":{"format":9}}\n', "line 1: expected a line of a recorded run, got: format 9"),
            ('{"run":{"format":1}}\n{"tick":{"step":1}}\n', "line 2"),
            ('{"run":{"format":1}}\n{"tick":', "line 2"),
            ('{"run":{"format":1}}\n{"other":{}}\n', "line 2"),
            ("[1]\n", "line 1"),
        ],
    )
    def test_what_is_no_recording(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "run.jsonl"
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            ticks.read(path)
        with pytest.raises(ConfigError, match="No such file"):
            ticks.read(tmp_path / "none")

    def test_memory_is_bounded_and_what_is_forgotten_is_counted(self) -> None:
        recorder = ticks.Recorder(ticks=10)
        recorder.begin(0.0)
        for step in range(25):
            recorder.tick(tick(step), [])
        assert [each.step for each in recorder.ticks] == list(range(15, 25)) and recorder.forgotten == 15


class TestPictures:
    def test_a_run_and_its_queue(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        recording = Recording(
            {"rate_hz": 10.0, "names": ["a", "b"]}, [tick(step, step < 2) for step in range(30)], [reply(0), reply(4)]
        )
        for path in (picture.draw_run(recording, tmp_path / "run.png"), picture.draw_queue(recording, tmp_path / "queue.png")):
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000

    def test_report_draws_a_recording(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("matplotlib")
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            ticks.write(tmp_path / name / "run.jsonl", {"rate_hz": 10.0}, [tick(step) for step in range(30)], [reply(0), reply(4)])
        assert actlink("report", str(tmp_path / "one"), str(tmp_path / "two" / "run.jsonl"), "--from-s", "1", "--seconds", "1") == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / name / "run.png") for name in ("one", "two")]
        assert actlink("report", str(tmp_path / "one"), str(tmp_path)) == 2
        assert "give one kind at a time" in capsys.readouterr().err

    def test_an_empty_run_is_an_error(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        with pytest.raises(ConfigError, match="nothing to draw"):
            picture.draw_run(Recording({}, [], []), tmp_path / "run.png")

    def test_the_queue_is_what_is_left_of_the_newest_chunk(self) -> None:
        assert left([tick(step) for step in range(12)], [reply(0), reply(4)], 8) == [0, 0, 6, 5, 4, 3, 6, 5, 4, 3, 2, 1]

    def test_the_line_in_the_terminal(self) -> None:
        text = bars(([tick(0, held=True), tick(2), tick(5)], [reply(0)]), 8).plain
        assert text.startswith("queue ·") and text.endswith("3/8  step 5")


def test_nothing_is_logged_twice_in_a_quiet_run(counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session.run(RunConfig(POLICY, ROBOT, duration_s=0.2))
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "control loop at 30 Hz" in line]) == 1
