"""The random numbers of a torch computation, taken from outside. Law: a computation that draws is a function of what it draws.

::

    with Recorder() as recorder:
        compute(batch)                            # draws as ever, and what it draws is written down
    with Given(draws, {"normal": ..., "uniform": ...}):
        compute(batch)                            # takes these numbers instead, in the same order

Everything is made of standard normal and uniform numbers: ``normal`` is scaled, ``multinomial`` looks a uniform number up among the
summed probabilities. What is drawn in other ways is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from actlink.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Draw:
    """One call: which numbers, how many of them for each request, and where the batch stands in the tensor drawn."""

    kind: str
    """``normal`` or ``uniform``."""
    shape: tuple[int, ...]
    """One request's part, with the batch axis as long as there are numbers for the request."""
    axis: int | None
    """The batch axis; None: one draw for the whole batch, whatever its size."""

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class _Drawing(TorchFunctionMode):  # type: ignore[misc, unused-ignore] # Any, where torch is not installed
    """Inside it, torch's sampling functions are made of ``numbers(kind, shape)``."""

    def numbers(self, kind: str, shape: Callable[[], Sequence[int]]) -> torch.Tensor:
        """float32; ``shape()`` is asked where it has to be known."""
        raise NotImplementedError

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draw = _WAYS.get(function)
        if draw is not None:
            return draw(self, function, *args, **(kwargs or {}))
        if function in _OTHER_WAYS:
            raise ConfigError(f"it draws random numbers with {function.__name__}, which cannot be given from outside")
        return function(*args, **(kwargs or {}))


class Recorder(_Drawing):
    """Draws, and keeps ``found``: kind and shape of every draw, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []

    def numbers(self, kind: str, shape: Callable[[], Sequence[int]]) -> torch.Tensor:
        sizes = tuple(int(n) for n in shape())
        self.found.append((kind, sizes))
        return torch.randn(sizes) if kind == "normal" else torch.rand(sizes)


class Given(_Drawing):
    """Takes ``given``: kind -> ``(batch, numbers of one request)``, from its beginning each time it is entered."""

    def __init__(self, draws: Sequence[Draw], given: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._draws, self._given = draws, given
        self._next: Iterator[Draw] = iter(())
        self._used: dict[str, int] = {}

    def __enter__(self) -> Any:
        self._next, self._used = iter(self._draws), dict.fromkeys(self._given, 0)
        return super().__enter__()

    def numbers(self, kind: str, shape: Callable[[], Sequence[int]]) -> torch.Tensor:
        draw = next(self._next, None)
        if draw is None or draw.kind != kind:
            raise ConfigError("it draws random numbers in another order from one inference to the next")
        start = self._used[kind]
        self._used[kind] = start + draw.count
        part = self._given[kind][:, start : start + draw.count].reshape(-1, *draw.shape)
        return part[0] if draw.axis is None else part.movedim(0, draw.axis).flatten(draw.axis, draw.axis + 1)


def draws_of(compute: Callable[[int], Any]) -> tuple[Draw, ...]:
    """What ``compute(batch)`` draws, found by asking it for two and for three requests."""
    found = []
    for batch in (2, 3):
        with Recorder() as recorder:
            compute(batch)
        found.append(recorder.found)
    if [kind for kind, _ in found[0]] != [kind for kind, _ in found[1]]:
        raise ConfigError("it draws other random numbers for a larger batch")
    return tuple(_draw(two, three) for two, three in zip(*found, strict=True))


def counts(draws: Sequence[Draw]) -> dict[str, int]:
    """Kind -> numbers for each request."""
    return {kind: sum(each.count for each in draws if each.kind == kind) for kind in dict.fromkeys(each.kind for each in draws)}


def _draw(two: tuple[str, tuple[int, ...]], three: tuple[str, tuple[int, ...]]) -> Draw:
    (kind, small), (_, large) = two, three
    axes = [axis for axis, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    if not axes:
        return Draw(kind, small, None)
    (axis, *others), each = axes, small[axes[0]] // 2
    if others or (small[axis], large[axis]) != (2 * each, 3 * each):
        raise ConfigError(f"it draws random numbers of shape {small} for two requests and {large} for three")
    return Draw(kind, (*small[:axis], each, *small[axis + 1 :]), axis)


# How each of torch's functions is made of standard numbers: (mode, function, its arguments).


def _standard(kind: str) -> Callable[..., Any]:
    def draw(mode: _Drawing, function: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("generator", None)
        numbers = mode.numbers(kind, lambda: function(*args, **kwargs).shape)
        return numbers.to(kwargs["dtype"]) if kwargs.get("dtype") else numbers

    return draw


def _normal(mode: _Drawing, function: Any, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Any:
    def shape() -> Sequence[int]:
        if size is not None:
            return tuple(size)
        return tuple(torch.broadcast_shapes(*(each.shape for each in (mean, std) if isinstance(each, torch.Tensor))))

    return mode.numbers("normal", shape) * std + mean


def _normal_(mode: _Drawing, function: Any, place: Any, mean: float = 0.0, std: float = 1.0, **kwargs: Any) -> Any:
    return place.copy_(mode.numbers("normal", lambda: place.shape) * std + mean)


def _uniform_(mode: _Drawing, function: Any, place: Any, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> Any:
    low, high = kwargs.get("from", low), kwargs.get("to", high)
    return place.copy_(mode.numbers("uniform", lambda: place.shape) * (high - low) + low)


def _multinomial(mode: _Drawing, function: Any, weights: Any, num_samples: int, replacement: bool = False, **kwargs: Any) -> Any:
    """The first entry whose summed probability is above the number."""
    if num_samples != 1 and not replacement:
        raise ConfigError("it draws several different entries with multinomial, which cannot be given from outside")
    sums = weights.cumsum(-1)
    numbers = mode.numbers("uniform", lambda: (*weights.shape[:-1], num_samples)) * sums[..., -1:]
    below = sums.unsqueeze(-2) <= numbers.unsqueeze(-1)
    return below.to(torch.int64).sum(-1).clamp(max=weights.shape[-1] - 1)


def _randint(mode: _Drawing, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Called as ``([low,] high, size)``, each by place or by name."""
    places = list(args)
    size = kwargs["size"] if "size" in kwargs else places.pop()
    high = kwargs["high"] if "high" in kwargs else places.pop()
    low = kwargs["low"] if "low" in kwargs else places.pop() if places else 0
    numbers = mode.numbers("uniform", lambda: tuple(size))
    whole = (numbers * (high - low)).floor().clamp(max=high - low - 1) + low
    return whole.to(kwargs.get("dtype") or torch.int64)


def _bernoulli(mode: _Drawing, function: Any, chances: Any, **kwargs: Any) -> Any:
    return (mode.numbers("uniform", lambda: chances.shape) < chances).to(chances.dtype)


_WAYS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.randn, torch.randn_like), _standard("normal")),
    **dict.fromkeys((torch.rand, torch.rand_like), _standard("uniform")),
    torch.normal: _normal,
    torch.Tensor.normal_: _normal_,
    torch.Tensor.uniform_: _uniform_,
    **dict.fromkeys((torch.multinomial, torch.Tensor.multinomial), _multinomial),
    torch.randint: _randint,
    **dict.fromkeys((torch.bernoulli, torch.Tensor.bernoulli), _bernoulli),
}
_OTHER_WAYS = frozenset(
    {
        torch.randperm,
        torch.poisson,
        torch.randint_like,
        *(
            getattr(torch.Tensor, f"{name}_")
            for name in ("random", "bernoulli", "exponential", "cauchy", "geometric", "log_normal")
        ),
    }
)
