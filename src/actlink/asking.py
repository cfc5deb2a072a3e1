"""How a control loop asks for chunks. Law: an answer comes back with the step it was asked for, whenever it comes.

An ``Asker`` is all that the loop knows of policies and networks. ``Waiting`` answers within the tick: for worlds that stand still
meanwhile. One on a thread (``actlink.asking_thread``) is for worlds that do not. ``Conversation`` is what they share: one session
with a policy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actlink.clock import Clock
from actlink.errors import ActlinkError, PolicyError
from actlink.execution._base import Replan
from actlink.policies._base import Policy
from actlink.types import ActionChunk, Observation, Request

logger = logging.getLogger("actlink.controller")

ASK_AGAIN = 3
"""How often a chunk for another episode or step is dropped and asked for again before that counts as the policy's failure."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What became of one question: a chunk, or the error that came in its place."""

    step: int
    """Control step the question was asked for; where there is a chunk, the step of its row 0."""
    chunk: ActionChunk | None
    error: ActlinkError | None
    """Why no chunk came; the loop tells the strategy and goes on. An error that must end the run is raised instead."""
    sent_s: float
    arrived_s: float
    """Both by the loop's clock."""


class Asker(Protocol):
    """Takes questions, gives arrivals. Every question has exactly one arrival, unless its episode ends first."""

    @property
    def dropped(self) -> int:
        """Chunks of this episode that were thrown away because they were for another episode or step."""

    def begin(self, episode: int) -> None:
        """A new episode, counted from 0: what is still under way belongs to none and never arrives."""

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        """Ask for the chunk of ``replan``; an error that is raised ends the run."""

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        """What has come since the last call, in the order of arrival; never waits. An error that is raised ends the run."""

    def close(self) -> None:
        """Nothing will be asked any more; returns without waiting for what is under way."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A chunk, and when its request left and it came."""

    chunk: ActionChunk
    sent_s: float
    arrived_s: float


class Conversation:
    """One session with a policy: carries the policy's memory, checks and measures every answer. For one thread at a time."""

    def __init__(self, policy: Policy, clock: Clock, session: str = "") -> None:
        self._policy = policy
        self._clock = clock
        self._session = session
        self._episode = 0
        self._memory: object = None
        self.dropped = 0
        """Chunks of this episode that were for another episode or step."""

    def begin(self, episode: int) -> None:
        """A new episode: the policy's memory is dropped, here and, by the episode's number, on a server."""
        self._episode = episode
        self._memory = None
        self.dropped = 0

    def ask(self, observation: Observation, replan: Replan) -> Answer:
        """The chunk for ``replan``, checked against the policy's spec; blocks until it is there.

        ``SpecError``: observation or chunk does not fit. ``PolicyError``: the policy failed. Whatever a remote policy's link or
        server adds to these.
        """
        spec = self._policy.spec
        request = Request(
            spec.check(observation), replan.step, self._episode, self._session, replan.prefix, replan.inference_delay, self._memory
        )
        for _ in range(ASK_AGAIN):
            sent_s = self._clock.now()
            chunk = self._infer(request)
            arrived_s = self._clock.now()
            if (chunk.episode, chunk.step) == (request.episode, request.step):
                actions = spec.check_actions(chunk.actions)
                self._memory = chunk.memory
                own = ActionChunk(actions, chunk.step, chunk.episode, chunk.session, None, chunk.timing)
                return Answer(own, sent_s, arrived_s)
            self.dropped += 1
        raise PolicyError(
            f"asked for a chunk at step {request.step} of episode {request.episode}, got one at step {chunk.step} of episode "
            f"{chunk.episode}, {ASK_AGAIN} times; a chunk has the step and the episode of the request it answers"
        )

    def _infer(self, request: Request) -> ActionChunk:
        try:
            results = self._policy.infer([request])
        except ActlinkError:
            raise
        except Exception as error:
            logger.exception("the policy failed at step %d", request.step)
            raise PolicyError(f"{type(error).__name__}: {error}") from error
        if len(results) != 1:
            raise PolicyError(f"expected one result for one request, got {len(results)}")
        (result,) = results
        if isinstance(result, ActlinkError):
            raise result
        return result


class Waiting:
    """Asks and waits: the chunk arrives in the very tick that asked for it. Every error ends the run."""

    def __init__(self, policy: Policy, clock: Clock, session: str = "") -> None:
        self._conversation = Conversation(policy, clock, session)
        self._arrivals: list[Arrival] = []

    @property
    def dropped(self) -> int:
        return self._conversation.dropped

    def begin(self, episode: int) -> None:
        self._conversation.begin(episode)
        self._arrivals = []

    def ask(self, observation: Observation, replan: Replan, now_s: float) -> None:
        answer = self._conversation.ask(observation, replan)
        self._arrivals.append(Arrival(replan.step, answer.chunk, None, answer.sent_s, answer.arrived_s))

    def arrived(self, now_s: float) -> Sequence[Arrival]:
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def close(self) -> None:
        """Nothing to let go of: the policy belongs to whoever opened it."""
