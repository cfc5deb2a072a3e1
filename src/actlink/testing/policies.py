"""Examiner of policies. Law: it sees a policy as its engine does, and judges only what the contract says.

``check_policy(policy)`` raises ``AssertionError`` saying what the policy did wrong. Observations are made from its spec: within
``range`` where a field has one, small numbers and noise pictures otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actlink.policies._base import Policy, Result
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array, Observation, Request

FREE_AXIS = 8
"""Length given to an axis that the spec leaves free."""
TOLERANCE = 1e-3
"""Largest difference between a request answered alone and in a batch, relative to the largest action."""


def check_policy(policy: Policy, *, observations: Sequence[Observation] | None = None, repeatable: bool = True) -> None:
    """Examine ``policy``.

    ``observations``: at least three different ones, for a policy that noise would mislead. ``repeatable=False`` for one that
    draws random numbers: what is asked twice may then be answered differently.
    """
    _has_a_spec(policy)
    seen = [policy.spec.check(one) for one in observations] if observations is not None else _noise(policy.spec, 3)
    assert len(seen) >= 3, f"check_policy: expected at least three observations, got {len(seen)}"
    _leaves_requests_alone(policy, seen)
    _takes_values_that_cannot_be_written_to(policy, seen)
    _answers_each_request(policy, seen)
    _keeps_no_hold_of_its_answers(policy, seen)
    _takes_a_prefix(policy, seen)
    if repeatable:
        _keeps_nothing_of_a_session(policy, seen)
        _answers_alone_as_in_a_batch(policy, seen)
        _gives_memory_back(policy, seen)
    policy.forget("a session it never saw")


def _has_a_spec(policy: Policy) -> None:
    spec = getattr(policy, "spec", None)
    assert isinstance(spec, Spec), f"policy.spec: expected a Spec, got a {type(spec).__name__}"
    assert spec.action_dim is not None, "policy.spec.action: expected its number of entries, got any"


def _answers_each_request(policy: Policy, seen: Sequence[Observation]) -> None:
    """One well-formed chunk per request, for the request's own step, alone and in the largest batch."""
    most = min(policy.spec.max_batch_size, 8)
    for count in sorted({1, 2, most} if most > 1 else {1}):
        requests = [
            Request(seen[i % len(seen)], step=7 * i, episode=i + 1, session=f"session {i}", inference_delay=0) for i in range(count)
        ]
        results = policy.infer(requests)
        assert isinstance(results, Sequence), f"infer: expected a sequence of results, got a {type(results).__name__}"
        assert len(results) == count, f"infer: expected one result for each of {count} requests, got {len(results)}"
        for request, result in zip(requests, results, strict=True):
            _is_the_answer_to(request, result, policy.spec)


def _is_the_answer_to(request: Request, result: Result, spec: Spec) -> None:
    chunk = _chunk(result)
    expected = (request.step, request.episode, request.session)
    got = (chunk.step, chunk.episode, chunk.session)
    assert expected == got, f"chunk (step, episode, session): expected the request's {expected}, got {got}"
    actions = chunk.actions
    assert isinstance(actions, np.ndarray), f"actions: expected an array, got a {type(actions).__name__}"
    shape = (spec.action_horizon, spec.action_dim)
    assert actions.shape == shape, f"actions: expected shape (action_horizon, action_dim) = {shape}, got {actions.shape}"
    assert actions.dtype == spec.action.dtype, f"actions: expected {spec.action.dtype}, got {actions.dtype}"
    assert np.isfinite(actions).all(), "actions: expected finite numbers, got NaN or infinity"
    if spec.action.range is not None and actions.dtype == np.int64:
        low, high = spec.action.range
        fits = bool((actions >= low).all() and (actions <= high).all())
        assert fits, f"actions: expected choices {low:g}..{high:g}, got {actions.min()}..{actions.max()}"


def _leaves_requests_alone(policy: Policy, seen: Sequence[Observation]) -> None:
    requests = [Request(_copied(one), session=str(i)) for i, one in enumerate(seen[: policy.spec.max_batch_size])]
    policy.infer(requests)
    for request, before in zip(requests, seen, strict=False):
        assert set(request.observation) == set(before), "infer changed the keys of an observation"
        for key, value in before.items():
            same = np.array_equal(np.asarray(request.observation[key]), np.asarray(value))
            assert same, f"infer changed observation[{key!r}] of its request"


def _takes_values_that_cannot_be_written_to(policy: Policy, seen: Sequence[Observation]) -> None:
    """What comes over a wire is a view on received bytes."""
    observation = _copied(seen[0])
    for value in observation.values():
        if not isinstance(value, str):
            value.flags.writeable = False
    try:
        policy.infer([Request(observation)])
    except Exception as error:
        raise AssertionError(f"infer cannot take read-only arrays, which is what wires deliver: {error!r}") from error


