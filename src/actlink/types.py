"""The records that travel through actlink. Law: frozen records and shapes, no behaviour beyond them.

Shapes in this package use the names of ``docs/glossary.md``: ``state_dim``, ``action_dim``, ``action_horizon``; images are
height x width x 3, RGB, uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""Any numpy array; the docstring beside it states shape and dtype."""

Observation: TypeAlias = Mapping[str, "Array | str"]
"""What the policy sees at one control step: a flat mapping of named values.

``state`` float32 ``(state_dim,)``; ``images.<camera>`` uint8 ``(height, width, 3)`` RGB; ``prompt`` str; and whatever else a
spec names (``depth.<camera>``, ``point_cloud``, ``environment_state``, ...).
"""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question to a policy: what to do from control step ``step`` on."""

    observation: Observation
    step: int = 0
    """Control step at which the observation was taken, counted from 0 at the start of the episode."""
    episode: int = 0
    """Which episode of the session; a policy or server forgets its memory when it changes."""
    session: str = ""
    """Which peer asks; requests of one session are answered in order."""
    prefix: Array | None = None
    """float32 ``(n, action_dim)``: actions already committed or planned; row 0 is the action for ``step``."""
    inference_delay: int = 0
    """How many rows of ``prefix`` will have run before the reply arrives (control steps)."""
    memory: Any = None
    """What the policy returned as ``ActionChunk.memory`` for this session's previous request; None after a reset."""


@dataclass(frozen=True, slots=True, eq=False)
class ActionChunk:
    """A policy's answer: ``actions[i]`` is the action for control step ``step + i``."""

    actions: Array
    """``(action_horizon, action_dim)``, float32, or int64 where the action is discrete (action_dim 1)."""
    step: int = 0
    """Control step of row 0: always the step of the request it answers."""
    episode: int = 0
    session: str = ""
    memory: Any = None
    """Opaque state that the engine hands back with the session's next request."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds spent per stage, names ending in ``_ms`` (``queue_ms``, ``infer_ms``, ``server_ms``, ``round_trip_ms``)."""

    def __len__(self) -> int:
        return int(self.actions.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What an environment returns for one action."""

    observation: Observation
    reward: float
    success: bool | None
    """True from the first step at which the task is solved; None where the environment knows no success."""
    terminated: bool
    """The episode ended by the rules of the task."""
    truncated: bool
    """The episode ended by a limit of time or steps."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Task-specific numbers as of this step; the last step's go into the episode's result (e.g. ``strict_success``)."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a policy is to run; every policy adapter receives one."""

    device: str = "cpu"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    threads: int | None = None
    """Intra-op threads; None leaves the adapter's sensible default."""
    deterministic: bool = False
    """Each request runs alone with one intra-op thread, so that equal requests give equal bits."""
    dtype: str | None = None
    """``float32``, ``float16`` or ``bfloat16`` to compute in; None leaves the checkpoint's own."""
