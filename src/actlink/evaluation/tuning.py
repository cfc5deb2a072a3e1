"""What a sweep found: a table, files, and a sentence. Law: settings differ where the interval of their difference says so."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actlink import loading
from actlink.errors import StoppedError
from actlink.evaluation.comparison import Difference, difference
from actlink.evaluation.results import Totals
from actlink.evaluation.tune import Outcome, Setting, sequence

JSON_FILE, CSV_FILE, MARKDOWN_FILE, FIGURE_STEM = "tune.json", "tune.csv", "tune.md", "tune"
NONE = "-"
NEVER_RAN = float("-inf")
"""Score of a setting of which every episode ended in an error."""

HEAD = (
    "delay ms",
    "setting",
    "success [95 %]",
    "minus {first} [95 %]",
    "starved",
    "jump p99",
    "inside max",
    "jerk",
    "finish s",
    "Mbit/s",
)


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Heading and cells: every setting at every delay, and its success beside that of the first setting at that delay, in pairs."""
    first = outcomes[0].cell.setting
    found = [[cell.format(first=first.label) for cell in HEAD]]
    for outcome in outcomes:
        sums, cell = outcome.run.results.totals, outcome.cell
        reference = _at(outcomes, first, cell.delay_ms)
        minus = NONE if reference is None or reference is outcome else _difference(difference(outcome.run, reference.run))
        found.append([f"{cell.delay_ms:g}", str(cell.setting), _success(sums), minus, *_numbers(sums)])
    return found


def recommendation(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence per delay, and one for all of them.

    Best is the highest success (mean return where there is none). Whatever is not shown to be worse than the best, in pairs, is as
    good; among these the one that starves least, then the one with the smallest jump, then with the least traffic. Strategies that
    play actions at steps they were not meant for are never recommended.
    """
    honest = [each for each in outcomes if loading.load("execution", each.cell.setting.strategy).Strategy.honest]
    if not honest:
        return ["nothing to recommend: no honest strategy was tried"]
    settings, delays = sequence(honest)
    sentences, good = [], dict.fromkeys(settings, 0)
    for delay_ms in delays:
        there = [each for each in honest if each.cell.delay_ms == delay_ms]
        alike = as_good_as_the_best(there)
        if not alike:
            sentences.append(f"At {delay_ms:g} ms: nothing to recommend, every episode ended in an error.")
            continue
        for each in alike:
            good[each.cell.setting] += 1
        chosen = min(alike, key=_cost)
        others = len(alike) - 1
        why = (
            f"not shown to be worse than the best of {len(there)}"
            if others
            else f"shown to be better than the other {len(there) - 1}"
        )
        among = f"; of the {others + 1} of which that holds it starves least, or else jumps least" if others else ""
        sums = chosen.run.results.totals
        sentences.append(f"At {delay_ms:g} ms: {chosen.cell.setting}, success {_success(sums)}, {why}{among}.")
    most = max(good.values())
    if not most:
        return sentences
    everywhere = [setting for setting in settings if good[setting] == most]
    best = min(everywhere, key=lambda setting: sum((_cost(each)[0] for each in honest if each.cell.setting == setting), 0.0))
    where = "every delay" if most == len(delays) else f"{most} of {len(delays)} delays"
    sentences.append(f"Over all: {best}, not shown to be worse than the best at {where}.")
    return sentences


def as_good_as_the_best(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of one delay that are not shown to be worse than the best of it; none where every episode ended in an error."""
    best = max(outcomes, key=_score)
    ran = [each for each in outcomes if _score(each) > NEVER_RAN]
    return [each for each in ran if each is best or not _worse(difference(each.run, best.run))]


def write(outcomes: Sequence[Outcome], directory: Path) -> list[Path]:
    """``tune.json``, ``tune.csv``, ``tune.md``; ``StoppedError`` where they cannot be written."""
    paths = [directory / name for name in (JSON_FILE, CSV_FILE, MARKDOWN_FILE)]
    sentences = recommendation(outcomes)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps({"recommendation": sentences, "cells": [plain(each) for each in outcomes]}, indent=1) + "\n")
        with paths[1].open("w", newline="", encoding="utf-8") as file:
            records = [_flat(plain(each)) for each in outcomes]
            writer = csv.DictWriter(file, list(dict.fromkeys(key for record in records for key in record)), restval="")
            writer.writeheader()
            writer.writerows(records)
        paths[2].write_text(markdown(outcomes) + "\n" + "\n".join(f"- {sentence}" for sentence in sentences) + "\n")
    except OSError as error:
        raise StoppedError(f"{directory}: cannot be written: {error.strerror}") from error
    return paths


