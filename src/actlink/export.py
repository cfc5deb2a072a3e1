"""A torch policy as ``policy.json`` and ONNX. Law: what is written has been run and compared; where it differs, nothing is left.

The graph takes observations as they come (pictures as uint8, height x width x 3) and gives actions in their units: normalisation is
inside, the batch axis is free. What a policy remembers of an episode and what it draws at random are inputs of the graph, which the
family ``onnx`` fills. A server of it needs onnxruntime and no torch.
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
from actlink.policies import _noise
from actlink.policies._base import Exportable, Policy
from actlink.policies._open import open_policy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array, Observation, Request, Runtime

TOLERANCE = 1e-4
"""Largest difference allowed between graph and policy, as a part of the largest action (or of 1, where that is more)."""
SIZES = (1, 2, 5)
"""Batches that are compared."""
STEPS = 4
"""Control steps that are compared where a policy remembers: of each batch one episode."""
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
            "to export: it is one already, or computes without torch"
        )
    _require()
    _check_place(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_graph(exportable, policy, partial / MODEL_FILE)
        (partial / POLICY_FILE).write_text(json.dumps(description(policy, exportable), indent=1) + "\n", encoding="utf-8")
        compare(policy, exportable, partial, told)
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


def write_graph(exportable: Exportable, policy: Policy, path: Path) -> None:
    """The function as an ONNX file with a free batch axis. ``ConfigError`` where torch cannot write it."""
    import torch

    module = torch.nn.Module()
    module.forward = exportable.function
    if exportable.weights is not None:
        module.weights = exportable.weights
    module.eval()
    inputs = [*map(_input, exportable.keys), *(each.name for each in exportable.noise), *exportable.memory]
    outputs = [_OUTPUT, *map(_next, exportable.memory)]
    with warnings.catch_warnings(), torch.no_grad():
        # The older exporter gives a smaller graph of plain operations, which onnxruntime 1.20 reads; torch deprecates it.
        warnings.simplefilter("ignore")
        example = tuple(torch.from_numpy(each) for each in _example(exportable, policy.spec))
        try:
            exportable.function(*example)  # what depends on the pictures' size is made now, and is a constant of the graph
            torch.onnx.export(
                module,
                example,
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)} if exportable.batch > 1 else None,
                opset_version=OPSET,
                dynamo=False,
            )
        except ActlinkError:
            raise
        except Exception as error:  # a trace runs the policy's own code on what the exporter makes of its numbers
            said = " ".join(str(error).split())[:300]
            raise ConfigError(f"{policy.spec.name or 'this policy'}: torch cannot write it as a graph: {said}") from error


def _example(exportable: Exportable, spec: Spec) -> list[Array]:
    """A value for each input of the graph."""
    source, batch = np.random.default_rng(0), range(exportable.batch)
    seen = [np.stack([_row(key, spec, exportable.history, source) for _ in batch]) for key in exportable.keys]
    noise = [np.stack([source.random(each.shape, np.float32) for _ in batch]) for each in exportable.noise]
    return [*seen, *noise, *(np.zeros((len(batch), *shape), np.float32) for shape in exportable.memory.values())]


def description(policy: Policy, exportable: Exportable) -> dict[str, Any]:
    """What ``policy.json`` holds."""
    spec = replace(
        policy.spec,
        name="",
        digest="",
        observation={key: policy.spec.observation[key] for key in exportable.keys},
        max_batch_size=1 if exportable.batch == 1 else policy.spec.max_batch_size,
        accepts_prefix=False,
    ).to_dict()
    facts = [policy.facts[key] for key in ("type", "layout", "parameters") if key in policy.facts]
    more = {} if exportable.history == 1 else {"history": exportable.history}
    noise = {each.name: {"shape": list(each.shape), "distribution": each.distribution} for each in exportable.noise}
    memory = {name: {"shape": list(shape), "output": _next(name)} for name, shape in exportable.memory.items()}
    return {
        "format": 1,
        "name": policy.spec.name,
        "description": f"Exported by actlink{' from ' if facts else ''}{', '.join(facts)}.",
        "spec": {key: value for key, value in spec.items() if key not in ("name", "digest")},
        "model": MODEL_FILE,
        "inputs": {_input(key): {"key": key, **more} for key in exportable.keys},
        **({"noise": noise} if noise else {}),
        **({"memory": memory} if memory else {}),
        "output": {"name": _OUTPUT},
    }


def compare(policy: Policy, exportable: Exportable, directory: Path, told: Callable[[Difference], None]) -> None:
    """Run the same random observations through both; ``ConfigError`` where the actions differ by more than ``TOLERANCE``.

    Both get the same random numbers, and each remembers its own episode.
    """
    exported = open_policy(f"onnx:{directory}", Runtime())
    try:
        for size in SIZES:
            if size <= exported.spec.max_batch_size:
                found = _compared(policy, exportable, exported, size)
                told(found)
                _judge(found)
    finally:
        exported.close()


def _compared(policy: Policy, exportable: Exportable, exported: Policy, size: int) -> Difference:
    """One episode, or one observation, of ``size`` sessions at once."""
    keys, source = tuple(exported.spec.observation), np.random.default_rng(size)
    ours: list[Any] = [None] * size
    theirs: list[Any] = [None] * size
    largest, largest_action = 0.0, 0.0
    for step in range(STEPS if exported.spec.stateful else 1):
        seen: list[Observation] = [{key: _value(policy.spec.observation[key], source) for key in keys} for _ in range(size)]
        ours = answers(exported, seen, step, ours)
        numbers = _noise.batch(exportable.noise, [Request(one, step) for one in seen], keys, seed=0)
        with exportable.drawing(numbers):
            theirs = answers(policy, seen, step, theirs)
        here, there = (np.stack([one.actions for one in each]) for each in (ours, theirs))
        largest = max(largest, float(np.abs(here - there).max()))
        largest_action = max(largest_action, float(np.abs(there).max()))
    return Difference(size, largest, largest_action)


def _judge(found: Difference) -> None:
    if not found.largest <= found.allowed:
        raise ConfigError(
            f"the exported graph computes something else: at batch {found.batch} its actions differ by {found.largest:.1e} "
            f"(allowed: {found.allowed:.1e}); nothing was written"
        )


def answers(
    policy: Policy, observations: Sequence[Observation], step: int = 0, before: Sequence[ActionChunk | None] = ()
) -> list[ActionChunk]:
    """One chunk for each; ``before``: what the same sessions were answered last, whose memory they have."""
    last = before or [None] * len(observations)
    requests = [
        Request(one, step, session=str(lane), memory=None if chunk is None else chunk.memory)
        for lane, (one, chunk) in enumerate(zip(observations, last, strict=True))
    ]
    results = policy.infer(requests)
    for one in results:
        if isinstance(one, ActlinkError):
            raise one
    return [one for one in results if isinstance(one, ActionChunk)]


def _value(field: Field, source: np.random.Generator) -> Array:
    shape = tuple(1 if n is None else n for n in field.shape)
    if field.dtype == "uint8":
        return source.integers(0, 256, shape, dtype=np.uint8)
    low, high = zip(*field.typical, strict=True) if field.typical else field.range or (-1.0, 1.0)
    return source.uniform(low, high, shape).astype(np.float32)


def _row(key: str, spec: Spec, history: int, source: np.random.Generator) -> Array:
    """One request's value, or values where the policy looks at several."""
    if history == 1:
        return _value(spec.observation[key], source)
    return np.stack([_value(spec.observation[key], source) for _ in range(history)])


def _input(key: str) -> str:
    return key.replace(".", "_")


def _next(name: str) -> str:
    """The output that gives the next request's input ``name``."""
    return f"next_{name}"