def _keeps_no_hold_of_its_answers(policy: Policy, seen: Sequence[Observation]) -> None:
    first = _ask(policy, seen[0])
    before = first.copy()
    _ask(policy, seen[1])
    assert np.array_equal(first, before), "infer wrote into the actions of an earlier answer: each answer needs its own array"
    shared = np.shares_memory(first, _ask(policy, seen[1]))
    assert not shared, "two answers share one array: whoever changes one changes the other"


def _takes_a_prefix(policy: Policy, seen: Sequence[Observation]) -> None:
    if not policy.spec.accepts_prefix:
        return
    prefix = _ask(policy, seen[0])[1:].copy()
    delay = min(1, len(prefix))
    request = Request(seen[1], step=1, session="p", prefix=prefix, inference_delay=delay)
    before = prefix.copy()
    _is_the_answer_to(request, policy.infer([request])[0], policy.spec)
    assert np.array_equal(prefix, before), "infer changed the prefix of its request"


def _answers_alone_as_in_a_batch(policy: Policy, seen: Sequence[Observation]) -> None:
    count = min(policy.spec.max_batch_size, len(seen))
    alone = [_ask(policy, one, session=str(i)) for i, one in enumerate(seen[:count])]
    results = policy.infer([Request(one, session=str(i)) for i, one in enumerate(seen[:count])])
    for i, (expected, result) in enumerate(zip(alone, results, strict=True)):
        got = _chunk(result).actions
        worst = float(np.abs(got.astype(np.float64) - expected).max())
        most = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        assert worst <= most, f"request {i} of a batch of {count}: differs by {worst:g} from the answer it gets alone"


def _keeps_nothing_of_a_session(policy: Policy, seen: Sequence[Observation]) -> None:
    """The same question without memory has the same answer, whatever was asked in between."""
    first = _ask(policy, seen[0], session="a")
    _ask(policy, seen[1], session="a", step=1)
    _ask(policy, seen[2], session="b")
    again = _ask(policy, seen[0], session="a")
    same = np.allclose(first, again, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(first).max())))
    assert same, (
        "the same request without memory got another answer after other requests: what a policy remembers of an episode goes "
        "into ActionChunk.memory, not into the policy"
    )


def _gives_memory_back(policy: Policy, seen: Sequence[Observation]) -> None:
    """Two episodes that take turns go as they go one after the other."""
    alone = [_episode(policy, seen, session) for session in ("a", "b")]
    turns: dict[str, Any] = {"a": None, "b": None}
    for step, one in enumerate(seen):
        for index, session in enumerate(turns):
            chunk = _chunk(policy.infer([Request(one, step=step, session=session, memory=turns[session])])[0])
            turns[session] = chunk.memory
            same = np.allclose(
                chunk.actions, alone[index][step], rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(chunk.actions).max()))
            )
            assert same, f"step {step} of session {session!r}: another answer than when no other session asked in between"
    if any(memory is not None for memory in turns.values()):
        assert policy.spec.stateful, "ActionChunk.memory is used: expected spec.stateful to say so"


def _episode(policy: Policy, seen: Sequence[Observation], session: str) -> list[Array]:
    memory, found = None, []
    for step, one in enumerate(seen):
        chunk = _chunk(policy.infer([Request(one, step=step, session=session, memory=memory)])[0])
        memory = chunk.memory
        found.append(chunk.actions.copy())
    return found


def _ask(policy: Policy, observation: Observation, *, session: str = "", step: int = 0) -> Array:
    return _chunk(policy.infer([Request(observation, session=session, step=step)])[0]).actions


def _chunk(result: Result) -> ActionChunk:
    assert isinstance(result, ActionChunk), f"infer: expected an ActionChunk for a valid observation, got {result!r}"
    return result


def _copied(observation: Observation) -> dict[str, Array | str]:
    return {key: value if isinstance(value, str) else value.copy() for key, value in observation.items()}


def _noise(spec: Spec, count: int) -> list[Mapping[str, Array | str]]:
    random = np.random.default_rng(0)
    return [spec.check({key: _value(field, random) for key, field in spec.observation.items()}) for _ in range(count)]


def _value(field: Field, random: np.random.Generator) -> Array | str:
    shape = tuple(FREE_AXIS if n is None else n for n in field.shape)
    if field.dtype == "str":
        return "put the cube into the box"
    if field.range is not None and field.dtype != "bool":
        low, high = field.range
        drawn: Array = random.uniform(low, high, shape)
        return np.round(drawn).astype(field.dtype) if field.dtype != "float32" else drawn.astype(np.float32)
    if field.dtype == "float32":
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    return random.integers(0, 256 if field.dtype == "uint8" else 2, shape).astype(field.dtype)
