"""The contract of a policy, an environment or a robot. Law: pure; says where, what was expected and what came.

A ``Spec`` describes the observation and the action. A policy's spec says what it needs and gives; an environment's or a robot's
says what it offers and takes. ``check`` and ``check_actions`` are the only places where values are judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, get_args, get_type_hints

import numpy as np

from actlink.errors import ConfigError, SpecError
from actlink.options import convert
from actlink.types import Array, Observation

_CASTS = {"float32": "fiub", "int64": "iub", "uint8": "iu", "bool": "b"}
"""dtype of a field -> numpy kinds that are cast to it. Floats never become integers; images never come from floats."""

STRING = "str"


@dataclass(frozen=True, slots=True)
class Field:
    """One named value of an observation, or the action of one control step."""

    shape: tuple[int | None, ...] = ()
    """Without batch axis; None = any length along that axis. An action's shape is ``(action_dim,)``."""
    dtype: str = "float32"
    """``float32``, ``int64``, ``uint8``, ``bool`` or ``str``."""
    required: bool = True
    names: tuple[str, ...] | None = None
    """Names of the entries along the last axis, e.g. joint names."""
    unit: str | None = None
    """One unit for all entries: ``rad``, ``deg``, ``m``, ``normalised``, ..."""
    range: tuple[float, float] | None = None
    """Smallest and largest value meant. A discrete action has dtype int64 and range ``(0, n - 1)``."""
    typical: tuple[tuple[float, float], ...] | None = None
    """Where the values of each entry along the last axis lay when the policy was trained: from its normalisation statistics.

    Nothing is refused for lying elsewhere; ``actlink check`` finds degrees that were taken for radians with it.
    """

    def __post_init__(self) -> None:
        if self.dtype != STRING and self.dtype not in _CASTS:
            raise ConfigError(f"field dtype: expected one of {', '.join([*_CASTS, STRING])}, got {self.dtype!r}")
        if any(n is not None and n < 0 for n in self.shape):
            raise ConfigError(f"field shape: expected lengths of 0 or more, or None for any, got {self.shape}")
        if self.range is not None and not (len(self.range) == 2 and self.range[0] <= self.range[1]):
            raise ConfigError(f"field range: expected (low, high), got {self.range}")
        if self.names is not None and (not self.shape or self.shape[-1] != len(self.names)):
            raise ConfigError(f"field names: expected one name for each of {self.shape[-1:]} entries, got {len(self.names)}")
        if self.typical is not None:
            if not self.shape or self.shape[-1] != len(self.typical):
                raise ConfigError(f"field typical: expected a pair for each of {self.shape[-1:]} entries, got {len(self.typical)}")
            if not all(low <= high for low, high in self.typical):
                raise ConfigError(f"field typical: expected (low, high) for each entry, got {self.typical}")

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8" and len(self.shape) == 3

    def check(self, value: object, where: str) -> Array | str:
        """``value`` cast to this field, or ``SpecError`` naming ``where``, the expected and the given."""
        if self.dtype == STRING:
            if isinstance(value, str):
                return value
            raise SpecError(f"{where}: expected a string, got {_describe(value)}")
        if isinstance(value, str | bytes) or value is None:
            raise SpecError(f"{where}: expected {self.dtype} {_show(self.shape)}, got {_describe(value)}")
        array = self._array(value, where)
        if array.dtype.kind not in _CASTS[self.dtype]:
            hint = " (scale to 0..255 and cast on the sending side)" if self.is_image and array.dtype.kind == "f" else ""
            raise SpecError(f"{where}: expected {self.dtype} {_show(self.shape)}, got {_describe(array)}{hint}")
        if len(array.shape) != len(self.shape) or any(
            want is not None and want != got for want, got in zip(self.shape, array.shape, strict=True)
        ):
            raise SpecError(f"{where}: expected shape {_show(self.shape)}, got {_show(array.shape)}{self._named(array)}")
        if self.dtype == "float32":
            return _finite_float32(array, where)
        if self.dtype == "uint8" and array.dtype != np.uint8 and array.size and not 0 <= array.min() <= array.max() <= 255:
            raise SpecError(f"{where}: expected values 0..255, got {array.min()}..{array.max()} in {array.dtype}")
        if self.range is not None and self.dtype == "int64" and array.size:
            low, high = self.range
            if array.min() < low or array.max() > high:
                raise SpecError(f"{where}: expected integers {low:g}..{high:g}, got {array.min()}..{array.max()}")
        return array if array.dtype == self.dtype else array.astype(self.dtype)

    def zeros(self) -> Array | str:
        """A valid value of this field: zeros (or the nearest integer in range), with every free axis of length 1."""
        if self.dtype == STRING:
            return ""
        zero = np.clip(0, *self.range) if self.range is not None and self.dtype == "int64" else 0
        return np.full(tuple(1 if n is None else n for n in self.shape), zero, self.dtype)

    def _array(self, value: object, where: str) -> Array:
        try:
            return np.asarray(value)
        except ValueError:  # nested lists of unequal lengths
            raise SpecError(f"{where}: expected {self.dtype} {_show(self.shape)}, got {_describe(value)}") from None

    def _named(self, array: Array) -> str:
        same_rank = len(array.shape) == len(self.shape) == 1
        return f" (expected entries: {', '.join(self.names)})" if self.names and same_rank else ""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a policy needs and gives, or what an environment or robot offers and takes."""

    observation: Mapping[str, Field] = field(default_factory=dict)
    action: Field = field(default_factory=Field)
    """One control step's action, shape ``(action_dim,)``."""
    action_horizon: int = 1
    """Rows of a chunk (policies); 1 for environments and robots."""
    rate_hz: float | None = None
    """Control steps per second; None where time has no meaning."""
    accepts_prefix: bool = False
    """Whether the policy uses ``Request.prefix`` and ``Request.inference_delay``."""
    max_batch_size: int = 1
    stateful: bool = False
    """Whether the policy remembers something between the requests of an episode (``Request.memory``)."""
    control_space: str = "joint"
    """``joint`` or ``ee``."""
    control_type: str = "abs"
    """``abs``, ``delta`` or ``relative``."""
    name: str = ""
    digest: str = ""
    """Identifies checkpoint and normalisation together; empty where unknown."""

    def __post_init__(self) -> None:
        if len(self.action.shape) != 1:
            raise ConfigError(f"spec.action.shape: expected (action_dim,), got {_show(self.action.shape)}")
        if self.action_horizon < 1 or self.max_batch_size < 1:
            raise ConfigError("spec: action_horizon and max_batch_size must be at least 1")
        if self.rate_hz is not None and not 0 < self.rate_hz < float("inf"):
            raise ConfigError(f"spec: rate_hz must be above 0, got {self.rate_hz}")

    @property
    def action_dim(self) -> int | None:
        return self.action.shape[0]

    @property
    def cameras(self) -> dict[str, Field]:
        """Camera name -> image field, in spec order."""
        prefix = "images."
        return {key[len(prefix) :]: value for key, value in self.observation.items() if key.startswith(prefix)}

    def check(self, observation: Observation, where: str = "observation") -> dict[str, Array | str]:
        """The observation reduced to the spec's keys and cast to its dtypes; ``SpecError`` on the first misfit.

        Keys the spec does not name are left out; ``unknown`` lists them.
        """
        checked: dict[str, Array | str] = {}
        for key, expected in self.observation.items():
            if key in observation:
                checked[key] = expected.check(observation[key], f"{where}[{key!r}]")
            elif expected.required:
                given = ", ".join(observation) or "nothing"
                raise SpecError(
                    f"{where}[{key!r}]: missing; expected {expected.dtype} {_show(expected.shape)}, got the keys: {given}"
                )
        return checked

    def unknown(self, observation: Observation) -> frozenset[str]:
        """Keys of the observation that the spec does not name."""
        return frozenset(observation).difference(self.observation)

    def check_actions(self, actions: object, where: str = "actions") -> Array:
        """``(action_horizon, action_dim)`` cast to the action's dtype; any horizon of at least one row is accepted."""
        checked = _rows(self.action).check(actions, where)
        if isinstance(checked, str) or checked.shape[0] == 0:
            raise SpecError(f"{where}: expected at least one action, got none")
        return checked

    def zeros(self) -> dict[str, Array | str]:
        """A valid observation of zeros, every required and optional field present: for warm-up."""
        return {key: value.zeros() for key, value in self.observation.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values (str, int, float, bool, None, list, dict): for JSON, YAML and the wire."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["observation"] = {key: _field_to_dict(value) for key, value in self.observation.items()}
        plain["action"] = _field_to_dict(self.action)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], where: str = "spec", *, ignore_unknown: bool = False) -> Spec:
        """The inverse of ``to_dict``; ``ConfigError`` says which key is wrong. ``ignore_unknown`` is for newer peers."""
        values = _known(plain, cls, where, ignore_unknown)
        observation = values.pop("observation", {})
        if not isinstance(observation, Mapping) or "action" not in values:
            raise ConfigError(f"{where}: expected a mapping 'observation' and a field 'action', got keys {sorted(plain)}")
        checked = {
            str(key): _field_from_dict(value, f"{where}.observation[{key!r}]", ignore_unknown) for key, value in observation.items()
        }
        action = _field_from_dict(values.pop("action"), f"{where}.action", ignore_unknown)
        return cls(observation=checked, action=action, **_typed(values, cls, where))


