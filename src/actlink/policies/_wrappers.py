"""Policies around a policy. Law: a wrapper changes one thing and leaves everything else to what it wraps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from actlink.policies._base import Exportable, Policy, Result
from actlink.spec import Field, Spec
from actlink.transform import Transform
from actlink.types import ActionChunk, Request


@final
class Described(Policy):
    """The same policy under another spec: for a name or digest that it does not know itself."""

    def __init__(self, inner: Policy, spec: Spec) -> None:
        self.spec, self.facts = spec, inner.facts
        self._inner = inner

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return self._inner.infer(requests)

    def forget(self, session: str) -> None:
        self._inner.forget(session)

    def exportable(self) -> Exportable | None:
        return self._inner.exportable()

    def close(self) -> None:
        self._inner.close()


@final
class OneByOne(Policy):
    """Each request runs alone, so that what it is answered does not depend on who else asks (``--deterministic``)."""

    def __init__(self, inner: Policy) -> None:
        self.spec, self.facts = replace(inner.spec, max_batch_size=1), inner.facts
        self._inner = inner

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [result for request in requests for result in self._inner.infer([request])]

    def forget(self, session: str) -> None:
        self._inner.forget(session)

    def close(self) -> None:
        self._inner.close()


@final
class Transformed(Policy):
    """A policy that takes what a giver (environment, robot, client) offers, and answers in the giver's actions.

    ``given`` is the giver's observation: with it entries can be chosen by name. Without it the transform must do with what the
    policy's own spec tells, and ``ConfigError`` says which operation cannot.
    """

    def __init__(self, inner: Policy, transform: Transform, given: Mapping[str, Field] | None = None) -> None:
        wanted, self.facts = inner.spec, inner.facts
        offered = transform.before(wanted.observation) if given is None else given
        self._inner = inner
        self._bound = transform.bind(offered, wanted.action)
        used = {source: offered[source] for source in map(self._bound.source, wanted.observation) if source in offered}
        self.spec = replace(
            wanted,
            observation=used,
            action=transform.actions(wanted.action),
            action_horizon=wanted.action_horizon if transform.rate is None else transform.rate.horizon(wanted.action_horizon),
            rate_hz=wanted.rate_hz if transform.rate is None else transform.rate.giver_hz,
            accepts_prefix=wanted.accepts_prefix and self._bound.restorable,
        )

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        results = self._inner.infer([self._asked(request) for request in requests])
        return [
            self._answered(request, result) if isinstance(result, ActionChunk) else result
            for request, result in zip(requests, results, strict=True)
        ]

    def forget(self, session: str) -> None:
        self._inner.forget(session)

    def close(self) -> None:
        self._inner.close()

    def _asked(self, request: Request) -> Request:
        observation = self._inner.spec.check(self._bound.observation(request.observation), "transformed observation")
        prefix = self._bound.prefix(request.prefix) if request.prefix is not None and self._bound.restorable else None
        rate = self._bound.rate
        if rate is None:
            return replace(request, observation=observation, prefix=prefix)
        step, delay = rate.step(request.step), rate.delay(request.inference_delay)
        if prefix is not None:
            delay = min(delay, len(prefix))  # behind the last committed action nothing is known, however fast the policy's rows are
        return replace(request, observation=observation, prefix=prefix, step=step, inference_delay=delay)

    def _answered(self, request: Request, chunk: ActionChunk) -> ActionChunk:
        """At the giver's control steps: row 0 is for the step that the request named."""
        step = chunk.step if self._bound.rate is None else request.step
        return replace(chunk, actions=self._bound.chunk(chunk.actions), step=step)
