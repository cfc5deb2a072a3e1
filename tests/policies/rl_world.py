"""Small vibe-rl and Stable-Baselines3 checkpoints, written without those libraries: the layouts that they write."""

from __future__ import annotations

import base64
import itertools
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actlink.codecs import torch_files
from actlink.codecs.safe_pickle import Record, encode

RANDOM = np.random.default_rng(5)

Pairs = list[tuple[np.ndarray, np.ndarray]]


def linears(*sizes: int) -> Pairs:
    """Weight (outputs, inputs) and bias of each layer."""
    return [
        (RANDOM.normal(0, 0.7, (b, a)).astype(np.float32), RANDOM.normal(0, 0.5, b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    ]


def run(pairs: Pairs, x: np.ndarray, activation: Any) -> np.ndarray:
    """The network in plain float64."""
    rows = np.asarray(x, np.float64)
    for index, (weight, bias) in enumerate(pairs):
        rows = rows @ weight.T.astype(np.float64) + bias
        rows = rows if index == len(pairs) - 1 else activation(rows)
    return rows


def leaves(path: Path, *parts: Any) -> Path:
    """A ``state.eqx`` of these pairs and arrays, with the scalars and moments of an optimizer behind."""
    flat: list[np.ndarray] = []
    for part in parts:
        flat += [each for pair in part for each in pair] if isinstance(part, list) else [np.asarray(part)]
    flat += [np.array(0, np.int32), *(np.zeros_like(each) for each in flat), np.array(3, np.int32), np.zeros(2, np.uint32)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for leaf in flat:
            np.save(file, leaf)
    return path


def box(low: Sequence[float], high: Sequence[float]) -> Record:
    bounds = {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
    return Record("gymnasium.spaces.box", "Box", (), {"_shape": bounds["low"].shape, **bounds})


def discrete(choices: int) -> Record:
    return Record("gymnasium.spaces.discrete", "Discrete", (), {"n": choices, "start": 0, "_shape": ()})


def packed(value: Any) -> str:
    return base64.b64encode(value if isinstance(value, bytes) else b"".join(encode(value))).decode()


def sb3_zip(
    path: Path, observation: Any, action: Any, tensors: Mapping[str, np.ndarray] | bytes, kwargs: Mapping[str, Any] | None = None
) -> Path:
    """A model's zip file; spaces are records, or pickles."""
    data = {
        "observation_space": {":type:": "a space", ":serialized:": packed(observation)},
        "action_space": {":type:": "a space", ":serialized:": packed(action)},
        "policy_kwargs": dict(kwargs or {}),
    }
    weights = path.with_name("policy.pth")
    if isinstance(tensors, bytes):
        weights.write_bytes(tensors)
    else:
        torch_files.save(weights, tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.write(weights, "policy.pth")
        archive.writestr("_stable_baselines3_version", "2.9.2")
    weights.unlink()
    return path


def named(prefix: str, pairs: Pairs, step: int = 2) -> dict[str, np.ndarray]:
    """State dict of a torch Sequential with an activation behind each layer."""
    return {
        f"{prefix}.{step * i}.{kind}": each
        for i, pair in enumerate(pairs)
        for kind, each in zip(("weight", "bias"), pair, strict=True)
    }


def ppo_tensors(*sizes: int) -> tuple[dict[str, np.ndarray], Pairs]:
    """State dict of an actor-critic policy, and the layers of its actor."""
    pairs = linears(*sizes)
    weight, bias = pairs[-1]
    tensors = {**named("mlp_extractor.policy_net", pairs[:-1]), "action_net.weight": weight, "action_net.bias": bias}
    return {
        **tensors,
        **named("mlp_extractor.value_net", linears(*sizes[:-1])),
        "value_net.weight": np.zeros((1, sizes[-2]), np.float32),
    }, pairs


def vecnormalize(path: Path, mean: Any, var: Any, **changed: Any) -> Path:
    statistics = Record("stable_baselines3.common.running_mean_std", "RunningMeanStd", (), {"mean": mean, "var": var, "count": 3.0})
    state = {"obs_rms": statistics, "norm_obs": True, "clip_obs": 10.0, "epsilon": 1e-8, **changed}
    path.write_bytes(b"".join(encode(Record("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize", (), state))))
    return path
