"""Both halves of a dialect in one place, for its examiner. Law: plays transport and session, judges nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from actlink.dialects._base import (
    Chunks,
    ClientDialect,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Poll,
    Reply,
    Say,
    ServerDialect,
    Welcome,
)
from actlink.spec import Spec
from actlink.types import ActionChunk, Array, Observation


class Wire:
    """Both halves, and what a transport does between them; remembers every frame that went either way."""

    def __init__(self, module: Any, config: Any, spec: Spec) -> None:
        self._made_of = (module, config, spec)
        self.server: ServerDialect = module.Server(config)
        self.client: ClientDialect = module.Client(config)
        self.client.prepare(None if self.client.announces_spec else spec)
        self.spec = spec
        self.up: list[Frame] = []
        self.down: list[Frame] = []
        self._polls: list[Poll] = []

    def another(self) -> Wire:
        """A fresh one of the same make."""
        return Wire(*self._made_of)

    def opened(self) -> Wire:
        """After whatever opening the wire has."""
        if self.client.handshake:
            self.says(Hello(token="open sesame", model="m", resume="r", call=1))
        self.answers(self.welcome())
        return self

    def welcome(self) -> Welcome:
        return Welcome("session-1", self.spec, 2, {"max_frame_bytes": 10_000_000}, 5.0, (), "examiner", 1)

    def says(self, event: Event) -> list[Event]:
        """What the server hears; what it says by itself is passed on, what it is polled for is kept for the next answer."""
        frames = [_delivered(frame) for frame in self.client.send(event)]
        self.up += frames
        found: list[Event] = []
        for frame in frames:
            for heard in self.server.receive(frame):
                if isinstance(heard, Say):
                    self._passed_on(heard)
                elif isinstance(heard, Poll) and self.server.polled:
                    self._polls.append(heard)
                else:
                    found.append(heard)
        return found

    def _passed_on(self, said: Say) -> None:
        for frame in map(_delivered, said.frames):
            self.down.append(frame)
            replies = self.client.receive(frame)
            assert not replies, f"Say: expected an acknowledgement that says nothing, the client heard {replies}"

    def answers(self, reply: Reply) -> list[Reply]:
        if self.server.polled and isinstance(reply, Chunks | Failed):
            assert self._polls, "a polled wire: expected the client to poll for its answer, got no poll"
            reply = dataclasses.replace(reply, call=self._polls[0].call)
            self._polls.clear()
        frames = [_delivered(frame) for frame in self.server.send(reply)]
        self.down += frames
        return [heard for frame in frames for heard in self.client.receive(frame)]

    def infer(self, step: int = 5, call: int = 3) -> Infer:
        observation = _observation(self.spec, step)
        prefix = np.arange(6, dtype=np.float32).reshape(3, 2) if self.spec.accepts_prefix and self.spec.action_dim == 2 else None
        return Infer((Lane(observation, step, prefix, 0 if prefix is None else 1),), 2, 250.0, call)

    def chunk(self, step: int = 5) -> ActionChunk:
        rows = 1 if self.server.execution is not None else self.spec.action_horizon
        actions = np.arange(rows * (self.spec.action_dim or 1), dtype=np.float32).reshape(rows, -1) / 8 + step
        return ActionChunk(actions.astype(self.spec.action.dtype), step, 2, "session-1")


def _delivered(frame: Frame) -> Frame:
    """The frame as it arrives: in one piece."""
    return dataclasses.replace(frame, parts=(b"".join(frame.parts),))


def _observation(spec: Spec, seed: int) -> Observation:
    """A valid observation that differs from entry to entry."""
    source = np.random.default_rng(seed)
    observation: dict[str, Array | str] = {}
    for key, field in spec.observation.items():
        shape = tuple(3 if axis is None else axis for axis in field.shape)
        random_values = source.integers(0, 2 if field.dtype == "bool" else 256, shape)
        observation[key] = "put the cube down – 放下" if field.dtype == "str" else random_values.astype(field.dtype)
    return observation
