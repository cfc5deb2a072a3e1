"""Stable-Baselines3 zip files: spaces, weights and VecNormalize statistics. Law: JSON and inert records; no cloudpickle is run.

``data`` is JSON in which spaces (and whatever else JSON has no word for) stand as base64 of cloudpickle beside a printed form;
``policy.pth`` is a torch file of the policy's state dict. Read from Stable-Baselines3 2.9.2 (``save_util.py``, ``policies.py``) and
checked against what it writes.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from actlink.codecs import torch_files
from actlink.codecs._zip_views import Zip
from actlink.codecs.mapped_files import mapped
from actlink.codecs.safe_pickle import PickleDecodeError, Record, decode
from actlink.errors import ConfigError
from actlink.types import Array

DATA, WEIGHTS = "data", "policy.pth"
LONGEST_DATA = 2**26
_HOW = (
    ". Nothing in a checkpoint is run here. Where it was trained, save it again with a current Stable-Baselines3: "
    "python -c \"from stable_baselines3 import PPO as A; A.load('{name}', device='cpu').save('again.zip')\" (A: its algorithm)"
)
_ONLY = "policies of one vector of floats, with Box or Discrete actions, are run here; export others to ONNX (policies/onnx)"


class UnsupportedError(ConfigError):
    """A sound file of a policy that is not run here."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """A Box with its bounds, or a Discrete with ``choices``."""

    shape: tuple[int, ...]
    low: Array | None = None
    high: Array | None = None
    choices: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What an archive holds of the policy."""

    observation: Space
    action: Space
    tensors: Mapping[str, Array]
    kwargs: Mapping[str, Any]
    """``policy_kwargs`` in printed form: ``activation_fn`` is ``<class 'torch.nn.modules.activation.ReLU'>``."""


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """VecNormalize: observations minus mean, divided by the deviation, clipped."""

    mean: Array
    deviation: Array
    clip: float

    def __call__(self, states: Array) -> Array:
        """float32, computed in float64 as VecNormalize does."""
        result: Array = np.clip((states - self.mean) / self.deviation, -self.clip, self.clip).astype(np.float32)
        return result


def read(path: Path) -> Checkpoint:
    """The archive at ``path``; ``ConfigError`` says what is missing, refused or not an MLP policy's."""
    view = mapped(path)
    try:
        archive = Zip(view)
        for name in (DATA, WEIGHTS):
            if name not in archive.entries:
                there = ", ".join(sorted(archive.entries)[:8]) or "nothing"
                raise ConfigError(f"no entry {name!r}: not a Stable-Baselines3 model; the archive holds {there}")
        data = _json(archive)
        observation = _space(data, "observation_space")
        action = _space(data, "action_space")
        tensors = torch_files.tensors_of(torch_files.load_from(archive.read(WEIGHTS)))
        kwargs = data.get("policy_kwargs")
        return Checkpoint(observation, action, tensors, kwargs if isinstance(kwargs, dict) else {})
    except UnsupportedError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}{_HOW.format(name=path.name)}") from None


def _json(archive: Zip) -> dict[str, Any]:
    if archive.entries[DATA].size > LONGEST_DATA:
        raise ConfigError(f"entry {DATA!r} of {archive.entries[DATA].size} bytes; at most {LONGEST_DATA} are read")
    try:
        data = json.loads(bytes(archive.read(DATA)))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"entry {DATA!r} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"entry {DATA!r}: expected a JSON object, got {type(data).__name__}")
    return data


