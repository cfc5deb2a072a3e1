"""ACT in IL-Studio's layout: a directory with ``policy_metadata.json``.

::

    policy_metadata.json        {"policy_module": "policy.act", ...}; of a checkpoint-<step> directory, in its parent
    config.json                 camera_names, nheads, chunk_size, ...
    model.safetensors           the original's tensor names (or pytorch_model.bin)
    normalize.json              version 2.0; looked for in the parent first, as IL-Studio does, then in the directory
    <dataset>_stats_<control space>_<control type>.pkl      {"state": {"mean": [...], ...}, "action": {...}}

Unlike IL-Studio a copy of the statistics in the user's cache never wins over the checkpoint's own, and a checkpoint without
``normalize.json`` is not silently run on numbers as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actlink.codecs import torch_files
from actlink.errors import ConfigError
from actlink.policies import _act_files as files
from actlink.policies import _act_names as names
from actlink.policies import _act_scaling as scaling
from actlink.policies import _json
from actlink.policies._act_files import Camera, Checkpoint

METADATA_FILE = "policy_metadata.json"
CONFIG_FILE = "config.json"
NORMALIZE_FILE = "normalize.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
VERSION = "2.0"
CONTROL = {"ctrl_space": ("joint", "ee"), "ctrl_type": ("abs", "delta", "relative")}
KINDS = ("zscore", "minmax", "percentile", "identity")
_STEP = re.compile(r"checkpoint-(\d+)")


class NoNormalizeError(ConfigError, FileNotFoundError):
    """``normalize.json`` is nowhere; IL-Studio's documents call it a ``FileNotFoundError``."""


@dataclass(frozen=True, slots=True, eq=False)
class Normalisation:
    """What ``normalize.json`` and the statistics say about one dataset."""

    state: scaling.Scaling
    action: scaling.Scaling
    control_space: str
    control_type: str
    source: str


def is_one(path: Path) -> bool:
    """Whether ``path`` is such a directory, or a ``checkpoint-<step>`` in one."""
    inside_one = _STEP.fullmatch(path.resolve().name) is not None and (path.resolve().parent / METADATA_FILE).is_file()
    return path.is_dir() and ((path / METADATA_FILE).is_file() or inside_one)


def read(directory: Path, *, dataset_id: str, cameras: tuple[str, ...] | None, heads: int | None, identity: bool) -> Checkpoint:
    """The checkpoint in ``directory``; of one that only holds checkpoint-<step> directories, the one of the highest step."""
    _check_metadata(directory)
    place = _weights_place(directory)
    weights = next(place / name for name in WEIGHTS_FILES if (place / name).is_file())
    config_path = next((one for one in (place / CONFIG_FILE, directory / CONFIG_FILE) if one.is_file()), None)
    if config_path is None:
        raise ConfigError(f"{place}: half an IL-Studio checkpoint, without {CONFIG_FILE}; it holds {files.listing(place)}")
    config, where = _json.read(config_path), str(weights)
    tensors = names.from_original(files.tensors(weights), where)
    size = names.sizes({name: value.shape for name, value in tensors.items()}, where)
    horizon = files.integer(config, "chunk_size", str(config_path))
    if horizon is not None and horizon != size.horizon:
        raise ConfigError(f"{config_path}: 'chunk_size' is {horizon}, the weights have {size.horizon} queries")
    normalisation = normalisation_of(place, dataset_id, (size.state_dim + size.environment_dim, size.action_dim), identity)
    mean, std = 255 * files.IMAGENET
    return Checkpoint(
        layout="IL-Studio ACT",
        weights=weights,
        tensors=tensors,
        size=size,
        heads=files.heads_of(heads, files.integer(config, "nheads", str(config_path)), size, where),
        cameras=tuple(Camera(name, mean, std) for name in files.camera_names(cameras, config.get("camera_names"), size, where)),
        state=normalisation.state,
        action=normalisation.action,
        normalisation=normalisation.source,
        control_space=normalisation.control_space,
        control_type=normalisation.control_type,
    )


def _check_metadata(directory: Path) -> None:
    path = directory / METADATA_FILE
    path = path if path.is_file() else directory.resolve().parent / METADATA_FILE
    module = _json.read(path).get("policy_module")
    if not isinstance(module, str) or "act" not in module.lower().split("."):
        raise ConfigError(f"{path}: 'policy_module': expected IL-Studio's ACT (policy.act), got {module!r}; no other is read here")


def _weights_place(directory: Path) -> Path:
    steps = [(int(match[1]), entry) for entry in directory.iterdir() if entry.is_dir() and (match := _STEP.fullmatch(entry.name))]
    for place in (directory, *(entry for _, entry in sorted(steps, key=lambda one: -one[0]))):
        if any((place / name).is_file() for name in WEIGHTS_FILES):
            return place
    raise ConfigError(
        f"{directory}: half an IL-Studio checkpoint, without {' or '.join(WEIGHTS_FILES)}; it holds {files.listing(directory)}"
    )


