"""Put load on a server, and see what it makes of it.

Clients ask with random observations made from the server's own spec, each waiting for its answer; with --rate-hz they ask at a
fixed pace instead, and a late answer counts from the moment its request was due. Prints latency percentiles, throughput and errors
by code. Clients run in processes, and in threads within them where there are more clients than cores, so that the figures are the
server's and not those of one Python interpreter.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink.client import Credentials, given_spec
from actlink.commands import _load
from actlink.commands._load import Load, Outcome
from actlink.commands._options import Common
from actlink.commands._show import percentile
from actlink.errors import ActlinkError, ConfigError, InternalError, MissingPackageError
from actlink.spec import Spec

EXAMPLES = """\
  actlink bench 127.0.0.1:8001 --clients 8 --duration-s 10
  actlink bench ws://gpu-box:8000 --clients 4 --rate-hz 10 --image-sizes 480x640 --plot bench.png
"""

CONNECT_S = 60.0
"""Seconds all processes together have to start and connect."""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink bench``."""

    address: Annotated[Positional[str], arg(metavar="ADDRESS")]
    """dialect+transport://host:port or host:port (which is native+tcp)."""
    clients: int = 1
    """Clients at once, one connection each."""
    duration_s: float = 10.0
    """Seconds to ask for."""
    rate_hz: float | None = None
    """Requests per second of each client; None = the next one follows the answer."""
    image_sizes: tuple[str, ...] = ()
    """Height x width of the cameras whose size the spec leaves open: 480x640 for all, top=480x640 for one."""
    processes: int | None = None
    """Processes to spread the clients over; None = one per client, but no more than there are cores."""
    plot: Path | None = None
    """PNG file for latency over time and its distribution."""
    spec: Path | None = None
    """YAML file with the spec, for servers whose wire announces none."""
    like: str | None = None
    """The same, from a local policy that has that spec."""
    credentials: OmitArgPrefixes[Credentials] = field(default_factory=Credentials)
    common: OmitArgPrefixes[Common] = field(default_factory=Common)

    def __post_init__(self) -> None:
        for name in ("clients", "duration_s", "rate_hz", "processes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')}: expected more than 0, got {value}")


def run(options: Options) -> int:
    if options.plot is not None:
        _require_matplotlib()
    loads = spread(options)
    spec, outcome = generate(loads)
    print(
        f"{spec.name or 'policy'} at {options.address}: {options.clients} client(s) in {len(loads)} process(es), {_pace(options)}"
    )
    print(report(outcome, options.duration_s))
    if options.plot is not None:
        draw(outcome, options.plot, f"{spec.name} at {options.address}, {options.clients} client(s)")
        print(f"plot        {options.plot}")
    return 0 if outcome.latency_ms else 1


def spread(options: Options) -> list[Load]:
    """The clients, divided over processes as evenly as possible."""
    sizes = parse_sizes(options.image_sizes)
    count = min(options.clients, options.processes or max(2, os.cpu_count() or 1))
    spec = given_spec(options.spec, options.like)
    share, rest = divmod(options.clients, count)
    credentials = options.credentials
    load = Load(
        options.address,
        share,
        options.duration_s,
        options.rate_hz,
        sizes,
        spec,
        token=credentials.token(),
        credentials=credentials.without_token(),
    )
    return [replace(load, clients=share + (index < rest), seed=1000 * index) for index in range(count)]


def parse_sizes(texts: tuple[str, ...]) -> Mapping[str, tuple[int, int]]:
    """``("480x640", "wrist=240x320")`` as camera -> (height, width), "" for every camera."""
    sizes = {}
    for text in texts:
        found = re.fullmatch(r"(?:([^=]+)=)?(\d+)x(\d+)", text)
        if not found or not int(found[2]) or not int(found[3]):
            raise ConfigError(f"--image-sizes: expected HEIGHTxWIDTH or camera=HEIGHTxWIDTH, got {text!r}")
        sizes[found[1] or ""] = (int(found[2]), int(found[3]))
    return sizes


def generate(loads: list[Load]) -> tuple[Spec, Outcome]:
    """Run every load in a process of its own, started together once all are connected."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for load in loads:
            ours, theirs = context.Pipe()
            process = context.Process(target=_load.run, args=(load, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        specs = [_receive(pipe, CONNECT_S) for pipe in pipes]
        for pipe in pipes:
            with contextlib.suppress(BrokenPipeError):  # a process that died is noticed where it is listened to
                pipe.send("go")
        total = Outcome()
        for pipe, load in zip(pipes, loads, strict=True):
            total.add(_receive(pipe, load.duration_s + 2 * CONNECT_S))
        return specs[0], total
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _receive(pipe: Connection, timeout_s: float) -> Any:
    try:
        if not pipe.poll(timeout_s):
            raise InternalError(f"a load process has not answered for {timeout_s:g} s")
        said = pipe.recv()
    except EOFError:
        raise InternalError("a load process died; its own message is above") from None
    if isinstance(said, ActlinkError):
        raise said
    return said


def _pace(options: Options) -> str:
    return "each as fast as it is answered" if options.rate_hz is None else f"each {options.rate_hz:g} requests/s"


def report(outcome: Outcome, duration_s: float) -> str:
    """The table of a run."""
    times = outcome.latency_ms
    lines = [f"answered    {len(times)} requests, {len(times) / max(duration_s, *outcome.at_s, 1e-9):.1f} per second"]
    if times:
        shown = ", ".join(f"p{p} {percentile(times, p):.2f} ms" for p in (50, 95, 99))
        lines.append(f"latency     {shown}, max {max(times):.2f} ms")
        medians = [_median(name, values) for name, values in sorted(outcome.timing.items()) if not name.endswith("_s")]
        lines.append(f"medians     {', '.join(medians) or 'the server tells no stages'}")
    told = ", ".join(f"{code} {count}" for code, count in sorted(outcome.errors.items()))
    lines.append(f"errors      {told or 'none'}")
    return "\n".join(lines)


def _median(name: str, values: list[float]) -> str:
    """``infer 1.23 ms``; what the reply tells without a unit is a number of something (``batch_size 4``)."""
    middle = percentile(values, 50)
    return f"{name.removesuffix('_ms')} {middle:.2f} ms" if name.endswith("_ms") else f"{name} {middle:g}"


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPackageError("--plot needs matplotlib; install with: pip install 'actlink[plot]'") from None


def draw(outcome: Outcome, path: Path, title: str) -> None:
    """Latency over time, and how much of it lies below what."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, distribution = figure.subplots(1, 2)
    over_time.plot(outcome.at_s, outcome.latency_ms, ".", markersize=2)
    over_time.set(xlabel="time (s)", ylabel="latency (ms)", ylim=(0, None))
    ordered = sorted(outcome.latency_ms)
    distribution.plot(ordered, [100 * (index + 1) / len(ordered) for index in range(len(ordered))])
    distribution.set(xlabel="latency (ms)", ylabel="answers at most this late (%)", xlim=(0, None), ylim=(0, 101))
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
