"""How an evaluation shows that it goes on: a bar on a terminal, plain lines elsewhere. Law: reads results, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from actlink.clock import Clock
from actlink.evaluation.results import EpisodeResult, knows_success

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress:
    """Progress of ``total`` episodes of which ``finished`` were there before; a context manager around the work."""

    def __init__(self, console: Console, total: int, finished: Sequence[EpisodeResult], clock: Clock) -> None:
        self._console = console
        self._total = total
        self._before = len(finished)
        self._episodes = list(finished)
        self._clock = clock
        self._started_s = clock.now()
        self._notes: set[str] = set()
        self._bar: Bar | None = None

    def episode(self, result: EpisodeResult) -> None:
        """Another episode is finished."""
        self._episodes.append(result)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=len(self._episodes), score=self._score(), left=self._left())
        else:
            how = {True: "success", False: "failure", None: "done"}[result.success] if result.error is None else "error"
            where = f"{result.task + ' ' if result.task else ''}seed {result.seed}"
            self.say(
                f"[{len(self._episodes)}/{self._total}] {where}: {how}, return {result.return_:g}, length {result.length}; "
                f"{self._score()}, {self._left()}"
            )
        if result.error is not None:
            self.note(f"seed {result.seed}: {result.error}", once=result.error)

    def note(self, message: str, *, once: str | None = None) -> None:
        """Something the operator should read; repetitions of ``once`` are left out."""
        if once is not None:
            if once in self._notes:
                return
            self._notes.add(once)
        self.say(message)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._console.quiet:
            self._bar = _bar(self._console)
            self._bar.add_task("episodes", total=self._total, completed=self._before, score=self._score(), left="")
            self._bar.start()
        elif self._before:
            self.say(f"going on after {self._before} of {self._total} episodes")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _score(self) -> str:
        if not self._episodes:
            return "no episode yet"
        if knows_success(self._episodes):
            return f"success {sum(bool(e.success) for e in self._episodes) / len(self._episodes):.1%}"
        sound = [e.return_ for e in self._episodes if e.error is None]
        return f"mean return {sum(sound) / len(sound):.4g}" if sound else "no return yet"

    def _left(self) -> str:
        done = len(self._episodes) - self._before
        if not done:
            return ""
        seconds = (self._clock.now() - self._started_s) / done * (self._total - len(self._episodes))
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d} left"


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    score, left = TextColumn("{task.fields[score]}"), TextColumn("{task.fields[left]}")
    return Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), score, left, console=console)
