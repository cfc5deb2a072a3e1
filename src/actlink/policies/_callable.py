"""A policy out of whatever a user has. Law: the object's own spec is believed, its answers are judged by who called.

What is taken for a policy: a ``Policy``; an object with ``spec`` and ``infer(requests)``; a callable with ``spec``, from an
observation to ``(action_horizon, action_dim)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from actlink.errors import ConfigError
from actlink.policies._base import Policy, Result, answer
from actlink.spec import Spec
from actlink.types import Observation, Request


@final
class CallablePolicy(Policy):
    """A plain function from one observation to its actions.

    ``fn(observation)`` returns ``(action_horizon, action_dim)``, or ``(action_dim,)`` for a horizon of 1. It sees one observation
    at a time whatever ``spec.max_batch_size`` says; a policy that profits from batches is a ``Policy``.
    """

    def __init__(self, fn: Callable[[Observation], Any], spec: Spec) -> None:
        if not callable(fn):
            raise ConfigError(f"CallablePolicy: expected a function from observation to actions, got a {type(fn).__name__}")
        self.spec = spec
        self._fn = fn

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [answer(request, np.atleast_2d(np.asarray(self._fn(request.observation)))) for request in requests]


@final
class AdoptedPolicy(Policy):
    """An object that has ``spec`` and ``infer`` without being a ``Policy``."""

    def __init__(self, inner: Any) -> None:
        self.spec = inner.spec
        self.facts = dict(getattr(inner, "facts", {}))
        self._inner = inner

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        results: Sequence[Result] = self._inner.infer(requests)
        return results

    def forget(self, session: str) -> None:
        self._call("forget", session)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: object) -> None:
        found = getattr(self._inner, method, None)
        if found is not None:
            found(*arguments)


def as_policy(thing: Any, where: str) -> Policy:
    """``thing`` as a ``Policy``; ``ConfigError`` says what it lacks."""
    if isinstance(thing, Policy):
        if not isinstance(getattr(thing, "spec", None), Spec):
            raise ConfigError(f"{where}: the policy has no 'spec'; set self.spec = actlink.Spec(...)")
        return thing
    if isinstance(getattr(thing, "spec", None), Spec):
        if callable(getattr(thing, "infer", None)):
            return AdoptedPolicy(thing)
        if callable(thing):
            return CallablePolicy(thing, thing.spec)
    raise ConfigError(
        f"{where}: expected an actlink.Policy, an object with 'spec' and 'infer', or a callable with 'spec' "
        f"(an actlink.Spec); got a {type(thing).__name__}"
    )
