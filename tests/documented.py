"""What ``docs/mission.md`` lists, read and done: shared by ``tests/compat`` and ``tests/interop``.

Law: commands run as they are written there, with no other substitutions than those of its table.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "docs" / "mission.md"
COMPAT = ROOT / "compat"
START_S = 60.0
HUNG_S = 300.0
NOTHING = "—"
SHORTER = "--env.max_timesteps"
"""The two substitutions with this one make episodes short; whole ones are run without them."""

LATER = "make test-interop"
"""What stands beside a row that takes too long for `make test`."""

_PORTS = {"lerobot": 8080, "inference_server": 5555, "serve_policy": 8000, "start_policy_server": 5000}


@dataclass(frozen=True)
class Row:
    """One documented command."""

    name: str
    documented: str
    ours: str
    here: str

    @property
    def command(self) -> str:
        """What is typed: the documented command, else, where the document shows none, ours."""
        return self.ours if self.documented == NOTHING else self.documented

    @property
    def told(self) -> list[str]:
        """Words and files that must appear."""
        return [words for words in quoted(self.here) if words != LATER]

    @property
    def partner(self) -> str | None:
        """The row of the server that it needs."""
        found = re.match(r"(?:asks|evaluates over|stops) (\w+)", self.here)
        return found[1] if found else None

    @property
    def port(self) -> int:
        typed = re.search(r"--port[= ](\d+)|://[\d.]+:(\d+)", self.command)
        if typed:
            return int(typed[1] or typed[2])
        return next(port for program, port in _PORTS.items() if program in self.command)


def cells(line: str) -> list[str]:
    """Of one line of a table."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def tables(heading: str) -> Iterator[list[str]]:
    """The rows of every table whose first line has these cells."""
    inside = False
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            inside = False
        elif cells(line) == cells(heading):
            inside = True
        elif inside and not line.startswith("|---"):
            yield cells(line)


def _rows() -> dict[str, Row]:
    found = {}
    for name, documented, ours, here in tables("| | as documented | the actlink way | here |"):
        typed, same = quoted(documented), quoted(ours)
        found[name] = Row(name, typed[0] if typed else documented, same[0] if same else ours, here)
    return found


ROWS = _rows()
SUBSTITUTIONS = [(quoted(old)[0], quoted(new)[0]) for old, new, _ in tables("| in the document | in the test | why |")]


