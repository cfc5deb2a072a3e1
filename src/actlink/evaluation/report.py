"""Results for people: on a terminal and in Markdown. Law: the same cells everywhere; measures and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actlink.evaluation.comparison import Comparison, Difference
from actlink.evaluation.intervals import Interval
from actlink.evaluation.results import Results, Totals

if TYPE_CHECKING:
    from rich.table import Table

NONE = "-"


def results_table(found: Results) -> Table:
    """One evaluation, a line per number."""
    from rich.table import Table

    table = Table(show_header=False, title=f"{found.header['environment']['name']}: {found.header['policy']['name'] or 'policy'}")
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in result_rows(found):
        table.add_row(name, value)
    return table


def summary(found: Results) -> str:
    """``results_table`` as plain text."""
    rows = result_rows(found)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def result_rows(found: Results) -> list[tuple[str, str]]:
    """Names and values of one evaluation."""
    sums, header = found.totals, found.header
    rows = [
        ("policy", " ".join(word for word in (header["policy"]["name"], header["policy"]["digest"]) if word) or NONE),
        ("environment", " ".join([header["environment"]["name"], *_pairs(header["environment"]["options"])])),
        ("strategy", strategy(header["strategy"])),
        ("episodes", f"{sums.episodes}, seeds from {header['plan']['seed']}" + ("" if found.complete else " (not complete)")),
        ("success", str(sums.success) if sums.success else "not known to this environment"),
        *((name.replace("_", " "), str(rate)) for name, rate in sums.rates.items()),
        *((f"mean {name.replace('_', ' ')}", _number(value)) for name, value in sums.metrics.items()),
        ("mean return", _number(sums.mean_return)),
        ("mean length", _number(sums.mean_length)),
        ("errors", f"{sums.errors} episodes" if sums.errors else "none"),
        ("infrastructure errors", f"{sums.infrastructure_errors} attempts, run again" if sums.infrastructure_errors else "none"),
        ("latency", f"mean {_number(sums.latency_mean_ms)} ms, p95 {_number(sums.latency_p95_ms)} ms"),
        *(_moving_rows(found) if "latency" in header else []),
        ("requests", f"{sums.requests}, {sums.batched} of them in a batch with others"),
        ("policy alone", f"mean {_number(sums.inference_mean_ms)} ms" if sums.inference_mean_ms is not None else NONE),
        ("speed", f"{_number(sums.steps_per_s)} steps/s, {_number(sums.episodes_per_hour)} episodes/h"),
    ]
    if found.out is not None:
        rows.append(("results", str(found.out)))
    return rows


def _moving_rows(found: Results) -> list[tuple[str, str]]:
    """What is worth telling where time passes while the policy computes."""
    sums = found.totals
    steps = f"{sums.starved} of {sums.control_steps} control steps"
    seams = f"p50 {_number(sums.seam_p50)}, p99 {_number(sums.seam_p99)}, max {_number(sums.seam_max)}"
    return [
        ("time", latency(found.header)),
        ("starved", f"{steps}, {sums.missed} more passed without a command" if sums.missed else steps),
        ("time to finish", f"mean {_number(sums.finish_mean_s)} s" if sums.finish_mean_s is not None else NONE),
        ("jump between chunks", f"{seams}; largest step inside a chunk {_number(sums.inside_max)}"),
        ("jerk", f"mean {_number(sums.jerk_mean)} per s^3"),
        ("traffic", f"{_number(sums.mbit_s)} Mbit/s, as raw arrays"),
    ]


def latency(header: Mapping[str, Any]) -> str:
    """``virtual, 100 ms +- 20 ms``; of an evaluation without: ``paused``."""
    given = header.get("latency")
    if given is None:
        return "paused"
    if given["mode"] != "virtual":
        return str(given["mode"])
    if given["trace"] is not None:
        return f"virtual, recorded ({given['trace']})"
    if given["latency_ms"] is None:
        return "virtual, as measured"
    jitter = f" +- {given['jitter_ms']:g} ms" if given["jitter_ms"] else ""
    return f"virtual, {given['latency_ms']:g} ms{jitter}"


def report_table(found: Comparison) -> Table:
    """Runs side by side, one line each."""
    from rich.table import Table

    head, *lines = report_rows(found)
    table = Table()
    for column in head:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def report_markdown(found: Comparison) -> str:
    """``report_table`` as a Markdown table."""
    head, *lines = ([cell.replace("|", "\\|") for cell in row] for row in report_rows(found))
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def report_rows(found: Comparison) -> list[list[str]]:
    """Heading and cells."""
    against = {each.name: each for each in found.differences}
    all_sums = [run.results.totals for run in found.runs]
    rates = sorted({name for sums in all_sums for name in sums.rates})
    head = [
        "run",
        "policy",
        "environment",
        "strategy",
        "episodes",
        "success [95 %]",
        *(f"{name.replace('_', ' ')} [95 %]" for name in rates),
    ]
    moving = any("latency" in run.results.header for run in found.runs)
    head += ["return", "length", "errors", "latency ms (p95)"]
    head += ["time", "starved", "jump p99", "inside max"] if moving else []
    if against:
        first = found.runs[0].name
        head += [f"success - {first} [95 %]", f"return - {first} [95 %]", "episodes that differ"]
    rows = [head]
    for run, sums in zip(found.runs, all_sums, strict=True):
        header = run.results.header
        row = [run.name, header["policy"]["name"] or NONE, header["environment"]["name"], strategy(header["strategy"])]
        row += [f"{sums.episodes}{'' if run.results.complete else ' (not complete)'}", *_scores(sums, rates)]
        row += _moving(run.results.header, sums) if moving else []
        rows.append(row + (_difference(against.get(run.name)) if against else []))
    return rows


def strategy(options: Mapping[str, Any]) -> str:
    """``receding (execution_horizon 25)``."""
    chosen = ", ".join(f"{key} {value}" for key, value in options.items() if key != "name" and value is not None)
    return f"{options['name']} ({chosen})" if chosen else str(options["name"])


def _scores(sums: Totals, rates: Sequence[str]) -> list[str]:
    return [
        str(sums.success) if sums.success else NONE,
        *(str(sums.rates[name]) if name in sums.rates else NONE for name in rates),
        _number(sums.mean_return),
        _number(sums.mean_length),
        str(sums.errors),
        f"{_number(sums.latency_mean_ms)} ({_number(sums.latency_p95_ms)})",
    ]


def _moving(header: Mapping[str, Any], sums: Totals) -> list[str]:
    starved = f"{sums.starved / sums.control_steps:.1%}" if sums.control_steps else NONE
    return [latency(header), starved, _number(sums.seam_p99), _number(sums.inside_max)]


def _difference(found: Difference | None) -> list[str]:
    if found is None:
        return [NONE] * 3
    if not found.pairs:
        return [NONE, NONE, "no seed in common"]
    success = NONE if found.success is None else f"{found.success:+.1%}{_interval(found.success_interval, '+.1%')}"
    return_ = NONE if found.return_ is None else f"{found.return_:+.4g}{_interval(found.return_interval, '+.4g')}"
    return [success, return_, f"{found.differ} of {found.pairs}"]


def _interval(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def _pairs(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
