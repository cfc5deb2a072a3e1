"""Questions and answers over one connection, on the client's side. Law: blocking; every reply is for the question it answers.

Ends with its connection; ``_upstream`` makes another, and whatever waits here for its answer learns that there will be none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from actlink.clock import Clock
from actlink.dialects._base import Bye, ClientDialect, Event, Failed, Frame, Ping, Reply
from actlink.errors import ActlinkError, LinkClosedError, LinkTimeoutError, LocalProtocolError
from actlink.transports._base import Link

GOODBYE_S = 1.0
"""How long the last words may take."""


class Exchange:
    """One connection and what was asked over it; for one thread at a time, but ``close`` may be called from any."""

    def __init__(self, link: Link, dialect: ClientDialect, where: str, clock: Clock, numbers: Iterator[int]) -> None:
        """``numbers`` are those of the signs of life that it asks for while it waits; its caller's are of the same source."""
        self.dialect = dialect
        self.heartbeat_s = 0.0
        """A peer silent for two of these counts as dead; 0 = never. Before its welcome it cannot be asked for a sign of life."""
        self.closed = False
        self._link = link
        self._where = where
        self._clock = clock
        self._numbers = numbers
        self._waiting: dict[Any, Reply | None] = {}  # call -> its reply, in the order of asking
        self._unheard: set[Any] = set()  # calls whose reply nobody wants

    def write(self, events: Sequence[Event], timeout_s: float, wanted: Any = None) -> bool:
        """Write what the wire has words for; False if it has none for any of it. Only the reply to the call ``wanted`` is kept.

        Anything that goes wrong closes the connection, half a frame may be out; but for a ``LocalProtocolError`` where calls have
        numbers: nothing was written then, and nothing is mixed up by a question that was never asked.
        """
        if self.closed:
            raise LinkClosedError(f"{self._where}: the connection was lost")
        frames: list[Frame] = []
        asked: list[Any] = []
        try:
            for event in events:
                written = self.dialect.send(event)
                frames += written
                if written:
                    asked.append(getattr(event, "call", None))
            self._expect(asked, wanted)
            self._link.send(frames, timeout_s)
        except LocalProtocolError:
            if not self.dialect.numbered:
                self.close()
            for call in asked:
                self._forget(call)
            raise
        except BaseException:
            self.close()
            raise
        return bool(frames)

    def await_greeting(self, number: int, deadline_s: float, what: str) -> Reply:
        """``wait`` on a wire whose server speaks first: its greeting is the answer to a question that was not asked."""
        self._waiting.setdefault(number)
        return self.wait(number, deadline_s, what)

    def wait(self, number: int, deadline_s: float, what: str) -> Reply:
        """Read until the reply to ``number`` is there; a peer silent for two heartbeats counts as dead before ``deadline_s``."""
        asked_alive = False
        heard_s = self._clock.now()
        while (reply := self._waiting.get(number)) is None:
            if self.closed:
                raise LinkClosedError(f"{self._where}: the connection was lost")
            now_s, beat_s = self._clock.now(), self.heartbeat_s
            if now_s >= deadline_s:
                raise LinkTimeoutError(f"{self._where}: no answer in time; expected {what}")
            if beat_s and now_s - heard_s >= 2 * beat_s:
                raise LinkTimeoutError(f"{self._where}: no sign of life for {now_s - heard_s:.1f} s; expected {what}")
            if beat_s and now_s - heard_s >= beat_s and not asked_alive:
                asked_alive = True
                self.write([Ping(now_s, next(self._numbers))], deadline_s - now_s)
            next_look_s = min(deadline_s, heard_s + beat_s * (2 if asked_alive else 1)) if beat_s else deadline_s
            if self._read(max(0.0, next_look_s - now_s)):
                heard_s, asked_alive = self._clock.now(), False
        self._forget(number)
        return reply

    def say_goodbye(self) -> None:
        """Tell the server that we are leaving, as far as that still works, and close."""
        if not self.closed:
            with contextlib.suppress(ActlinkError):  # it is going away anyway
                self._link.send(self.dialect.send(Bye()), GOODBYE_S)
        self.close()

    def close(self) -> None:
        """Close the connection; who waits for an answer gets a ``LinkClosedError``."""
        self.closed = True
        self._link.close()

    def _expect(self, calls: Sequence[Any], wanted: Any) -> None:
        for call in calls:
            self._waiting[call] = None
            if call != wanted:
                self._unheard.add(call)

    def _forget(self, call: Any) -> None:
        self._waiting.pop(call, None)
        self._unheard.discard(call)

    def _read(self, timeout_s: float) -> bool:
        """Take in one frame; False if none came in time."""
        try:
            frame = self._link.receive(timeout_s)
        except LinkTimeoutError:
            return False
        for reply in self.dialect.receive(frame):
            if isinstance(reply, Failed) and reply.call is None and self.dialect.numbered:
                raise reply.error
            self._file(reply, reply.call if self.dialect.numbered else self._oldest())
        return True

    def _oldest(self) -> Any:
        """The call that the next reply of a wire without call numbers answers."""
        return next((call for call, reply in self._waiting.items() if reply is None), None)

    def _file(self, reply: Reply, call: Any) -> None:
        if call in self._unheard:
            self._forget(call)
        elif call in self._waiting:  # others answer calls that nobody waits for any more
            self._waiting[call] = reply
