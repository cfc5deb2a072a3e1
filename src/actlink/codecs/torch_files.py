"""Checkpoints that torch and pickle wrote, read and written without either. Law: a file is data; nothing in it is called.

``load`` reads what ``torch.save`` writes (``.pt``, ``.pth``, ``.ckpt``, ``.bin``): tensors become numpy arrays that are read-only
views on the mapped file, objects of any class become inert ``Record``s. ``state_dict`` gives its tensors by name, ``load_pickle``
reads a statistics pickle (``dataset_stats.pkl``), ``save`` writes a state dict that torch reads. What cannot be read so is a
``ConfigError`` that says why, and how to convert the file where it was trained. ``docs/checkpoints.md`` has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy import ndarray

from actlink.codecs import _torch_writer, _torch_zip
from actlink.codecs._pickle_reader import decode
from actlink.codecs._pickle_records import Limits, PickleDecodeError, Record, shown
from actlink.codecs.mapped_files import mapped
from actlink.errors import ConfigError
from actlink.types import Array

__all__ = ["load", "load_from", "load_pickle", "save", "state_dict", "tensors_of"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "policy", "ema", "module")
"""Keys under which training programs put the state dict beside an optimizer and counters, in the order they are tried."""
STATISTICS = Limits(message_bytes=2**28, operations=2_000_000, objects=200_000, text_bytes=2**24, expanded_bytes=2**29)
"""What a statistics pickle may cost."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"


def load(path: Path, limits: Limits | None = None) -> Any:
    """The value in a torch file: plain values, arrays (views on the file, which must not be changed meanwhile) and ``Record``s.

    bfloat16 and 8-bit floats come as float32. ``limits`` default to what is in proportion to the file's length.
    """
    path = Path(path)
    view = mapped(path)
    try:
        return load_from(view, limits)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}. {_how(path)}") from None


def load_from(view: memoryview, limits: Limits | None = None) -> Any:
    """``load`` for a torch file that is in memory, or is an entry of another archive; errors name no file."""
    start = bytes(view[: len(_LEGACY)])
    if start == _LEGACY:
        raise ConfigError("a torch file of the format before torch 1.6, which is not a zip archive")
    if not start.startswith(_ZIP):
        raise ConfigError(f"not a torch file: expected a zip archive, it begins with {start[:8]!r}")
    return _torch_zip.load(view, limits)


def state_dict(path: Path, limits: Limits | None = None) -> dict[str, Array]:
    """The tensors of a torch file by name: the dict it keeps under a well-known key (``state_dict``, ...), else its own.

    Entries that are no tensors (``_extra_state``, counters) are left out.
    """
    try:
        return tensors_of(load(path, limits))
    except _NoTensors as error:
        raise ConfigError(f"{path}: {error}. {_how(Path(path))}") from None


class _NoTensors(ConfigError):
    """The file is read, and no state dict is in it."""


def tensors_of(value: Any) -> dict[str, Array]:
    """The state dict in what ``load`` gave."""
    if isinstance(value, dict):
        for candidate in (*(value[key] for key in WRAPPERS if isinstance(value.get(key), dict)), value):
            found = {str(name): each for name, each in candidate.items() if type(each) is ndarray and each.dtype != object}
            if found:
                return found
        raise _NoTensors(
            f"expected a state dict (tensors by name), got a dict with the keys {', '.join(map(shown, list(value)[:8]))}"
        )
    if isinstance(value, Record):
        raise _NoTensors(f"expected a state dict, got an object of class {shown(value)}: the module was saved whole, with its code")
    raise _NoTensors(f"expected a state dict (tensors by name), got {shown(value)}")


def load_pickle(path: Path, limits: Limits = STATISTICS) -> Any:
    """The value of a pickle such as ``dataset_stats.pkl``: plain values and arrays, ``Record``s for objects of any class."""
    path = Path(path)
    view = mapped(path)
    try:
        return decode(view, limits)
    except PickleDecodeError as error:
        raise ConfigError(
            f"{path}: {error}. Pickles are read here without running them; where it was written, save plain numbers: "
            f"python -c \"import pickle, numpy as np; d = pickle.load(open('{path.name}', 'rb')); "
            f"pickle.dump({{k: np.asarray(v) for k, v in d.items()}}, open('plain_{path.name}', 'wb'), protocol=4)\""
        ) from None


def save(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a state dict as ``torch.save`` does; ``torch.load`` reads it (``weights_only`` too). An array given twice is shared."""
    _torch_writer.save(Path(path), tensors)


def _how(path: Path) -> str:
    return (
        "Nothing in a checkpoint is run here. Where it was trained, save its weights alone: "
        f"python -c \"import torch; d = torch.load('{path.name}', map_location='cpu', weights_only=False); "
        f"d = d.state_dict() if hasattr(d, 'state_dict') else d.get('state_dict', d); torch.save(dict(d), 'weights_{path.name}')\""
    )
