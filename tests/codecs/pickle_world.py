"""Pickles written opcode by opcode, hostile ones among them, and children that watch what reading them does."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

MARK, TUPLE, STOP, REDUCE, BUILD, NEWOBJ, MEMOIZE = b"(", b"t", b".", b"R", b"b", b"\x81", b"\x94"
NONE, TRUE, FALSE, EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b"N", b"\x88", b"\x89", b")", b"]", b"}"


def stream(*body: bytes, protocol: int = 4) -> bytes:
    """A whole pickle around ``body``."""
    return b"\x80" + bytes([protocol]) + b"".join(body) + STOP


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw if len(raw) < 256 else b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def raw(value: bytes) -> bytes:
    return b"C" + bytes([len(value)]) + value if len(value) < 256 else b"B" + struct.pack("<I", len(value)) + value


def items(*values: bytes) -> bytes:
    """A tuple."""
    return MARK + b"".join(values) + TUPLE


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(callee: bytes, *args: bytes) -> bytes:
    return callee + items(*args) + REDUCE


def run(module: str, attribute: str, *args: bytes) -> bytes:
    """A call of ``module.attribute`` by REDUCE."""
    return call(name(module, attribute), *args)


def dtype(kind: str = "f4", order: str = "<", flags: int = 0, itemsize: int = -1) -> bytes:
    """``numpy.dtype`` with its state, as numpy pickles it."""
    state = items(integer(3), text(order), NONE, NONE, NONE, integer(itemsize), integer(-1), integer(flags))
    return run("numpy", "dtype", text(kind), FALSE, TRUE) + state + BUILD


def array(shape: tuple[int, ...], kind: bytes, data: bytes, fortran: bytes = FALSE, module: str = "numpy.core.multiarray") -> bytes:
    """A numpy array from its parts, which need not fit."""
    start = run(module, "_reconstruct", name("numpy", "ndarray"), items(integer(0)), raw(b"b"))
    return start + items(integer(1), items(*map(integer, shape)), kind, fortran, data) + BUILD


def torch_blob(cls: str = "torch\nFloatStorage", count: int = 2, data: bytes = bytes(8), **changed: bytes) -> bytes:
    """A legacy ``torch.save`` stream of one storage; ``changed`` replaces whole pickles or the count in front of the data."""
    pickles = {
        "magic": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "protocol": b"\x80\x02M\xe9\x03.",
        "system": b"\x80\x02}X\r\x00\x00\x00little_endian\x88s.",
        "storage": b"\x80\x02(X\x07\x00\x00\x00storagec"
        + cls.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + integer(count)
        + b"NtQ.",
        "keys": b"\x80\x02]X\x01\x00\x00\x000a.",
        "length": struct.pack("<q", count),
    }
    return b"".join({**pickles, **changed}.values()) + data


def storage(blob: bytes) -> bytes:
    return run("torch.storage", "_load_from_bytes", raw(blob))


def ordered() -> bytes:
    return run("collections", "OrderedDict")


def tensor(blob: bytes, offset: int = 0, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,)) -> bytes:
    """A torch tensor from its parts, which need not fit."""
    shape = (items(*map(integer, size)), items(*map(integer, stride)))
    return run("torch._utils", "_rebuild_tensor_v2", storage(blob), integer(offset), *shape, FALSE, ordered())


def child(script: str, *args: str, timeout_s: float = 600, folder: Path | None = None) -> Any:
    """What the script beside this file prints as JSON, run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(HERE / script), *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, f"{script} {' '.join(args)} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return json.loads(done.stdout)