def markdown(outcomes: Sequence[Outcome]) -> str:
    """``rows`` as a Markdown table."""
    head, *cells = rows(outcomes)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]) + "\n"


def plain(outcome: Outcome) -> dict[str, Any]:
    """A cell as plain values."""
    cell, sums = outcome.cell, asdict(outcome.run.results.totals)
    setting = {"label": cell.setting.label, "strategy": cell.setting.strategy, "options": dict(cell.setting.options)}
    return {"delay_ms": cell.delay_ms, **setting, "policy_options": dict(cell.setting.policy_options), "totals": sums}


def figure(outcomes: Sequence[Outcome], path: Path, *, title: str = "") -> Path:
    """Success, starved steps, jump, jerk, time to finish and traffic against delay, a line per setting; ``MissingPackageError``.

    Of a strategy with many settings only the two best over all delays are drawn.
    """
    from actlink.evaluation import tuning_figure

    return tuning_figure.draw(_drawn(outcomes), path, title=title)


def _drawn(outcomes: Sequence[Outcome]) -> list[Outcome]:
    settings, _ = sequence(outcomes)
    kept: list[Setting] = []
    for label in dict.fromkeys(setting.label for setting in settings):
        own = [setting for setting in settings if setting.label == label]
        scores = {setting: sum(_score(each) for each in outcomes if each.cell.setting == setting) for setting in own}
        kept += sorted(own, key=lambda setting: -scores[setting])[:2] if len(own) > 2 else own
    return [each for each in outcomes if each.cell.setting in kept]


def _at(outcomes: Sequence[Outcome], setting: Setting, delay_ms: float) -> Outcome | None:
    return next((each for each in outcomes if each.cell.setting == setting and each.cell.delay_ms == delay_ms), None)


def _score(outcome: Outcome) -> float:
    sums = outcome.run.results.totals
    if sums.mean_return is None:
        return NEVER_RAN
    return sums.mean_return if sums.success is None else sums.success.rate


def _cost(outcome: Outcome) -> tuple[float, float, float]:
    sums = outcome.run.results.totals
    return sums.starved / max(1, sums.control_steps), sums.seam_p99 or 0.0, sums.mbit_s or 0.0


def _worse(found: Difference) -> bool:
    interval = found.success_interval if found.success_interval is not None else found.return_interval
    return interval is not None and interval[1] < 0  # one episode shows nothing


def _success(sums: Totals) -> str:
    if sums.success is not None:
        low, high = sums.success.interval
        return f"{sums.success.rate:.0%} [{low:.0%}, {high:.0%}]"
    return NONE if sums.mean_return is None else f"return {sums.mean_return:.4g}"


def _difference(found: Difference) -> str:
    if found.success is not None and found.success_interval is not None:
        low, high = found.success_interval
        return f"{found.success:+.0%} [{low:+.0%}, {high:+.0%}]"
    if found.return_ is not None and found.return_interval is not None:
        low, high = found.return_interval
        return f"{found.return_:+.3g} [{low:+.3g}, {high:+.3g}]"
    return NONE


def _numbers(sums: Totals) -> list[str]:
    starved = f"{sums.starved / sums.control_steps:.0%}" if sums.control_steps else NONE
    others = (sums.seam_p99, sums.inside_max, sums.jerk_mean, sums.finish_mean_s, sums.mbit_s)
    return [starved, *(NONE if value is None else f"{value:.3g}" for value in others)]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    if isinstance(value, dict):
        return {
            key: each for inner, deep in value.items() for key, each in _flat(deep, f"{name}.{inner}" if name else inner).items()
        }
    if isinstance(value, (list, tuple)):
        return {key: each for index, deep in enumerate(value) for key, each in _flat(deep, f"{name}.{index}").items()}
    return {name: "" if value is None else value}
