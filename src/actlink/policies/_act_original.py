"""ACT in the layout of the original program and its forks: ``policy_best.ckpt`` and ``dataset_stats.pkl``.

``policy_best.ckpt`` (or ``policy_last.ckpt``, ``policy_epoch_<n>_seed_<m>.ckpt``) is a state dict of 344 tensors, all but
``img_mean`` and ``img_std`` (which some forks keep) under ``model.``; ``dataset_stats.pkl`` holds ``qpos_mean``, ``qpos_std``,
``action_mean``, ``action_std``; ``inference_config.json``, which few have, the names of the cameras and the number of heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actlink.codecs import torch_files
from actlink.errors import ConfigError
from actlink.policies import _act_files as files
from actlink.policies import _act_names as names
from actlink.policies import _act_scaling as scaling
from actlink.policies import _json
from actlink.policies._act_files import Camera, Checkpoint
from actlink.types import Array

STATISTICS_FILE = "dataset_stats.pkl"
CONFIG_FILE = "inference_config.json"
_NAME = re.compile(r"policy_(best|last|epoch_(\d+)(_seed_\d+)?)\.ckpt")


def weights_of(path: Path) -> Path | None:
    """The checkpoint file at ``path``: it itself, or of a directory the best, else the last, else that of the highest epoch."""
    if path.is_file():
        return path if path.suffix == ".ckpt" else None
    if not path.is_dir():
        return None
    found = [(match, entry) for entry in path.iterdir() if (match := _NAME.fullmatch(entry.name)) is not None]
    ranks = {"best": -2, "last": -1}
    return min(found, key=lambda one: ranks.get(one[0][1], -int(one[0][2] or 0) + 10**9), default=(None, None))[1]


def read(weights: Path, *, cameras: tuple[str, ...] | None, heads: int | None, identity: bool) -> Checkpoint:
    """The checkpoint whose weights are in ``weights``; ``ConfigError`` says what is missing or wrong."""
    given = files.tensors(weights)
    pixels = _pixels(given, weights)
    tensors = names.from_original(given, str(weights))
    size = names.sizes({name: value.shape for name, value in tensors.items()}, str(weights))
    config = _config(weights.parent)
    policy = config.get("policy", {})
    if not isinstance(policy, Mapping):
        raise ConfigError(f"{weights.parent / CONFIG_FILE}: 'policy': expected an object, got {policy!r}")
    chosen = files.camera_names(cameras, config.get("camera_names"), size, str(weights))
    statistics, source = _statistics(weights.parent, identity)
    where, state_width = str(weights.parent / STATISTICS_FILE), size.state_dim + size.environment_dim
    return Checkpoint(
        layout="original ACT",
        weights=weights,
        tensors=tensors,
        size=size,
        heads=files.heads_of(heads, files.integer(policy, "nheads", CONFIG_FILE), size, str(weights)),
        cameras=tuple(Camera(name, 255 * mean, 255 * std) for name, (mean, std) in zip(chosen, pixels * len(chosen), strict=False)),
        state=_zscore(statistics, "qpos", state_width, where),
        action=_zscore(statistics, "action", size.action_dim, where),
        normalisation=source,
    )


def _pixels(given: dict[str, Array], weights: Path) -> list[tuple[Array, Array]]:
    """Mean and deviation of pixels in 0..1; taken out of ``given`` where a fork keeps its own there."""
    own = given.pop("img_mean", None), given.pop("img_std", None)
    if own[0] is None and own[1] is None:
        return [(files.IMAGENET[0], files.IMAGENET[1])]
    mean, std = (np.asarray(each).reshape(-1) if each is not None else np.zeros(0) for each in own)
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise ConfigError(f"{weights}: img_mean and img_std: expected three numbers each, deviations above 0")
    return [(mean.astype(np.float32), std.astype(np.float32))]


def _config(directory: Path) -> dict[str, Any]:
    """``inference_config.json`` beside the checkpoint or above it, where its program keeps it; empty without."""
    for place in (directory, directory.resolve().parent):
        if (place / CONFIG_FILE).is_file():
            return _json.read(place / CONFIG_FILE)
    return {}


def _statistics(directory: Path, identity: bool) -> tuple[Mapping[str, Any] | None, str]:
    path = directory / STATISTICS_FILE
    if identity:
        return None, "none (--allow-identity-normalization)"
    if not path.is_file():
        raise ConfigError(
            f"{directory}: half an ACT checkpoint, without {STATISTICS_FILE} (mean and deviation of states and actions); it holds "
            f"{files.listing(directory)}. To run it on numbers as they are: --policy-options allow_identity_normalization=true"
        )
    found = torch_files.load_pickle(path)
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{path}: expected a dict with qpos_mean, qpos_std, action_mean, action_std; got a {type(found).__name__}"
        )
    return found, f"{STATISTICS_FILE} (mean and deviation)"


def _zscore(statistics: Mapping[str, Any] | None, kind: str, width: int, where: str) -> scaling.Scaling:
    if statistics is None:
        return scaling.identity(width)
    mean, std = (scaling.entry(statistics, f"{kind}_{name}", where) for name in ("mean", "std"))
    return scaling.zscore(mean, std, width, f"{where}: {kind}")
