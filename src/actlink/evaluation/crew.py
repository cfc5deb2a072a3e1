"""The worker processes of an evaluation, as their parent sees them. Law: a trial is somebody's, waiting or finished; never lost.

Trials are handed out one by one to whoever is free. A worker that dies is replaced and its trial run again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeAlias

from actlink.clock import Clock
from actlink.errors import ConfigError, ServerAwayError, StoppedError, from_code
from actlink.evaluation import worker
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import EpisodeResult

MAX_DEATHS = 3
"""Workers that one trial, or starting up, may cost before it is given up."""
LOOK_S = 0.5
"""How often the parent looks up when nothing happens."""
GOODBYE_S = 3.0
"""How long a worker may take to leave before the next, harder word."""
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 for workers, unless set already: numpy with a pool per worker makes all of them slow."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something the operator should read."""

    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the first worker that was ready found."""

    policy: Mapping[str, str | bool | None]
    """Name, digest and whether it runs deterministically."""
    task: str
    strategy: Mapping[str, Any]


Event: TypeAlias = "EpisodeResult | Note"


@dataclass(eq=False)
class _Member:
    process: BaseProcess
    connection: Connection
    trial: Trial | None = None
    ready: bool = False
    away_s: float | None = None
    """Since when it has not reached the server; None while it does."""


class Crew:
    """Up to ``size`` workers made from ``setup``; a context manager that leaves no process behind."""

    def __init__(self, setup: worker.Setup, size: int, clock: Clock, *, server_timeout_s: float, video_every: int = 0) -> None:
        if size < 1:
            raise ConfigError(f"workers: expected at least 1, got {size}")
        self._setup = setup
        self.size = size
        self._clock = clock
        self._server_timeout_s = server_timeout_s
        self._video_every = video_every
        self._members: list[_Member] = []
        self._waiting: deque[Trial] = deque()
        self._deaths: Counter[Trial | None] = Counter()
        self._given_up: list[str] = []
        self._last_away = ""
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise RuntimeError("known once start() has run to its end")
        return self._facts

    def start(self) -> Iterator[Note]:
        """Start one worker and go on until it is ready; then ``facts`` is known. Raises what keeps it from being ready."""
        while self._facts is None:
            self._hire(1)
            yield from (event for event in self._listen() if isinstance(event, Note))

    def work(self, trials: Sequence[Trial]) -> Iterator[Event]:
        """Run ``trials``, in any order; yields every result once.

        ``ServerAwayError`` when no worker has reached the server for ``server_timeout_s``. ``StoppedError`` at the end, when trials
        had to be given up.
        """
        self._waiting.extend(trials)
        while unfinished := len(self._waiting) + sum(member.trial is not None for member in self._members):
            self._hire(min(self.size, unfinished))
            for member in self._members:
                if member.ready and member.trial is None and self._waiting:
                    self._hand_out(member)
            yield from self._listen()
        if self._given_up:
            raise StoppedError("not every trial could be run:\n  " + "\n  ".join(self._given_up))

    def stop(self, *, at_once: bool = False) -> None:
        """End every worker: asked first (unless ``at_once``), then told, then forced."""
        members, self._members = self._members, []
        for member in members:
            if member.trial is None and member.ready and not at_once:
                with contextlib.suppress(OSError):
                    member.connection.send_bytes(b'{"kind": "stop"}')
            else:
                member.process.terminate()
        for member in members:
            for last_resort in (member.process.terminate, member.process.kill):
                member.process.join(GOODBYE_S)
                if member.process.is_alive():
                    last_resort()
            member.process.join()
            member.connection.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(at_once=error is not None)

    def _hire(self, size: int) -> None:
        """Start workers until there are ``size``."""
        context = multiprocessing.get_context("spawn")
        while len(self._members) < size:
            ours, theirs = context.Pipe()
            process = context.Process(target=worker.main, args=(self._setup, theirs), daemon=True)
            with _environment_of_workers(), _interrupts_held():
                process.start()
            theirs.close()
            self._members.append(_Member(process, ours))

    def _hand_out(self, member: _Member) -> None:
        trial = self._waiting.popleft()
        deaths = self._deaths[trial]
        # A renderer can take the whole process down: the second time goes without.
        record = bool(self._video_every) and trial.episode % self._video_every == 0 and deaths == 0
        member.trial = trial
        with contextlib.suppress(OSError):  # a dead worker is noticed where it is listened to
            message = {"kind": "trial", "trial": asdict(trial), "attempts": deaths, "video": record}
            member.connection.send_bytes(json.dumps(message).encode())

    def _listen(self) -> Iterator[Event]:
        """What the workers say within the next moment."""
        talking = wait([member.connection for member in self._members], LOOK_S)
        for member in list(self._members):
            if member.connection in talking:
                yield from self._hear(member)
        self._mind_the_server()

    def _hear(self, member: _Member) -> Iterator[Event]:
        try:
            message = json.loads(member.connection.recv_bytes())
        except (EOFError, OSError):
            yield self._bury(member)
            return
        kind = message["kind"]
        if kind == "result":
            member.trial, member.away_s = None, None
            yield EpisodeResult.from_dict(message["episode"])
        elif kind == "ready":
            member.ready, member.away_s = True, None
            self._compare(Facts(message["policy"], message["task"], message["strategy"]))
        elif kind == "away":
            self._last_away = message["message"]
            if member.away_s is None:
                member.away_s = self._clock.now()
                yield Note(f"{self._last_away}; trying again for up to {self._server_timeout_s:g} s")
        elif kind == "back":
            member.away_s = None
        elif kind == "gave_up":
            member.trial, member.away_s = None, None
            self._given_up.append(message["message"])
            yield Note(message["message"])
        elif kind == "note":
            yield Note(message["message"])
        else:
            raise from_code(message["code"], message["message"])

    def _compare(self, facts: Facts) -> None:
        if self._facts is None:
            self._facts = facts
        elif facts != self._facts:
            raise ConfigError(f"workers do not agree on what they run: one has {self._facts}, another {facts}")

    def _bury(self, member: _Member) -> Note:
        """A worker is gone, and will be replaced if there is work; its trial is the next to be handed out."""
        self._members.remove(member)
        member.process.join(5.0)
        member.connection.close()
        how = _ending(member.process.exitcode)
        trial = member.trial
        self._deaths[trial] += 1
        if trial is None and self._deaths[None] >= MAX_DEATHS:
            raise StoppedError(f"workers die before their first trial: {MAX_DEATHS} times, the last {how}")
        if trial is None:
            return Note(f"a worker died {how}")
        if self._deaths[trial] < MAX_DEATHS:
            self._waiting.appendleft(trial)
            return Note(f"{trial}: its worker died {how}; running it again in another")
        self._given_up.append(f"{trial}: {MAX_DEATHS} workers died of it, the last {how}")
        return Note(f"{trial}: put aside, {MAX_DEATHS} workers died of it")

    def _mind_the_server(self) -> None:
        busy = [member for member in self._members if member.trial is not None or not member.ready]
        since = [member.away_s for member in busy if member.away_s is not None]
        if busy and len(since) == len(busy) and self._clock.now() - max(since) > self._server_timeout_s:
            raise ServerAwayError(f"{self._setup.policy}: away for more than {self._server_timeout_s:g} s: {self._last_away}")


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "(it closed its pipe)"
    if exitcode < 0:
        with contextlib.suppress(ValueError):
            return f"of {signal.Signals(-exitcode).name}"
    return f"with exit code {exitcode}"


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """Spawned processes inherit the environment, and numpy reads it when it is imported."""
    added = [name for name in ONE_THREAD if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A child inherits the signal mask, so that Ctrl-C reaches the parent alone from the child's first instruction on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
