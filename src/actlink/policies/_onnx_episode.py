"""What an ONNX graph takes beside this very observation: random numbers, earlier observations, a memory of its own.

::

    "inputs": {"<graph input>": {"key": "state", "history": 2}}                     (batch, 2, ...), oldest first
    "noise":  {"<graph input>": {"shape": [16, 3], "distribution": "normal"}}       or uniform, in 0..1
    "memory": {"<graph input>": {"shape": [5, 4], "output": "<graph output>"}}      what the last answer gave, zeros at first

Law: a memory is a value that the engine keeps; nothing of a session is kept here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from actlink.errors import ConfigError
from actlink.policies import _past
from actlink.policies._noise import Distribution, Noise
from actlink.policies._onnx_files import Checkpoint, only
from actlink.types import Array, Observation, Request

KEYS = frozenset({"noise", "memory"})
"""What a policy.json with these things says beside the rest."""
_MOST_NUMBERS = 10_000_000


@dataclass(frozen=True, slots=True)
class Carried:
    """A graph input that takes what a graph output gave to the last request of the session."""

    name: str
    shape: tuple[int, ...]
    output: str


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What one session's next request needs."""

    seen: _past.Seen[Observation] = ()
    carried: Mapping[str, Array] | None = None
    """Graph input -> float32, without the batch axis."""


def noise_of(checkpoint: Checkpoint) -> tuple[Noise, ...]:
    """The part ``noise`` of the file; ``ConfigError`` says what is wrong with it."""
    found = []
    for name, plain, where in _entries(checkpoint, "noise", {"shape", "distribution"}):
        distribution = plain.get("distribution", "normal")
        if distribution not in get_args(Distribution):
            expected = " or ".join(get_args(Distribution))
            raise ConfigError(f"{where}: 'distribution': expected {expected}, got {distribution!r}")
        found.append(Noise(name, _shape(plain, where), distribution))
    return tuple(found)


def memory_of(checkpoint: Checkpoint) -> tuple[Carried, ...]:
    """The part ``memory`` of the file; ``ConfigError`` says what is wrong with it."""
    found = []
    for name, plain, where in _entries(checkpoint, "memory", {"shape", "output"}):
        output = plain.get("output")
        if not isinstance(output, str) or output == checkpoint.output.name:
            raise ConfigError(f"{where}: 'output': expected the name of a graph output beside the actions, got {output!r}")
        found.append(Carried(name, _shape(plain, where), output))
    return tuple(found)


class Episodes:
    """How requests of one policy remember: the observations that its graph looks at again, and what it hands on."""

    def __init__(self, checkpoint: Checkpoint, carried: Sequence[Carried]) -> None:
        self._kept = frozenset(each.key for each in checkpoint.inputs if each.history > 1)
        self._longest = max(each.history for each in checkpoint.inputs)
        self._carried = carried

    @property
    def remember(self) -> bool:
        """Whether a memory is of any use."""
        return self._longest > 1 or bool(self._carried)

    def seen(self, request: Request) -> _past.Seen[Observation]:
        """What this session has seen, this observation last. Values are copies: those that came over a wire are views."""
        if not self._kept:
            return ()
        now = {key: np.array(request.observation[key]) for key in self._kept}
        before = request.memory.seen if isinstance(request.memory, Memory) else ()
        return _past.with_newest(before, request.step, now, self._longest)

    def carried(self, requests: Sequence[Request]) -> dict[str, Array]:
        """Graph input -> ``(len(requests), *shape)``."""
        known = [request.memory.carried or {} if isinstance(request.memory, Memory) else {} for request in requests]
        return {
            each.name: np.stack([one.get(each.name, np.zeros(each.shape, np.float32)) for one in known]) for each in self._carried
        }

    def after(self, seen: Sequence[_past.Seen[Observation]], handed_on: Sequence[Array]) -> list[Memory | None]:
        """What to remember of each request; ``handed_on``: the outputs of the graph, in the order of its memory."""
        if not self.remember:
            return [None] * len(seen)
        return [
            Memory(each, {one.name: rows[lane].copy() for one, rows in zip(self._carried, handed_on, strict=True)})
            for lane, each in enumerate(seen)
        ]


def _entries(checkpoint: Checkpoint, part: str, known: set[str]) -> list[tuple[str, dict[str, Any], str]]:
    """Name, content and place of each entry of one part of the file."""
    given = checkpoint.more.get(part, {})
    if not isinstance(given, dict):
        raise ConfigError(f"{checkpoint.where}: {checkpoint.described}: {part!r}: expected an object, got {given!r}")
    found = []
    for name, plain in given.items():
        where = f"{checkpoint.where}: {checkpoint.described}: {part}[{name!r}]"
        if not isinstance(plain, dict):
            raise ConfigError(f"{where}: expected an object with {', '.join(sorted(known))}, got {plain!r}")
        only(plain, known, where)
        found.append((name, plain, where))
    return found


def _shape(plain: Mapping[str, Any], where: str) -> tuple[int, ...]:
    shape = plain.get("shape")
    sizes = shape if isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) else None
    if sizes is None or np.prod(sizes, dtype=float) > _MOST_NUMBERS:
        raise ConfigError(f"{where}: 'shape': expected a list of sizes, the batch left out, got {shape!r}")
    return tuple(sizes)
