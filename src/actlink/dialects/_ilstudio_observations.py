"""MetaObs, read and written. Law: pure; a batch is seen by the number of axes, and rows are never guessed or padded.

Shapes: B environments, K cameras, D entries. The programs send a leading axis B; hand-written clients leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actlink.codecs.safe_pickle import Record
from actlink.dialects._base import Lane
from actlink.errors import LocalProtocolError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

MODULE, NAME = "benchmark.base", "MetaObs"
FIELDS = ("state", "state_ee", "state_joint", "state_obj", "image", "depth", "pc", "raw_lang", "timestep")

_MAX_ROWS = 256
_PLAIN = {
    # field of MetaObs: (key of an observation, axes of one row)
    "state": ("state", 1),
    "state_ee": ("state.ee", 1),
    "state_joint": ("state.joint", 1),
    "state_obj": ("environment_state", 1),
    "pc": ("point_cloud", 2),
}
_CAMERAS = {
    # field: (prefix of the keys, axes of one row with its axis of cameras)
    "image": ("images.", 4),
    "depth": ("depth.", 3),
}
_AXES = {**{name: axes for name, (_, axes) in _PLAIN.items()}, **{name: axes for name, (_, axes) in _CAMERAS.items()}}


class Misfit(Exception):
    """Why a message is no observation."""


def read(value: Any, spec: Spec) -> list[Lane]:
    """One lane for each row of a MetaObs; ``Misfit`` for anything else."""
    if not isinstance(value, Record) or value.name != NAME or not isinstance(value.state, dict):
        raise Misfit(f"expected a {NAME}, got a {value.name if isinstance(value, Record) else type(value).__name__}")
    fields = value.state
    arrays = {name: _array(fields[name], name) for name in _AXES if fields.get(name) is not None}
    rows = _rows(arrays)
    steps = _steps(fields.get("timestep", -1), rows)
    prompts = _prompts(fields.get("raw_lang", ""), rows)
    split = {name: _split(array, name, rows) for name, array in arrays.items()}
    lanes = []
    for row in range(rows):
        observation = _observation({name: parts[row] for name, parts in split.items()}, spec)
        if prompts is not None and ("prompt" in spec.observation or prompts[row]):
            observation["prompt"] = prompts[row]
        lanes.append(Lane(observation, steps[row]))
    return lanes


def _array(value: Any, name: str) -> Array:
    if isinstance(value, list | tuple):
        try:
            value = np.array(value)
        except (ValueError, OverflowError):
            raise Misfit(f"{name}: expected an array, got a list that makes none") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise Misfit(f"{name}: expected an array of numbers, got {_kind(value)}")
    if value.ndim not in (_AXES[name], _AXES[name] + 1):
        raise Misfit(f"{name}: expected {_AXES[name]} axes, or one more for a batch, got the shape {value.shape}")
    return value


def _rows(arrays: Mapping[str, Array]) -> int:
    """The number of environments; an array without the axis belongs to the only one."""
    counts = {name: array.shape[0] if array.ndim > _AXES[name] else 1 for name, array in arrays.items()}
    if not counts:
        raise Misfit("expected at least one of state, image and the like, got none")
    rows = max(counts.values())
    if len(set(counts.values())) > 1 or not 1 <= rows <= _MAX_ROWS:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise Misfit(f"expected the same number of rows everywhere, 1 to {_MAX_ROWS}, got: {shown}")
    return rows


def _split(array: Array, name: str, rows: int) -> Sequence[Array]:
    return list(array) if array.ndim > _AXES[name] else [array] * rows


def _steps(value: Any, rows: int) -> list[int | None]:
    """The control step of each row; None where it is below 0, which means that nobody counted."""
    steps = np.asarray(value) if isinstance(value, int | list | tuple | np.ndarray | np.integer) else np.empty(0, object)
    if steps.dtype.kind not in "iu" or steps.size not in (1, rows):
        raise Misfit(f"timestep: expected an integer, or one for each of {rows} rows, got {_kind(value)}")
    flat = [int(step) for step in steps.reshape(-1)]
    return [step if 0 <= step < 2**53 else None for step in (flat if len(flat) == rows else flat * rows)]


def _prompts(value: Any, rows: int) -> list[str] | None:
    """The instruction of each row; None where there is none at all."""
    if value is None:
        return None
    if isinstance(value, str):
        return [value] * rows
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.reshape(-1).tolist()
    if not isinstance(value, list | tuple) or len(value) != rows or not all(isinstance(each, str) for each in value):
        raise Misfit(f"raw_lang: expected a string, or one for each of {rows} rows, got {_kind(value)}")
    return list(value)


def _observation(row: Mapping[str, Array], spec: Spec) -> dict[str, Array | str]:
    observation: dict[str, Array | str] = {_PLAIN[name][0]: array for name, array in row.items() if name in _PLAIN}
    for name, (prefix, _) in _CAMERAS.items():
        keys = [key for key in spec.observation if key.startswith(prefix)]
        if name not in row or not keys:
            continue  # a policy without cameras has no use for pictures
        pictures = row[name]
        if len(pictures) != len(keys):
            cameras = ", ".join(key[len(prefix) :] for key in keys)
            raise Misfit(f"{name}: expected {len(keys)} rows, in this order: {cameras}; got {len(pictures)}")
        for key, picture in zip(keys, pictures, strict=True):
            observation[key] = _channels_last(picture, spec.observation[key]) if name == "image" else picture
    return observation


def _channels_last(image: Array, field: Field) -> Array:
    """(C, H, W), as this wire has it, as (H, W, C). An image that has its channels last already is left alone."""
    channels = field.shape[2] if len(field.shape) == 3 and field.shape[2] is not None else 3
    return image if image.shape[0] != channels and image.shape[2] == channels else image.transpose(1, 2, 0)


def write(lanes: Sequence[Lane], spec: Spec | None) -> Record:
    """A MetaObs of all lanes, batched as the programs send it."""
    order = list(spec.observation) if spec is not None else list(lanes[0].observation)
    first = lanes[0].observation
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    known = {"prompt"}
    for name, (key, _) in _PLAIN.items():
        if key in first:
            fields[name] = _stack([np.asarray(lane.observation[key]) for lane in lanes], key)
            known.add(key)
    for name, (prefix, _) in _CAMERAS.items():
        keys = [key for key in order if key.startswith(prefix) and key in first]
        if keys:
            fields[name] = _stack([_cameras(lane.observation, keys, name == "image") for lane in lanes], f"{prefix}*")
            known.update(keys)
    unknown = [key for key in first if key not in known]
    if unknown:
        raise LocalProtocolError(f"observation[{unknown[0]!r}]: the ilstudio wire has no place for it")
    fields["raw_lang"] = [str(lane.observation.get("prompt", "")) for lane in lanes]
    fields["timestep"] = np.array([[-1 if lane.step is None else lane.step] for lane in lanes], np.int64)
    return Record(MODULE, NAME, (), fields)


def _cameras(observation: Observation, keys: Sequence[str], channels_first: bool) -> Array:
    pictures = [np.asarray(observation[key]) for key in keys]
    return _stack([picture.transpose(2, 0, 1) for picture in pictures] if channels_first else pictures, keys[0])


def _stack(arrays: Sequence[Array], key: str) -> Array:
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise LocalProtocolError(f"observation[{key!r}]: the ilstudio wire puts these into one array, and they differ: {shapes}")
    return np.stack(arrays)


def _kind(value: Any) -> str:
    return f"an array of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
