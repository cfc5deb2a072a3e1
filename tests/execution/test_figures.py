"""The figures in docs/execution.md are what the strategies do. ``python tests/execution/test_figures.py`` prints them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossy import DIM, ROWS, Fate, drive, step_coded

from actlink import loading, options
from actlink.spec import Field, Spec

DOCUMENT = Path(__file__).parents[2] / "docs" / "execution.md"
STEPS, DELAY = 32, 3
FIGURES: dict[str, dict[str, Any]] = {
    "receding": {},
    "ensemble": {},
    "asynchronous": {"chunk_size_threshold": 0.5},
    "realtime": {"execution_horizon": 4, "blend_steps": 0},  # its policy continues; the altered chunk would not, and be joined
    "naive": {"execution_horizon": 4},
}


def drawn(name: str, altered: int | None = None) -> list[Any]:
    """What happens at each step; the chunk of step ``altered`` says something else."""
    module = loading.load("execution", name)
    spec = Spec(action=Field((DIM,)), action_horizon=ROWS, accepts_prefix=True)
    strategy = module.Strategy(options.build(module.Config, FIGURES[name], name), spec)
    late = [Fate((DELAY,), None, ROWS)]
    return list(drive(strategy, late, STEPS, lambda first, n: step_coded(first, n) + 1000 * (first == altered)))


def figure(name: str) -> str:
    plain = drawn(name)
    lines = ["step      " + "".join(str(step // 10) if step % 10 == 0 else " " for step in range(STEPS)).rstrip()]
    lines.append("          " + "".join(str(step % 10) for step in range(STEPS)))
    for first in [seen.step for seen in plain if seen.replan]:
        other = drawn(name, first)
        cells = [cell(first, seen, altered) for seen, altered in zip(plain, other, strict=True)]
        lines.append(f"chunk {first:<4}" + "".join(cells).rstrip())
    lines.append("robot     " + "".join("." if seen.action is None else "#" for seen in plain))
    return "\n".join(lines)


def cell(first: int, seen: Any, altered: Any) -> str:
    if first <= seen.step < first + DELAY:
        return "~"
    if seen.action is not None and not np.array_equal(seen.action, altered.action):
        return "#" if seen.observed == first else "+"
    return "-" if first <= seen.step < first + ROWS else " "


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_the_figure_is_what_the_strategy_does(name: str) -> None:
    assert f"```text\n{figure(name)}\n```" in DOCUMENT.read_text(encoding="utf-8"), figure(name)


if __name__ == "__main__":
    for each in FIGURES:
        print(f"{each}\n\n{figure(each)}\n")
