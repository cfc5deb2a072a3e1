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

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies._base import Policy, Result, answer
from actlink.policies._onnx_files import MODEL_FILE, POLICY_FILE, Checkpoint, Input, read
from actlink.spec import Field
from actlink.types import Array, Request, Runtime

REQUIRES = ("onnxruntime",)
EXTRA = "onnx"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}
_MOST_THREADS = 4
_SMALL_BYTES = 16 * 1024 * 1024
"""A graph below this that sees no picture runs on one thread: on two cores a 4 MB transformer took 0.51 ms so, 0.64 ms with two."""


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
        self.spec = checkpoint.spec
        self._session = _session(checkpoint, runtime)
        self._output = checkpoint.output
        graph = {entry.name: entry for entry in self._session.get_inputs()}
        _same_names(checkpoint, set(graph), {entry.name for entry in self._session.get_outputs()})
        self._feeds: list[tuple[str, Callable[[Sequence[Request]], Array]]] = [
            (each.name, _feed(each, checkpoint, graph[each.name])) for each in checkpoint.inputs
        ]
        _check_output(checkpoint, next(entry for entry in self._session.get_outputs() if entry.name == self._output.name))

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        feeds = {name: make(requests) for name, make in self._feeds}
        try:
            (raw,) = self._session.run([self._output.name], feeds)
        except Exception as error:  # onnxruntime raises classes of its own that share no base
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


def _session(checkpoint: Checkpoint, runtime: Runtime) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if runtime.deterministic else runtime.threads or _threads(checkpoint)
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = runtime.deterministic
    # Threads that spin between calls burn what the rest of the server needs: half a core at 150 calls a second, for no gain.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what else it warns of is nothing the operator can act on
    providers = _providers(runtime.device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(checkpoint.model, options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise ConfigError(f"{checkpoint.where}: onnxruntime cannot load it: {' '.join(str(error).split())}") from error
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    if wanted not in session.get_providers():
        raise ConfigError(
            f"device {runtime.device!r}: onnxruntime could not start {wanted}: its CUDA or cuDNN libraries are missing or too old; "
            "use device cpu"
        )
    return session


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (index and not index.isdigit()):
        raise ConfigError(f"device {device!r}: the onnx family runs on cpu, cuda or cuda:<index>")
    if "CUDAExecutionProvider" not in available:
        offered = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
        raise ConfigError(f"device {device!r}: this onnxruntime offers {offered}; install onnxruntime-gpu or use device cpu")
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _threads(checkpoint: Checkpoint) -> int:
    small = len(checkpoint.model) < _SMALL_BYTES and not checkpoint.spec.cameras
    return 1 if small else min(physical_cores(), _MOST_THREADS)


def physical_cores() -> int:
    """Cores this process may run on, hyper-threads of one core counted once where the system tells (Linux)."""
    try:
        usable = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    try:
        return len({Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in usable})
    except OSError:
        return len(usable)


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


def _feed(given: Input, checkpoint: Checkpoint, entry: Any) -> Callable[[Sequence[Request]], Array]:
    """A function that makes this graph input's batch; ``ConfigError`` if the graph wants another shape or dtype."""
    field = checkpoint.spec.observation[given.key]
    where = f"{checkpoint.where}: input {given.name!r}"
    dtype = _DTYPES.get(entry.type)
    if dtype is None or (dtype != field.dtype and not dtype.startswith("float")):
        raise ConfigError(f"{where}: the graph wants {entry.type}, {given.key!r} is {field.dtype}")
    if (given.mean is not None or given.std is not None or given.scale != 1.0) and not dtype.startswith("float"):
        raise ConfigError(f"{where}: scale, mean and std need a graph input of floats, it wants {entry.type}")
    _check_shape(_row_shape(given, field), entry.shape, checkpoint.spec.max_batch_size, where)
    chosen = None if given.select is None else np.array([(field.names or ()).index(name) for name in given.select])
    factor = np.float32(given.scale) if given.std is None else (np.float32(given.scale) / given.std).astype(np.float32)
    std = np.float32(1.0) if given.std is None else given.std
    offset = None if given.mean is None else (given.mean / std).astype(np.float32)
    plain = offset is None and given.std is None and given.scale == 1.0

    def make(requests: Sequence[Request]) -> Array:
        rows = [np.asarray(request.observation[given.key]) for request in requests]
        values = np.stack(rows if chosen is None else [row[..., chosen] for row in rows])
        if not plain:
            values = values * factor
            if offset is not None:
                values -= offset
        if given.layout == "chw":
            values = np.moveaxis(values, -1, 1)
        return np.ascontiguousarray(values, dtype)

    return make


def _row_shape(given: Input, field: Field) -> tuple[int | None, ...]:
    shape = field.shape if given.select is None else (*field.shape[:-1], len(given.select))
    return (shape[2], shape[0], shape[1]) if given.layout == "chw" else shape


def _check_shape(row: tuple[int | None, ...], graph: Sequence[Any], max_batch_size: int, where: str) -> None:
    sizes = [size if isinstance(size, int) else None for size in graph]
    if len(sizes) != len(row) + 1 or any(
        have is not None and want is not None and have != want for have, want in zip(sizes[1:], row, strict=True)
    ):
        raise ConfigError(f"{where}: the graph has shape {tuple(graph)}, {POLICY_FILE} says (batch, {', '.join(map(str, row))})")
    if sizes[0] is not None and (sizes[0] != 1 or max_batch_size > 1):
        raise ConfigError(
            f"{where}: the graph's batch axis is fixed at {sizes[0]}, max_batch_size is {max_batch_size}; export it with a free "
            "batch axis, or with 1 and max_batch_size 1"
        )


def _check_output(checkpoint: Checkpoint, entry: Any) -> None:
    spec, where = checkpoint.spec, f"{checkpoint.where}: output {entry.name!r}"
    row: tuple[int | None, ...] = (spec.action_horizon, *spec.action.shape)
    if spec.action_horizon == 1 and len(entry.shape) == 2:
        row = spec.action.shape
    _check_shape(row, [None, *entry.shape[1:]], 1, where)
    dtype = _DTYPES.get(entry.type, "")
    if not dtype or dtype.startswith("float") != (spec.action.dtype == "float32"):
        raise ConfigError(f"{where}: the graph gives {entry.type}, the spec's action is {spec.action.dtype}")