def block(mark: str) -> str:
    """The fenced block with this mark."""
    found = re.findall(rf"^```\w+ {re.escape(mark)}\n(.*?)^```$", LIST.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{LIST.name}: expected one block with {mark}, got {len(found)}"
    return str(found[0])


def card() -> bool:
    """Whether ``--device cuda`` could work here."""
    with contextlib.suppress(ImportError):
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return False


def substituted(text: str, whole: bool = False) -> str:
    """With the table's substitutions; ``whole``: without those that shorten episodes."""
    for old, new in SUBSTITUTIONS:
        if not (whole and SHORTER in new) and not (old == "--device cuda" and card()):
            text = text.replace(old, new)
    return text


def shims(place: Path) -> Path:
    """A folder with ``python`` and ``actlink``, whatever the interpreter is called."""
    folder = place / "bin"
    folder.mkdir()
    for name, words in (("python", ""), ("actlink", " -m actlink")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def environment(folder: Path) -> dict[str, str]:
    left_out = ("PYTHONPATH", "PYTHON")
    plain = {key: value for key, value in os.environ.items() if key not in left_out and not key.lower().endswith("_proxy")}
    return plain | {"PATH": f"{folder}{os.pathsep}{plain['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Two test runs on one machine take turns with the documented ports."""
    give_up_s = time.monotonic() + START_S
    with (Path(tempfile.gettempdir()) / f"actlink-documented-ports-{os.getuid()}").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    pytest.skip("another test run keeps the documented ports: NOT RUN")
                time.sleep(0.1)  # looks again; nothing is measured
        yield


def skip_unless_free(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError as error:
            pytest.skip(f"the documented port {port} is not free here ({error}): its commands are NOT RUN")


EXAMPLE = "ckpt/act_sim_transfer_cube_scripted_zscore_example"


def checkpoints(compat: Path) -> None:
    """Put into a copy of ``compat/`` what this interpreter can serve: with torch, the ACT server's documented ``policy_best.ckpt``
    beside the genuine IL-Studio directory; without, the bundled ONNX file of the latter's weights under its name."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
        shutil.rmtree(compat / EXAMPLE)
        shutil.copytree(ROOT / "src" / "actlink" / "models" / "aloha_transfer_cube", compat / EXAMPLE)
        return
    for name in ("policy.json", "model.onnx"):
        (compat / "ckpt" / name).unlink()
    script = ROOT / "examples" / "training" / "act_random.py"
    subprocess.run([sys.executable, str(script), "--out", str(compat / "ckpt")], check=True, capture_output=True)


class World:
    """A copy of ``compat/``, and how commands are run in it."""

    def __init__(self, compat: Path) -> None:
        self.compat = compat
        self.environment = environment(shims(compat.parent))

    def run(self, script: str, server: Server | None = None, timeout_s: float = HUNG_S) -> subprocess.CompletedProcess[str]:
        """In a shell, to its end; what it sends to the background is waited for."""
        if script.endswith("&"):
            script += " wait"
        known: Mapping[str, str] = self.environment | ({"SERVER": str(server.process.pid)} if server else {})
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.compat,
            env=known,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )

    @contextlib.contextmanager
    def serving(self, row: Row) -> Iterator[Server]:
        """The server of a row, once it has printed its words; ended with SIGTERM, unless it has ended before."""
        with turn():
            skip_unless_free(row.port)
            with self._serving(row) as server:
                yield server

    @contextlib.contextmanager
    def _serving(self, row: Row) -> Iterator[Server]:
        before, _, command = substituted(row.command).removesuffix("&").rpartition("; ")
        script = f"{before}; exec {command}" if before else f"exec {command}"
        output, errors = self.compat.parent / "output", self.compat.parent / "errors"
        with output.open("w") as out, errors.open("w") as err:
            process = subprocess.Popen(
                ["bash", "-c", script], cwd=self.compat, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        files = [output, errors, *([self.compat / "server.log"] if "server.log" in command else [])]
        server = Server(process, files)
        try:
            server.wait_for(substituted(row.told[0]))
            yield server
            server.stop()
        finally:
            process.kill()
            process.wait()


class Server:
    """A documented server that runs."""

    def __init__(self, process: subprocess.Popen[bytes], files: Sequence[Path]) -> None:
        self.process = process
        self._files = files

    @property
    def log(self) -> str:
        # The last letter may be half written so far.
        written = (file.read_text(encoding="utf-8", errors="replace") for file in self._files if file.exists())
        return "".join(written)

    @property
    def printed(self) -> str:
        return self._files[0].read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        """Until they are in the log."""
        give_up_s = time.monotonic() + START_S
        while words not in self.log:
            assert self.process.poll() is None, f"ended before it printed {words!r}:\n{self.log}"
            assert time.monotonic() < give_up_s, f"never printed {words!r}:\n{self.log}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_S) == 0, self.log
        assert "Traceback" not in self.log, self.log


@contextlib.contextmanager
def config(world: World, row: Row) -> Iterator[None]:
    """The documented configuration file, for the time of a row that names it."""
    if "--config" not in row.command or row.documented == NOTHING:
        yield
        return
    file = row.command.split("--config ")[1].split()[0]
    (world.compat / file).write_text(substituted(block(f"file={file}")), encoding="utf-8")
    yield
    (world.compat / file).unlink()


def as_printed(name: str, text: str) -> bool:
    """Whether the text is that row's block: ``...`` is anything, 54321 any number, and JSON holds any values of its types."""
    wanted = block(f"prints={name}")
    if wanted.lstrip().startswith("{"):
        one, other = json.loads(wanted), json.loads(text)
        return {key: type(value) for key, value in one.items()} == {key: type(value) for key, value in other.items()}
    pattern = re.escape(wanted.strip("\n")).replace(r"\.\.\.", ".*", 1) if "[...]" in wanted else re.escape(wanted.strip("\n"))
    return re.fullmatch(pattern.replace("54321", r"\d+"), text.strip("\n"), re.DOTALL) is not None


def evaluate(world: World, row: Row, server: Server | None, *, whole: bool) -> None:
    """Run it, and look at what it wrote."""
    episodes = re.search(r"(\d+) episodes", row.here)
    assert episodes is not None
    files = [world.compat / name for name in row.told]
    for file in files:
        file.unlink(missing_ok=True)
    script = substituted(row.command, whole)
    done = world.run(script, server, 1500 if whole else HUNG_S)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    for file in files:
        assert file.stat().st_size > 100, file
        if file.suffix == ".json":
            result = json.loads(file.read_text())
            assert sorted(result) == ["horizon", "horizon_success", "success_rate", "total", "total_success"]
            assert result["total"] == len(result["horizon"]) == int(episodes[1]), result
            assert whole or set(result["horizon"]) == {3}, result
            assert not whole or result["success_rate"] >= 0.5, result
