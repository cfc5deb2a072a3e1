"""A directory with policy.json (spec and normalisation) and model.onnx.

::

    {"format": 1, "name": "my_policy", "description": "...",
     "spec": {"observation": {"state": {"shape": [14], "names": [...]}, "images.top": {"shape": [240, 320, 3], "dtype": "uint8"}},
              "action": {"shape": [14]}, "action_horizon": 50, "rate_hz": 50.0, "max_batch_size": 8},
     "model": "model.onnx",
     "inputs": {"<graph input>": {"key": "state", "select": ["elbow", ...], "mean": [...], "std": [...]},
                "<graph input>": {"key": "images.top", "scale": 0.00392, "layout": "chw", "mean": [r, g, b], "std": [r, g, b]}},
     "output": {"name": "actions", "mean": [...], "std": [...]}}

``spec`` is laid out as ``Spec.to_dict`` does, absent keys are defaults. An input is ``(value * scale - mean) / std``, per entry or
per channel; the output ``value * std + mean``; ``select``, ``scale``, ``mean``, ``std``, ``layout`` may be left out. The graph is
batched: inputs ``(batch, ...)``, output ``(batch, action_horizon, action_dim)``, or ``(batch, action_dim)`` for a horizon of 1; a
discrete action leaves it as an integer. What the file promises is compared with the graph when the policy is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies._base import Policy, Result, answer
from actlink.policies._hardware import is_out_of_memory
from actlink.policies._onnx_facts import facts_of, with_typical
from actlink.policies._onnx_files import MODEL_FILE, POLICY_FILE, Checkpoint, read
from actlink.policies._onnx_graph import DTYPES, check_shape, feed, open_session, shrinking
from actlink.types import Array, Request, Runtime

REQUIRES = ("onnxruntime",)
EXTRA = "onnx"
LOOKS_FOR = f"{POLICY_FILE} and {MODEL_FILE} in one directory (or one of the two files)"


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    max_batch_size: int | None = None
    """Requests per call of the graph; default: what policy.json says."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is such a directory, or one of its two files."""
    return (path.is_dir() and ((path / POLICY_FILE).exists() or (path / MODEL_FILE).exists())) or (
        path.is_file() and (path.name == POLICY_FILE or path.suffix == ".onnx")
    )


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in directory ``source`` (or beside the file ``source``). ``ConfigError`` says which file is wrong, and how."""
    path = Path(source).expanduser()
    directory = path if path.is_dir() or not path.exists() else path.parent
    if not directory.is_dir():
        raise ConfigError(f"{path}: no such directory; expected one with {POLICY_FILE} and {MODEL_FILE}")
    if runtime.dtype not in (None, "float32"):
        raise ConfigError(f"onnx: a graph computes in the precision it was exported in; got dtype {runtime.dtype!r}")
    checkpoint = read(directory)
    if config.max_batch_size is not None:
        if config.max_batch_size < 1:
            raise ConfigError(f"onnx: max_batch_size: expected at least 1, got {config.max_batch_size}")
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, max_batch_size=config.max_batch_size))
    loading.require(sys.modules[__name__])
    return OnnxPolicy(checkpoint, runtime)


@final
class OnnxPolicy(Policy):
    """One graph: observations stacked, normalised, run; actions denormalised."""

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime) -> None:
        self.spec, self.facts = with_typical(checkpoint), facts_of(checkpoint)
        self._session = open_session(checkpoint, runtime)
        self._output = checkpoint.output
        self._crowded: Any = None
        """After a run that found no memory: the next one gives back what the session keeps for later, or nobody else finds any."""
        graph = {entry.name: entry for entry in self._session.get_inputs()}
        _same_names(checkpoint, set(graph), {entry.name for entry in self._session.get_outputs()})
        self._feeds: list[tuple[str, Callable[[Sequence[Request]], Array]]] = [
            (each.name, feed(each, checkpoint, graph[each.name])) for each in checkpoint.inputs
        ]
        _check_output(checkpoint, next(entry for entry in self._session.get_outputs() if entry.name == self._output.name))

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        feeds = {name: make(requests) for name, make in self._feeds}
        try:
            (raw,) = self._session.run([self._output.name], feeds, self._crowded)
            self._crowded = None
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            if is_out_of_memory(error):
                self._crowded = shrinking()
            raise PolicyError(f"onnxruntime: {error}") from error
        actions = self._denormalised(raw, len(requests))
        return [answer(request, rows) for request, rows in zip(requests, actions, strict=True)]

    def _denormalised(self, raw: Array, count: int) -> Array:
        shape = (count, self.spec.action_horizon, self.spec.action_dim or 0)
        if raw.size != count * shape[1] * shape[2]:
            raise PolicyError(f"graph output {self._output.name!r}: expected shape {shape}, got {raw.shape}")
        actions = raw.reshape(shape)
        if self._output.std is not None:
            actions = actions * self._output.std
        if self._output.mean is not None:
            actions = actions + self._output.mean
        return actions.astype(self.spec.action.dtype, copy=False)


def _same_names(checkpoint: Checkpoint, graph_inputs: set[str], graph_outputs: set[str]) -> None:
    named = {each.name for each in checkpoint.inputs}
    if named != graph_inputs:
        raise ConfigError(
            f"{checkpoint.where}: the graph's inputs are {', '.join(sorted(graph_inputs)) or 'none'}, "
            f"{POLICY_FILE} feeds {', '.join(sorted(named))}"
        )
    if checkpoint.output.name not in graph_outputs:
        raise ConfigError(
            f"{checkpoint.where}: the graph's outputs are {', '.join(sorted(graph_outputs))}, "
            f"{POLICY_FILE} expects {checkpoint.output.name!r}"
        )


def _check_output(checkpoint: Checkpoint, entry: Any) -> None:
    spec, where = checkpoint.spec, f"{checkpoint.where}: output {entry.name!r}"
    row: tuple[int | None, ...] = (spec.action_horizon, *spec.action.shape)
    if spec.action_horizon == 1 and len(entry.shape) == 2:
        row = spec.action.shape
    check_shape(row, [None, *entry.shape[1:]], 1, where)
    dtype = DTYPES.get(entry.type, "")
    if not dtype or dtype.startswith("float") != (spec.action.dtype == "float32"):
        raise ConfigError(f"{where}: the graph gives {entry.type}, the spec's action is {spec.action.dtype}")
