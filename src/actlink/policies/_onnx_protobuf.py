"""The bytes of an ONNX model, walked by protocol buffers' own framing and field numbers of ``onnx.proto``. Law: nothing is run.

A model from somebody else must not make this machine read a path of their choice: tensors that live in other files are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from actlink.errors import ConfigError

_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message -> field number -> message in it: every way to a tensor in ``onnx.proto``."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def refuse_external_data(model: bytes, where: str) -> None:
    """``ConfigError`` if a tensor of ``model`` keeps its numbers in another file, or if the bytes are no ONNX model."""
    try:
        external = _has_external_data(memoryview(model), "model", 0)
    except (IndexError, ValueError) as error:
        raise ConfigError(f"{where}: expected an ONNX model, got {len(model)} bytes that are none ({error})") from error
    if external:
        raise ConfigError(f"{where}: its weights are in another file; export the model as one file (external_data=False)")


def _has_external_data(data: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for number, value in fields(data):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                return True
        elif number in _INSIDE[kind]:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of a {kind} is no message")
            if _has_external_data(value, _INSIDE[kind][number], depth + 1):
                return True
    return False


def count_nodes(model: bytes) -> int:
    """Operations of the graph, those of its inner graphs left out."""
    graphs = [value for number, value in fields(memoryview(model)) if number == 7 and isinstance(value, memoryview)]
    return sum(number == 1 for graph in graphs for number, _ in fields(graph))


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one protocol buffers message; ``ValueError`` or ``IndexError`` where it is cut short."""
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        wire = tag & 7
        if wire == 0:
            value, place = varint(data, place)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, place = varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place + size > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[place : place + size]
        place += size


def varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
