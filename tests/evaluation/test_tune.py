"""A sweep: which cells it has, that it goes on where it stopped, and what it says about what it found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actlink.credentials import Credentials
from actlink.errors import ConfigError, MissingPackageError, StoppedError
from actlink.evaluation import tune as tuning_module
from actlink.evaluation import tuning
from actlink.evaluation.comparison import Run, load
from actlink.evaluation.results import EpisodeResult, Results
from actlink.evaluation.tune import Cell, Outcome, Setting, TuneConfig, cell_config, cells_of, settings_of, tune
from actlink.policies._open import open_policy
from actlink.serving.server import Server, ServerConfig

TOY = Path(__file__).parent / "toy_reach.py"


def config(out: Path, **changes: Any) -> TuneConfig:
    small = TuneConfig(
        f"{TOY}:Chase",
        f"{TOY}:Reach",
        strategies=("receding", "naive?execution_horizon=5"),
        actions_per_chunk=(5,),
        chunk_size_threshold=(0.5,),
        delays_ms=(0.0, 150.0),
        episodes=3,
        out=out,
    )
    return replace(small, **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def run(config: TuneConfig) -> list[Outcome]:
    return list(tune(config, console=quiet(), quiet=quiet()))


# Cells


def test_the_documents_matrix_is_swept_where_the_strategy_has_it(tmp_path: Path) -> None:
    settings = settings_of(TuneConfig("p", "e", strategies=("asynchronous",)))
    assert len(settings) == 4 * 3
    assert str(settings[0]) == "asynchronous (actions_per_chunk 20, chunk_size_threshold 0.3)"
    assert len(cells_of(TuneConfig("p", "e", strategies=("asynchronous",)))) == 4 * 3 * 6


def test_others_get_the_same_period_and_each_setting_once() -> None:
    def horizons(strategy: str) -> list[str]:
        return [dict(setting.options)["execution_horizon"] for setting in settings_of(TuneConfig("p", "e", strategies=(strategy,)))]

    assert horizons("receding") == ["20", "30", "50", "100"]
    assert horizons("realtime") == ["14", "10", "6", "21", "15", "9", "35", "25", "70", "50", "30"]


def test_what_an_entry_says_is_not_swept_in_it() -> None:
    (ensemble,) = settings_of(TuneConfig("p", "e", strategies=("ensemble?execution_horizon=10",)))
    assert ensemble == Setting("ensemble", "ensemble", (("execution_horizon", "10"),))
    half = settings_of(TuneConfig("p", "e", strategies=("asynchronous?actions_per_chunk=50",)))
    assert [dict(setting.options)["chunk_size_threshold"] for setting in half] == ["0.3", "0.5", "0.7"]


def test_options_of_the_policy_and_a_label() -> None:
    text = "hard one=realtime?execution_horizon=25&policy.prefix_mode=hard"
    given = TuneConfig("flow", "e", strategies=(text,), policy_options=("steps=4", "prefix_mode=guided"), episodes=7, seed=3)
    (setting,) = settings_of(given)
    assert setting == Setting("hard one", "realtime", (("execution_horizon", "25"),), (("prefix_mode", "hard"),))
    cell = cell_config(given, Cell(setting, 300.0))
    assert cell.policy_options == ("steps=4", "prefix_mode=hard")
    assert (cell.delay.latency, cell.delay.latency_ms, cell.delay.jitter_ms) == ("virtual", 300.0, pytest.approx(30.0))
    assert cell.out is not None and cell.out.name == "hard-one_execution_horizon=25_300ms"
    assert (cell.episodes, cell.seed, cell.deterministic) == (7, 3, True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategies": ("dream",)}, "dream"),
        ({"strategies": ("receding?speed=3",)}, "unknown option 'speed'"),
        ({"strategies": ("?x=1",)}, "LABEL=NAME"),
        ({"strategies": ("realtime?execution_horizon=5&policy.a=1", "realtime?execution_horizon=5&policy.a=2")}, "labels"),
        ({"strategies": ()}, "strategies: expected at least one"),
        ({"delays_ms": ()}, "delays_ms: expected at least one"),
        ({"delays_ms": (-1.0,)}, "latency_ms: expected at least 0"),
        ({"delays_ms": (0.0, -1.0)}, "latency_ms: expected at least 0"),
        ({"jitter": 1.5}, "jitter"),
        ({"actions_per_chunk": (0,)}, "actions_per_chunk: expected at least 1"),
        ({"chunk_size_threshold": (1.0,)}, "chunk_size_threshold"),
    ],
)
def test_wrong_sweeps_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())  # nothing has run


# Running


def test_a_sweep_is_evaluations_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = config(tmp_path)
    evaluate, begun = tuning_module.evaluate, []

    def stops_at_the_third(cell: Any, **more: Any) -> Results:
        begun.append(cell.out.name)
        if len(begun) == 3:
            raise StoppedError("interrupted", exit_code=130)
        return evaluate(cell, **more)

    monkeypatch.setattr(tuning_module, "evaluate", stops_at_the_third)
    with pytest.raises(StoppedError, match="2 of 4 cells are finished") as caught:
        run(sweep)
    assert caught.value.exit_code == 130
    journal = tmp_path / "cells" / begun[0] / "journal.jsonl"
    before = journal.read_bytes()
    outcomes = run(sweep)
    assert journal.read_bytes() == before
    # The first cell is always gone into: a worker says whether it is still the same policy. What is finished beside it is read.
    assert [each.cell.name for each in outcomes] == [*begun[:3], "naive_execution_horizon=5_150ms"]
    assert begun[3:] == [begun[0], begun[2], "naive_execution_horizon=5_150ms"]
    table = outcomes[1].run.results.table
    del begun[:]
    again = run(sweep)
    assert len(begun) == 1 and again[1].run.results.table == table
    with pytest.raises(ConfigError, match="another evaluation"):
        run(config(tmp_path, seed=5))
    del begun[:]
    assert load(tmp_path / "cells" / outcomes[0].cell.name).table == outcomes[0].run.results.table

    paths = tuning.write(outcomes, tmp_path)
    told = json.loads(paths[0].read_text())
    assert [cell["delay_ms"] for cell in told["cells"]] == [0.0, 0.0, 150.0, 150.0]
    assert told["cells"][2]["totals"]["starved"] > 0 == told["cells"][0]["totals"]["starved"]
    with paths[1].open() as file:
        records = list(csv.DictReader(file))
    assert [record["label"] for record in records] == ["receding", "naive"] * 2
    assert float(records[0]["totals.success.rate"]) == told["cells"][0]["totals"]["success"]["rate"]
    assert paths[2].read_text().count("\n| ") == 5


def test_how_the_policy_is_reached_is_told_to_every_cell(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open sesame\n")
    with Server(
        {"chase": open_policy(f"{TOY}:Chase")}, ["native+tcp://127.0.0.1:0"], ServerConfig(token_file=tmp_path / "token")
    ) as server:
        sweep = config(
            tmp_path / "out",
            policy=server.addresses[0],
            strategies=("receding",),
            delays_ms=(0.0,),
            episodes=1,
            credentials=Credentials(token_file=tmp_path / "token"),
        )
        (only,) = run(sweep)
    assert only.run.results.totals.episodes == 1
    cell = cell_config(TuneConfig("p", "e", policy_type="act", device="cuda", dtype="float16", like="x"), only.cell)
    assert (cell.policy_type, cell.device, cell.dtype, cell.like) == ("act", "cuda", "float16", "x")
    with pytest.raises(ConfigError, match="can be read once"):
        TuneConfig("p", "e", credentials=Credentials(token_fd=0))


# What it says


def outcome(label: str, successes: str, *, strategy: str = "receding", starved: int = 0, delay_ms: float = 0.0) -> Outcome:
    """An outcome with a success (1) or failure (0) per episode."""
    episodes = tuple(
        EpisodeResult("t", i, i, each == "1", 0.0, 10, 10, starved=starved, seconds=1.0, seams=(0.1 + starved,))
        for i, each in enumerate(successes)
    )
    header = {"plan": {"tasks": ["t"], "episodes": len(episodes), "seed": 0}}
    cell = Cell(Setting(label, strategy), delay_ms)
    return Outcome(cell, Run(cell.name, Results(header, episodes, True)))


def test_the_best_is_recommended_where_it_is_shown_to_be_better() -> None:
    best, worse = outcome("best", "1" * 20, starved=5), outcome("worse", "0" * 20)
    assert tuning.as_good_as_the_best([worse, best]) == [best]
    assert (
        tuning.recommendation([worse, best])[0] == "At 0 ms: best, success 100% [84%, 100%], shown to be better than the other 1."
    )


def test_among_what_is_not_told_apart_the_one_that_starves_least() -> None:
    most, calm = outcome("most", "1" * 20, starved=5), outcome("calm", "1" * 19 + "0")
    said = tuning.recommendation([most, calm])
    assert said[0].startswith("At 0 ms: calm, success 95%") and "not shown to be worse than the best of 2" in said[0]
    assert said[1] == "Over all: calm, not shown to be worse than the best at every delay."


def returning(label: str, returns: Sequence[float | None]) -> Outcome:
    """An outcome of an environment that knows no success; None: the episode ended in an error."""
    episodes = tuple(
        EpisodeResult(
            "t", i, i, None if each is not None else False, each or 0.0, 10, 10, error=None if each is not None else "policy: no"
        )
        for i, each in enumerate(returns)
    )
    header = {"plan": {"tasks": ["t"], "episodes": len(episodes), "seed": 0}}
    cell = Cell(Setting(label, "receding"), 0.0)
    return Outcome(cell, Run(cell.name, Results(header, episodes, True)))


def test_a_setting_whose_every_episode_ended_in_an_error_is_not_the_best_and_costs_no_sweep(tmp_path: Path) -> None:
    broken, works = returning("broken", [None, None]), returning("works", [-200.0, -210.0])
    said = tuning.recommendation([broken, works])
    assert said[0].startswith("At 0 ms: works, success return -205") and said[1].startswith("Over all: works")
    assert tuning.recommendation([broken]) == ["At 0 ms: nothing to recommend, every episode ended in an error."]
    assert all(path.exists() for path in tuning.write([broken, works], tmp_path))


def test_one_episode_shows_nothing_to_be_worse() -> None:
    assert len(tuning.as_good_as_the_best([returning("a", [1.0]), returning("b", [9.0])])) == 2


def test_what_plays_actions_late_is_never_recommended() -> None:
    late, honest = outcome("late", "1" * 20, strategy="naive"), outcome("honest", "1" * 10 + "0" * 10)
    assert tuning.recommendation([late, honest])[0].startswith("At 0 ms: honest")
    assert tuning.recommendation([late]) == ["nothing to recommend: no honest strategy was tried"]


def test_the_table_has_paired_differences_to_the_first_at_the_same_delay() -> None:
    cells = [outcome(label, score, delay_ms=ms) for ms in (0.0, 100.0) for label, score in (("a", "1100"), ("b", "1110"))]
    head, *rows = tuning.rows(cells)
    place = head.index("minus a [95 %]")
    assert [row[place] for row in rows] == ["-", rows[1][place], "-", rows[3][place]]
    assert rows[1][place].startswith("+25% [") and rows[1][0] == "0" and rows[3][0] == "100"


def test_a_figure_is_drawn_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = [outcome(label, score, delay_ms=ms) for ms in (0.0, 100.0) for label, score in (("a", "1100"), ("b", "1110"))]
    one, other = (tuning.figure(cells, tmp_path / name, title="toy").read_bytes() for name in ("one.svg", "other.svg"))
    assert one == other and b"<svg" in one and b"toy" in one
    assert tuning.figure(cells, tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_figure_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"actlink\[plot\]"):
        tuning.figure([outcome("a", "11")], tmp_path / "x.svg")
