"""What every family needs to know of the machine: cores, and errors that mean its memory is full. Law: imports no framework."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from actlink.errors import PolicyError
from actlink.types import Runtime

_TYPES = ("OutOfMemoryError", "OutOfMemory", "_ArrayMemoryError")
"""Names of the classes that frameworks raise; compared by name, so that none of them is imported for it."""
_PHRASES = (
    "out of memory",  # CUDA, torch, the operating system's ENOMEM in some libraries
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # torch on the CPU, Windows
    "failed to allocate memory",  # onnxruntime's arena
    "bad_alloc",  # C++
    "resource_exhausted",  # jax
    "alloc_failed",  # cuBLAS, cuDNN
)
_DEEPEST = 8
_MARK = "is out of memory during"


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says that memory could not be had."""
    found: BaseException | None = error
    for _ in range(_DEEPEST):
        if found is None:
            return False
        text = str(found).lower()
        if isinstance(found, MemoryError) or type(found).__name__ in _TYPES or any(phrase in text for phrase in _PHRASES):
            return True
        found = found.__cause__ or found.__context__
    return False


def out_of_memory(error: BaseException, device: str, doing: str) -> PolicyError:
    """What to tell instead: which device is full, when (``loading``, ``inference of 8 observations``), and what to change."""
    if isinstance(error, PolicyError) and _MARK in str(error):
        return error  # a family has said it already
    first = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
    elsewhere = "" if device == "cpu" else "--device cpu, "
    return PolicyError(
        f"device {device!r} {_MARK} {doing} ({first}); "
        f"use {elsewhere}a smaller chunk or batch (--max-batch-size 1) or --dtype float16 or bfloat16, or free memory there"
    )


def release_cached() -> None:
    """Give back what nobody uses any more: what Python has not collected yet, and what torch keeps of a GPU for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.empty_cache()


def wanted_threads(runtime: Runtime, most: int = 4) -> int:
    """Threads inside one inference. One core is left to whoever feeds the policy: threads that spin for a core which another
    process or thread is using make an inference 4 to 13 times slower, and a second core at best 1.3 times faster."""
    if runtime.deterministic:
        return 1
    if runtime.threads is not None:
        return runtime.threads
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return max(1, min(physical_cores() - 1, most))
