"""The zip files that ``torch.save`` writes, without torch. Law: a tensor is a view on its storage, a storage on the file.

``<name>/data.pkl`` is a pickle whose tensors refer by persistent id, ``('storage', class, key, location, elements)``, to the
entries ``<name>/data/<key>``, which hold a storage's elements as they were in memory; ``<name>/byteorder`` says ``little``. Read
from torch 2.13 (``torch/serialization.py``, ``_save`` and ``_load``) and checked against what it writes. bfloat16 and the 8-bit
floats, which numpy does not know, are widened to float32; every value keeps its exact number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from actlink.codecs import _torch_stream as stream
from actlink.codecs._pickle_arrays import DTYPES, Call, check_booleans
from actlink.codecs._pickle_machine import CALLS, Archive
from actlink.codecs._pickle_reader import read, read_nested
from actlink.codecs._pickle_records import Limits, Message, Name, PickleDecodeError, Refusal, shown
from actlink.codecs._torch_stream import Storage
from actlink.codecs._zip_views import Zip
from actlink.errors import ConfigError
from actlink.types import Array

KINDS = {**stream.STORAGES, ("torch", "ComplexFloatStorage"): "c8", ("torch", "ComplexDoubleStorage"): "c16"}
_DTYPES = {
    **DTYPES,
    "c8": np.dtype("<c8"),
    "c16": np.dtype("<c16"),
    "bfloat16": np.dtype("<u2"),
    "bytes": np.dtype("u1"),
}
_FLOAT8 = {"float8_e4m3fn": (4, 7), "float8_e5m2": (5, 15)}
"""8-bit floats: bits of exponent, bias."""


class Storages:
    """The storages of one archive, each read once, when a tensor first names it."""

    def __init__(self, archive: Zip, prefix: str, message: Message) -> None:
        self._archive = archive
        self._prefix = prefix
        self._message = message
        self._known: dict[str, tuple[str, Storage]] = {}

    def find(self, persistent_id: Any) -> Storage:
        """The storage of ``('storage', class, key, location, elements)``; where it lived (``cuda:0``) does not matter."""
        fields = persistent_id
        if type(fields) is not tuple or tuple(map(type, fields)) != (str, Name, str, str, int) or fields[0] != "storage":
            raise Refusal("a persistent id that is not ('storage', class, key, location, elements)")
        _, cls, key, _, count = fields
        kind = KINDS.get((cls.module, cls.name))
        if kind is None or count < 0:
            raise Refusal(f"a torch storage of class {shown(cls)} with {shown(count)} elements")
        if key not in self._known:
            self._message.count()
            self._known[key] = kind, self._read(kind, key, count)
        known, storage = self._known[key]
        if known != kind or storage.values.size != count:
            raise Refusal(f"storage {shown(key)} under two descriptions")
        return storage

    def _read(self, kind: str, key: str, count: int) -> Storage:
        name = f"{self._prefix}/data/{key}"
        if name not in self._archive.entries:
            raise Refusal(f"storage {shown(key)}, which is not in the archive")
        raw = self._archive.read(name)
        dtype = _DTYPES[kind]
        if len(raw) != count * dtype.itemsize:
            raise Refusal(f"storage {shown(key)}: {count} elements of {kind} announced, {len(raw)} bytes there")
        values: Array = ndarray((count,), dtype, raw)
        if kind == "b1":
            check_booleans(raw, self._message)
        if kind == "bfloat16":
            self._message.make(4 * count)
            values = (values.astype("<u4") << 16).view("<f4")
            values.flags.writeable = False
        return Storage(kind, values)


def load(view: memoryview, limits: Limits | None) -> Any:
    """The value in the torch zip file that fills ``view``; ``ConfigError`` for whatever else the bytes are."""
    archive = Zip(view)
    prefix = _prefix(archive)
    pickled = archive.read(f"{prefix}/data.pkl")
    if limits is None:
        limits = limits_for(len(pickled), len(view))
    message = Message(limits, len(view), read_nested)
    message.made += len(view)  # bfloat16 takes twice its bytes
    storages = Storages(archive, prefix, message)
    try:
        return read(pickled, limits, message, Archive(storages.find, FILE_CALLS))
    except PickleDecodeError as error:
        raise ConfigError(f"{prefix}/data.pkl: {error}") from None


def limits_for(pickle_bytes: int, file_bytes: int) -> Limits:
    """What a file may cost: in proportion to its own length, since a checkpoint may be large where a message may not."""
    return Limits(
        message_bytes=2**28,
        operations=min(2**23, 100_000 + pickle_bytes),
        objects=min(2**21, 10_000 + pickle_bytes // 8),
        text_bytes=2**18 + min(2**26, pickle_bytes),
        expanded_bytes=2**26 + 4 * file_bytes,
    )


def _prefix(archive: Zip) -> str:
    """The one folder that holds ``data.pkl``."""
    found = [name.removesuffix("/data.pkl") for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        there = ", ".join(sorted(archive.entries)[:6]) or "nothing"
        raise ConfigError(f"not a torch file: expected one <name>/data.pkl in the zip archive, which holds {there}")
    (prefix,) = found
    if f"{prefix}/constants.pkl" in archive.entries or any(name.startswith(f"{prefix}/code/") for name in archive.entries):
        raise ConfigError("a TorchScript program, which holds code; weights are read (a state dict)")
    if f"{prefix}/byteorder" in archive.entries and bytes(archive.read(f"{prefix}/byteorder")) != b"little":
        raise ConfigError("a torch file of a big-endian machine; little-endian ones are read")
    return prefix


def _rebuild_newer(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_tensor_v3`` of an 8-bit float, or as in a message."""
    dtype = args[6] if len(args) in (7, 8) else None
    if type(dtype) is not Name or dtype.module != "torch" or dtype.name not in _FLOAT8 or type(args[0]) is not Storage:
        return stream.rebuild_newer(args, message)
    if args[0].kind != "bytes":
        raise Refusal("torch's _rebuild_tensor_v3 takes an untyped storage")
    message.make(4 * args[0].values.size)
    wide = _float8_table(dtype.name)[args[0].values]
    wide.flags.writeable = False
    return stream.strided(wide, args[1], args[2], args[3])


