"""The IL-Studio wire: pickled MetaObs up, a list of actions down, over TCP with a length before each message.

The wire has no opening and no word for an error or a reset: an inference that failed is answered with an empty list, bytes that are
no pickle end the connection, and the timestep of an observation tells where an episode begins. ``docs/dialects/ilstudio.md`` has it
byte for byte.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from actlink.codecs import safe_pickle
from actlink.dialects import _ilstudio_actions as actions
from actlink.dialects import _ilstudio_observations as observations
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Event,
    Failed,
    Frame,
    Infer,
    Reply,
    Reset,
    ServerDialect,
    Welcome,
)
from actlink.dialects._ilstudio_observations import Misfit
from actlink.dialects._in_order import Owed
from actlink.errors import PolicyError, RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

logger = logging.getLogger("actlink.dialects.ilstudio")

DEFAULT_PORTS = {"tcp": 5000}

_REPLY_LIMITS = safe_pickle.Limits(operations=400_000, objects=100_000)
"""A reply has about 45 operations and 3 objects for each step and environment: 100 steps of 80 environments."""


@dataclass(frozen=True, slots=True)
class Config:
    """Options of an ilstudio address or listener."""

    chunk_size: int | None = None
    """Server: most actions of a reply; None (or below 1) = the whole chunk."""


class Server(ServerDialect):
    """The server's half."""

    transports: ClassVar[Sequence[str]] = ("tcp", "memory")
    tells_reasons = False

    def __init__(self, config: Config) -> None:
        self._rows = config.chunk_size if config.chunk_size is not None and config.chunk_size > 0 else None
        self._spec = Spec({}, Field((None,)))  # until the welcome
        self._owed = Owed()
        self._begun = False

    def receive(self, frame: Frame) -> list[Event]:
        value = safe_pickle.decode(frame.data)
        try:
            lanes = observations.read(value, self._spec)
        except Misfit as error:
            logger.warning("a message was answered with an empty list: %s", error)
            return self._owed.say(Frame((actions.NONE,)))
        self._owed.ask()
        starts_again = self._begun and all(lane.step == 0 for lane in lanes)
        self._begun = True
        asked = Infer(tuple(lanes))
        return [Reset(), asked] if starts_again else [asked]

    def send(self, reply: Reply) -> list[Frame]:
        if isinstance(reply, Welcome):
            self._spec = reply.spec
        if isinstance(reply, Chunks):
            return self._owed.answer(Frame((self._actions(reply),)))
        if isinstance(reply, Failed) and not self._owed.nothing:
            logger.warning("an observation was answered with an empty list: %s", reply.error)
            return self._owed.answer(Frame((actions.NONE,)))
        return []  # a Welcome, a Done, or a Failed that nobody waits for: the wire has no word for them

    def _actions(self, reply: Chunks) -> bytes:
        chunks = [result for result in reply.results if isinstance(result, ActionChunk)]
        if len(chunks) != len(reply.results):
            logger.warning("an observation of %d rows was answered with an empty list: a row failed", len(reply.results))
            return actions.NONE
        return actions.write([chunk.actions[: self._rows] for chunk in chunks], self._spec)


class Client(ClientDialect):
    """The client's half; it reads every form of reply that was ever sent."""

    def __init__(self, config: Config) -> None:
        self._spec: Spec | None = None
        self._asked: deque[Infer] = deque()

    def prepare(self, spec: Spec | None) -> None:
        self._spec = spec

    def send(self, event: Event) -> list[Frame]:
        if not isinstance(event, Infer):
            return []
        frame = Frame(tuple(safe_pickle.encode(observations.write(event.lanes, self._spec))))
        self._asked.append(event)
        return [frame]

    def receive(self, frame: Frame) -> list[Reply]:
        value = safe_pickle.decode(frame.data, _REPLY_LIMITS)
        if not self._asked:
            raise RemoteProtocolError("a reply to nothing that was asked")
        asked = self._asked.popleft()
        if isinstance(value, list) and not value:
            why = "the server's inference failed, and its wire does not say why: its log does"
            return [Failed(PolicyError(why), call=asked.call)]
        rows = actions.read(value, self._spec)
        if len(rows) != len(asked.lanes):
            raise RemoteProtocolError(f"expected actions for {len(asked.lanes)} environments, got them for {len(rows)}")
        episode = asked.episode or 0
        lanes = zip(rows, asked.lanes, strict=True)
        return [Chunks(tuple(ActionChunk(row, lane.step or 0, episode) for row, lane in lanes), call=asked.call)]
