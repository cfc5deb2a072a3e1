"""Time that passes while the policy computes: how much, the same every time, and what it costs an episode."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toy_reach import Chase, Config, Picky, Reach

from actlink import loading
from actlink.clock import ManualClock, MonotonicClock
from actlink.errors import ConfigError, LinkTimeoutError
from actlink.evaluation.comparison import compare_runs
from actlink.evaluation.driving import Driver
from actlink.evaluation.harness import EvalConfig, command, evaluate
from actlink.evaluation.latency import Delayed, LatencyConfig, Replayed, Scripted, Trace, VirtualClock, read_trace
from actlink.evaluation.plan import Trial
from actlink.evaluation.report import report_rows, summary
from actlink.evaluation.results import EpisodeResult, Results
from actlink.execution._base import Replan
from actlink.policies._base import Policy
from actlink.types import Array, Observation, Step

TOY = Path(__file__).parent / "toy_reach.py"
OBSERVATION = {"state": np.zeros(2, np.float32)}


def drive(
    latency: LatencyConfig, seed: int = 0, *, strategy: str = "receding", trace: Trace | None = None, policy: Policy | None = None
) -> EpisodeResult:
    policy = policy or Chase()
    module = loading.load("execution", strategy)
    driver = Driver(policy, module.Strategy(module.Config(), policy.spec), Reach(Config()), MonotonicClock(), latency, trace)
    try:
        return driver.run(Trial("reach", 0, seed))
    finally:
        driver.close()


def virtual(latency_ms: float | None = None, jitter_ms: float = 0.0, **more: Any) -> LatencyConfig:
    return LatencyConfig("virtual", latency_ms, jitter_ms, **more)


# What time costs


def test_no_latency_is_the_paused_world() -> None:
    paused, none = drive(LatencyConfig()), drive(virtual(0.0))
    assert none.outcome == paused.outcome and none.starved == paused.starved == 0
    assert none.latencies_ms == (0.0,) * len(paused.latencies_ms)


def test_a_question_costs_exactly_the_steps_that_pass() -> None:
    # 20 Hz, 5 rows: asked at 0, there at step 2 (100 ms); rows 2 to 4 run, then the next 2 steps are starved.
    result = drive(virtual(100.0))
    assert result.steps == 20 and result.starved == 8
    assert result.latencies_ms == pytest.approx((100.0,) * 4)
    assert drive(virtual(100.1)).starved == 12, "just too late is a step later"


def test_a_strategy_that_asks_ahead_does_not_starve() -> None:
    waits, asks_ahead = drive(virtual(100.0)), drive(virtual(100.0), strategy="asynchronous")
    assert asks_ahead.starved == 2 < waits.starved, "only the first answer is waited for"


def test_seconds_are_those_of_the_control_steps() -> None:
    result = drive(virtual(0.0))
    assert result.seconds == result.steps / 20 and result.finish_s == result.length / 20
    slower = drive(virtual(0.0, rate_hz=10.0))
    assert slower.seconds == slower.steps / 10
    assert drive(virtual(5000.0)).finish_s is None, "no success, no time to it"


def test_what_is_measured_is_paid_for() -> None:
    class Slow(Chase):
        def infer(self, requests: Any) -> Any:
            clock.wait_until(clock.now() + 0.06)
            return super().infer(requests)

    clock = MonotonicClock()
    result = drive(virtual(), policy=Slow())
    assert min(result.latencies_ms) >= 60.0 and result.starved >= 6


def test_a_policy_error_ends_the_episode_as_in_a_paused_world() -> None:
    far = next(seed for seed in range(50) if np.random.default_rng(seed).uniform(0.2, 1.0) > 0.9)
    for latency in (LatencyConfig(), virtual(50.0), LatencyConfig("wallclock", rate_hz=200.0)):
        assert drive(latency, far, policy=Picky()).error == "policy: too far for me"


def test_a_world_without_a_rate_needs_one() -> None:
    class Timeless(Reach):
        def __init__(self) -> None:
            super().__init__(Config())
            self.spec = replace(self.spec, rate_hz=None)

    module = loading.load("execution", "receding")
    strategy = module.Strategy(module.Config(), Chase().spec)
    with pytest.raises(ConfigError, match="no control rate; give --rate-hz"):
        Driver(Chase(), strategy, Timeless(), MonotonicClock(), virtual(10.0), None)
    Driver(Chase(), strategy, Timeless(), MonotonicClock(), LatencyConfig(), None)


# The same every time


def test_the_same_seed_has_the_same_latencies_and_another_has_not() -> None:
    latency = virtual(80.0, 30.0)
    one, other = drive(latency, 1), drive(latency, 2)
    assert one.latencies_ms == drive(latency, 1).latencies_ms
    assert one.latencies_ms[:2] != other.latencies_ms[:2]
    assert len(set(one.latencies_ms)) == len(one.latencies_ms)


def test_scripted_latencies_are_as_wide_as_asked_and_never_negative() -> None:
    delays = Scripted(10.0, 10.0)
    delays.begin(5)
    found = [1e3 * delays.next(0.0, 0.0)[0] for _ in range(4000)]
    assert min(found) == 0.0
    above = [delay - 10.0 for delay in found if delay > 10.0]
    assert len(above) == pytest.approx(2000, abs=5 * 32)
    assert math.sqrt(sum(each**2 for each in above) / len(above)) == pytest.approx(10.0, rel=0.1)


def test_a_list_of_latencies_is_replayed_from_a_place_of_the_seeds_own(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("10\n20.5\n\n30\n")
    trace = read_trace(tmp_path / "trace.txt")
    assert trace.values_ms == (10.0, 20.5, 30.0)
    starts = set()
    for seed in range(20):
        delays = Replayed(trace)
        delays.begin(seed)
        found = [1e3 * delays.next(0.0, 0.0)[0] for _ in range(7)]
        assert found[:3] == found[3:6] == pytest.approx(trace.of(seed))
        starts.add(round(found[0], 6))
    assert starts == {10.0, 20.5, 30.0}


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "no latency in it"), ("10\nfast\n", "line 2: expected milliseconds, got 'fast'"), ("-1", "line 1"), ("NaN", "line 1")],
)
def test_a_bad_trace_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "trace").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_trace(tmp_path / "trace")
    with pytest.raises(ConfigError, match="No such file"):
        read_trace(tmp_path / "other")


# The asker


def asker(delays: Any) -> Delayed:
    delayed = Delayed(Chase(), VirtualClock(), delays, wall=ManualClock(), timeout_s=0.5)
    delayed.begin(0)
    return delayed


class Fixed:
    """The delays it was given, one question after the other."""

    def __init__(self, *delays: tuple[float, ...]) -> None:
        self.delays = list(delays)

    def begin(self, seed: int) -> None:
        pass

    def next(self, sent_s: float, measured_s: float) -> tuple[float, ...]:
        return self.delays.pop(0)


def test_answers_come_when_they_are_due_whatever_was_asked_first() -> None:
    delayed = asker(Fixed((0.3,), (0.1,), (0.0, 0.19)))
    for step, now_s in enumerate((0.0, 0.05, 0.1)):
        delayed.ask(OBSERVATION, Replan(step), now_s)
    assert [arrival.step for arrival in delayed.arrived(0.1)] == [2]
    assert [arrival.step for arrival in delayed.arrived(0.2999999999)] == [1, 2, 0]
    assert delayed.arrived(9.0) == []


def test_a_lost_answer_is_said_to_be_lost_after_the_time_out() -> None:
    delayed = asker(Fixed(()))
    delayed.ask(OBSERVATION, Replan(0), 1.0)
    assert delayed.arrived(1.49) == []
    (arrival,) = delayed.arrived(1.5)
    assert arrival.chunk is None and isinstance(arrival.error, LinkTimeoutError) and arrival.step == 0


def test_nothing_of_one_episode_arrives_in_the_next() -> None:
    delayed = asker(Fixed((0.1,), (0.1,)))
    delayed.ask(OBSERVATION, Replan(0), 0.0)
    delayed.begin(1)
    assert delayed.arrived(9.0) == []


# Real time


def test_steps_that_pass_without_a_command_are_run_by_the_simulator() -> None:
    class Sticky(Reach):
        """A simulator that hangs once."""

        def step(self, action: Array) -> Step:
            if self.steps == 3:
                clock.wait_until(clock.now() + 0.1)
            return super().step(action)

    clock = MonotonicClock()
    module = loading.load("execution", "receding")
    strategy = module.Strategy(module.Config(), Chase().spec)
    driver = Driver(Chase(), strategy, Sticky(Config(far=50.0)), clock, LatencyConfig("wallclock", rate_hz=100.0), None)
    started_s = clock.now()
    result = driver.run(Trial("reach", 0, 0))
    driver.close()
    assert result.missed >= 9 and result.steps == 20
    assert clock.now() - started_s >= 0.19, "twenty steps at 100 Hz"


def test_real_time_starves_where_virtual_time_does() -> None:
    class Slow(Chase):
        def infer(self, requests: Any) -> Any:
            clock.wait_until(clock.now() + 0.02)
            return super().infer(requests)

    clock = MonotonicClock()
    result = drive(LatencyConfig("wallclock", rate_hz=100.0), policy=Slow())
    assert min(result.latencies_ms) >= 20.0 and result.starved + result.missed >= 6


def test_an_episode_that_ends_in_a_step_that_passed_is_over() -> None:
    class Hangs(Reach):
        def step(self, action: Array) -> Step:
            if self.steps == 15:
                clock.wait_until(clock.now() + 0.2)
            return super().step(action)

        def observe(self) -> Observation:
            return super().observe()

    clock = MonotonicClock()
    module = loading.load("execution", "receding")
    driver = Driver(
        Chase(),
        module.Strategy(module.Config(), Chase().spec),
        Hangs(Config(far=50.0)),
        clock,
        LatencyConfig("wallclock", rate_hz=100.0),
        None,
    )
    result = driver.run(Trial("reach", 0, 0))
    driver.close()
    assert result.steps == 20 and result.error is None


# As an option of an evaluation


def config(out: Path, **changes: Any) -> EvalConfig:
    return replace(EvalConfig(f"{TOY}:Chase", f"{TOY}:Reach", episodes=4, seed=10, out=out), **changes)


def run(config: EvalConfig) -> Results:
    return evaluate(config, console=Console(file=io.StringIO(), width=200))


def told(results: Results) -> list[dict[str, Any]]:
    """Everything about the episodes but how long the machine took."""
    return [{**each.to_dict(), "wall_s": 0.0, "workers": 0} for each in results.episodes]


def test_an_evaluation_in_virtual_time_is_the_same_with_any_number_of_workers_and_goes_on(tmp_path: Path) -> None:
    delay = virtual(70.0, 20.0)
    alone = run(config(tmp_path / "alone", delay=delay, strategy="asynchronous"))
    assert alone.header["latency"] == {"mode": "virtual", "rate_hz": None, "latency_ms": 70.0, "jitter_ms": 20.0, "trace": None}
    many = config(tmp_path / "many", delay=delay, strategy="asynchronous", workers=3)
    assert told(run(many)) == told(alone)
    journal = tmp_path / "many" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]))
    assert told(run(many)) == told(alone)
    with pytest.raises(ConfigError, match=r"latency.latency_ms: there 70.0, now 80.0"):
        run(replace(many, delay=virtual(80.0, 20.0)))
    assert "virtual, 70 ms +- 20 ms" in summary(alone) and "jump between chunks" in summary(alone)
    paused = run(config(tmp_path / "paused"))
    assert "latency" not in paused.header and "jump between chunks" not in summary(paused)
    head, *rows = report_rows(compare_runs([tmp_path / "paused", tmp_path / "alone"]))
    assert [row[head.index("time")] for row in rows] == ["paused", "virtual, 70 ms +- 20 ms"]


def test_an_evaluation_is_the_trace_of_another(tmp_path: Path) -> None:
    recorded = run(config(tmp_path / "recorded", delay=virtual(70.0, 20.0)))
    again = run(config(tmp_path / "again", delay=LatencyConfig("virtual", latency_trace=tmp_path / "recorded")))
    assert [each.outcome for each in again.episodes] == [each.outcome for each in recorded.episodes]
    assert [each.starved for each in again.episodes] == [each.starved for each in recorded.episodes]
    for mine, theirs in zip(again.episodes, recorded.episodes, strict=True):
        assert mine.latencies_ms == pytest.approx(theirs.latencies_ms, abs=1e-3)
    assert again.header["latency"]["trace"].startswith("sha256:")
    stored = json.loads((tmp_path / "again" / "results.json").read_text())
    assert stored["config"]["latency_trace"] == str(tmp_path / "recorded")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"latency_ms": 10.0}, "latency_ms: only with --latency virtual"),
        ({"latency": "wallclock", "latency_ms": 10.0}, "actlink link"),
        ({"latency": "virtual", "jitter_ms": 1.0}, "jitter_ms: only with latency_ms"),
        ({"latency": "virtual", "latency_ms": -1.0}, "latency_ms: expected at least 0"),
        ({"latency": "virtual", "latency_ms": 1.0, "jitter_ms": -1.0}, "jitter_ms: expected at least 0"),
        ({"latency": "virtual", "latency_ms": 1.0, "latency_trace": Path("x")}, "expected one of them"),
        ({"latency": "virtual", "rate_hz": 0.0}, "rate_hz: expected more than 0"),
        ({"rate_hz": 10.0}, "rate_hz: only where time passes"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LatencyConfig(**options)


def test_the_command_line_has_the_options_by_their_names(tmp_path: Path) -> None:
    line = command(config(tmp_path, delay=virtual(70.0, 20.0)))
    assert "--latency virtual --latency-ms 70.0 --jitter-ms 20.0" in line
