"""State dicts written as ``torch.save`` writes them. Law: one storage for each array, aligned to 64 bytes so that it can be mapped.

The pickle is of protocol 2 and names nothing but torch's own functions and ``collections.OrderedDict``: every torch from 1.6 on
reads it, with ``weights_only`` too. The file takes its place when it is whole.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from actlink.codecs._torch_stream import CLASSES
from actlink.errors import ConfigError
from actlink.types import Array

ALIGNMENT = 64
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEADER = 30
_ZIP64_FIELD = 20
_PADDING = 0x4246
"""Kind of the extra field that only fills, as torch names it (``FB``)."""


def save(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write ``tensors``: bool, int8 to int64, uint8, float16 to float64. ``ConfigError`` for other dtypes and unwritable places."""
    storages: dict[int, tuple[str, Array]] = {}
    for name, array in tensors.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise ConfigError(f"{path}: expected arrays by name, got {type(array).__name__} for {name!r}")
        if array.dtype.newbyteorder("<") not in CLASSES:
            known = ", ".join(sorted(str(dtype) for dtype in CLASSES))
            raise ConfigError(f"{path}: {name!r} is {array.dtype}; torch files are written with {known}")
        storages.setdefault(id(array), (str(len(storages)), array))
    folder = path.stem or "archive"
    partial = path.with_name(path.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            _put(archive, f"{folder}/data.pkl", b"".join(_pickled(tensors, storages)))
            _put(archive, f"{folder}/byteorder", b"little")
            for key, array in storages.values():
                plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
                _put(archive, f"{folder}/data/{key}", plain.reshape(-1).view(np.uint8).data)
            _put(archive, f"{folder}/version", b"3\n")
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _put(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """One entry whose bytes begin at a multiple of 64."""
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    large = len(data) > 2**30
    at = (archive.fp.tell() if archive.fp else 0) + _LOCAL_HEADER + len(name.encode()) + (_ZIP64_FIELD if large else 0)
    fill = -(at + 4) % ALIGNMENT
    entry.extra = struct.pack("<HH", _PADDING, fill) + b"Z" * fill
    entry.file_size = len(data)
    with archive.open(entry, "w", force_zip64=large) as file:
        file.write(data)


def _pickled(tensors: Mapping[str, Array], storages: Mapping[int, tuple[str, Array]]) -> Iterator[bytes]:
    """The dict of tensors; no memo, so every name is written each time: some 200 bytes a tensor."""
    yield b"\x80\x02}("
    for name, array in tensors.items():
        key, _ = storages[id(array)]
        steps = [1]
        for length in array.shape[:0:-1]:
            steps.insert(0, steps[0] * length)
        cls = CLASSES[array.dtype.newbyteorder("<")].encode()
        yield _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        yield _text("storage") + b"ctorch\n" + cls + b"\n" + _text(key) + _text("cpu") + _integer(array.size) + b"tQK\x00"
        yield _tuple(array.shape) + _tuple(tuple(steps[: array.ndim])) + b"\x89ccollections\nOrderedDict\n)RtR"
    yield b"u."


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
