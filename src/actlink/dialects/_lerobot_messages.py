"""Bytes of the LeRobot wire: protobuf messages of two fields, the pickles inside them, uploads in pieces. Law: no session here.

The service is ``transport.AsyncInference`` of ``lerobot/transport/services.proto``, the same text from 0.3.2 on::

    Observation { TransferState transfer_state = 1; bytes data = 2; }   UNKNOWN 0, BEGIN 1, MIDDLE 2, END 3
    PolicySetup { bytes data = 1; }    Actions { bytes data = 1; }    Empty {}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.codecs import safe_pickle
from actlink.codecs.safe_pickle import Record, Tensor
from actlink.dialects._base import Buffer
from actlink.errors import LocalProtocolError, RemoteProtocolError
from actlink.types import Array

PIECE_BYTES = 2 * 1024 * 1024
"""Payload of one message of an upload."""
REPLY_BYTES = 4 * 1024 * 1024
"""gRPC's own limit for a message, which the original client leaves as it is; replies must stay below it."""
_BEGIN, _MIDDLE, _END = 1, 2, 3
_LONGEST_TEXT = 4096
_LAST_STEP = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What a client says of itself in its PolicySetup (``RemotePolicyConfig``)."""

    module: str
    """Where its payload classes live; replies name the same module."""
    policy_type: str
    model: str
    device: str
    actions_per_chunk: int
    state_names: tuple[str, ...] | None
    """Motors in the order of the state; None where the features name no state."""
    cameras: tuple[str, ...]
    """Names of the image features, without ``observation.images.``."""
    renames: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """One ``TimedObservation``: the robot's own dict, before it is mapped to anything."""

    module: str
    timestamp: float
    timestep: int
    must_go: bool
    raw: dict[str, Any]


# Protobuf


def field(number: int, data: Buffer) -> bytes:
    """A message of one bytes field; an empty one is not written."""
    if not len(data):
        return b""
    return b"%c%s%s" % (number << 3 | 2, _varint(len(data)), data)


def read_fields(message: Buffer) -> dict[int, int | memoryview]:
    """Fields of a message by number, varints and bytes; the last of equal ones counts, unknown ones are harmless."""
    view = memoryview(message)
    found: dict[int, int | memoryview] = {}
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        number, kind = tag >> 3, tag & 7
        if not number or kind not in (0, 1, 2, 5):
            raise RemoteProtocolError(f"protobuf: expected a field at byte {at}, got tag {tag}")
        if kind == 0:
            found[number], at = _read_varint(view, at)
            continue
        length = 8 if kind == 1 else 4
        if kind == 2:
            length, at = _read_varint(view, at)
        if length > len(view) - at:
            raise RemoteProtocolError(f"protobuf: field {number} of {length} bytes is longer than its message")
        if kind == 2:
            found[number] = view[at : at + length]
        at += length
    return found


def read_data(message: Buffer, number: int, what: str) -> memoryview:
    """The bytes field ``number``; empty where it is absent."""
    value = read_fields(message).get(number, memoryview(b""))
    if not isinstance(value, memoryview):
        raise RemoteProtocolError(f"{what}: expected bytes in field {number}, got a number")
    return value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise RemoteProtocolError(f"protobuf: a number that does not end at byte {at}")


# Uploads


def pieces(payload: Sequence[Buffer]) -> tuple[bytes, ...]:
    """The ``Observation`` messages of an upload."""
    data = b"".join(payload)
    if len(data) <= PIECE_BYTES:
        return (_piece(_END, data),)
    starts = range(0, len(data), PIECE_BYTES)
    states = [_BEGIN, *[_MIDDLE] * (len(starts) - 2), _END]
    view = memoryview(data)
    return tuple(_piece(state, view[start : start + PIECE_BYTES]) for state, start in zip(states, starts, strict=True))