def digest_of(*parts: bytes) -> str:
    """Short stable digest of a checkpoint's bytes and normalisation, for ``Spec.digest``: ``sha256:`` + 16 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return f"sha256:{total.hexdigest()[:16]}"


def digest_of_json(value: object) -> str:
    """Digest of a plain value, independent of key order."""
    return digest_of(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@lru_cache(maxsize=64)
def _rows(action: Field) -> Field:
    """Any number of actions, one below the other."""
    return replace(action, shape=(None, *action.shape))


def _finite_float32(array: Array, where: str) -> Array:
    if array.dtype == np.float32:
        result = array
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            result = array.astype(np.float32)
    if not np.isfinite(result).all():
        place = np.argwhere(~np.isfinite(result))[0].tolist()
        raise SpecError(f"{where}{place}: expected finite float32 values, got {array[tuple(place)]}")
    return result


def _show(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {_show(value.shape)}"
    return f"a {type(value).__name__}"


def _field_to_dict(value: Field) -> dict[str, Any]:
    plain: dict[str, Any] = {"shape": list(value.shape), "dtype": value.dtype, "required": value.required}
    for optional in ("names", "range"):
        found = getattr(value, optional)
        plain[optional] = None if found is None else list(found)
    plain["unit"] = value.unit
    if value.typical is not None:  # absent from what older peers know
        plain["typical"] = [list(pair) for pair in value.typical]
    return plain


def _field_from_dict(plain: object, where: str, ignore_unknown: bool) -> Field:
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: expected a mapping with shape and dtype, got {_describe(plain)}")
    values = _typed(_known(plain, Field, where, ignore_unknown), Field, where)
    try:
        return Field(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _known(plain: Mapping[str, Any], cls: type, where: str, ignore_unknown: bool) -> dict[str, Any]:
    known = [f.name for f in fields(cls)]
    unknown = sorted(str(key) for key in plain if key not in known)
    if unknown and not ignore_unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    return {key: value for key, value in plain.items() if key in known}


def _typed(values: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    """``values`` as the types that the dataclass ``cls`` states: a spec may come from a file or from a peer."""
    hints = get_type_hints(cls)
    return {key: _cast(value, hints[key], f"{where}.{key}") for key, value in values.items()}


def _cast(value: Any, hint: Any, where: str) -> Any:
    # Options are text to be read as YAML; here a text is a text, and a peer's is not for a YAML reader.
    is_text = isinstance(value, str) and (hint is str or str in get_args(hint))
    return value if is_text else convert(value, hint, where)
