"""What a server tells those who watch it: health pages and a log line. Law: cheap, and nothing of the model leaks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from actlink.serving.statistics import EngineStatistics, Statistics
from actlink.transports._base import Page, Pages

MIB = 1024 * 1024


def pages(statistics: Callable[[], Statistics], ready: Callable[[], bool]) -> Pages:
    """``/healthz``: 200 while the event loop runs. ``/readyz``: 200 while new work is welcome, else 503.

    With several engines ``/healthz`` shows each: its device and its numbers, not the name of its model.
    """

    def page(path: str) -> Page | None:
        if path == "/healthz":
            now = statistics()
            text = f'"status":"ok","requests":{now.requests},"avg_latency_ms":{now.latency_mean_ms:.2f}'
            if len(now.engines) > 1:
                text += f',"engines":{json.dumps(list(map(_engine, now.engines)), separators=(",", ":"))}'
            return Page(200, f"{{{text}}}\n".encode())
        if path == "/readyz":
            return Page(200, b'{"status":"ready"}') if ready() else Page(503, b'{"status":"not ready"}')
        return None

    return page


def _engine(engine: EngineStatistics) -> dict[str, str | int]:
    return {
        "device": engine.device,
        "sessions": engine.sessions,
        "waiting": engine.queue_depth,
        "batches": engine.batches,
        "answered": engine.batched,
    }


def log_line(statistics: Statistics, resources: Resources) -> str:
    """One line of statistics for the log."""
    told = ", ".join(f"{code} {count}" for code, count in sorted(statistics.errors.items()))
    several = statistics.engines if len(statistics.engines) > 1 else ()
    each = "".join(f"; {one.device or one.model}: sessions {one.sessions}, batches {one.batches}" for one in several)
    return (
        f"{resources.describe()}sessions {statistics.sessions}, requests {statistics.requests}, "
        f"p50 {statistics.latency_p50_ms:.1f} ms, p95 {statistics.latency_p95_ms:.1f} ms, "
        f"mean batch {statistics.mean_batch_size:.1f}, waiting {statistics.queue_depth}, errors: {told or 'none'}{each}"
    )


class Resources:
    """What this process uses, as far as installed packages can tell (psutil; torch where the policy has loaded it)."""

    def __init__(self) -> None:
        self._process: Any = None
        try:
            import psutil
        except ImportError:
            return
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only starts the measurement

    def describe(self) -> str:
        """``cpu 12 %, memory 345 MiB, gpu 678 MiB, ``; parts that are not known are left out."""
        parts = []
        if self._process is not None:
            parts.append(f"cpu {self._process.cpu_percent():.0f} %")
            parts.append(f"memory {self._process.memory_info().rss // MIB} MiB")
        gpu = gpu_memory()
        if gpu is not None:
            parts.append(f"gpu {gpu // MIB} MiB")
        return "".join(f"{part}, " for part in parts)


def gpu_memory() -> int | None:
    """Bytes that torch holds on all GPUs; None where torch is not loaded or uses no GPU (it is never imported for this)."""
    torch = sys.modules.get("torch")
    cuda: Any = getattr(torch, "cuda", None)
    if not getattr(cuda, "is_initialized", bool)():  # absent as well while another thread imports torch
        return None
    return sum(int(cuda.memory_reserved(device)) for device in range(cuda.device_count()))
