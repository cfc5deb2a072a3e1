"""ONNX models for tests, written byte by byte: field numbers of ``onnx.proto``, no library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"float32": 1, "uint8": 2, "int64": 7, "float64": 11}


def varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def integer(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: Any, *, elsewhere: str = "") -> bytes:
    """A TensorProto; ``elsewhere`` claims that its numbers are in that file."""
    array = np.asarray(values)
    found = b"".join(integer(1, n) for n in array.shape) + integer(2, TYPES[str(array.dtype)]) + block(8, name)
    if elsewhere:
        return found + block(13, block(1, "location") + block(2, elsewhere)) + integer(14, 1)
    return found + block(9, array.tobytes())


def value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto; words in the shape are free axes."""
    dims = b"".join(block(1, block(2, n) if isinstance(n, str) else integer(1, n)) for n in shape)
    return block(1, name) + block(2, block(1, integer(1, TYPES[dtype]) + block(2, dims)))


def node(kind: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    return b"".join(block(1, n) for n in inputs) + block(2, output) + block(4, kind) + b"".join(block(5, a) for a in attributes)


def int_attribute(name: str, number: int) -> bytes:
    return block(1, name) + integer(3, number) + integer(20, 2)


def model(nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    parts = [(1, nodes), (5, tensors), (11, inputs), (12, outputs)]
    graph = block(2, "g") + b"".join(block(number, part) for number, found in parts for part in found)
    return integer(1, 8) + block(8, block(1, "") + integer(2, 17)) + block(7, graph)


def linear(
    matrix: Any, horizon: int = 1, *, flat: bool = False, batch: int | str = "batch", elsewhere: str = "", output: str = "actions"
) -> bytes:
    """``state`` (batch, n) times ``matrix`` (n, horizon * dim), as (batch, horizon, dim), or (batch, dim) if ``flat``."""
    matrix = np.asarray(matrix, np.float32)
    rows, columns = matrix.shape
    shape = [-1, columns] if flat else [-1, horizon, columns // horizon]
    return model(
        [node("MatMul", ["state", "matrix"], "product"), node("Reshape", ["product", "shape"], output)],
        [tensor("matrix", matrix, elsewhere=elsewhere), tensor("shape", np.asarray(shape, np.int64))],
        [value("state", "float32", [batch, rows])],
        [value(output, "float32", [batch, *shape[1:]])],
    )


def greedy(matrix: Any) -> bytes:
    """``state`` (batch, n) to the index of the largest of its products with ``matrix``, int64 (batch, 1)."""
    matrix = np.asarray(matrix, np.float32)
    return model(
        [
            node("MatMul", ["state", "matrix"], "product"),
            node("ArgMax", ["product"], "actions", int_attribute("axis", 1), int_attribute("keepdims", 1)),
        ],
        [tensor("matrix", matrix)],
        [value("state", "float32", ["batch", matrix.shape[0]])],
        [value("actions", "int64", ["batch", 1])],
    )


def picture_means(dtype: str, shape: Sequence[int]) -> bytes:
    """``picture`` (batch, *shape) to the means over its second and third axis, (batch, the remaining one)."""
    return model(
        [
            node("Cast", ["picture"], "numbers", int_attribute("to", 1)),
            node("ReduceMean", ["numbers"], "actions", axes(1, 2) if shape[2] == 3 else axes(2, 3), int_attribute("keepdims", 0)),
        ],
        [],
        [value("picture", dtype, ["batch", *shape])],
        [value("actions", "float32", ["batch", 3])],
    )


def axes(*numbers: int) -> bytes:
    return block(1, "axes") + b"".join(integer(8, n) for n in numbers) + integer(20, 7)


def description(**changes: Any) -> dict[str, Any]:
    """A ``policy.json`` for ``linear(np.eye(2))``; ``changes`` replace its top-level keys."""
    plain: dict[str, Any] = {
        "format": 1,
        "name": "two",
        "spec": {
            "observation": {"state": {"shape": [2], "names": ["a", "b"]}},
            "action": {"shape": [2]},
            "max_batch_size": 4,
        },
        "model": "model.onnx",
        "inputs": {"state": {"key": "state"}},
        "output": {"name": "actions"},
    }
    return {**plain, **changes}


def write(folder: Path, plain: Mapping[str, Any] | str | None = None, graph: bytes | None = None) -> Path:
    """A checkpoint directory; by default a valid one."""
    folder.mkdir(exist_ok=True)
    text = plain if isinstance(plain, str) else json.dumps(description() if plain is None else plain)
    (folder / "policy.json").write_text(text)
    (folder / "model.onnx").write_bytes(linear(np.eye(2)) if graph is None else graph)
    return folder
