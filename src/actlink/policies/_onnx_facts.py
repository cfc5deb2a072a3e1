"""What a person is told of an ONNX checkpoint beyond its spec. Law: read off the file, nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from actlink.policies._onnx_files import Checkpoint
from actlink.policies._onnx_protobuf import fields, varint
from actlink.spec import Field, Spec


def facts_of(checkpoint: Checkpoint) -> dict[str, str]:
    """``parameters`` and ``normalisation`` for ``Policy.facts``."""
    scaled = [each.key for each in checkpoint.inputs if each.mean is not None or each.std is not None]
    scaled += ["action"] if checkpoint.output.mean is not None or checkpoint.output.std is not None else []
    source = (
        f"{checkpoint.described} (mean/std of {', '.join(dict.fromkeys(scaled))})"
        if scaled
        else f"the graph itself, or none ({checkpoint.described} has none)"
    )
    return {"parameters": in_words(_parameters(memoryview(checkpoint.model))), "normalisation": source}


def with_typical(checkpoint: Checkpoint) -> Spec:
    """The spec, and where each entry of a vector lay in training: mean ± 4 deviations, for what is normalised as a whole."""
    spec = checkpoint.spec
    known: dict[str, dict[int, tuple[float, float]]] = {}
    for each in checkpoint.inputs:
        field = spec.observation[each.key]
        if each.mean is None or each.std is None or len(field.shape) != 1:
            continue
        places = range(len(each.mean)) if each.select is None else [(field.names or ()).index(name) for name in each.select]
        low, high = (each.mean - 4 * each.std) / each.scale, (each.mean + 4 * each.std) / each.scale
        known.setdefault(each.key, {}).update(zip(places, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    observation = {key: _told(field, known.get(key, {})) for key, field in spec.observation.items()}
    mean, std = checkpoint.output.mean, checkpoint.output.std
    ends = (
        {}
        if mean is None or std is None
        else dict(enumerate(zip((mean - 4 * std).tolist(), (mean + 4 * std).tolist(), strict=True)))
    )
    return replace(spec, observation=observation, action=_told(spec.action, ends))


def _told(field: Field, typical: dict[int, tuple[float, float]]) -> Field:
    """What the file itself says comes first; statistics of some entries alone say nothing."""
    if field.typical is not None or field.dtype != "float32" or not field.shape or field.shape[-1] != len(typical) or not typical:
        return field
    return replace(field, typical=tuple(typical[place] for place in range(len(typical))))


def in_words(count: int) -> str:
    """``12``, ``4.1 k``, ``51.6 M``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return str(count)


def _parameters(model: memoryview) -> int:
    """Numbers that the graph's own tensors hold; its constants are among them."""
    graphs = [value for number, value in fields(model) if number == 7 and isinstance(value, memoryview)]
    tensors = [value for graph in graphs for number, value in fields(graph) if number == 5 and isinstance(value, memoryview)]
    return sum(math.prod(_dimensions(tensor)) for tensor in tensors)


def _dimensions(tensor: memoryview) -> Iterator[int]:
    for number, value in fields(tensor):
        if number == 1 and isinstance(value, int):
            yield value
        elif number == 1 and isinstance(value, memoryview):  # all of them in one field
            place = 0
            while place < len(value):
                size, place = varint(value, place)
                yield size
