"""Answers that wait to be fetched, and peers that wait for answers. Law: the newest answer wins; a poll is answered exactly once.

For wires whose peers send observations with one call and fetch action chunks with another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from actlink.dialects._base import Chunks, Failed, Frame, Poll
from actlink.errors import SupersededError


class Mailbox:
    """One peer's; lives on the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Chunks | Failed], None],
        send_frame: Callable[[Frame], None],
        busy: Callable[[], bool],
    ) -> None:
        """``busy`` tells whether an answer is being worked on: then a poll waits for it beyond its own time."""
        self._loop = loop
        self._send = send
        self._send_frame = send_frame
        self._busy = busy
        self._ready: Chunks | Failed | None = None
        self._poll: Poll | None = None
        self._polled_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, reply: Chunks | Failed) -> None:
        """An answer is there; one that a newer observation has made useless is nobody's."""
        if isinstance(reply, Failed) and isinstance(reply.error, SupersededError):
            return
        self._ready = reply
        self._hand_over()

    def poll(self, poll: Poll) -> None:
        """The peer asks; an earlier poll that still waits gets its empty reply."""
        earlier = self._take_poll()
        if earlier is not None:
            self._send_frame(earlier.empty_reply)
        self._poll, self._polled_s = poll, self._loop.time()
        if self._ready is None:
            self._timer = self._loop.call_later(poll.wait_s, self._expired)
        else:
            self._hand_over()

    def clear(self) -> None:
        """What is ready belongs to an episode or a connection that is over; who waits gets the empty reply."""
        self._ready = None
        poll = self._take_poll()
        if poll is not None:
            self._send_frame(poll.empty_reply)

    def _hand_over(self) -> None:
        """Give what is ready to whoever waits for it, though not before the poll has lasted its least time."""
        if self._poll is None or self._ready is None:
            return
        early_s = self._polled_s + self._poll.least_s - self._loop.time()
        if early_s > 0 and isinstance(self._ready, Chunks):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(early_s, self._hand_over)
            return
        call = self._poll.call
        self._take_poll()
        reply, self._ready = self._ready, None
        self._send(replace(reply, call=call))

    def _expired(self) -> None:
        if self._busy():
            return  # the answer on its way ends the poll
        poll = self._take_poll()
        if poll is not None:
            self._send_frame(poll.empty_reply)

    def _take_poll(self) -> Poll | None:
        poll, self._poll = self._poll, None
        if self._timer is not None:
            self._timer.cancel()
        return poll
