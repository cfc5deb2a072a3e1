"""The contract of a policy.

A family file defines ``Config`` (frozen dataclass; its fields are the family's options), ``recognises(path) -> bool`` (cheap, looks
at file names only) where the family lives in files, and ``load(source, config, runtime) -> Policy``. ``source`` is what the user
wrote: a path, or the part after ``family:``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from actlink.errors import ActlinkError
from actlink.policies._noise import Noise
from actlink.spec import Spec
from actlink.types import ActionChunk, Array, Request

Result = ActionChunk | ActlinkError
"""A chunk, or the error of this very request (``PolicyError``; whatever the other side answered, for a remote policy)."""


@dataclass(frozen=True, slots=True, eq=False)
class Exportable:
    """A policy as one function of torch tensors, for ``actlink export``: float32, on the CPU, normalisation inside."""

    function: Callable[..., Any]
    """One batched tensor per key, in order, then per entry of ``noise`` and of ``memory``. Gives actions ``(batch, action_horizon,
    action_dim)``; with ``memory`` a tuple of these and one tensor for each entry, for the session's next request."""
    keys: tuple[str, ...]
    """Keys of the spec's observation."""
    batch: int = 2
    """Requests of the example that is traced; 1: the graph takes one request at a time."""
    history: int = 1
    """Observations that it looks at, this one last; above 1 a key's tensor is ``(batch, history, ...)``."""
    noise: tuple[Noise, ...] = ()
    """Random numbers, which are inputs, so that a graph can be asked the same twice."""
    memory: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Name -> shape, without the batch axis, of what it hands on to itself; zeros at the start of an episode."""
    weights: Any = None
    """The ``torch.nn.Module`` that holds them, or None where the function does."""
    drawing: Callable[[Mapping[str, Array]], AbstractContextManager[Any]] = lambda numbers: nullcontext()
    """While inside, the policy's own ``infer`` draws these numbers: name -> ``(batch, *shape)``, for its next call."""


class Policy(ABC):
    """Chunks from observations. Every call happens on the thread of its owner; normalisation is the policy's own business.

    Policies compose by wrapping. One that remembers something between requests reads ``Request.memory`` (None at the start of an
    episode) and returns the new memory in ``ActionChunk.memory``; it keeps nothing of a session in itself.
    """

    spec: Spec

    facts: Mapping[str, str] = MappingProxyType({})
    """What a person wants to know of a checkpoint and the spec does not say: ``family``, ``parameters``, ``normalisation``, ..."""

    @abstractmethod
    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        """One result per request, in order; at most ``spec.max_batch_size`` requests with equal keys and shapes.

        Observations have passed ``spec.check``. ``actions`` are ``(action_horizon, action_dim)`` in the units of the spec; row 0
        is for ``Request.step``. May raise: the owner then retries the requests one by one.
        """

    def forget(self, session: str) -> None:  # noqa: B027 - most policies keep nothing of a session
        """A session (``Request.session``) has ended for good: release what is held for it, e.g. a connection."""

    def exportable(self) -> Exportable | None:
        """The same computation for ``actlink export``; None where a graph cannot hold it. ``ConfigError``: with other options."""
        return None

    def close(self) -> None:  # noqa: B027 - most policies have nothing to release
        """Release what the policy holds; it is not used afterwards."""


def answer(request: Request, actions: Array, memory: Any = None) -> ActionChunk:
    """``actions`` ``(action_horizon, action_dim)`` as the chunk that answers ``request``: row 0 is for its step."""
    return ActionChunk(actions, step=request.step, episode=request.episode, session=request.session, memory=memory)
