"""All of it in one go: a server with a bundled trained policy, an evaluation of it over the network, the table, the videos.

The server is a process of its own on a free port of this machine. Everything, its log included, lands in results/demo-<time>/.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from actlink import loading
from actlink.commands._options import Common
from actlink.commands.evaluate import show
from actlink.errors import ConfigError, InternalError, MissingPackageError
from actlink.evaluation.harness import EvalConfig, evaluate

EXAMPLES = """\
  actlink demo
  actlink demo --episodes 4 --workers 1 --videos 0
"""

POLICY = "aloha_transfer_cube"
START_S = 60.0
"""Seconds the server has to load the policy and to listen."""
STOP_S = 10.0
SEED = 1000
"""Of the first episode; the policy was trained on none of these."""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink demo``."""

    episodes: int = 20
    """Number of episodes."""
    workers: int = 2
    """Simulator processes, each with its own connection."""
    videos: int = 2
    """Episodes to record as mp4, where there is an OpenGL library; 0 = none."""
    out: Path | None = None
    """Where results, videos and the server's log go; None = results/demo-<time>."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("workers", 1), ("videos", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name}: expected at least {least}, got {getattr(self, name)}")


def run(options: Options) -> int:
    require_packages()
    out = options.out or Path("results") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    log = out / "server.log"
    with server(log) as address:
        print(f"serving {POLICY} at {address}; evaluating it from {options.workers} other process(es)", flush=True)
        config = EvalConfig(
            policy=address,
            env=POLICY,
            episodes=options.episodes,
            workers=min(options.workers, options.episodes),
            seed=SEED,
            out=out,
            video_every=-(-options.episodes // options.videos) if options.videos else 0,
        )
        results = evaluate(config, console=Console(stderr=True, quiet=options.common.quiet))
    show(results)
    print(log)
    return 0


def require_packages() -> None:
    """All that is missing at once, with the lines that install it."""
    adapters = [loading.describe("policies", "onnx"), loading.describe("environments", "aloha")]
    lacking = [name for adapter in adapters for name in adapter.missing]
    if lacking:
        lines = " && ".join(adapter.install for adapter in adapters if adapter.missing)
        raise MissingPackageError(f"the demo needs {', '.join(lacking)}; install with: {lines}")


@contextmanager
def server(log: Path) -> Iterator[str]:
    """``actlink serve`` in a process of its own, on a free port; yields its address, and ends it."""
    command = [sys.executable, "-m", "actlink", "serve", POLICY, "--listen", "native+ws://127.0.0.1:0"]
    with log.open("w", encoding="utf-8") as file:
        # A session of its own: Ctrl-C is for the evaluation, which then lets the server end in order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        yield address_in(log, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that the server announces in its log, once it does."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        over = process.poll() is not None
        found = re.search(r"^  (native\+ws://\S+)$", log.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
        if over:
            raise InternalError(f"the server ended with code {process.returncode}; {log} says:\n{_last_lines(log)}")
        time.sleep(0.05)
    raise InternalError(f"the server was not ready after {START_S:g} s; {log} says:\n{_last_lines(log)}")


def _last_lines(log: Path, count: int = 5) -> str:
    return os.linesep.join(log.read_text(encoding="utf-8").splitlines()[-count:])
