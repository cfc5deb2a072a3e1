from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actlink.errors import ConfigError
from actlink.evaluation.comparison import compare_runs, load
from actlink.evaluation.journal import Journal
from actlink.evaluation.report import report_markdown, report_rows, report_table, results_table, summary
from actlink.evaluation.results import EpisodeResult, Results

ONE = EpisodeResult("reach", 0, 0, True, -2.0, 12, 15, {"strict_success": 1.0}, latencies_ms=(1.0, 3.0), wall_s=1.0)


def header(episodes: int, name: str = "chase", seed: int = 0) -> dict[str, Any]:
    return {
        "plan": {"tasks": ["reach"], "episodes": episodes, "seed": seed},
        "policy": {"name": name, "digest": "sha256:1", "options": {}, "deterministic": None},
        "strategy": {"name": "receding", "execution_horizon": 25},
        "environment": {"name": "toy|reach", "options": {"far": "2"}, "max_steps": None},
    }


def make(directory: Path, outcomes: str, *, seed: int = 0, name: str = "chase") -> Path:
    """A finished evaluation: one letter per episode, s(uccess), f(ailure), e(rror), u(nknown)."""
    found = {"s": (True, None), "f": (False, None), "e": (False, "policy: x"), "u": (None, None)}
    episodes = []
    for n, letter in enumerate(outcomes):
        success, error = found[letter]
        return_ = -2.0 if success else -5.0
        episodes.append(replace(ONE, episode=n, seed=seed + n, success=success, error=error, return_=return_))
    with Journal(directory, header(len(outcomes), name, seed)) as journal:
        for episode in reversed(episodes):  # as they came
            journal.append(episode)
        Results(journal.header, tuple(episodes), True, {}, directory).write(directory)
    return directory


def test_differences_are_taken_in_pairs(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "ssff"), make(tmp_path / "b", "sssf")])
    (difference,) = found.differences
    assert (difference.pairs, difference.differ) == (4, 1)
    assert difference.success == 0.25
    assert difference.success_interval is not None and difference.success_interval[0] < 0 < 0.25 < difference.success_interval[1]
    assert difference.return_ == pytest.approx(0.75)


def test_only_shared_seeds_are_compared(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "ssss"), make(tmp_path / "b", "ffff", seed=100)])
    assert found.differences[0].pairs == 0
    assert report_rows(found)[2][-1] == "no seed in common"


def test_the_same_behaviour_differs_nowhere(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "sfsf"), make(tmp_path / "b", "sfsf")])
    assert found.differences[0].differ == 0
    assert found.differences[0].return_interval == (0.0, 0.0)


def test_errors_count_as_failures_but_have_no_return(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "ss"), make(tmp_path / "b", "se")])
    assert found.differences[0].success == -0.5
    assert found.differences[0].return_ == 0.0


def test_without_success_only_returns_are_compared(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "uu"), make(tmp_path / "b", "uu")])
    assert (found.differences[0].success, found.differences[0].success_interval) == (None, None)
    assert found.differences[0].return_ == 0.0


def test_results_without_their_journal_say_the_same(tmp_path: Path) -> None:
    directory = make(tmp_path / "a", "sfe")
    with_journal = load(directory)
    (directory / "journal.jsonl").unlink()
    alone = load(directory)
    assert alone.table == with_journal.table
    assert alone.totals.success == with_journal.totals.success
    assert alone.totals.latency_mean_ms == with_journal.totals.latency_mean_ms
    assert alone.complete


def test_a_run_that_is_not_finished_is_shown_as_such(tmp_path: Path) -> None:
    with Journal(tmp_path / "a", header(3)) as journal:
        journal.append(ONE)
    found = compare_runs([tmp_path / "a"])
    assert not found.runs[0].results.complete
    assert "1 (not complete)" in report_rows(found)[1]


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    found = compare_runs([make(tmp_path / "a", "ssff"), make(tmp_path / "b", "sssf", name="other")])
    markdown = report_markdown(found)
    assert "2/4 = 50.0% [15.0%, 85.0%]" in markdown and "3/4 = 75.0%" in markdown and "1 of 4" in markdown
    assert "toy\\|reach" in markdown  # a bar would end the cell
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines()} == {len(report_rows(found)[0]) + 1}
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(report_table(found))
    assert "2/4 = 50.0% [15.0%, 85.0%]" in console.export_text()
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["runs"][0]["totals"]["success"]["rate"] == 0.5
    assert plain["differences"][0]["differ"] == 1 and "return" in plain["differences"][0]


def test_one_evaluation_as_text_and_as_a_table(tmp_path: Path) -> None:
    results = load(make(tmp_path / "a", "ssf"))
    text = summary(results)
    for part in (
        "2/3 = 66.7%",
        "strict success",
        "chase sha256:1",
        "toy|reach far=2",
        "receding (execution_horizon 25)",
        "3, seeds from 0",
        str(tmp_path / "a"),
    ):
        assert part in text
    assert results_table(results).row_count == len(text.splitlines())


def test_says_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation here"):
        compare_runs([tmp_path])
    with pytest.raises(ConfigError, match="at least one directory"):
        compare_runs([])
    for content in ("{", "[]", '{"plan": {}}'):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ConfigError, match=r"results\.json: not the results of an evaluation"):
            compare_runs([tmp_path])
    (tmp_path / "results.json").write_text('{"plan": {}, "policy": {}, "strategy": {}, "environment": {}, "episodes": [{}]}')
    with pytest.raises(ConfigError, match=r"not the results of an evaluation \(KeyError"):
        compare_runs([tmp_path])
    (tmp_path / "results.json").unlink()
    for line in ('{"header": {}}', '{"header": {"plan": {"tasks": 7, "episodes": 1, "seed": 0}}}'):
        (tmp_path / "journal.jsonl").write_text(f"{line}\n")
        with pytest.raises(ConfigError, match=r"not the results of an evaluation \("):
            compare_runs([tmp_path])
