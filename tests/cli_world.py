"""What the tests of the command line share: the command in this process or in one of its own, and a server to talk to."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actlink.cli import main

START_S = 60.0
ECHO = "scripted:echo?state=4&action=4&horizon=8&cameras=top:6x8&rate_hz=50"
"""A small policy with a picture, served in most of these tests."""


def actlink(*arguments: str) -> int:
    """The command in this process; returns its exit code, also where tyro ends the process."""
    logger = logging.getLogger("actlink")
    before = logger.handlers[:], logger.level
    try:
        return main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        logger.handlers, level = before
        logger.setLevel(level)


@dataclass(slots=True)
class Process:
    """``actlink`` in a process of its own, its output in files."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def out(self) -> str:
        return self.stdout.read_text(errors="replace")  # it may have written half a letter so far

    def err(self) -> str:
        return self.stderr.read_text(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until stdout has a match; ``AssertionError`` with everything it said if it ends or takes too long."""
        end_s = time.monotonic() + START_S
        while True:
            over = self.process.poll() is not None
            found = re.search(pattern, self.out(), re.MULTILINE)
            if found:
                return found
            if over or time.monotonic() > end_s:
                raise AssertionError(f"no {pattern!r}; code {self.process.returncode}\n{self.out()}\n{self.err()}")
            time.sleep(0.02)  # looks again; nothing is measured

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_S)


@contextlib.contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Process]:
    """``actlink ...`` as long as the block lasts."""
    stdout, stderr = directory / "stdout", directory / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "actlink", *arguments], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        yield Process(process, stdout, stderr)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def serving(directory: Path, policy: str = ECHO, *options: str) -> Iterator[tuple[Process, str, str]]:
    """A server with a WebSocket and a TCP address, both yielded."""
    listen = ("--listen", "native+ws://127.0.0.1:0", "--listen", "native+tcp://127.0.0.1:0")
    with running(directory, "serve", policy, *listen, *options) as process:
        ws = process.wait_for(r"^  (native\+ws://\S+)$")[1]
        tcp = process.wait_for(r"^  (native\+tcp://\S+)$")[1]
        yield process, ws, tcp
