"""Computations as torch's exporter can trace them. Law: the same numbers.

A trace writes down everything, and takes every size for a number that may change. Code that rounds, counts or ranges over a size
then fails, and what could be worked out once is worked out in every inference. Here a tensor is *open* where it depends on an
input, and:

- sizes stay open only where they go with the batch: those that the example's batch divides, so it should divide no other;
- what is made of closed tensors alone is computed now, and is a constant of the graph;
- operations that the exporter lacks are said in those that it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_OPEN, _COPY = "_actlink_open", "_actlink_copy"
_OPERATORS = frozenset(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "and", "or", "xor", "mod"))


class Traceable(TorchFunctionMode):  # type: ignore[misc, unused-ignore] # Any, where torch is not installed
    """Inside it a trace of a computation of ``inputs`` can be made; ``batch`` is the example's. Where it is 1, no size is open.

    ``weights``: the module that is traced; its tensors are inputs of the trace already.
    """

    def __init__(self, inputs: Any, batch: int, weights: Any = None) -> None:
        super().__init__()
        self._batch = batch
        named = [] if weights is None else [*weights.parameters(), *weights.buffers()]
        self._weights = frozenset(id(each) for each in named)
        _mark(inputs)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        changed = list(_tensors(args[:1] if _changes(function) else given.get("out")))
        if not any(map(_is_open, _tensors((args, given)))):
            with _untraced():
                return function(*args, **given)
        for each in changed:
            _open(each)
        found = _INSTEAD.get(function, function)(*self._constants(args), **self._constants(given))
        if isinstance(found, torch.Size):
            return torch.Size([self._size(each) for each in found])
        if function is torch.Tensor.size:
            return self._size(found)
        _mark(found)
        return found

    def _size(self, size: Any) -> Any:
        if self._batch == 1 or int(size) % self._batch:
            return int(size)
        _mark(size)
        return size

    def _constants(self, found: Any) -> Any:
        """Closed tensors as copies of the trace's own: what is written into them later would be written into its constants."""
        if isinstance(found, torch.Tensor):
            return found if _is_open(found) or id(found) in self._weights else _copy(found)
        if type(found) in (tuple, list):
            return type(found)(self._constants(each) for each in found)
        return {key: self._constants(each) for key, each in found.items()} if type(found) is dict else found


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """The same one until the tensor is written to."""
    version, copy = getattr(tensor, _COPY, (None, None))
    if version != tensor._version:
        with _untraced():
            copy = tensor.detach().clone()
        setattr(tensor, _COPY, (tensor._version, copy))
    return copy


def _open(tensor: torch.Tensor) -> None:
    """What depends on an input is about to be written into this one: from here on the trace has it, too."""
    if not _is_open(tensor):
        torch._C._set_value_trace(tensor, torch._C._get_value_trace(_copy(tensor).clone()))
        _mark(tensor)


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def _changes(function: Any) -> bool:
    """Whether it writes into its first argument."""
    name: str = getattr(function, "__name__", "")
    return name == "__setitem__" or name in _OPERATORS or (name.endswith("_") and not name.endswith("__"))


def _is_open(tensor: torch.Tensor) -> bool:
    return getattr(tensor, _OPEN, False)


def _mark(found: Any) -> None:
    for each in _tensors(found):
        setattr(each, _OPEN, True)


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, (tuple, list)):
        for each in found:
            yield from _tensors(each)
    elif isinstance(found, slice):
        yield from _tensors((found.start, found.stop, found.step))
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))


def _take_along_dim(values: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return values.flatten().gather(0, indices.flatten())
    kept = [axis == dim % values.ndim or indices.shape[axis] == size for axis, size in enumerate(values.shape)]
    sizes = [-1 if keep else size for keep, size in zip(kept, values.shape, strict=True)]
    return values.gather(dim, indices.expand(sizes))


def _nan_to_num_(values: Any, *args: Any, **kwargs: Any) -> Any:
    return values.copy_(values.nan_to_num(*args, **kwargs))


_INSTEAD: dict[Any, Any] = {
    torch.take_along_dim: _take_along_dim,
    torch.Tensor.take_along_dim: _take_along_dim,
    torch.Tensor.nan_to_num_: _nan_to_num_,
}
"""Operations that the exporter lacks, in those that it has."""
