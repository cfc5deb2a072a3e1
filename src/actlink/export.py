"""A torch policy as ``policy.json`` and ONNX. Law: what is written has been run and compared; where it differs, nothing is left.

The graph takes observations as they come (pictures as uint8, height x width x 3) and gives actions in their units: normalisation is
inside, the batch axis is free. A server of it needs onnxruntime and no torch.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import ActlinkError, ConfigError, MissingPackageError
from actlink.policies._base import Exportable, Policy
from actlink.policies._open import open_policy
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Request, Runtime

TOLERANCE = 1e-4
"""Largest difference allowed between graph and policy, as a part of the largest action (or of 1, where that is more)."""
SIZES = (1, 2, 5)
"""Batches that are compared."""
OPSET = 17
POLICY_FILE, MODEL_FILE = "policy.json", "model.onnx"
_OUTPUT = "actions"


@dataclass(frozen=True, slots=True)
class Difference:
    """What the comparison of one batch found, in units of the actions."""

    batch: int
    largest: float
    largest_action: float

    @property
    def allowed(self) -> float:
        return TOLERANCE * max(1.0, self.largest_action)


def export(policy: Policy, out: Path, *, told: Callable[[Difference], None] = lambda one: None) -> None:
    """Write ``policy`` into directory ``out``. ``told`` hears of every comparison.

    ``ConfigError`` where the policy cannot be a graph, ``out`` holds other things, or the graph computes something else.
    """
    exportable = policy.exportable()
    if exportable is None:
        raise ConfigError(
            f"{policy.spec.name or 'this policy'}: its family ({policy.facts.get('family', type(policy).__name__)}) has no graph "
            "to export: it is one already, computes without torch, or draws random numbers in every inference"
        )
    _require()
    _check_place(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_graph(exportable, policy.spec, partial / MODEL_FILE)
        (partial / POLICY_FILE).write_text(json.dumps(description(policy, exportable), indent=1) + "\n", encoding="utf-8")
        compare(policy, partial, told)
        out.mkdir(parents=True, exist_ok=True)
        for name in (MODEL_FILE, POLICY_FILE):
            (partial / name).replace(out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require() -> None:
    lacking = [name for name in ("torch", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingPackageError(f"an export needs {', '.join(lacking)}; install with: pip install 'actlink[export]'")


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: expected a directory to write to, it is a file")
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in (POLICY_FILE, MODEL_FILE)) if out.is_dir() else []
    if others:
        raise ConfigError(f"{out}: holds other things ({', '.join(others[:6])}); a policy has a directory of its own")


def write_graph(exportable: Exportable, spec: Spec, path: Path) -> None:
    """The function as an ONNX file with a free batch axis."""
    import torch

    names = [_input(key) for key in exportable.keys]
    module = torch.nn.Module()
    module.forward = exportable.function
    example = tuple(torch.from_numpy(np.stack([each, each])) for each in _values(exportable.keys, spec, np.random.default_rng(0)))
    with warnings.catch_warnings(), torch.no_grad():
        # The older exporter gives a smaller graph of plain operations, which onnxruntime 1.20 reads; torch deprecates it.
        warnings.simplefilter("ignore")
        exportable.function(*example)  # what depends on the pictures' size is made now, and is a constant of the graph
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in (*names, _OUTPUT)},
            opset_version=OPSET,
            dynamo=False,
        )


def description(policy: Policy, exportable: Exportable) -> dict[str, Any]:
    """What ``policy.json`` holds."""
    spec = replace(policy.spec, name="", digest="").to_dict()
    facts = [policy.facts[key] for key in ("layout", "parameters") if key in policy.facts]
    return {
        "format": 1,
        "name": policy.spec.name,
        "description": f"Exported by actlink{' from ' if facts else ''}{', '.join(facts)}.",
        "spec": {key: value for key, value in spec.items() if key not in ("name", "digest")},
        "model": MODEL_FILE,
        "inputs": {_input(key): {"key": key} for key in exportable.keys},
        "output": {"name": _OUTPUT},
    }


def compare(policy: Policy, directory: Path, told: Callable[[Difference], None]) -> None:
    """Run the same random observations through both; ``ConfigError`` where the actions differ by more than ``TOLERANCE``."""
    source = np.random.default_rng(1)
    exported = open_policy(f"onnx:{directory}", Runtime())
    try:
        for size in SIZES:
            if size > policy.spec.max_batch_size:
                continue
            keys = tuple(policy.spec.observation)
            seen: list[Observation] = [dict(zip(keys, _values(keys, policy.spec, source), strict=True)) for _ in range(size)]
            ours, theirs = actions(exported, seen), actions(policy, seen)
            found = Difference(size, float(np.abs(ours - theirs).max()), float(np.abs(theirs).max()))
            told(found)
            if not found.largest <= found.allowed:
                raise ConfigError(
                    f"the exported graph computes something else: at batch {size} its actions differ by {found.largest:.1e} "
                    f"(allowed: {found.allowed:.1e}); nothing was written"
                )
    finally:
        exported.close()


def actions(policy: Policy, observations: Sequence[Observation]) -> Array:
    """``(batch, action_horizon, action_dim)``."""
    results = policy.infer([Request(one) for one in observations])
    for one in results:
        if isinstance(one, ActlinkError):
            raise one
    return np.stack([one.actions for one in results if not isinstance(one, ActlinkError)])


def _values(keys: Sequence[str], spec: Spec, source: np.random.Generator) -> list[Array]:
    return [_value(spec.observation[key], source) for key in keys]


def _value(field: Field, source: np.random.Generator) -> Array:
    shape = tuple(1 if n is None else n for n in field.shape)
    if field.dtype == "uint8":
        return source.integers(0, 256, shape, dtype=np.uint8)
    low, high = zip(*field.typical, strict=True) if field.typical else field.range or (-1.0, 1.0)
    return source.uniform(low, high, shape).astype(np.float32)


def _input(key: str) -> str:
    return key.replace(".", "_")
