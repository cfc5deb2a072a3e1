"""A LeRobot policy as one function for ``actlink export``. Law: LeRobot's own code computes it, processors and sampler included.

What the policy keeps in itself between calls becomes an argument: the last observations (``_past``), TD-MPC's plan, and every
random number that it draws (``_torch_draws``). A sampler's loop runs as often as the checkpoint says, and is unrolled in the graph.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from actlink.errors import ConfigError
from actlink.policies._base import Exportable
from actlink.policies._lerobot_history import History
from actlink.policies._lerobot_spec import Keys
from actlink.policies._noise import Distribution, Noise
from actlink.policies._torch_draws import Draw, Given, counts, draws_of
from actlink.policies._torch_tracing import Traceable
from actlink.spec import Field, Spec
from actlink.types import Array

_EXAMPLE = 11
"""Requests of the traced example: sizes that it divides are taken for the batch's, and few other sizes are multiples of 11."""
_PLAN = "plan"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a loaded policy consists of."""

    policy: Any
    before: Any
    keys: Keys
    history: History
    chunk: Callable[[dict[str, Any], Mapping[str, Any]], Any]
    """LeRobot's batch -> the policy's own chunk."""
    finished: Callable[[Any], Any]
    """That chunk -> in the robot's units."""


def exportable(parts: Parts, spec: Spec) -> Exportable:
    """``ConfigError`` where a graph cannot hold it."""
    wrong = {str(each.dtype).removeprefix("torch.") for each in parts.policy.parameters()} - {"float32"}
    if wrong:
        raise ConfigError(f"its weights are {', '.join(sorted(wrong))}, and an export computes in float32")
    if any(field.dtype == "str" and field.required for field in spec.observation.values()):
        raise ConfigError(
            "it reads words, and the tokenizer that makes numbers of them has no place in a graph: say them once for all "
            "(--policy-options 'prompt=put the cube into the box'), or serve the checkpoint itself"
        )
    fields = {key: field for key, field in spec.observation.items() if field.dtype != "str"}
    with torch.random.fork_rng(devices=[]):
        draws = draws_of(lambda batch: _compute(parts, _zeros(fields, batch, parts.history.longest)))
        plans = _check_draws(parts, draws, _zeros(fields, 1, parts.history.longest))
    # One draw for a whole batch is a request's own only where it is alone. A language model makes masks and positions for the sizes
    # that it sees: constants, if those do not change.
    alone = spec.max_batch_size == 1 or parts.keys.prompt is not None or any(draw.axis is None for draw in draws)
    batch, kinds = 1 if alone else _EXAMPLE, tuple(counts(draws))
    noise = tuple(Noise(f"noise_{kind}", (counts(draws)[kind],), cast(Distribution, kind)) for kind in kinds)

    def function(*given: Any) -> Any:
        seen, numbers, before = given[: len(fields)], given[len(fields) :][: len(kinds)], given[len(fields) + len(kinds) :]
        tracing = Traceable(given, batch, parts.policy) if torch.jit.is_tracing() else contextlib.nullcontext()
        with tracing, Given(draws, dict(zip(kinds, numbers, strict=True))):
            actions, made = _compute(parts, dict(zip(fields, seen, strict=True)), *before)
        return actions if made is None else (actions, made)

    def drawing(numbers: Mapping[str, Array]) -> Given:
        return Given(draws, {each.distribution: torch.from_numpy(numbers[each.name]) for each in noise})

    return Exportable(
        function,
        tuple(fields),
        batch=batch,
        history=parts.history.longest,
        noise=noise,
        memory={} if plans is None else {_PLAN: tuple(plans.shape[1:])},
        weights=parts.policy,
        drawing=drawing,
    )


def _compute(parts: Parts, seen: Mapping[str, Any], plans: Any = None) -> tuple[Any, Any]:
    """Actions ``(batch, action_horizon, action_dim)``, and plans where the policy makes some. Draws where LeRobot draws."""
    length, batches = parts.history.longest, []
    with torch.no_grad():
        for place in range(length):
            values = {key: each if length == 1 else each[:, place] for key, each in seen.items()}
            batch = parts.before(parts.keys.named(values, [""] * int(next(iter(seen.values())).shape[0])))
            batch.pop("action", None)  # an empty place for what is only there in training
            batches.append(batch)
        parts.history.fill_whole(batches, plans)
        chunk = parts.chunk(batches[-1], {})
        made = parts.history.take_plans()
        return parts.finished(chunk), made


def _zeros(fields: Mapping[str, Field], batch: int, history: int) -> dict[str, Any]:
    found = {}
    for key, field in fields.items():
        row = torch.from_numpy(np.asarray(field.zeros()))
        found[key] = row.expand(batch, *([history] if history > 1 else []), *row.shape).contiguous()
    return found


def _check_draws(parts: Parts, draws: Sequence[Draw], seen: Mapping[str, Any]) -> Any:
    """Plans of one request. ``ConfigError`` if other seeds make other actions although all numbers are given."""
    numbers = {kind: torch.full((1, count), 0.5) for kind, count in counts(draws).items()}
    found = []
    for seed in (1, 2):
        with _seeded(seed), Given(draws, numbers):
            actions, plans = _compute(parts, seen)
        found.append(actions)
    if not torch.allclose(*found, rtol=1e-4, atol=1e-5):
        raise ConfigError("it draws random numbers in a way that cannot be given from outside")
    return plans


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All generators that the policy might use; numpy's and Python's as they were afterwards."""
    numpys, pythons = np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)
