"""Run a robot by a policy behind an address: the robot executes chunks while the next one is inferred elsewhere.

Nothing moves before the server is reached, the policy fits the robot and a first chunk is there. Ctrl-C ends the run, and the arm
holds. Latched (no fresh actions for a second): it holds until Enter is typed, or SIGUSR1 comes, or by itself with --rearm.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tyro.conf import OmitArgPrefixes

from actlink import ticks
from actlink.commands._options import Common
from actlink.errors import ConfigError
from actlink.robot_client import latency, session
from actlink.robot_client.config import RunConfig, robot_of
from actlink.robot_client.session import Controls, Summary

EXAMPLES = """\
  actlink run --robot simulated --robot.env=aloha_transfer_cube --policy ws://127.0.0.1:8000 --duration-s 20 --plot
  actlink run --robot.type=so101_follower --robot.port=/dev/ttyACM0 --policy lerobot+grpc://gpu-box:8080/outputs/train/x --task Pick
"""

NESTED = "robot"
"""``--robot.OPTION=VALUE`` is ``--robot OPTION=VALUE``."""

logger = logging.getLogger("actlink.run")


@dataclass(frozen=True)
class Options:
    """Options of ``actlink run``."""

    run: OmitArgPrefixes[RunConfig]
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    config = options.run
    out = directory(config)  # before anything moves: it may not be writable
    controls = Controls.new()
    with operated(controls), _said_once():
        summary = session.run(config, controls, spectator(config, options.common.quiet))
    print("\n".join(report(summary)))
    for path in written(config, summary, out):
        print(path)
    return 1 if summary.failed else 0


def spectator(config: RunConfig, quiet: bool) -> session.Spectator:
    """The view in the terminal, if there is one and it is wanted."""
    if not config.debug_visualize_queue_size or quiet or not sys.stderr.isatty():
        return session.Spectator()
    from actlink.robot_client.queue_view import Terminal

    return Terminal()


def directory(config: RunConfig) -> Path | None:
    """Where recording and pictures go, made; None if nothing is wanted. ``ConfigError`` if it cannot be."""
    wanted = config.plot or config.debug_visualize_queue_size
    if config.out is None and not wanted:
        return None
    if wanted:
        from actlink.robot_client.picture import require

        require()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", robot_of(config.robot)[0])
    out = config.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    return out


@contextlib.contextmanager
def operated(controls: Controls) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that is closed end the run; at once before it has begun, or a second time.

    Enter and SIGUSR1 arm it again.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if controls.over.is_set() or not controls.began.is_set():
            controls.stop()
            raise KeyboardInterrupt
        controls.stop()

    def arm(number: int, frame: FrameType | None) -> None:
        controls.rearm()

    handlers: dict[int, Any] = {signal.SIGINT: end, signal.SIGTERM: end}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = arm
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored by who started it (nohup)
        handlers[signal.SIGHUP] = end
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if sys.stdin is not None and sys.stdin.isatty():
        threading.Thread(target=_keys, args=(controls,), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """A simulator may bring a log of its own, which would say everything a second time."""
    ours = logging.getLogger("actlink")
    before, ours.propagate = ours.propagate, not ours.handlers
    try:
        yield
    finally:
        ours.propagate = before


def _keys(controls: Controls) -> None:
    for _ in sys.stdin:
        controls.rearm()
        logger.info("Enter: a latched arm moves again if a fresh action comes within latch_s")


def report(summary: Summary) -> Sequence[str]:
    """What people are told at the end."""
    record = summary.record
    lines = [f"ended: {summary.ended}", *latency.lines(summary.times, summary.rate_hz, local=summary.wanted.remote is None)]
    lines.append(
        f"  {record.steps} control steps: {record.starved} starved, {record.guarded} held by the guard, {record.missed} missed; "
        f"{record.lost} chunks lost, {summary.failures} observations failed, watchdog {summary.trips}"
    )
    if record.first_error is not None:
        lines.append(f"  the first chunk was lost to: {record.first_error}")
    if summary.latched:
        lines.append("  the arm was latched at the end")
    return lines


def written(config: RunConfig, summary: Summary, out: Path | None) -> list[Path]:
    """The recording and the pictures."""
    if out is None:
        return []
    recorder, spec = summary.recorder, summary.wanted.policy.spec
    about = {
        "rate_hz": summary.rate_hz,
        "policy": config.policy,
        "robot": " ".join(config.robot),
        "strategy": config.strategy,
        "rows": summary.rows,
        "names": list(spec.action.names or ()),
        "ended": summary.ended,
        "forgotten": recorder.forgotten,
    }
    paths = [out / "run.jsonl"]
    ticks.write(paths[0], about, list(recorder.ticks), list(recorder.replies))
    if config.plot or config.debug_visualize_queue_size:
        from actlink.robot_client import picture

        recording = ticks.Recording(about, list(recorder.ticks), list(recorder.replies))
        if config.plot:
            paths.append(picture.draw_run(recording, out / "run.png"))
        if config.debug_visualize_queue_size:
            paths.append(picture.draw_queue(recording, out / "queue.png"))
    return paths
