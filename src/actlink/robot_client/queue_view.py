"""The queue of actions while the robot runs, in the terminal. Law: looks on from its own thread; the loop never waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from actlink.robot_client.session import Spectator
from actlink.ticks import Recorder, Reply, Tick

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 60
REFRESH_S = 0.25


class Terminal(Spectator):
    """A line of bars: actions left, newest at the right; red where the arm held."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    @contextlib.contextmanager
    def watch(self, recorder: Recorder, rows: int) -> Iterator[None]:
        over = threading.Event()
        with Live(Text(""), console=self._console, auto_refresh=False, transient=True) as live:

            def show() -> None:
                while not over.wait(REFRESH_S):
                    live.update(picture(newest(recorder), rows), refresh=True)

            thread = threading.Thread(target=show, name="actlink-queue-view", daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join(2.0)


def newest(recorder: Recorder) -> tuple[list[Tick], list[Reply]]:
    """The last ticks and answers; the loop goes on writing meanwhile, and a look that collides with it is repeated."""
    while True:
        try:
            return list(recorder.ticks)[-WIDTH:], list(recorder.replies)[-WIDTH:]
        except RuntimeError:  # the deque changed while it was copied
            continue


def picture(seen: tuple[Sequence[Tick], Sequence[Reply]], rows: int) -> Text:
    """One line for the last ticks."""
    ticks, replies = seen
    sizes = left(ticks, replies, rows)
    text = Text("queue ")
    for tick, size in zip(ticks, sizes, strict=True):
        bar = BARS[min(len(BARS) - 1, -(-size * (len(BARS) - 1) // max(rows, 1)))]
        text.append("·" if tick.held else bar, style="red" if tick.held else "green")
    if ticks:
        held = "  latched" if ticks[-1].latched else "  holds" if ticks[-1].held else ""
        text.append(f" {sizes[-1]}/{rows}  step {ticks[-1].step}{held}")
    return text


def left(ticks: Sequence[Tick], replies: Sequence[Reply], rows: int) -> list[int]:
    """For every tick, the actions of the newest chunk that are for it or later."""
    arrived = sorted((reply.arrived, reply.step + min(len(reply.actions), rows)) for reply in replies if reply.actions is not None)
    sizes: list[int] = []
    end = 0
    index = 0
    for tick in ticks:
        while index < len(arrived) and arrived[index][0] <= tick.step:
            end = arrived[index][1]
            index += 1
        sizes.append(max(0, end - tick.step))
    return sizes
