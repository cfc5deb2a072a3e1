"""An ``Infer`` made ready for the queue. Law: what does not fit the spec is settled here and never reaches a policy."""

from __future__ import annotations

import math
from collections.abc import Callable

from actlink.dialects._base import Infer, Lane
from actlink.errors import SpecError
from actlink.serving.engine import Call
from actlink.serving.scheduler import Entry
from actlink.serving.session import Session
from actlink.spec import Spec
from actlink.types import Array, Observation, Request


def entries(
    session: Session, event: Infer, call: Call, newest_wins: bool, note_unknown: Callable[[frozenset[str]], None]
) -> list[Entry]:
    """One entry for each lane that needs the policy and fits its spec; the others are settled at once."""
    deadline_s = math.inf if event.budget_ms is None else call.arrived_s + event.budget_ms / 1e3
    spec, ready = session.engine.spec, []
    for index, lane in enumerate(event.lanes):
        where = "observation" if len(event.lanes) == 1 else f"lanes[{index}].observation"
        try:
            observation = spec.check(lane.observation, where)
            asked = session.steppers[index].question(lane, call.steps[index]) if session.steppers else lane
            if asked is None:
                call.skip(index)
                continue
            request = _request(session, asked, observation, call.steps[index], index)
        except SpecError as error:
            call.settle(index, error)
            continue
        if len(observation) != len(lane.observation):
            note_unknown(spec.unknown(lane.observation))
        ready.append(
            Entry(
                session=session.id,
                request=request,
                key=_batch_key(request),
                group=call,
                lane=index,
                arrived_s=call.decoded_s,
                deadline_s=deadline_s,
                newest_wins=newest_wins,
                size=sum(value.nbytes for value in request.observation.values() if not isinstance(value, str)),
            )
        )
    return ready


def _request(session: Session, lane: Lane, observation: Observation, step: int, index: int) -> Request:
    prefix, delay = _prefix(session.engine.spec, lane)
    return Request(
        observation=observation,
        step=step,
        episode=session.episode,
        session=session.lane(index),
        prefix=prefix,
        inference_delay=delay,
    )


def _prefix(spec: Spec, lane: Lane) -> tuple[Array | None, int]:
    """Prefix and inference delay as the policy gets them; ``SpecError`` if they contradict each other or the spec."""
    if not spec.accepts_prefix:
        return None, 0
    if lane.inference_delay < 0:
        raise SpecError(f"inference_delay: expected 0 or more, got {lane.inference_delay}")
    if lane.prefix is None:
        return None, lane.inference_delay
    prefix = spec.check_actions(lane.prefix, "prefix")
    if lane.inference_delay > len(prefix):
        raise SpecError(f"inference_delay: expected at most the {len(prefix)} rows of the prefix, got {lane.inference_delay}")
    return prefix, lane.inference_delay


def _batch_key(request: Request) -> tuple[object, ...]:
    """Requests with equal keys have equal observation keys and shapes, and so fit into one batch."""
    shapes = tuple((name, None if isinstance(value, str) else value.shape) for name, value in request.observation.items())
    return (shapes, None if request.prefix is None else request.prefix.shape)
