"""Programs of ``compat/`` in processes of their own, started as their documents start them."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

COMPAT = Path(__file__).resolve().parents[2] / "compat"
HUNG_S = 60.0


def environment() -> dict[str, str]:
    """No PYTHONPATH: the programs find their own imports. ``python`` is this interpreter."""
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**plain, "PYTHON": sys.executable, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}


def run(words: Sequence[str], cwd: Path = COMPAT, expect: int = 0) -> str:
    """What a program prints; ``python`` is this interpreter."""
    command = [sys.executable if word == "python" else word for word in words]
    ran = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=2 * HUNG_S, stdin=subprocess.DEVNULL
    )
    assert ran.returncode == expect, f"{words}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


class Program:
    """A server: its lines as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(line.rstrip("\n"))
        self._news.put(None)

    def until(self, words: str) -> str:
        """The next line with these words."""
        while True:
            line = self._news.get(timeout=HUNG_S)
            assert line is not None, f"ended without {words!r}:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if words in line:
                return line

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it and read the rest; its exit code."""
        self.process.send_signal(how)
        while (line := self._news.get(timeout=HUNG_S)) is not None:
            self.lines.append(line)
        return self.process.wait(HUNG_S)


@contextlib.contextmanager
def started(words: Sequence[str], cwd: Path = COMPAT) -> Iterator[Program]:
    command = [sys.executable if word == "python" else word for word in words]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(HUNG_S)
        assert process.stdout is not None
        process.stdout.close()