def joined(messages: Sequence[Buffer]) -> Buffer:
    """The payload of an upload: what the messages carry from the last BEGIN to the END."""
    gathered: list[memoryview] = []
    for position, message in enumerate(messages):
        fields = read_fields(message)
        state, data = fields.get(1, 0), fields.get(2, memoryview(b""))
        if not isinstance(data, memoryview) or state not in (_BEGIN, _MIDDLE, _END):
            raise RemoteProtocolError(
                f"message {position} of an upload: expected state 1, 2 or 3 and bytes, got state {state!r:.40}"
            )
        if state == _BEGIN:
            gathered.clear()
        gathered.append(data)
        if state == _END:
            if position + 1 < len(messages):
                raise RemoteProtocolError(f"an upload goes on after the message marked as its end, at message {position}")
            return gathered[0] if len(gathered) == 1 else b"".join(gathered)
    raise RemoteProtocolError(f"an upload of {len(messages)} messages without an end")


def _piece(state: int, data: Buffer) -> bytes:
    return b"\x08%c%s" % (state, field(2, data))


# Pickled payloads


def read_setup(data: Buffer) -> Setup:
    """A pickled ``RemotePolicyConfig``; ``rename_map`` is absent before LeRobot 0.4."""
    record = _record(data, "RemotePolicyConfig")
    state = record.state
    features = state.get("lerobot_features") or {}
    renames = state.get("rename_map") or {}
    count = _plain(state.get("actions_per_chunk"))
    if type(features) is not dict or type(renames) is not dict or not all(isinstance(v, str) for v in renames.values()):
        raise RemoteProtocolError("RemotePolicyConfig: expected dicts in lerobot_features and rename_map")
    if type(count) is not int or count < 1:
        raise RemoteProtocolError(f"RemotePolicyConfig: expected actions_per_chunk of 1 or more, got {count!r:.40}")
    texts = [_text(state, key) for key in ("policy_type", "pretrained_name_or_path", "device")]
    prefix = "observation.images."
    cameras = tuple(key[len(prefix) :] for key in features if isinstance(key, str) and key.startswith(prefix))
    return Setup(record.module, texts[0], texts[1], texts[2], count, _state_names(features), cameras, renames)


def write_setup(
    module: str, *, policy_type: str, model: str, features: Mapping[str, Any], actions_per_chunk: int, device: str
) -> bytes:
    state = {
        "policy_type": policy_type,
        "pretrained_name_or_path": model,
        "lerobot_features": dict(features),
        "actions_per_chunk": actions_per_chunk,
        "device": device,
        "rename_map": {},
    }
    return field(1, b"".join(safe_pickle.encode(Record(module, "RemotePolicyConfig", state=state))))


def read_observation(data: Buffer) -> Observed:
    """A pickled ``TimedObservation``."""
    record = _record(data, "TimedObservation")
    raw = record.state.get("observation")
    if type(raw) is not dict or not all(isinstance(key, str) for key in raw):
        raise RemoteProtocolError(f"TimedObservation: expected a dict with names as keys, got a {type(raw).__name__}")
    timestamp, timestep = _time(record.state, "TimedObservation")
    return Observed(record.module, timestamp, timestep, bool(_plain(record.state.get("must_go", False))), raw)


