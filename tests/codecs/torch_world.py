"""Torch zip files written by hand, hostile ones among them, without torch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from pickle_world import EMPTY_DICT, FALSE, MARK, NONE, integer, items, name, ordered, run, stream, text


def stored(key: str = "0", count: int = 6, cls: str = "FloatStorage", module: str = "torch") -> bytes:
    """A storage by its persistent id."""
    return items(text("storage"), name(module, cls), text(key), text("cpu"), integer(count)) + b"Q"


def tensor_of(storage: bytes, size: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1), offset: int = 0) -> bytes:
    """A tensor from its parts, which need not fit."""
    shape = (items(*map(integer, size)), items(*map(integer, stride)))
    return run("torch._utils", "_rebuild_tensor_v2", storage, integer(offset), *shape, FALSE, ordered())


def mapping(**values: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in values.items()) + b"u"


def torch_file(
    path: Path, value: bytes, entries: Mapping[str, bytes] | None = None, *, folder: str = "a", method: int = zipfile.ZIP_STORED
) -> Path:
    """A zip archive with ``value`` as ``data.pkl`` (a whole stream is made of it) and ``entries`` under ``data/``."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{folder}/data.pkl", stream(value, protocol=4))
        for key, data in (entries or {}).items():
            archive.writestr(f"{folder}/data/{key}", data)
    return path


__all__ = ["NONE", "mapping", "stored", "tensor_of", "torch_file"]
