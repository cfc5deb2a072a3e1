"""Answers in the order of the questions, for wires that have no numbers. Law: pure; what is ready waits for what came before it.

A dialect of such a wire answers some messages by itself (those it cannot read), while the session still works on earlier ones.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from actlink.dialects._base import Event, Frame, Say
from actlink.errors import RemoteProtocolError

MOST = 64
"""Questions that may wait for their answers; honest peers of such wires ask one at a time."""


class Owed:
    """What one peer is still to be told, oldest first."""

    def __init__(self) -> None:
        self._owed: deque[tuple[Any, Frame | None]] = deque()  # what the answer needs to know; the answer, where it is ready

    @property
    def nothing(self) -> bool:
        return not self._owed

    def ask(self, about: Any = None) -> None:
        """The session has been asked; ``about`` is given back with its answer. ``RemoteProtocolError`` if it is one too many."""
        self._add(about, None)

    def say(self, frame: Frame) -> list[Event]:
        """Answer without the session: now, or after what is owed before it."""
        if self.nothing:
            return [Say((frame,))]
        self._add(None, frame)
        return []

    def about(self) -> Any:
        """What was noted of the question that the session answers now; None if it was not asked."""
        return self._owed[0][0] if self._owed else None

    def answer(self, frame: Frame) -> list[Frame]:
        """The frames to send, now that the session has answered its oldest question."""
        frames = [frame]
        if self._owed:
            self._owed.popleft()
        while self._owed and (ready := self._owed[0][1]) is not None:
            frames.append(ready)
            self._owed.popleft()
        return frames

    def _add(self, about: Any, ready: Frame | None) -> None:
        if len(self._owed) >= MOST:
            raise RemoteProtocolError(f"more than {MOST} messages without waiting for an answer")
        self._owed.append((about, ready))