def _float8_table(name: str) -> Array:
    """float32 ``(256,)``: the number each byte stands for (OCP 8-bit floating point specification, tables 1 and 2)."""
    bits, bias = _FLOAT8[name]
    code = np.arange(256)
    fraction_bits = 7 - bits
    exponent, fraction = (code >> fraction_bits) & (2**bits - 1), code & (2**fraction_bits - 1)
    size = np.where(
        exponent == 0,
        fraction * 2.0 ** (1 - bias - fraction_bits),
        (1 + fraction / 2**fraction_bits) * 2.0 ** (exponent - bias),
    )
    if name == "float8_e4m3fn":
        size[code & 0x7F == 0x7F] = np.nan
    else:
        size[exponent == 31] = np.where(fraction[exponent == 31] == 0, np.inf, np.nan)
    table: Array = np.where(code & 0x80, -size, size).astype(np.float32)
    return table


def _parameter_with_state(args: tuple[Any, ...], message: Message) -> Array:
    """``_rebuild_parameter_with_state(tensor, requires_grad, hooks, state)``: the tensor."""
    if len(args) != 4 or type(args[0]) is not ndarray:
        raise Refusal("torch's _rebuild_parameter_with_state takes (tensor, requires_grad, hooks, state)")
    return args[0]


def _defaultdict(args: tuple[Any, ...], message: Message) -> dict[Any, Any]:
    """``collections.defaultdict(factory)``: an empty dict, filled by SETITEMS."""
    if len(args) > 1:
        raise Refusal("defaultdict is read when made empty")
    return {}


FILE_CALLS: dict[tuple[str, str], Call] = {
    **CALLS,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_newer,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter_with_state,
    ("collections", "defaultdict"): _defaultdict,
}
