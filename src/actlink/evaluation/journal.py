"""Finished episodes, one line each, as they finish. Law: what was written stays, and belongs to one plan, policy and strategy.

The first line is the header: what is run. Every further line is an episode. A line is on the disk before the next episode is
handed out; a last line that was cut off by a crash is taken back when the journal is opened again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from actlink.errors import ConfigError, StoppedError
from actlink.evaluation.results import EpisodeResult

FILE = "journal.jsonl"


class Journal:
    """The journal of one evaluation, open for writing by this process alone."""

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        """Begin a journal in ``directory``, or go on with the one that is there.

        ``ConfigError``: it belongs to something else (says what differs), is damaged, or another process is writing to it.
        """
        self.path = directory / FILE
        self.header: Mapping[str, Any] = header
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            self._claim()
            self.finished, self._size = self._go_on(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, result: EpisodeResult) -> None:
        """Put a finished episode on the disk; ``StoppedError`` where there is no room, with everything before it kept."""
        self._write(_line(result.to_dict()))
        self.finished.append(result)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _claim(self) -> None:
        """One writer at a time; the lock ends with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # not on this system: the operator is trusted to start one
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{self.path}: another evaluation is writing to it; wait for it or choose another --out") from None

    def _go_on(self, header: Mapping[str, Any]) -> tuple[list[EpisodeResult], int]:
        self._file.seek(0)
        lines, size = _whole_lines(self._file.read())
        if not lines:
            self._file.truncate(0)
            self._size = 0
            self._write(_line({"header": header}))
            return [], self._size
        there, episodes = _parse(lines, self.path)
        differences = list(_differences(there, json.loads(json.dumps(header))))
        if differences:
            raise ConfigError(
                f"{self.path} belongs to another evaluation; choose another --out, or the same options:\n  "
                + "\n  ".join(differences)
            )
        self._file.truncate(size)
        return episodes, size

    def _write(self, line: bytes) -> None:
        """All of ``line``, on the disk, or none of it."""
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left of the line is taken back when the journal is opened again
                self._file.truncate(self._size)
            raise StoppedError(f"{self.path}: cannot be written: {error.strerror}; the episodes before are kept") from error
        self._size += len(line)


def read(directory: Path) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """Header and episodes of the journal in ``directory``, running or not; ``ConfigError`` if there is none."""
    return read_file(directory / FILE)


def read_file(path: Path) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The same of a journal by any name."""
    try:
        lines, _ = _whole_lines(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not lines:
        raise ConfigError(f"{path}: empty; expected a header and episodes")
    return _parse(lines, path)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _whole_lines(content: bytes) -> tuple[list[bytes], int]:
    """Complete lines, and how many bytes they take; what follows the last line end was cut off while being written."""
    size = content.rfind(b"\n") + 1
    lines = content[:size].splitlines()
    if lines and not _is_json(lines[-1]):  # blocks of a line can reach the disk out of order
        size -= len(lines.pop()) + 1
    return lines, size


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse(lines: list[bytes], path: Path) -> tuple[dict[str, Any], list[EpisodeResult]]:
    episodes: dict[Any, EpisodeResult] = {}
    header: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        try:
            plain = json.loads(line)
            if number == 1:
                header = dict(plain["header"])
            else:
                result = EpisodeResult.from_dict(plain)
                episodes.setdefault(result.trial, result)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}, line {number}: damaged ({type(error).__name__}: {error}); choose another --out") from None
    return header, list(episodes.values())


def _differences(there: object, now: object, where: str = "") -> Iterator[str]:
    """``plan.seed: there 0, now 1`` for every leaf that differs."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*there, *now]):
            yield from _differences(there.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif there != now:
        yield f"{where}: there {json.dumps(there)}, now {json.dumps(now)}"
