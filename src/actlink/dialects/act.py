"""The ACT wire: pickled dicts over ZeroMQ request and reply, one action for each observation.

Every generation of its messages is answered (``'RESET'`` and ``{'command': 'reset_policy'}``, ids echoed or not, ``action`` and
``joint_positions``); ``docs/dialects/act.md`` has them all. The server executes chunks by temporal ensembling, a query at every
step, one memory per client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import PickleDecodeError
from actlink.dialects import _act_messages as messages
from actlink.dialects._act_messages import Misfit
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Done,
    Event,
    Execution,
    Failed,
    Frame,
    Infer,
    Lane,
    Reply,
    Reset,
    ServerDialect,
    Welcome,
)
from actlink.dialects._in_order import Owed
from actlink.errors import ActlinkError, ConfigError, LocalProtocolError, PolicyError, RemoteProtocolError
from actlink.spec import Spec
from actlink.types import ActionChunk

DEFAULT_PORTS = {"zmq": 5555}


@dataclass(frozen=True, slots=True)
class Config:
    """Options of an act address or listener."""

    k: float = 0.01
    """Server: decay of the weights exp(-k * i) of the chunks that cover a step."""
    weights: Literal["oldest", "newest"] = "oldest"
    """Server: which chunk has i = 0, the largest weight: the oldest, as the original has it, or the newest."""
    bare: bool = False
    """Server: replies of the first generation: the action alone, 'OK' for a reset, None for an error."""
    commands: bool = False
    """Client: say 'command' in every message and send ids, as servers of the later generations expect; these know no 'RESET'."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.k):
            raise ConfigError(f"k: expected a finite number, got {self.k}")


@dataclass(frozen=True, slots=True)
class _Question:
    """What the reply to a message depends on."""

    ids: messages.Ids
    reset_reply: str = ""
    """Status that tells the end of a reset; empty for a step."""


class Server(ServerDialect):
    """The server's half."""

    transports: ClassVar[Sequence[str]] = ("zmq", "memory")

    def __init__(self, config: Config) -> None:
        self._bare = config.bare
        self._spec: Spec | None = None
        self._owed = Owed()
        self.execution = Execution("ensemble", {"k": config.k, "weights": config.weights, "execution_horizon": 1})

    def receive(self, frame: Frame) -> list[Event]:
        """What cannot be read is answered here, as the original does it: the client is waiting, and its episode goes on."""
        ids: messages.Ids = {}
        try:
            value = safe_pickle.decode(frame.data)
            ids = messages.ids_of(value)
            status = messages.reset_status(value)
            if status:
                self._owed.ask(_Question(ids, status))
                return [Reset()]
            observation = messages.read_step(value, self._spec)
        except PickleDecodeError as error:
            return self._owed.say(self._error(f"Pickle error: {error}", ids))
        except Misfit as error:
            return self._owed.say(self._error(str(error), ids))
        self._owed.ask(_Question(ids))
        return [Infer((Lane(observation),))]

    def send(self, reply: Reply) -> list[Frame]:
        if isinstance(reply, Welcome):
            self._spec = reply.spec
            return []
        question = self._owed.about()
        return self._owed.answer(self._answer(reply, question if isinstance(question, _Question) else _Question({})))

    def _answer(self, reply: Reply, question: _Question) -> Frame:
        if isinstance(reply, Done):
            if self._bare:
                return _frame("OK")
            return _frame({"status": question.reset_reply, **question.ids})
        result = reply.results[0] if isinstance(reply, Chunks) else reply.error if isinstance(reply, Failed) else None
        if isinstance(result, ActionChunk):
            action = np.array(result.actions[0], np.float64)
            if self._bare:
                return _frame(action)
            return _frame({"action": action, "joint_positions": action, "status": "OK", **question.ids})
        if isinstance(result, ActlinkError):
            return self._error(str(result), question.ids)
        raise LocalProtocolError(f"this wire has no word for {type(reply).__name__}")

    def _error(self, message: str, ids: messages.Ids) -> Frame:
        messages.logger.warning("a request was answered with an error: %s", message)
        return _frame(None if self._bare else {"status": "ERROR", "message": message, **ids})


class Client(ClientDialect):
    """The client's half; it reads the replies of every generation."""

    def __init__(self, config: Config) -> None:
        self._commands = config.commands
        self._spec: Spec | None = None
        self._asked: deque[Infer | Reset] = deque()

    def prepare(self, spec: Spec | None) -> None:
        self._spec = spec

    def send(self, event: Event) -> list[Frame]:
        if isinstance(event, Reset):
            self._asked.append(event)
            return [_frame({"command": "reset_policy"} if self._commands else "RESET")]
        if not isinstance(event, Infer):
            return []
        if len(event.lanes) != 1:
            raise LocalProtocolError(f"this wire carries one observation per message, got {len(event.lanes)}")
        self._asked.append(event)
        (lane,) = event.lanes
        message = messages.write_step(lane.observation)
        if self._commands:
            message |= {"command": "step", "episode_id": event.episode or 0, "step_id": lane.step or 0}
        return [_frame(message)]

    def receive(self, frame: Frame) -> list[Reply]:
        value = safe_pickle.decode(frame.data)
        if not self._asked:
            raise RemoteProtocolError("a reply to nothing that was asked")
        asked = self._asked.popleft()
        said = messages.error_in(value)
        if said is not None:
            return [Failed(PolicyError(said), call=asked.call)]
        if isinstance(asked, Reset):
            if messages.is_acknowledgement(value):
                return [Done(asked.episode or 0, asked.call)]
            raise RemoteProtocolError("expected the acknowledgement of a reset ('OK', or a dict with a status of OK)")
        lane = asked.lanes[0]
        messages.check_echo(value, {"episode_id": asked.episode or 0, "step_id": lane.step or 0} if self._commands else {})
        actions = messages.read_action(value, self._spec)
        return [Chunks((ActionChunk(actions, lane.step or 0, asked.episode or 0),), call=asked.call)]


def _frame(value: object) -> Frame:
    return Frame(tuple(safe_pickle.encode(value)))