def _space(data: Mapping[str, Any], key: str) -> Space:
    given = data.get(key)
    serialized = given.get(":serialized:") if isinstance(given, dict) else None
    if not isinstance(serialized, str):
        raise ConfigError(f"{DATA}: {key}: expected a serialized space, got {type(given).__name__}")
    try:
        value = decode(base64.b64decode(serialized, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{DATA}: {key}: not base64: {error}") from None
    except PickleDecodeError as error:
        raise ConfigError(f"{DATA}: {key}: {error}") from None
    return _as_space(value, f"{DATA}: {key}")


def _as_space(value: Any, where: str) -> Space:
    """The space that the inert record of a gymnasium (or gym) space describes."""
    state = value.state if isinstance(value, Record) else None
    if not isinstance(value, Record) or not isinstance(state, dict) or not re.match(r"gym(nasium)?\.spaces\b", value.module):
        named = f"{value.module}.{value.name}" if isinstance(value, Record) else type(value).__name__
        raise ConfigError(f"{where}: expected a space of gymnasium, got {named[:80]}")
    if value.name == "Discrete":
        choices, start = state.get("n"), state.get("start", 0)
        if not isinstance(choices, int | np.integer) or not 1 <= choices <= 2**20 or type(start) is np.ndarray or start != 0:
            raise ConfigError(f"{where}: expected a Discrete space of n choices from 0 on, got {_named(choices)}, {_named(start)}")
        return Space((), choices=int(choices))
    low, high, shape = state.get("low"), state.get("high"), state.get("_shape")
    if value.name != "Box":
        raise UnsupportedError(f"{where}: a {value.name[:40]} space; {_ONLY}")
    if not (isinstance(low, np.ndarray) and isinstance(high, np.ndarray) and isinstance(shape, tuple)):
        raise ConfigError(f"{where}: a Box without its bounds")
    if low.dtype.kind in "iu":
        raise UnsupportedError(f"{where}: a Box of {low.dtype} {shape} (pictures?); {_ONLY}")
    if low.shape != shape or high.shape != shape or not shape or low.dtype.kind != "f" or high.dtype.kind != "f":
        raise ConfigError(f"{where}: expected a Box of floats with bounds of its shape, got {low.dtype} {low.shape} for {shape}")
    if prod(shape) > 2**20 or np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        raise ConfigError(f"{where}: a Box of shape {shape} with absurd bounds")
    return Space(shape, low, high)


def normaliser(path: Path, shape: tuple[int, ...]) -> Normaliser | None:
    """Observation statistics of a saved VecNormalize (``.pkl``); None where it does not normalise observations."""
    value = torch_files.load_pickle(path)
    state = value.state if isinstance(value, Record) and value.name == "VecNormalize" else None
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: expected a saved VecNormalize, got {_named(value)}")
    if state.get("norm_obs") is False:
        return None
    statistics = state.get("obs_rms")
    inner = statistics.state if isinstance(statistics, Record) and statistics.name == "RunningMeanStd" else None
    if not isinstance(inner, dict):
        raise ConfigError(f"{path}: expected obs_rms of one vector, got {_named(statistics)}")
    mean, variance = (_statistic(inner.get(name), shape, f"{path}: obs_rms.{name}") for name in ("mean", "var"))
    clip, epsilon = state.get("clip_obs"), state.get("epsilon")
    if not isinstance(clip, float | int) or not isinstance(epsilon, float | int) or not clip > 0 or not epsilon >= 0:
        raise ConfigError(f"{path}: expected clip_obs above 0 and epsilon from 0 on, got {_named(clip)} and {_named(epsilon)}")
    if (variance < 0).any():
        raise ConfigError(f"{path}: obs_rms.var holds negative numbers")
    return Normaliser(mean, np.sqrt(variance + epsilon), float(clip))


def _statistic(part: Any, shape: tuple[int, ...], where: str) -> Array:
    if not isinstance(part, np.ndarray) or part.dtype.kind != "f" or part.shape != shape or not np.isfinite(part).all():
        got = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else _named(part)
        raise ConfigError(f"{where}: expected finite floats of shape {shape}, got {got}")
    return part


def _named(value: Any) -> str:
    return f"{value.module}.{value.name}"[:80] if isinstance(value, Record) else type(value).__name__
