from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from actlink.clock import ManualClock
from actlink.evaluation.progress import Progress
from actlink.evaluation.results import EpisodeResult

ONE = EpisodeResult("reach", 0, 7, True, -2.5, 12, 15)


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, color_system=None), out


def test_plain_lines_where_there_is_no_terminal() -> None:
    shown, out = console()
    clock = ManualClock()
    with Progress(shown, 4, [replace(ONE, success=False)], clock) as progress:
        clock.advance(90)
        progress.episode(ONE)
        progress.episode(replace(ONE, seed=8, success=False, error="policy: x"))
    assert out.getvalue().splitlines() == [
        "going on after 1 of 4 episodes",
        "[2/4] reach seed 7: success, return -2.5, length 12; success 50.0%, 0:03:00 left",
        "[3/4] reach seed 8: error, return -2.5, length 12; success 33.3%, 0:00:45 left",
        "seed 8: policy: x",
    ]


def test_an_error_that_comes_again_is_shown_once() -> None:
    shown, out = console()
    with Progress(shown, 9, [], ManualClock()) as progress:
        for seed in range(3):
            progress.episode(replace(ONE, seed=seed, success=False, error="policy: the same"))
    assert out.getvalue().count("policy: the same") == 1


def test_an_environment_without_success_shows_the_return() -> None:
    shown, out = console()
    with Progress(shown, 2, [], ManualClock()) as progress:
        progress.episode(replace(ONE, success=None, return_=475.0))
    assert "done, return 475, length 12; mean return 475" in out.getvalue()


def test_a_bar_on_a_terminal_with_rate_and_time_left() -> None:
    shown, out = console(terminal=True)
    clock = ManualClock()
    with Progress(shown, 4, [], clock) as progress:
        clock.advance(30)
        progress.episode(ONE)
        progress.note("[brackets] stay")
    text = out.getvalue()
    assert "1/4" in text and "success 100.0%" in text and "0:01:30 left" in text
    assert "[brackets] stay" in text


def test_a_quiet_console_stays_quiet() -> None:
    out = io.StringIO()
    shown = Console(file=out, force_terminal=True, quiet=True)
    with Progress(shown, 2, [], ManualClock()) as progress:
        progress.episode(ONE)
    assert out.getvalue() == ""
