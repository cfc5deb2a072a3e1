"""An ONNX graph in onnxruntime: its session, and observations as its inputs. Law: knows no policy; says what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.policies._hardware import physical_cores
from actlink.policies._onnx_files import POLICY_FILE, Checkpoint, Input
from actlink.policies._onnx_protobuf import count_nodes
from actlink.spec import Field
from actlink.types import Array, Observation, Runtime

DTYPES = {
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
_MANY_NODES = 1500
"""Above this onnxruntime does not plan which results share their memory: its planner compares each with all that are free.
A sampler unrolled to 20 steps of 285 nodes took 10 s to load with the plan, 0.4 s without, and no longer to run."""


def shrinking() -> Any:
    """Options of a run at whose end the session frees the memory of earlier ones."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def open_session(checkpoint: Checkpoint, runtime: Runtime) -> Any:
    """The ``InferenceSession`` of the checkpoint's graph; ``ConfigError`` where the graph or the device cannot be had."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if runtime.deterministic else runtime.threads or _threads(checkpoint)
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = runtime.deterministic
    # Threads that spin between calls burn what the rest of the server needs: half a core at 150 calls a second, for no gain.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_reuse = count_nodes(checkpoint.model) < _MANY_NODES
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
        raise ConfigError(f"device {device!r}: an ONNX graph runs on cpu, cuda or cuda:<index>")
    if "CUDAExecutionProvider" not in available:
        offered = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
        raise ConfigError(f"device {device!r}: this onnxruntime offers {offered}; install onnxruntime-gpu or use device cpu")
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _threads(checkpoint: Checkpoint) -> int:
    small = len(checkpoint.model) < _SMALL_BYTES and not checkpoint.spec.cameras
    return 1 if small else min(physical_cores(), _MOST_THREADS)


def feed(given: Input, checkpoint: Checkpoint, entry: Any) -> Callable[[Sequence[Observation]], Array]:
    """A function that makes this graph input's batch: a row for each observation, or for each ``given.history`` of them.

    ``ConfigError`` if the graph wants another shape or dtype.
    """
    field = checkpoint.spec.observation[given.key]
    where = f"{checkpoint.where}: input {given.name!r}"
    dtype = DTYPES.get(entry.type)
    if dtype is None or (dtype != field.dtype and not dtype.startswith("float")):
        raise ConfigError(f"{where}: the graph wants {entry.type}, {given.key!r} is {field.dtype}")
    if (given.mean is not None or given.std is not None or given.scale != 1.0) and not dtype.startswith("float"):
        raise ConfigError(f"{where}: scale, mean and std need a graph input of floats, it wants {entry.type}")
    row = _row_shape(given, field) if given.history == 1 else (given.history, *_row_shape(given, field))
    check_shape(row, entry.shape, checkpoint.spec.max_batch_size, where, checkpoint.described)
    chosen = None if given.select is None else np.array([(field.names or ()).index(name) for name in given.select])
    factor = np.float32(given.scale) if given.std is None else (np.float32(given.scale) / given.std).astype(np.float32)
    std = np.float32(1.0) if given.std is None else given.std
    offset = None if given.mean is None else (given.mean / std).astype(np.float32)
    plain = offset is None and given.std is None and given.scale == 1.0

    def make(observations: Sequence[Observation]) -> Array:
        rows = [np.asarray(observation[given.key]) for observation in observations]
        values = np.stack(rows if chosen is None else [row[..., chosen] for row in rows])
        if not plain:
            values = values * factor
            if offset is not None:
                values -= offset
        if given.layout == "chw":
            values = np.moveaxis(values, -1, 1)
        if given.history > 1:
            values = values.reshape(-1, given.history, *values.shape[1:])
        return np.ascontiguousarray(values, dtype)

    return make


def _row_shape(given: Input, field: Field) -> tuple[int | None, ...]:
    shape = field.shape if given.select is None else (*field.shape[:-1], len(given.select))
    return (shape[2], shape[0], shape[1]) if given.layout == "chw" else shape


def check_shape(
    row: tuple[int | None, ...], graph: Sequence[Any], max_batch_size: int, where: str, described: str = POLICY_FILE
) -> None:
    """``ConfigError`` unless the graph's shape is ``(batch, *row)`` with a free or large enough batch."""
    sizes = [size if isinstance(size, int) else None for size in graph]
    if len(sizes) != len(row) + 1 or any(
        have is not None and want is not None and have != want for have, want in zip(sizes[1:], row, strict=True)
    ):
        raise ConfigError(f"{where}: the graph has shape {tuple(graph)}, {described} says (batch, {', '.join(map(str, row))})")
    if sizes[0] is not None and (sizes[0] != 1 or max_batch_size > 1):
        raise ConfigError(
            f"{where}: the graph's batch axis is fixed at {sizes[0]}, max_batch_size is {max_batch_size}; export it with a free "
            "batch axis, or with 1 and max_batch_size 1"
        )