def write_observation(module: str, timestamp: float, timestep: int, raw: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The messages that upload an observation which must be answered."""
    state = {"timestamp": timestamp, "timestep": timestep, "observation": dict(raw), "must_go": True}
    return pieces(safe_pickle.encode(Record(module, "TimedObservation", state=state)))


def read_actions(data: Buffer) -> tuple[int, Array]:
    """Control step of the first action, and the actions ``(n, action_dim)``, out of a pickled ``list[TimedAction]``."""
    found = safe_pickle.decode(data)
    if type(found) not in (list, tuple) or not found:
        raise RemoteProtocolError(f"actions: expected a list of TimedAction, got a {type(found).__name__}")
    steps: list[int] = []
    rows: list[Array] = []
    for position, one in enumerate(found):
        record = _checked(one, "TimedAction", f"actions[{position}]")
        steps.append(_time(record.state, f"actions[{position}]")[1])
        rows.append(_row(record.state.get("action"), f"actions[{position}]", rows))
    if steps != list(range(steps[0], steps[0] + len(steps))):
        raise RemoteProtocolError("actions: expected one for each control step in order, got others")
    return steps[0], np.stack(rows)


def write_actions(module: str, timestamp: float, timestep: int, actions: Array, period_s: float) -> bytes:
    """The ``Actions`` message of a chunk: row i is for step ``timestep + i``, ``i * period_s`` after the observation."""
    actions = np.ascontiguousarray(actions)
    timed = [
        Record(
            module,
            "TimedAction",
            state={"timestamp": timestamp + i * period_s, "timestep": timestep + i, "action": Tensor(row, actions)},
        )
        for i, row in enumerate(actions)
    ]
    message = field(1, b"".join(safe_pickle.encode(timed)))
    if len(message) >= REPLY_BYTES:
        raise LocalProtocolError(
            f"a chunk of {len(actions)} actions takes {len(message)} bytes; this wire's clients take less than {REPLY_BYTES}. "
            "Ask for fewer (actions_per_chunk)"
        )
    return message


def _record(data: Buffer, name: str) -> Record:
    return _checked(safe_pickle.decode(data), name, "payload")


def _checked(value: Any, name: str, where: str) -> Record:
    if type(value) is not Record or value.name != name or type(value.state) is not dict:
        got = f"a {value.name[:80]}" if type(value) is Record else f"a {type(value).__name__}"
        raise RemoteProtocolError(f"{where}: expected a {name}, got {got}")
    return value


def _time(state: dict[Any, Any], where: str) -> tuple[float, int]:
    timestamp, timestep = _plain(state.get("timestamp")), _plain(state.get("timestep"))
    if type(timestamp) not in (int, float) or not math.isfinite(timestamp):
        raise RemoteProtocolError(f"{where}: expected a timestamp in seconds, got {timestamp!r:.40}")
    if type(timestep) is not int or not 0 <= timestep <= _LAST_STEP:
        raise RemoteProtocolError(f"{where}: expected a timestep of 0 or more, got {timestep!r:.40}")
    return float(timestamp), timestep


def _row(action: Any, where: str, before: list[Array]) -> Array:
    row = np.asarray(action) if isinstance(action, np.ndarray | np.generic) else _numbers(action)
    if row is None or row.ndim != 1 or row.dtype.kind not in "fiub" or (before and row.shape != before[0].shape):
        raise RemoteProtocolError(f"{where}: expected a tensor (action_dim,) like the others, got a {type(action).__name__}")
    return row


def _numbers(action: Any) -> Array | None:
    if type(action) not in (list, tuple) or not all(type(value) in (int, float) for value in action):
        return None
    return np.asarray(action, np.float64) if all(abs(value) < 2**63 for value in action) else None


def _plain(value: Any) -> Any:
    """numpy numbers and arrays of one, as some robots give them, as Python's."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size == 1 and value.dtype != object):
        return value.item()
    return value


def _text(state: dict[Any, Any], key: str) -> str:
    value = state.get(key, "")
    if value is None:
        return ""
    if type(value) is not str or len(value) > _LONGEST_TEXT:
        raise RemoteProtocolError(f"RemotePolicyConfig: expected text in {key}, got a {type(value).__name__}")
    return value


def _state_names(features: dict[Any, Any]) -> tuple[str, ...] | None:
    """Names of the first state feature; PolicyFeature objects, which some clients send, have none."""
    feature = features.get("observation.state")
    names = feature.get("names") if type(feature) is dict else None
    if type(names) not in (list, tuple):
        return None
    if not names or not all(type(name) is str for name in names):
        raise RemoteProtocolError("RemotePolicyConfig: expected names of the state's entries")
    return tuple(names)
