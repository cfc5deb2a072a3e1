"""Pickles read and written without pickle. Law: bytes become plain values; nothing in them is imported, looked up or called.

Four of the wires this package speaks carry pickles. ``decode`` reads what honest peers send over them (plain values, numpy arrays,
torch tensors, dataclasses) into plain values, arrays that are views on the received bytes, and inert ``Record``s; it refuses the
rest with ``PickleDecodeError``, which names the byte. ``encode`` writes what those peers read, at protocol 4. Neither does any I/O,
and there is no other way in: no fallback to Python's own unpickler. ``docs/safe-pickle.md`` has the rules and the reasons.
"""

from __future__ import annotations

from actlink.codecs._pickle_reader import decode
from actlink.codecs._pickle_records import Limits, Name, PickleDecodeError, Record, Tensor
from actlink.codecs._pickle_writer import encode

__all__ = ["Limits", "Name", "PickleDecodeError", "Record", "Tensor", "decode", "encode"]
