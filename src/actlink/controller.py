"""Policy + strategy + clock + hold: the only loop that knows time. Law: no strategy sees a chunk of another episode or step.

``Controller`` is for a world that waits: no step passes while a chunk is awaited. ``Conversation`` is everything about asking that
does not depend on that, so a controller for a world that moves on needs a loop of its own and nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Protocol

from actlink.clock import Clock
from actlink.errors import ActlinkError, ConfigError, LocalProtocolError, PolicyError, UnauthorizedError, UnknownModelError
from actlink.execution._base import Replan, Strategy
from actlink.policies._base import Policy
from actlink.types import ActionChunk, Array, Observation, Request

logger = logging.getLogger("actlink.controller")

ASK_AGAIN = 3
"""How often a chunk for another episode or step is dropped and asked for again before that counts as the policy's failure."""

_NOT_THE_EPISODES = (ConfigError, LocalProtocolError, UnauthorizedError, UnknownModelError)
"""Errors that the next episode would meet as well: the operator has to act."""


class World(Protocol):
    """What a controller drives: an environment in a rollout, a robot."""

    def observe(self) -> Observation:
        """The observation of the present control step."""

    def act(self, action: Array) -> bool:
        """Run one control step with ``action`` ``(action_dim,)``; False when the episode ended with it."""

    def hold_action(self, last: Array | None) -> Array:
        """The action that keeps the embodiment where it is; ``last`` is the previous action, None at the start."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one run was like, apart from what it achieved."""

    steps: int = 0
    starved: int = 0
    """Control steps that held for want of an action."""
    dropped: int = 0
    """Chunks thrown away because they were for another episode or step."""
    latencies_ms: tuple[float, ...] = ()
    """For every chunk, from the request to its arrival."""
    inference_ms: tuple[float, ...] = ()
    """For every chunk whose timing has it, the policy's own time (``infer_ms``)."""
    batched: int = 0
    """Chunks of which the timing says that other requests ran in the same batch."""
    error: str | None = None
    """Why the run ended before its time, as ``code: message``; None where the world ended it."""


@dataclass
class _Tally:
    """A ``Record`` while it is still growing."""

    steps: int = 0
    starved: int = 0
    dropped: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    batched: int = 0

    def record(self, error: str | None) -> Record:
        times = tuple(self.latencies_ms), tuple(self.inference_ms)
        return Record(self.steps, self.starved, self.dropped, *times, self.batched, error)


class Conversation:
    """One session with a policy: counts its episodes, carries the policy's memory, measures every answer."""

    def __init__(self, policy: Policy, clock: Clock, session: str = "") -> None:
        self._policy = policy
        self._clock = clock
        self._session = session
        self._episode = -1  # the first is 0
        self._memory: object = None
        self.tally = _Tally()

    def begin(self) -> None:
        """A new episode: the policy's memory is dropped, here and, by the episode's number, on a server."""
        self._episode += 1
        self._memory = None
        self.tally = _Tally()

    def ask(self, observation: Observation, replan: Replan) -> ActionChunk:
        """The chunk for ``replan``, checked against the policy's spec.

        ``SpecError``: observation or chunk does not fit. ``PolicyError``: the policy failed. Whatever a remote policy's link or
        server adds to these.
        """
        spec = self._policy.spec
        request = Request(
            spec.check(observation), replan.step, self._episode, self._session, replan.prefix, replan.inference_delay, self._memory
        )
        for _ in range(ASK_AGAIN):
            chunk = self._infer(request)
            if (chunk.episode, chunk.step) == (request.episode, request.step):
                actions = spec.check_actions(chunk.actions)
                self._memory = chunk.memory
                return ActionChunk(actions, chunk.step, chunk.episode, chunk.session, None, chunk.timing)
            self.tally.dropped += 1
        raise PolicyError(
            f"asked for a chunk at step {request.step} of episode {request.episode}, got one at step {chunk.step} of episode "
            f"{chunk.episode}, {ASK_AGAIN} times; a chunk has the step and the episode of the request it answers"
        )

    def _infer(self, request: Request) -> ActionChunk:
        started_s = self._clock.now()
        try:
            results = self._policy.infer([request])
        except ActlinkError:
            raise
        except Exception as error:
            logger.exception("the policy failed at step %d", request.step)
            raise PolicyError(f"{type(error).__name__}: {error}") from error
        latency_ms = 1e3 * (self._clock.now() - started_s)
        if len(results) != 1:
            raise PolicyError(f"expected one result for one request, got {len(results)}")
        (result,) = results
        if isinstance(result, ActlinkError):
            raise result
        self.tally.latencies_ms.append(latency_ms)
        if "infer_ms" in result.timing:
            self.tally.inference_ms.append(float(result.timing["infer_ms"]))
        self.tally.batched += result.timing.get("batch_size", 1.0) > 1
        return result


class Controller:
    """Runs a policy in a world that waits, one episode after the other."""

    def __init__(self, policy: Policy, strategy: Strategy, clock: Clock, *, session: str = "") -> None:
        self._strategy = strategy
        self._conversation = Conversation(policy, clock, session)

    def run(self, world: World) -> Record:
        """One episode, until ``world.act`` says that it is over or something fails.

        What failed in this episode alone (``PolicyError``, ``SpecError``, ``SimulationError``, a refusal, a reply that its wire
        does not allow) ends it and stands in ``Record.error``. Errors of link and server (``infrastructure``), and those the
        operator has to put right, are raised.
        """
        self._strategy.reset()
        self._conversation.begin()
        tally = self._conversation.tally
        try:
            self._loop(world, tally)
        except ActlinkError as error:
            if error.infrastructure or isinstance(error, _NOT_THE_EPISODES):
                raise
            return tally.record(f"{error.code}: {error}")
        return tally.record(None)

    def _loop(self, world: World, tally: _Tally) -> None:
        last: Array | None = None
        going = True
        while going:
            replan = self._strategy.replan(tally.steps)
            if replan is not None:
                self._strategy.add(self._conversation.ask(world.observe(), replan), tally.steps)
            action = self._strategy.action(tally.steps)
            if action is None:
                tally.starved += 1
                action = world.hold_action(last)
            going = world.act(action)
            last = action
            tally.steps += 1
