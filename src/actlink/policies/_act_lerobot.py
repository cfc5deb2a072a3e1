"""ACT in LeRobot's layout, without LeRobot: ``config.json`` of type ``act`` and ``model.safetensors``.

Since 0.4 the statistics are in the processors' files (``policy_preprocessor.json`` names them); before, among the weights, as
``normalize_inputs.buffer_observation_state.mean`` and so on. LeRobot has the environment's state in a key of its own; here it is
the end of ``state``, since most wires have one vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.policies import _act_files as files
from actlink.policies import _act_names as names
from actlink.policies import _act_scaling as scaling
from actlink.policies import _json
from actlink.policies._act_files import Camera, Checkpoint
from actlink.types import Array

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
STATE, ENVIRONMENT, ACTION, IMAGES = "observation.state", "observation.environment_state", "action", "observation.images."
TYPE = "act"
_HARMLESS = {"to_batch_processor", "device_processor", "normalizer_processor", "unnormalizer_processor"}
_RENAME = "rename_observations_processor"

Statistics = Mapping[str, Mapping[str, Array]]


def read(directory: Path, *, heads: int | None) -> Checkpoint:
    """The checkpoint in ``directory``; ``ConfigError`` says what is missing, wrong, or not computed here."""
    config = _json.read(directory / CONFIG_FILE)
    where = str(directory / CONFIG_FILE)
    if config.get("type") != TYPE:
        raise ConfigError(f"{where}: 'type': expected {TYPE!r}, got {config.get('type')!r}; others are read by lerobot:{directory}")
    weights = directory / WEIGHTS_FILE
    if not weights.is_file():
        raise ConfigError(f"{directory}: half a LeRobot checkpoint, without {WEIGHTS_FILE}; it holds {files.listing(directory)}")
    activation = _options(config, where)
    given = files.tensors(weights)
    tensors = names.from_lerobot(given)
    size = names.sizes({name: value.shape for name, value in tensors.items()}, str(weights))
    features = _features(config, size, where)
    statistics, renames, source = _statistics(directory, config, given, features)
    cameras = [key for key in features if features[key]["type"] == "VISUAL"]
    parts = [key for key in (STATE, ENVIRONMENT) if key in features]
    scale = _Scale(config, statistics, str(directory))
    state = scaling.identity(0)
    for key in parts:
        state = scaling.joined(state, scale(key, features[key])) if len(state.shift) else scale(key, features[key])
    return Checkpoint(
        layout="LeRobot ACT",
        weights=weights,
        tensors=tensors,
        size=size,
        heads=files.heads_of(heads, files.integer(config, "n_heads", where), size, where),
        cameras=tuple(_camera(renames.get(key, key), features[key], scale(key, features[key])) for key in cameras),
        state=state,
        action=scale(ACTION, features[ACTION]),
        normalisation=source,
        activation=activation,
        execution_horizon=files.integer(config, "n_action_steps", where),
    )


def _options(config: Mapping[str, Any], where: str) -> str:
    """What changes the computation and is in no tensor; the activation's name."""
    if config.get("replace_final_stride_with_dilation"):
        raise ConfigError(f"{where}: 'replace_final_stride_with_dilation' is not computed here; use lerobot:{Path(where).parent}")
    backbone = config.get("vision_backbone", "resnet18")
    if not isinstance(backbone, str) or not backbone.startswith("resnet"):
        raise ConfigError(f"{where}: 'vision_backbone': expected a ResNet, got {backbone!r}; use lerobot:{Path(where).parent}")
    activation = config.get("feedforward_activation", "relu")
    if activation not in ("relu", "gelu"):
        raise ConfigError(f"{where}: 'feedforward_activation': expected relu or gelu, got {activation!r}")
    return str(activation)


def _features(config: Mapping[str, Any], size: names.Sizes, where: str) -> dict[str, dict[str, Any]]:
    """Input and output features, each with ``type`` and ``shape``, held against the weights."""
    found: dict[str, dict[str, Any]] = {}
    for group in ("input_features", "output_features"):
        for key, feature in (config.get(group) or {}).items():
            shape = feature.get("shape") if isinstance(feature, dict) else None
            if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
                raise ConfigError(f"{where}: {group}[{key!r}]: expected an object with 'type' and 'shape', got {feature!r}")
            found[key] = {"type": feature.get("type"), "shape": tuple(shape)}
    for key, width in ((STATE, size.state_dim), (ENVIRONMENT, size.environment_dim), (ACTION, size.action_dim)):
        wanted = (width,) if width else None
        got = found[key]["shape"] if key in found else None
        if got != wanted:
            raise ConfigError(f"{where}: feature {key!r}: the weights have {wanted or 'none'}, it says {got or 'none'}")
    cameras = [key for key in found if found[key]["type"] == "VISUAL"]
    unknown = [key for key in found if key not in (STATE, ENVIRONMENT, ACTION, *cameras)]
    if unknown or bool(cameras) != bool(size.blocks) or any(len(found[key]["shape"]) != 3 for key in cameras):
        raise ConfigError(
            f"{where}: features {', '.join(found)}: expected {STATE}, {ENVIRONMENT}, {ACTION} and cameras as in the weights"
        )
    return found


