"""Random numbers for policies that sample. Law: they belong to the request, and to nothing else.

They are drawn from a seed, the request's control step and its observation. Equal requests have equal answers in any session,
episode, batch or process, so runs repeat whatever runs beside them, and strategies compared on the same episodes see the same noise
wherever they ask the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actlink.types import Array, Request

Distribution = Literal["normal", "uniform"]
"""Standard normal, or uniform in 0..1, 1 excluded."""


@dataclass(frozen=True, slots=True)
class Noise:
    """One input that is filled with random numbers."""

    name: str
    shape: tuple[int, ...]
    """Of one request's numbers."""
    distribution: Distribution = "normal"


def source(request: Request, keys: Iterable[str], seed: int) -> np.random.Generator:
    """The generator of this request. ``keys``: of its observation, in the order of the spec."""
    seen = 0
    for key in keys:
        if key in request.observation:
            seen = zlib.crc32(_bytes_of(request.observation[key]), seen)
    return np.random.default_rng([seed, request.step & 0xFFFFFFFFFFFFFFFF, seen])


def batch(noise: Sequence[Noise], requests: Sequence[Request], keys: Sequence[str], seed: int) -> dict[str, Array]:
    """Name -> float32 ``(len(requests), *shape)``."""
    sources = [source(request, keys, seed) for request in requests] if noise else []
    return {each.name: np.stack([_drawn(each, one) for one in sources]) for each in noise}


def _drawn(noise: Noise, source: np.random.Generator) -> Array:
    if noise.distribution == "normal":
        return source.standard_normal(noise.shape, np.float32)
    return source.random(noise.shape, np.float32)


def _bytes_of(value: Array | str) -> bytes:
    return value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
