"""ACT checkpoints for tests that need no torch: shapes and files, some of them with nothing in the tensors."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from actlink.codecs import safe_pickle

TRAINING = Path(__file__).resolve().parents[2] / "examples" / "training"
EXAMPLE = TRAINING.parents[1] / "compat" / "ckpt" / "act_sim_transfer_cube_scripted_zscore_example"


def script(name: str) -> ModuleType:
    """A file of ``examples/training``."""
    sys.path.insert(0, str(TRAINING))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TRAINING))


def write_json(path: Path, plain: Any) -> Path:
    path.write_text(json.dumps(plain), encoding="utf-8")
    return path


def write_pickle(path: Path, value: Any) -> Path:
    path.write_bytes(b"".join(bytes(part) for part in safe_pickle.encode(value)))
    return path


def statistics(width: int) -> dict[str, list[float]]:
    """As IL-Studio keeps them, different in every entry; the second entry's range is 0."""
    row = np.arange(width, dtype=np.float64)
    top = np.where(row == 1, row - 1, row + 3)
    return {"mean": list(row), "std": list(row / 2), "min": list(row - 1), "max": list(top), "q01": list(row), "q99": list(row + 2)}


def ilstudio(place: Path, **changes: Any) -> Path:
    """normalize.json and statistics of two datasets, state 3 and action 2, changed as told."""
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "policy_metadata.json", {"policy_module": "policy.act", "policy_name": "act"})
    datasets = [
        {"dataset_id": "first", "ctrl_space": "joint", "ctrl_type": "abs"},
        {"dataset_id": "second", "ctrl_space": "ee", "ctrl_type": "delta", "state_norm_mask": [True, False, True]},
    ]
    kinds = {"state": {"first": "zscore", "second": "minmax"}, "action": {"first": "percentile", "second": "identity"}}
    write_json(place / "normalize.json", {"version": "2.0", "datasets": datasets, **kinds, **changes})
    both = {"num_trajectories": 2, "state": statistics(3), "action": statistics(2)}
    write_pickle(place / "first_stats_joint_abs.pkl", both)
    write_pickle(place / "dataset_stats_ee_delta.pkl", both)
    return place