def _statistics(
    directory: Path, config: Mapping[str, Any], given: Mapping[str, Array], features: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Array]], dict[str, str], str]:
    """Key -> statistic -> values; policy's key -> robot's key; where they come from."""
    if (directory / PREPROCESSOR).is_file() and (directory / POSTPROCESSOR).is_file():
        found: dict[str, dict[str, Array]] = {}
        renames: dict[str, str] = {}
        for file in (PREPROCESSOR, POSTPROCESSOR):
            for step in _steps(directory / file):
                name, options = step.get("registry_name"), step.get("config") or {}
                if name == _RENAME:
                    renames |= {str(new): str(old) for old, new in (options.get("rename_map") or {}).items()}
                elif name not in _HARMLESS:
                    raise ConfigError(f"{directory / file}: step {name!r} is not computed here; use lerobot:{directory}")
                _check_rules(options, config, {each["type"] for each in features.values()}, directory / file)
                if step.get("state_file"):
                    _collect(
                        found,
                        files.tensors(_beside(directory, step["state_file"], file)),
                        options.get("normalize_observation_keys"),
                    )
        return found, renames, f"{PREPROCESSOR} and {POSTPROCESSOR}"
    prefixes = ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_")
    inside: dict[str, dict[str, Array]] = {}
    by_name = {key.replace(".", "_"): key for key in features}
    for name, value in given.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                key, _, statistic = name[len(prefix) :].rpartition(".")
                inside.setdefault(by_name.get(key, key), {})[statistic] = value
    modes = (config.get("normalization_mapping") or {}).values()
    if not inside and any(mode != "IDENTITY" for mode in modes):
        raise ConfigError(
            f"{directory}: half a LeRobot checkpoint, without {PREPROCESSOR} and {POSTPROCESSOR}, and without statistics among the "
            f"weights (as before LeRobot 0.4); it holds {files.listing(directory)}"
        )
    return inside, {}, f"among the weights ({WEIGHTS_FILE})"


def _check_rules(options: Mapping[str, Any], config: Mapping[str, Any], types: set[str], path: Path) -> None:
    """A normalising step has rules of its own, which LeRobot goes by: those of ``config.json``, unless somebody changed them."""
    written, expected = options.get("norm_map"), config.get("normalization_mapping") or {}
    if isinstance(written, Mapping):
        for kind in sorted(types):
            rules = written.get(kind, "IDENTITY"), expected.get(kind, "IDENTITY")
            if rules[0] != rules[1]:
                raise ConfigError(f"{path}: norm_map: {kind}: expected {rules[1]} as in {CONFIG_FILE}, got {rules[0]}")
    if options.get("eps", scaling.EPSILON) != scaling.EPSILON:
        raise ConfigError(f"{path}: eps: expected {scaling.EPSILON}, got {options['eps']!r}; use lerobot:{path.parent}")


def _steps(path: Path) -> list[dict[str, Any]]:
    steps = _json.read(path).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{path}: expected a list 'steps'")
    return steps


def _beside(directory: Path, name: Any, file: str) -> Path:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise ConfigError(f"{directory / file}: state_file: expected a .safetensors file beside it, got {name!r}")
    if not (directory / name).is_file():
        raise ConfigError(f"{directory}: half a LeRobot checkpoint, without {name}, which {file} names")
    return directory / name


def _collect(found: dict[str, dict[str, Array]], tensors: Mapping[str, Array], chosen: Any) -> None:
    for name, value in tensors.items():
        key, _, statistic = name.rpartition(".")
        if chosen is None or key == ACTION or key in chosen:
            found.setdefault(key, {})[statistic] = value


class _Scale:
    """A feature's normalisation by its type's mode."""

    def __init__(self, config: Mapping[str, Any], statistics: Statistics, where: str) -> None:
        self._modes = config.get("normalization_mapping") or {}
        self._statistics, self._where = statistics, where

    def __call__(self, key: str, feature: Mapping[str, Any]) -> scaling.Scaling:
        width = feature["shape"][0]
        mode, statistics = self._modes.get(feature["type"], "IDENTITY"), self._statistics.get(key)
        where = f"{self._where}: statistics of {key}"
        if mode == "IDENTITY" or statistics is None:
            return scaling.identity(width)
        if mode == "MEAN_STD":
            mean, std = (scaling.entry(statistics, name, where) for name in ("mean", "std"))
            return scaling.zscore(mean, std, width, where, epsilon=scaling.EPSILON)
        bounds = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
        if mode not in bounds:
            raise ConfigError(f"{self._where}: normalization_mapping: {mode!r}: expected IDENTITY, MEAN_STD, {', '.join(bounds)}")
        low, high = (scaling.entry(statistics, name, where) for name in bounds[mode])
        return scaling.span(low, high, width, where)


def _camera(key: str, feature: Mapping[str, Any], scale: scaling.Scaling) -> Camera:
    """LeRobot's picture in 0..1, (x - shift) / divisor + offset, as mean and deviation of 0..255."""
    mean = scale.shift - scale.offset * scale.divisor
    _, height, width = feature["shape"]
    name = key.removeprefix(IMAGES).removeprefix("observation.")
    return Camera(name, np.float32(255) * mean, np.float32(255) * scale.divisor, height, width)
