"""Which waiting requests run next, together. Law: pure; no thread, no clock, no policy: time is an argument.

One batch is out at a time. The caller announces its end with ``answered`` and then asks for the next one::

    scheduler.add([entry], now)             # a request came in; may displace older ones
    scheduler.expire(now)                   # those whose deadline has passed
    batch = scheduler.next_batch(now)       # empty: nothing to do before wake_at(), unless something happens
    scheduler.answered(batch, now)

Fair: sessions take turns, and one session has at most one of its requests in a batch (the lanes of one request count as one), so
its requests run in order. Gathering: clients that act on an answer and ask again fall into two groups that wait for each other if
the engine takes whoever is there; so for a moment after a batch the others wait for the sessions just answered, of which each
is known to come back in time or has not shown otherwise. A single session never waits, for there is nobody to wait for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from actlink.errors import OverloadedError
from actlink.types import Request

PATIENCE = 0.25
"""Gathering takes at most this part of what the last batch took: it must not cost more than it can win."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One lane of a request, waiting for inference."""

    session: str
    request: Request
    key: Hashable
    """Entries with equal keys may share a batch."""
    group: object = field(default_factory=object)
    """What the lanes of one request have in common; the scheduler only compares it."""
    lane: int = 0
    arrived_s: float = 0.0
    deadline_s: float = math.inf
    newest_wins: bool = False
    """Whether this entry takes the place of the session's waiting ones."""
    size: int = 0
    """Bytes that the observation holds."""


class Scheduler:
    """The queue in front of one policy."""

    def __init__(
        self,
        max_batch_size: int,
        *,
        gather_s: float = 0.008,
        per_session: int = 256,
        total: int = 1024,
        total_bytes: int = 1 << 30,
    ) -> None:
        self._max_batch_size = max_batch_size
        self._gather_s = gather_s
        self._limits = (per_session, total, total_bytes)
        self._queues: dict[str, deque[Entry]] = {}  # session -> its waiting entries, never empty; in the order of their turns
        self._count = 0
        self._bytes = 0
        self._earliest_s = math.inf  # no deadline in the queue is earlier
        self._expected: set[str] = set()  # just answered, about to ask again
        self._answered_s: dict[str, float] = {}  # session -> when it was last answered
        self._away_s: dict[str, float] = {}  # session -> how long it took to ask again, the last time
        self._started_s = self._ended_s = -math.inf
        self._took_s = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, entries: Sequence[Entry], now: float) -> list[Entry]:
        """Queue the lanes of one request; gives back those that it displaces. ``OverloadedError`` if there is no room for it."""
        session = entries[0].session
        waiting = list(self._queues.get(session, ()))
        displaced, kept = (waiting, []) if entries[0].newest_wins else ([], waiting)
        self._check_room(len(waiting), displaced, entries)
        self._replace(session, [*kept, *entries])
        self._returned(session, now)
        return displaced

    def expire(self, now: float) -> list[Entry]:
        """Take out the entries whose deadline has passed."""
        if now < self._earliest_s:
            return []
        late = [entry for queue in self._queues.values() for entry in queue if entry.deadline_s <= now]
        for session in dict.fromkeys(entry.session for entry in late):
            kept = [entry for entry in self._queues[session] if entry.deadline_s > now]
            self._replace(session, kept)
        waiting = (entry.deadline_s for queue in self._queues.values() for entry in queue)
        self._earliest_s = min(waiting, default=math.inf)
        return late

    def next_batch(self, now: float) -> list[Entry]:
        """The entries to run now, in the order of their sessions' turns; call ``expire`` first. Empty: wait."""
        if not self._queues or now < self._gathered_s():
            return []
        batch = self._fill()
        for session in dict.fromkeys(entry.session for entry in batch):
            kept = self._queues.pop(session)
            if kept:
                self._queues[session] = kept  # behind all others: they have had their turn
        self._count -= len(batch)
        self._bytes -= _size(batch)
        if not self._queues:
            self._earliest_s = math.inf
        self._expected.clear()
        self._started_s = now
        return batch

    def answered(self, batch: Iterable[Entry], now: float) -> None:
        """The batch is done and its sessions have their answers."""
        self._took_s = now - self._started_s
        self._ended_s = now
        patience_s = self._patience_s()
        for session in {entry.session for entry in batch}:
            self._answered_s[session] = now
            if session not in self._queues and self._away_s.get(session, 0.0) <= patience_s:
                self._expected.add(session)

    def wake_at(self) -> float | None:
        """When to look again if nothing happens before: a gathering ends or a deadline passes; None = never."""
        if not self._queues:
            return None
        gathered_s = self._gathered_s()
        moment_s = min(self._earliest_s, gathered_s if gathered_s > self._ended_s else math.inf)
        return moment_s if moment_s < math.inf else None

    def clear(self, session: str) -> list[Entry]:
        """Take out what the session has waiting."""
        return self._take(session)

    def remove(self, session: str) -> list[Entry]:
        """The session has gone: take out what it has waiting and forget it."""
        self._expected.discard(session)
        self._answered_s.pop(session, None)
        self._away_s.pop(session, None)
        return self._take(session)

    # Gathering

    def _returned(self, session: str, now: float) -> None:
        self._expected.discard(session)
        if session in self._answered_s:
            self._away_s[session] = now - self._answered_s.pop(session)

    def _patience_s(self) -> float:
        return min(self._gather_s, PATIENCE * self._took_s)

    def _gathered_s(self) -> float:
        """Until when to wait for more; the past where nobody is worth waiting for."""
        if not self._expected or self._count >= self._max_batch_size:
            return -math.inf
        return min(self._ended_s + self._patience_s(), self._earliest_s - self._took_s)

    # The queue

    def _fill(self) -> list[Entry]:
        """Up to a batch of compatible entries: one from each session in turn, then the further lanes of the same requests."""
        key = next(iter(self._queues.values()))[0].key
        batch: list[Entry] = []
        chosen: dict[str, object] = {}
        while True:
            before = len(batch)
            for session, queue in self._queues.items():
                if queue and queue[0].key == key and chosen.setdefault(session, queue[0].group) is queue[0].group:
                    batch.append(queue.popleft())
                    if len(batch) == self._max_batch_size:
                        return batch
            if len(batch) == before:
                return batch

    def _check_room(self, waiting: int, displaced: Sequence[Entry], entries: Sequence[Entry]) -> None:
        per_session, total, total_bytes = self._limits
        more = len(entries) - len(displaced)
        if waiting + more > per_session:
            raise OverloadedError(
                f"one session may have {per_session} requests waiting; this one has {waiting} and asks {len(entries)} more"
            )
        if self._count + more > total or self._bytes + _size(entries) - _size(displaced) > total_bytes:
            raise OverloadedError(f"the server's queue is full ({self._count} requests, {self._bytes >> 20} MiB); ask again later")

    def _take(self, session: str) -> list[Entry]:
        taken = list(self._queues.get(session, ()))
        self._replace(session, [])
        return taken

    def _replace(self, session: str, entries: Sequence[Entry]) -> None:
        """Make ``entries`` what the session has waiting; it keeps its turn if it has one."""
        old = self._queues.pop(session, ()) if not entries else self._queues.get(session, ())
        self._count += len(entries) - len(old)
        self._bytes += _size(entries) - _size(old)
        if entries:
            self._queues[session] = deque(entries)
            self._earliest_s = min(self._earliest_s, *(entry.deadline_s for entry in entries))


def _size(entries: Iterable[Entry]) -> int:
    return sum(entry.size for entry in entries)
