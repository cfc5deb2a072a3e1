from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actlink.errors import StoppedError
from actlink.evaluation.results import EpisodeResult, Results, totals

ONE = EpisodeResult("reach", 0, 7, True, -2.5, 12, 15, {"strict_success": 1.0, "distance": 0.25}, wall_s=2.0)
HEADER: dict[str, Any] = {
    "plan": {"tasks": ["reach"], "episodes": 2, "seed": 7},
    "policy": {"name": "chase", "digest": "sha256:1", "options": {}, "deterministic": True},
    "strategy": {"name": "receding", "execution_horizon": None},
    "environment": {"name": "toy", "options": {}, "max_steps": None},
}


def test_plain_values_and_back() -> None:
    full = replace(ONE, error="policy: x", attempts=3, latencies_ms=(1.25, 2.0), inference_ms=0.5, video="videos/a.mp4")
    plain = full.to_dict()
    assert plain["return"] == -2.5 and "return_" not in plain
    assert EpisodeResult.from_dict(json.loads(json.dumps(plain))) == full


def test_reads_what_other_versions_wrote() -> None:
    plain = ONE.to_dict()
    del plain["batched"], plain["latencies_ms"]
    assert EpisodeResult.from_dict({**plain, "colour": "red"}) == ONE
    for broken in ({}, {**plain, "latencies_ms": 3}, {**plain, "latencies_ms": ["x"]}, []):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            EpisodeResult.from_dict(broken)  # type: ignore[arg-type]


def test_totals_of_mixed_episodes() -> None:
    episodes = [
        replace(ONE, latencies_ms=tuple(float(n) for n in range(1, 96)), inference_ms=2.0),
        replace(
            ONE, episode=1, success=False, return_=-7.5, length=20, steps=20, metrics={"strict_success": 0.0, "distance": 0.75}
        ),
        replace(ONE, episode=2, attempts=3, latencies_ms=(100.0,) * 5, inference_ms=4.0),
    ]
    sums = totals(episodes)
    assert sums.success is not None and (sums.success.successes, sums.success.episodes) == (2, 3)
    assert sums.rates["strict_success"].rate == pytest.approx(2 / 3)
    assert sums.rates["strict_success"].interval == sums.success.interval
    assert sums.metrics == {"distance": pytest.approx((0.25 + 0.75 + 0.25) / 3)}
    assert sums.mean_return == pytest.approx(-12.5 / 3)
    assert sums.infrastructure_errors == 2 and sums.errors == 0
    assert sums.requests == 100 and sums.latency_p95_ms == 95.0
    assert sums.inference_mean_ms == 3.0
    assert sums.steps_per_s == pytest.approx(50 / 6)
    assert sums.episodes_per_hour == pytest.approx(1800)


def test_side_by_side_means_faster() -> None:
    alone = totals([ONE, replace(ONE, episode=1)])
    together = totals([replace(ONE, workers=2), replace(ONE, episode=1, workers=2)])
    assert alone.steps_per_s is not None and together.steps_per_s == 2 * alone.steps_per_s


def test_an_error_is_no_success_and_has_no_return() -> None:
    failed = replace(
        ONE, episode=1, success=False, return_=-0.1, length=1, steps=1, metrics={"strict_success": 1.0}, error="policy: x"
    )
    sums = totals([ONE, failed])
    assert sums.errors == 1
    assert sums.success is not None and sums.success.successes == 1 and sums.success.episodes == 2
    assert sums.rates["strict_success"].successes == 1 and sums.rates["strict_success"].episodes == 2
    assert sums.mean_return == -2.5 and sums.mean_length == 12


def test_an_environment_without_success_has_no_rate_even_with_errors() -> None:
    unknown = replace(ONE, success=None, metrics={})
    failed = replace(ONE, episode=1, success=False, metrics={}, error="policy: x")
    sums = totals([unknown, failed])
    assert sums.success is None and sums.rates == {}


def test_totals_of_nothing() -> None:
    sums = totals([])
    assert (sums.episodes, sums.success, sums.mean_return, sums.latency_p95_ms, sums.steps_per_s) == (0, None, None, None, None)


def test_the_table_holds_what_is_the_same_in_every_run() -> None:
    slow = replace(ONE, wall_s=99.0, attempts=4, latencies_ms=(5.0,), workers=8)
    tables = {Results(HEADER, (episode,), True).table for episode in (ONE, slow)}
    assert tables == {"task\tepisode\tseed\tsuccess\treturn\tlength\terror\nreach\t0\t7\tTrue\t-2.5\t12\t"}


def test_writes_json_that_says_everything(tmp_path: Path) -> None:
    results = Results(HEADER, (replace(ONE, latencies_ms=(1.0, 3.0)),), False, {"workers": 1}, tmp_path)
    plain = json.loads(results.write(tmp_path).read_text())
    assert plain["complete"] is False
    assert plain["policy"] == HEADER["policy"]
    assert plain["totals"]["success"]["rate"] == 1.0
    (episode,) = plain["episodes"]
    assert (episode["seed"], episode["success"], episode["return"], episode["length"]) == (7, True, -2.5, 12)
    assert (episode["requests"], episode["latency_mean_ms"], episode["latency_p95_ms"]) == (2, 2.0, 3.0)
    assert "latencies_ms" not in episode
    assert {"actlink", "python", "numpy", "platform"} <= plain["versions"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "results.json.part").mkdir()
    with pytest.raises(StoppedError, match=r"results\.json: cannot be written: Is a directory"):
        Results(HEADER, (ONE,), True).write(tmp_path)
