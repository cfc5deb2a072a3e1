"""A runtime in torch's words: device, dtype, threads. Law: torch is imported inside functions; what is not there is said plainly.

For the families that compute with torch::

    where, kind = _torch.device(runtime), _torch.dtype(runtime)
    _torch.threads(runtime)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actlink.errors import ConfigError
from actlink.policies._hardware import is_out_of_memory, out_of_memory, wanted_threads
from actlink.types import Runtime

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "device", "dtype", "is_out_of_memory", "out_of_memory", "threads"]

DTYPES = ("float32", "float16", "bfloat16")


def device(runtime: Runtime) -> torch.device:
    """``runtime.device``; ``ConfigError`` lists what this machine has if it is not there."""
    import torch

    kind, separator, index = runtime.device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (separator and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device {runtime.device!r}: expected cpu, cuda, cuda:<index> or mps")
    there = _there()
    wanted = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
    if wanted not in there:
        build = "" if kind != "cuda" or torch.version.cuda else "; this torch was built without CUDA"
        raise ConfigError(f"device {runtime.device!r} is not there: torch {torch.__version__} sees {', '.join(there)}{build}")
    return torch.device(wanted)


def _there() -> list[str]:
    """Devices that can be used now, the CPU first."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def dtype(runtime: Runtime, default: str = "float32") -> torch.dtype:
    """``runtime.dtype``, or the family's ``default``; ``ConfigError`` for one that actlink does not compute in."""
    import torch

    name = runtime.dtype or default
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r}: expected {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, name)
    return found


def threads(runtime: Runtime) -> int:
    """Have torch use so many threads inside one operation, in this whole process; gives the number.

    The runtime's, else ``OMP_NUM_THREADS``, else the physical cores but one, at most 4; 1 where it must be deterministic.
    """
    import torch

    count = wanted_threads(runtime)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count
