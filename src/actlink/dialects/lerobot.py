"""LeRobot's asynchronous inference (gRPC, pickles inside), as its robot_client and policy_server speak it from 0.3.2 on.

Law: knows the order of calls and what was answered; ``_lerobot_messages`` has the bytes, ``_lerobot_features`` the robot's dict.
What the original does and where these halves depart from it is in ``docs/dialects/lerobot.md``.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from typing import Any

from actlink.dialects import _lerobot_features as features
from actlink.dialects import _lerobot_messages as messages
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Done,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Poll,
    Reply,
    Reset,
    Say,
    ServerDialect,
    Welcome,
)
from actlink.dialects._lerobot_errors import error_of, told
from actlink.dialects._lerobot_messages import Observed, Setup
from actlink.dialects._lerobot_progress import Progress
from actlink.errors import (
    ActlinkError,
    ConfigError,
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    SpecError,
    UnknownModelError,
)
from actlink.spec import Spec
from actlink.types import ActionChunk, Array

logger = logging.getLogger("actlink.dialects.lerobot")

DEFAULT_PORTS = {"grpc": 8080, "grpcs": 8080}

SERVICE = "/transport.AsyncInference/"
READY, SETUP, UPLOAD, ACTIONS = (SERVICE + name for name in ("Ready", "SendPolicyInstructions", "SendObservations", "GetActions"))
DEFAULT_HELPERS = "lerobot.async_inference.helpers"
DOCUMENTED_ACTIONS = 50


@dataclass(frozen=True, slots=True)
class Config:
    """Options of a lerobot address or listener. The first six are the server's, the others the client's."""

    fps: float = 30.0
    """Control steps per second, from which the actions' timestamps are made."""
    obs_queue_timeout: float = 2.0
    """Seconds that GetActions waits for an observation before it answers with nothing."""
    inference_latency: float = 0.0
    """Seconds that a GetActions with actions lasts at least; the original's default is 1/30."""
    similarity: float = 0.0
    """Skip an observation whose state is nearer (Euclidean) to the last processed one than this; 0 = never. The original has 1.0,
    whatever the unit."""
    any_model: bool = False
    """Give every client the listener's policy, whatever model it asks for."""
    require_setup: bool = False
    """Refuse clients that have not said which model they want, instead of giving them the listener's."""
    policy_type: str = "act"
    """Policy family that the server is told."""
    pretrained_name_or_path: str = ""
    """Model that the server is asked for; empty = the one in the address, else the server's default."""
    policy_device: str = "cpu"
    """Device that the server is asked to use."""
    actions_per_chunk: int = 0
    """Actions per chunk asked for; 0 = the spec's horizon, or 50 where that is 1."""
    task: str = ""
    """Instruction where the observation has no prompt."""
    helpers: str = DEFAULT_HELPERS
    """Module of the payload classes; lerobot.scripts.server.helpers for LeRobot 0.3."""
    polls: int = 3
    """How often in a row the server may answer that it has no actions before the request counts as failed."""

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise ConfigError(f"fps: expected more than 0, got {self.fps}")
        for name in ("obs_queue_timeout", "inference_latency", "similarity", "actions_per_chunk"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.polls < 1:
            raise ConfigError(f"polls: expected at least 1, got {self.polls}")


class Server(ServerDialect):
    """The server's half: one robot client."""

    transports = ("grpc",)
    polled = True
    newest_wins = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spec: Spec | None = None
        self._setup: Setup | None = None
        self._asked: tuple[Any, Setup] | None = None  # the call that waits for its welcome
        self._module = DEFAULT_HELPERS
        self._progress = Progress()
        self._last: Frame | None = None
        self._misfit = ""

    def receive(self, frame: Frame) -> list[Event]:
        if frame.route == UPLOAD:
            return self._upload(messages.joined(frame.parts), frame.call)
        fields = messages.read_fields(frame.data)
        if frame.route == READY:
            return self._ready(frame.call)
        if frame.route == ACTIONS:
            return [self._poll(frame.call)]
        if frame.route == SETUP:
            return self._instructions(fields.get(1), frame.call)
        error = RemoteProtocolError(f"no method {frame.route[:100]!r} here: this port speaks lerobot+grpc ({SERVICE}...)")
        return [Say((told(error, frame.call, "UNIMPLEMENTED"),))]

    def send(self, reply: Reply) -> list[Frame]:
        if isinstance(reply, Welcome):
            return self._welcome(reply)
        if isinstance(reply, Done):
            return [_nothing(reply.call)]
        if isinstance(reply, Chunks):
            return [self._actions(reply)]
        if isinstance(reply, Failed):
            return [self._failed(reply)]
        raise LocalProtocolError(f"this wire has no {type(reply).__name__.lower()}")

    # What a client says

    def _ready(self, call: Any) -> list[Event]:
        logger.info("Client connected and ready")
        self._progress, self._last = Progress(), None
        # Without a session (no default model, none chosen yet) there is nothing to reset.
        return [Say((_nothing(call),))] if self._spec is None else [Reset(call=call)]

    def _instructions(self, data: int | memoryview | None, call: Any) -> list[Event]:
        setup = messages.read_setup(data if isinstance(data, memoryview) else b"")
        logger.info(
            "a client asks for the model %.200r (%.40r) and %d actions per chunk, on %.40r; the device is decided here",
            setup.model,
            setup.policy_type,
            setup.actions_per_chunk,
            setup.device,
        )
        self._asked = (call, setup)
        return [Hello(model="" if self._config.any_model else setup.model.rstrip("/"), call=call)]

    def _upload(self, payload: Any, call: Any) -> list[Event]:
        seen = messages.read_observation(payload)
        self._module = seen.module
        if self._spec is None or (self._setup is None and self._config.require_setup):
            why = UnknownModelError("no policy has been chosen on this connection: call Ready and SendPolicyInstructions first")
            return [Say((told(why, call),))]
        try:
            if not self._progress.wants(seen, self._state(seen), self._config.similarity):
                return [Say((_nothing(call),))]
            observation = features.observation_of(seen.raw, self._setup, self._spec)
        except SpecError as error:
            if str(error) != self._misfit:  # the next will be like it
                self._misfit = str(error)
                logger.warning("observation of step %d refused: %s", seen.timestep, error)
            return [Say((told(error, call),))]
        self._progress.take(seen, self._state(seen))
        return [Say((_nothing(call),)), Infer((Lane(observation, seen.timestep),), call=call)]

    def _state(self, seen: Observed) -> Array | None:
        """The state as the similarity filter compares it; None where nothing is compared."""
        if not self._config.similarity or self._spec is None or "state" not in self._spec.observation:
            return None
        return features.state_of(seen.raw, self._setup, self._spec.observation["state"])

    def _poll(self, call: Any) -> Event:
        last = self._last
        if last is not None and (getattr(call, "attempts", False) or getattr(last.call, "lost", False)):
            self._last = replace(last, call=call)  # it was answered, but the client never got it
            return Say((self._last,))
        return Poll(self._config.obs_queue_timeout, _nothing(call), call, self._config.inference_latency)

    # What it is answered

    def _welcome(self, reply: Welcome) -> list[Frame]:
        self._spec, self._progress, self._last = reply.spec, Progress(), None
        asked, self._asked = self._asked, None
        if asked is None or asked[0] is not reply.call:
            return []  # the connection was opened; this wire has no greeting
        self._setup = asked[1]
        self._module = self._setup.module
        return [_nothing(reply.call)]

    def _actions(self, reply: Chunks) -> Frame:
        (result,) = reply.results
        if isinstance(result, ActlinkError):
            return self._failed(Failed(result, call=reply.call))
        rows = result.actions if self._setup is None else result.actions[: self._setup.actions_per_chunk]
        seen = self._progress.seen(result.step)
        timestamp = seen.timestamp if seen is not None else 0.0
        data = messages.write_actions(self._module, timestamp, result.step, rows, 1 / self._config.fps)
        self._progress.done(result.step)
        self._last = Frame((data,), call=reply.call)
        return self._last

    def _failed(self, reply: Failed) -> Frame:
        self._progress.failed()
        return told(reply.error, reply.call)


class Client(ClientDialect):
    """The client's half: synchronous, so every observation must go and is followed by its actions."""

    numbered = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spec: Spec | None = None
        self._features: dict[str, dict[str, Any]] = {}
        self._open: dict[Any, _Asked] = {}

    def prepare(self, spec: Spec | None) -> None:
        self._spec = spec
        self._features = {} if spec is None else features.features_of(spec)

    def send(self, event: Event) -> list[Frame]:
        if isinstance(event, Hello):
            frames = [Frame((b"",), route=READY), Frame((self._instructions(event.model),), route=SETUP)]
        elif isinstance(event, Reset):
            frames = [Frame((b"",), route=READY)]
        elif isinstance(event, Infer):
            frames = [Frame(self._upload(event), route=UPLOAD), *[Frame((b"",), route=ACTIONS)] * self._config.polls]
        else:
            return []
        self._open[event.call] = _Asked(event, len(frames))
        return [replace(frame, call=event.call) for frame in frames]

    def receive(self, frame: Frame) -> list[Reply]:
        asked = self._open.get(frame.call)
        if asked is None:
            raise RemoteProtocolError("an answer to a call that was not made")
        if frame.text:
            del self._open[frame.call]
            return [Failed(error_of(frame.route, str(frame.data, "utf-8", "replace")), call=frame.call)]
        fields = messages.read_fields(frame.data)
        data = fields.get(1, memoryview(b""))
        asked.answered += 1
        if isinstance(asked.event, Infer) and asked.answered > 1 and isinstance(data, memoryview) and len(data):
            del self._open[frame.call]
            return [self._chunk(asked.event, data)]
        if fields:
            raise RemoteProtocolError("expected an empty message, or the actions that were asked for")
        if asked.answered < asked.frames:
            return []
        del self._open[frame.call]
        return [self._finished(asked.event)]

    def _instructions(self, model: str) -> bytes:
        config = self._config
        horizon = 1 if self._spec is None else self._spec.action_horizon
        return messages.write_setup(
            config.helpers,
            policy_type=config.policy_type,
            model=config.pretrained_name_or_path or model,
            features=self._features,
            actions_per_chunk=config.actions_per_chunk or (horizon if horizon > 1 else DOCUMENTED_ACTIONS),
            device=config.policy_device,
        )

    def _upload(self, event: Infer) -> tuple[bytes, ...]:
        if len(event.lanes) != 1:
            raise LocalProtocolError(f"this wire carries one observation at a time, got {len(event.lanes)}")
        (lane,) = event.lanes
        step = lane.step or 0
        state = None if self._spec is None else self._spec.observation.get("state")
        raw = features.raw_of(lane.observation, state, self._config.task)
        return messages.write_observation(self._config.helpers, step / self._config.fps, step, raw)

    def _chunk(self, event: Infer, data: memoryview) -> Chunks:
        step, actions = messages.read_actions(data)
        return Chunks((ActionChunk(actions, step, event.episode or 0),), {}, event.call)

    def _finished(self, event: Hello | Reset | Infer) -> Reply:
        """All that was to be said was answered, with nothing."""
        if isinstance(event, Hello):
            if self._spec is None:
                raise LocalProtocolError("this wire announces no spec, and none was given before the hello")
            return Welcome(session=f"lerobot-{next(_sessions)}", spec=self._spec, call=event.call)
        if isinstance(event, Reset):
            return Done(event.episode or 0, event.call)
        why = "the server answered with no actions: its inference failed, and its log says why"
        return Failed(PolicyError(why), call=event.call)


_sessions = itertools.count(1)
"""A connection made anew is another session: the server remembers nothing."""


class _Asked:
    """A call under way: what it asks, in how many frames, and how many of them were answered."""

    __slots__ = ("answered", "event", "frames")

    def __init__(self, event: Hello | Reset | Infer, frames: int) -> None:
        self.event = event
        self.frames = frames
        self.answered = 0


def _nothing(call: Any) -> Frame:
    return Frame((b"",), call=call)