def normalisation_of(place: Path, dataset_id: str, widths: tuple[int, int], identity: bool) -> Normalisation:
    """``normalize.json`` for the checkpoint in ``place``: of ``dataset_id``, or of its first dataset."""
    looked = (place.resolve().parent / NORMALIZE_FILE, place / NORMALIZE_FILE)
    path = next((one for one in looked if one.is_file()), None)
    if path is None:
        if not identity:
            raise NoNormalizeError(
                f"No normalize.json found in {' or '.join(str(one.parent) for one in looked)}; "
                "to run the checkpoint on numbers as they are: --policy-options allow_identity_normalization=true "
                "(start_policy_server.py: --allow-identity-normalization)"
            )
        none = scaling.identity(widths[0]), scaling.identity(widths[1])
        return Normalisation(*none, "joint", "abs", "none (--allow-identity-normalization)")
    content = _json.read(path)
    if str(content.get("version")) != VERSION:
        raise ConfigError(f"{path}: 'version': expected {VERSION}, got {content.get('version')!r}")
    dataset = _dataset(content, dataset_id, path)
    name = str(dataset["dataset_id"])
    space, kind = (_control(dataset, key, path) for key in CONTROL)
    kinds = [_kind(content, part, name, path, identity) for part in ("state", "action")]
    statistics: Mapping[str, Any] = {}
    if any(each != "identity" for each in kinds):
        statistics = _statistics((path.parent, place), name, space, kind)
    made = [
        _scaling(
            each, statistics.get(part), width, dataset.get(f"{part}_norm_mask"), f"{path.parent}: statistics of {name!r}: {part}"
        )
        for part, each, width in zip(("state", "action"), kinds, widths, strict=True)
    ]
    return Normalisation(made[0], made[1], space, kind, f"{NORMALIZE_FILE} ({name}: state {kinds[0]}, action {kinds[1]})")


def _dataset(content: Mapping[str, Any], dataset_id: str, path: Path) -> Mapping[str, Any]:
    datasets = content.get("datasets")
    if (
        not isinstance(datasets, list)
        or not datasets
        or not all(isinstance(one, dict) and one.get("dataset_id") for one in datasets)
    ):
        raise ConfigError(f"{path}: 'datasets': expected a list of objects with a 'dataset_id' each")
    for one in datasets:
        if Path(str(one["dataset_id"])).name != str(one["dataset_id"]):
            raise ConfigError(f"{path}: dataset_id {one['dataset_id']!r}: expected a name that can be part of a file's")
    found = next((one for one in datasets if dataset_id in ("", one["dataset_id"])), None)
    if found is None:
        there = ", ".join(str(one["dataset_id"]) for one in datasets)
        raise ConfigError(f"{path}: no dataset {dataset_id!r}; there are: {there}")
    return dict(found)


def _control(dataset: Mapping[str, Any], key: str, path: Path) -> str:
    value = dataset.get(key)
    if value not in CONTROL[key]:
        raise ConfigError(f"{path}: {key!r}: expected one of {', '.join(CONTROL[key])}, got {value!r}")
    return str(value)


def _kind(content: Mapping[str, Any], part: str, name: str, path: Path, identity: bool) -> str:
    kinds = content.get(part)
    kind = kinds.get(name) if isinstance(kinds, dict) else None
    if kind is None and identity:
        return "identity"
    if kind not in KINDS:
        raise ConfigError(f"{path}: {part!r} of {name!r}: expected one of {', '.join(KINDS)}, got {kind!r}")
    return str(kind)


def _statistics(places: tuple[Path, ...], name: str, space: str, kind: str) -> Mapping[str, Any]:
    cache = os.environ.get("ILSTD_CACHE")
    folder = (Path(cache) if cache else Path.home() / ".cache" / "ilstd") / "normalize"
    looked = [
        place / file
        for place in (*places, folder)
        for file in (f"{name}_stats_{space}_{kind}.pkl", f"dataset_stats_{space}_{kind}.pkl")
    ]
    path = next((one for one in looked if one.is_file()), None)
    if path is None:
        raise ConfigError(f"no statistics of {name!r} found: expected one of {', '.join(map(str, dict.fromkeys(looked)))}")
    found = torch_files.load_pickle(path)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: expected a dict with 'state' and 'action', got a {type(found).__name__}")
    return found


def _scaling(kind: str, statistics: Any, width: int, mask: Any, where: str) -> scaling.Scaling:
    if kind == "identity":
        return scaling.identity(width)
    if not isinstance(statistics, Mapping):
        raise ConfigError(f"{where}: expected a dict of mean, std, min, max, q01, q99; got a {type(statistics).__name__}")
    if kind == "zscore":
        mean, std = (scaling.entry(statistics, key, where) for key in ("mean", "std"))
        made = scaling.zscore(mean, std, width, where, floor=scaling.STD_FLOOR)
    else:
        low, high = (scaling.entry(statistics, key, where) for key in (("min", "max") if kind == "minmax" else ("q01", "q99")))
        made = scaling.span(low, high, width, where, clip=kind == "percentile")
    return scaling.masked(made, mask, where)
