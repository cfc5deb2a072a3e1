"""Asking on a thread of its own. Law: no call of the control loop ever waits, whatever the network does.

Bounded: one question is under way, one may wait behind it, and a newer one takes that one's place. After an error of the link the
thread makes sure that the server is back before it takes questions again, so that what is asked then was seen after the outage; a
question in the meantime is lost at once.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actlink.asking import Arrival, Conversation
from actlink.clock import Clock
from actlink.errors import (
    ActlinkError,
    ConfigError,
    LinkClosedError,
    LocalProtocolError,
    PolicyError,
    SupersededError,
    UnauthorizedError,
    UnknownModelError,
)
from actlink.execution._base import Replan
from actlink.policies._base import Policy
from actlink.types import Observation

logger = logging.getLogger("actlink.controller")

FATAL = (ConfigError, LocalProtocolError, UnauthorizedError, UnknownModelError)
"""Errors that asking again would only meet again: raised to the loop, whose run they end."""

BACKOFF_FIRST_S = 0.05
BACKOFF_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    observation: Observation
    replan: Replan
    episode: int
    asked_s: float


class Threaded:
    """An ``Asker`` whose policy is asked on a daemon thread; see the module."""

    def __init__(self, policy: Policy, clock: Clock, session: str = "", *, reach: Callable[[], None] | None = None) -> None:
        """``reach``: called on the thread after an error of the link, again and again with growing pauses, until it raises none.

        What it raises of ``FATAL`` (another policy answers there now) ends the run.
        """
        self._conversation = Conversation(policy, clock, session)
        self._remembers = policy.spec.stateful
        self._renew = False
        self._clock = clock
        self._reach = reach
        self._changed = threading.Condition()
        self._waiting: _Question | None = None
        self._arrivals: queue.SimpleQueue[tuple[int, Arrival]] = queue.SimpleQueue()
        self._episode = 0
        self._away: ActlinkError | None = None  # the link's error, until the server is back
        self._fatal: ActlinkError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="actlink-asker", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._conversation.dropped

    @property
    def away(self) -> ActlinkError | None:
        """Why nothing can be asked at present; None while the server is there as far as is known."""
        return self._away

    def begin(self, episode: int) -> None:
        with self._changed:
            self._episode = episode
            self._waiting = None

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        question = _Question(observation, replan, self._episode, now_s)
        with self._changed:
            if self._closed:
                raise LinkClosedError("asked after close")
            away, overtaken = self._away, None
            if away is None:
                overtaken, self._waiting = self._waiting, question
                self._changed.notify()
        if away is not None:
            self._lose(question, away)
        if overtaken is not None:
            self._lose(overtaken, SupersededError(f"the question of step {replan.step} took its place"))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        found: list[Arrival] = []
        while not self._arrivals.empty():
            episode, arrival = self._arrivals.get_nowait()
            if episode == self._episode:
                found.append(arrival)
        if self._fatal is not None:
            raise self._fatal
        return found

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify()

    # The thread

    def _work(self) -> None:
        episode, number = None, -1
        while (question := self._next()) is not None:
            if question.episode != episode or self._renew:
                episode, number = question.episode, number + 1
                self._renew = False
                self._conversation.begin(number)
            try:
                answer = self._conversation.ask(question.observation, question.replan)
            except FATAL as error:
                self._end(error)
                return
            except ActlinkError as error:
                self._failed(question, error)
            except Exception as error:  # a bug, here or in somebody's dialect: the arm must not pay for it
                logger.exception("asking failed at step %d", question.replan.step)
                self._failed(question, PolicyError(f"{type(error).__name__}: {error}"))
            else:
                # The conversation counts anew after an outage; the loop knows its own episodes alone.
                chunk = replace(answer.chunk, episode=question.episode)
                arrival = Arrival(question.replan.step, chunk, None, answer.sent_s, answer.arrived_s)
                self._arrivals.put((question.episode, arrival))

    def _next(self) -> _Question | None:
        with self._changed:
            while self._waiting is None and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            question, self._waiting = self._waiting, None
            return question

    def _failed(self, question: _Question, error: ActlinkError) -> None:
        if self._closed:
            return
        logger.warning("no chunk for step %d: %s", question.replan.step, error)
        if not error.infrastructure or self._reach is None:
            self._lose(question, error)
            return
        with self._changed:
            self._away = error  # before the loop hears of it, so that it does not ask at once
            overtaken, self._waiting = self._waiting, None
        self._lose(question, error)
        if overtaken is not None:
            self._lose(overtaken, error)
        self._wait_for_server(self._reach)

    def _wait_for_server(self, reach: Callable[[], None]) -> None:
        pause_s = BACKOFF_FIRST_S
        while not self._closed:
            try:
                reach()
            except FATAL as error:
                self._end(error)
                return
            except ActlinkError as error:
                logger.debug("the server is still away: %s", error)
                with self._changed:
                    # Jitter keeps a fleet from knocking in step after a restart.
                    self._changed.wait_for(lambda: self._closed, pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, BACKOFF_LIMIT_S)
            else:
                logger.info("the server is back%s", "; the policy begins anew" if self._remembers else "")
                # What a server remembered of an episode is lost with the connection; going on with half of it is worse than none.
                self._renew = self._remembers
                self._away = None
                return

    def _lose(self, question: _Question, error: ActlinkError) -> None:
        arrival = Arrival(question.replan.step, None, error, question.asked_s, self._clock.now())
        self._arrivals.put((question.episode, arrival))

    def _end(self, error: ActlinkError) -> None:
        self._fatal = error
