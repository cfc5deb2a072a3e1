"""The replies of the IL-Studio wire, written and read. Law: pure; the shape of a reply is the programs', not their documents'.

A reply is a list with one element per step, and an element is an object array with one dict per environment, because the
programs hand an element to a vector of environments as it is.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Record
from actlink.errors import RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.types import Array

_PROTOCOL, _END = b"\x80\x04", b"e."
_FRAME = struct.Struct("<cQ")
_CONTENT = len(_PROTOCOL) + _FRAME.size

NONE = b"".join(safe_pickle.encode([]))
"""What says that an inference failed."""


def write(chunks: Sequence[Array], spec: Spec) -> bytes:
    """The reply to one observation: a chunk ``(horizon, action_dim)`` for each of its rows.

    The bytes are those of ``safe_pickle.encode(plain(...))``, several times as fast: they differ from step to step in the numbers
    alone.
    """
    steps = min(len(chunk) for chunk in chunks)
    rows = [np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")) for chunk in chunks]
    first, further = _moulds(len(rows), rows[0].shape[1], rows[0].dtype.str, spec.control_space, spec.control_type)
    pieces: list[bytes] = []
    for step in range(steps):
        mould = further if step else first
        for number, row in enumerate(rows):
            pieces += (mould[number], row[step].tobytes())
        pieces.append(mould[-1])
    content = b"".join((*pieces, _END))
    return _PROTOCOL + _FRAME.pack(b"\x95", len(content)) + content


def plain(chunks: Sequence[Array], spec: Spec) -> list[Array]:
    """The reply as a value."""
    steps = []
    for step in range(min(len(chunk) for chunk in chunks)):
        element = np.empty(len(chunks), object)
        for row, chunk in enumerate(chunks):
            element[row] = {
                "ctrl_space": spec.control_space,
                "ctrl_type": spec.control_type,
                "action": chunk[step],
                "gripper_continuous": False,
            }
        steps.append(element)
    return steps


@functools.lru_cache(maxsize=32)
def _moulds(rows: int, dim: int, dtype: str, space: str, kind: str) -> tuple[list[bytes], list[bytes]]:
    """What stands around the numbers of the first step, and of every further one (which refer back to the first)."""
    numbers = b"\xa5" * (dim * np.dtype(dtype).itemsize)
    chunk = np.frombuffer(2 * numbers, dtype).reshape(2, dim)
    spec = Spec({}, Field((dim,)), control_space=space, control_type=kind)
    one, two = (b"".join(safe_pickle.encode(plain([chunk[:steps]] * rows, spec)))[_CONTENT:] for steps in (1, 2))
    begun = one.removesuffix(_END)
    return begun.split(numbers), two.removesuffix(_END)[len(begun) :].split(numbers)


def read(value: Any, spec: Spec | None) -> list[Array]:
    """A chunk ``(horizon, action_dim)`` for each environment; every form that servers of this wire send is understood."""
    if not isinstance(value, list | tuple):
        raise RemoteProtocolError(f"expected a list of actions, got a {type(value).__name__}")
    steps = [_element(element) for element in value]
    widths = {len(step) for step in steps}
    if len(widths) != 1 or not steps[0]:
        raise RemoteProtocolError("expected actions for the same environments at every step")
    return [_chunk([_action(step[row], spec) for step in steps], spec) for row in range(len(steps[0]))]


def _element(element: Any) -> list[Any]:
    """The actions of one step, one for each environment: an object array or a list of them, or a single one."""
    if isinstance(element, np.ndarray) and element.dtype == object:
        return list(element.reshape(-1))
    return list(element) if isinstance(element, list | tuple) else [element]


def _action(value: Any, spec: Spec | None) -> Array:
    """The numbers of one MetaAction, sent as a dict or as an object."""
    fields = value.state if isinstance(value, Record) and value.name == "MetaAction" else value
    if type(fields) is not dict:
        raise RemoteProtocolError(f"expected a MetaAction or a dict like it, got a {type(value).__name__}")
    action = fields.get("action")
    if not isinstance(action, np.ndarray) or action.dtype.kind not in "biuf" or action.ndim != 1:
        raise RemoteProtocolError("MetaAction.action: expected an array (action_dim,) of numbers")
    if spec is not None:
        said = fields.get("ctrl_space", "ee"), fields.get("ctrl_type", "delta")
        if said != (spec.control_space, spec.control_type):
            shown = " ".join(str(each)[:20] for each in said)
            raise RemoteProtocolError(
                f"the server's actions are for {shown} control, the spec says {spec.control_space} {spec.control_type}"
            )
    return action


def _chunk(actions: Sequence[Array], spec: Spec | None) -> Array:
    if len({action.shape for action in actions}) > 1:
        raise RemoteProtocolError("expected as many entries in every action of a reply")
    with np.errstate(over="ignore", invalid="ignore"):  # the spec judges what comes of it
        return np.stack(actions).astype(spec.action.dtype if spec is not None else actions[0].dtype)
