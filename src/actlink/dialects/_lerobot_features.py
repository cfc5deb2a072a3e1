"""A LeRobot robot's dict and this package's observation, both ways. Law: pure; what does not fit is told with both sides' names.

A robot sends one float per motor, one image per camera under the camera's bare name, and ``task``. Which motors make the state, in
which order, and which cameras there are, the client has said in ``lerobot_features``; without that, whatever is there counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actlink.dialects._lerobot_images import resize
from actlink.dialects._lerobot_messages import Setup
from actlink.errors import ConfigError, SpecError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

IMAGES = "observation.images."
STATE = "observation.state"
TASK = "task"


def observation_of(raw: Mapping[str, Any], setup: Setup | None, spec: Spec) -> dict[str, Array | str]:
    """The observation that ``spec`` names, out of a robot's dict; ``SpecError`` if motors or cameras are others."""
    flat = _flat(raw)
    found: dict[str, Array | str] = {}
    if "state" in spec.observation:
        found["state"] = state_of(flat, setup, spec.observation["state"])
    found |= _images(flat, setup, spec)
    task = flat.get(TASK, "")
    if "prompt" in spec.observation:
        found["prompt"] = task if isinstance(task, str) else str(task)[:1000]
    return found


def state_of(raw: Mapping[str, Any], setup: Setup | None, wanted: Field) -> Array:
    """float32 ``(state_dim,)`` in the order of the spec's names where the robot's are the same ones, else in the robot's order."""
    flat = _flat(raw)
    whole = flat.get(STATE)
    if isinstance(whole, np.ndarray) and whole.ndim == 1:
        return whole
    numbers = {key: number for key, value in flat.items() if (number := _number(value)) is not None}
    names = _state_names(numbers, setup, wanted)
    missing = [name for name in names if name not in numbers]
    if missing:
        raise SpecError(f"observation: no number for {_listed(missing)}, which the client's features name; got: {_listed(flat)}")
    if wanted.names is not None and set(names) == set(wanted.names):
        names = wanted.names
    elif wanted.shape[-1:] != (len(names),) and wanted.shape[-1:] != (None,):
        expected = f" ({_listed(wanted.names)})" if wanted.names else ""
        raise SpecError(
            f"observation['state']: the policy wants {wanted.shape[-1]} entries{expected}; the robot sends {len(names)} "
            f"({_listed(names)})"
        )
    with np.errstate(over="ignore"):  # infinite then, which the spec's check refuses
        return np.array([numbers[name] for name in names]).astype(np.float32)


def features_of(spec: Spec) -> dict[str, dict[str, Any]]:
    """``lerobot_features`` of a robot that offers what ``spec`` names; ``ConfigError`` for what this wire cannot carry."""
    features: dict[str, dict[str, Any]] = {}
    for key, value in spec.observation.items():
        if key == "state" and len(value.shape) == 1 and value.shape[0] is not None:
            names = list(motor_names(value, value.shape[0]))
            features[STATE] = {"dtype": "float32", "shape": (len(names),), "names": names}
        elif key.startswith("images.") and value.is_image:
            features[f"observation.{key}"] = {
                "dtype": "image",
                "shape": tuple(0 if n is None else n for n in value.shape),
                "names": ["height", "width", "channels"],
                "info": {"is_depth_map": False},
            }
        elif key != "prompt" and value.required:
            raise ConfigError(
                f"the lerobot wire carries a state (n,), images and a task; the spec also wants {key!r} {value.dtype} {value.shape}"
            )
    return features


def raw_of(observation: Observation, state: Field | None, task: str) -> dict[str, Any]:
    """The robot's dict that says ``observation``."""
    raw: dict[str, Any] = {}
    for key, value in observation.items():
        if isinstance(value, str):
            task = value
        elif key == "state":
            numbers = np.asarray(value).tolist()
            raw |= zip(motor_names(state, len(numbers)), numbers, strict=True)
        elif key.startswith("images."):
            raw[key.removeprefix("images.")] = value
    raw[TASK] = task
    return raw


def motor_names(state: Field | None, count: int) -> Sequence[str]:
    if state is not None and state.names is not None and len(state.names) == count:
        return state.names
    return [f"state_{index}" for index in range(count)]


def _state_names(numbers: Mapping[str, float], setup: Setup | None, wanted: Field) -> tuple[str, ...]:
    if setup is not None and setup.state_names is not None:
        return setup.state_names
    if wanted.names is not None and all(name in numbers for name in wanted.names):
        return wanted.names
    return tuple(numbers)


def _images(flat: Mapping[str, Any], setup: Setup | None, spec: Spec) -> dict[str, Array | str]:
    """Images under the policy's names, at the policy's size."""
    renames = {} if setup is None else setup.renames
    given: dict[str, str] = {}  # key of the spec -> key of the robot's dict
    for camera in _cameras(flat, setup):
        name = renames.get(f"{IMAGES}{camera}", f"{IMAGES}{camera}").removeprefix(IMAGES)
        key = f"depth.{name}" if f"depth.{name}" in spec.observation else f"images.{name}"
        given[key] = camera if camera in flat else f"{IMAGES}{camera}"
    wanted = {key: value for key, value in spec.observation.items() if key.startswith(("images.", "depth."))}
    missing = [key for key, value in wanted.items() if value.required and flat.get(given.get(key, "")) is None]
    extra = [key for key in given if key not in wanted]
    if missing or extra:
        raise SpecError(
            f"observation: the policy wants the cameras {_listed(_bare(wanted))}; the robot sends {_listed(_bare(given))}"
            + (" (a rename_map on the client's side gives them other names)" if missing and extra else "")
        )
    return {key: _sized(flat[source], wanted[key]) for key, source in given.items() if flat.get(source) is not None}


def _cameras(flat: Mapping[str, Any], setup: Setup | None) -> list[str]:
    if setup is not None and setup.state_names is not None:
        return list(setup.cameras)
    return [key.removeprefix(IMAGES) for key, value in flat.items() if isinstance(value, np.ndarray) and value.ndim == 3]


def _sized(image: Any, wanted: Field) -> Any:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or not image.size or len(wanted.shape) != 3:
        return image  # the spec's check has the words for it
    height, width, _ = wanted.shape
    return resize(image, height or image.shape[0], width or image.shape[1])


def _flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    if not any(isinstance(value, dict) for value in raw.values()):
        return dict(raw)
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": deeper for inner, deeper in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _number(value: Any) -> float | None:
    if isinstance(value, np.generic | np.ndarray):
        return float(value.item()) if value.size == 1 and value.ndim <= 1 and value.dtype.kind in "fiub" else None
    return float(value) if isinstance(value, int | float) else None


def _bare(keys: Iterable[str]) -> list[str]:
    return [key.removeprefix("images.") for key in keys]


def _listed(names: Iterable[str]) -> str:
    shown = [str(name)[:80] for name in names]
    return ", ".join(shown[:40]) + (", ..." if len(shown) > 40 else "") if shown else "none"
