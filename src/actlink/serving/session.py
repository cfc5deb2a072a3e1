"""Sessions and who may have one. Law: a session is one peer's state; it may outlive the peer's connection for a short while.

``Host`` is what all peers of a server share. It admits peers, binds them to a model, keeps the sessions of those whose connection
broke, and ends the others.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from actlink.dialects._base import Execution, Hello
from actlink.errors import DrainingError
from actlink.serving.access import Access
from actlink.serving.config import ServerConfig
from actlink.serving.engine import Engine
from actlink.serving.models import Models
from actlink.serving.replicas import Replicas
from actlink.serving.statistics import Counters
from actlink.serving.stepping import Stepper


class Guest(Protocol):
    """A peer, as its host sees it."""

    def goodbye(self) -> None:
        """The server is going: refuse what is unanswered and close the connection."""

    def replaced(self) -> None:
        """Another connection of the same peer continues the session: let go of it."""


@dataclass(slots=True, eq=False)
class Session:
    """What the server knows of one peer."""

    engine: Engine
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    """Secret between the two: whoever knows it can continue the session."""
    episode: int = 0
    step: int = 0
    """Control step of the next request, for wires that do not say it."""
    lanes: int = 1
    """Most lanes that a request of this session has had."""
    steppers: list[Stepper] = field(default_factory=list)
    """One for each lane, on wires that want one action per observation."""

    def lane(self, index: int) -> str:
        """Session name of a lane as the policy sees it: each row of a batched peer remembers for itself."""
        return self.id if index == 0 else f"{self.id}/{index}"

    def names(self) -> list[str]:
        return [self.lane(index) for index in range(self.lanes)]

    def begin(self, episode: int) -> None:
        """Enter an episode: what the policy remembers and what is still to be executed is dropped."""
        self.engine.reset(self.names())
        for stepper in self.steppers:
            stepper.reset()
        self.episode, self.step = episode, 0

    def widen(self, lanes: int, execution: Execution | None) -> None:
        """Make room for a request of so many lanes."""
        self.lanes = max(self.lanes, lanes)
        while execution is not None and len(self.steppers) < lanes:
            self.steppers.append(Stepper(execution, self.engine.spec))


class Host:
    """Sessions and the state that all peers of a server share; lives on the event loop."""

    def __init__(self, models: Models, config: ServerConfig, counters: Counters, access: Access) -> None:
        self.config = config
        self.counters = counters
        self.draining = False
        self.guests: set[Guest] = set()
        """All peers, also those that have not been welcomed."""
        self.models = models
        self._access = access
        self._open: dict[str, tuple[Session, Guest]] = {}
        self._parked: dict[str, tuple[Session, asyncio.TimerHandle]] = {}  # oldest first

    def vet(self, hello: Hello, *, token: str | None, carries_token: bool = True) -> None:
        """``UnauthorizedError`` or ``DrainingError`` for a peer that may not come in, whatever it asks for."""
        self._access.check_token(carries_token, hello.token, token)
        if self.draining:
            raise DrainingError("the server is shutting down")

    def admit(self, hello: Hello, guest: Guest, *, token: str | None, model: str, carries_token: bool = True) -> Session:
        """The session of a peer that has introduced itself; ``token`` and ``model`` are what its connection said.

        ``DrainingError``, ``UnauthorizedError`` or ``UnknownModelError`` if it may not come in.
        """
        self.vet(hello, token=token, carries_token=carries_token)
        replicas = self.models.engines_of(hello.model or model)
        session = self._resumed(hello.resume, replicas) or Session(replicas.least_used())
        session.engine.sessions += 1
        self._open[session.id] = (session, guest)
        self.counters.sessions += 1
        self.counters.sessions_total += 1
        return session

    def release(self, session: Session, *, keep: bool) -> None:
        """The peer has gone; ``keep`` its session for a while if it may come back."""
        del self._open[session.id]
        self.counters.sessions -= 1
        session.engine.sessions -= 1
        session.engine.leave(session.id)
        if not keep or self.draining or not self.config.resume_s or not self.config.resume_sessions:
            session.engine.forget(session.names())
            return
        if len(self._parked) >= self.config.resume_sessions:
            self._expire(next(iter(self._parked)))
        timer = asyncio.get_running_loop().call_later(self.config.resume_s, self._expire, session.id)
        self._parked[session.id] = (session, timer)

    def close(self) -> None:
        for session in list(self._parked):
            self._expire(session)

    def _resumed(self, wanted: str, replicas: Replicas) -> Session | None:
        if wanted in self._open:
            session, guest = self._open[wanted]
            if session.engine in replicas:
                guest.replaced()
                del self._open[wanted]
                self.counters.sessions -= 1
                session.engine.sessions -= 1
                session.engine.leave(session.id)
                return session
        elif wanted in self._parked:
            session, timer = self._parked[wanted]
            if session.engine in replicas:
                timer.cancel()
                del self._parked[wanted]
                return session
        return None

    def _expire(self, session_id: str) -> None:
        session, timer = self._parked.pop(session_id)
        timer.cancel()
        session.engine.forget(session.names())
