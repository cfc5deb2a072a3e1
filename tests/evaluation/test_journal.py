from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from actlink.errors import ConfigError, StoppedError
from actlink.evaluation.journal import FILE, Journal, read
from actlink.evaluation.results import EpisodeResult

HEADER = {"plan": {"episodes": 3, "seed": 0}, "policy": {"name": "chase", "digest": "sha256:1"}}
ONE = EpisodeResult("reach", 0, 0, True, -1.0, 5, 6, {"strict_success": 1.0}, latencies_ms=(1.0,))


def episodes(count: int) -> list[EpisodeResult]:
    return [replace(ONE, episode=n, seed=n) for n in range(count)]


def written(directory: Path, count: int) -> Path:
    with Journal(directory, HEADER) as journal:
        for episode in episodes(count):
            journal.append(episode)
    return directory / FILE


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    written(tmp_path / "new", 2)
    with Journal(tmp_path / "new", HEADER) as journal:
        assert journal.finished == episodes(2)
        journal.append(episodes(3)[2])
    assert read(tmp_path / "new") == (HEADER, episodes(3))


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_taken_back(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(tmp_path)[1] == episodes(2)  # looked at while it is torn
    with Journal(tmp_path, HEADER) as journal:
        assert journal.finished == episodes(2)
        journal.append(episodes(3)[2])
    assert read(tmp_path)[1] == episodes(3)


def test_a_last_line_of_which_only_the_end_reached_the_disk(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    content = path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[:start] + b"\0" * 40 + content[start + 40 :])
    with Journal(tmp_path, HEADER) as journal:
        assert journal.finished == episodes(2)


@pytest.mark.parametrize("content", [b"", b'{"header": {"pl'])
def test_a_torn_header_is_written_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    written(tmp_path, 1)
    assert read(tmp_path) == (HEADER, episodes(1))


@pytest.mark.parametrize("line", [b"garbage\n", b'{"task": "reach"}\n', b"[]\n", b'"text"\n'])
def test_damage_in_the_middle_is_an_error_that_says_where(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"{FILE}, line 3: damaged"):
        Journal(tmp_path, HEADER)
    assert path.read_bytes() == before


def test_another_evaluation_is_refused_with_every_difference(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    before = path.read_bytes()
    other = {
        "plan": {"episodes": 3, "seed": 5},
        "policy": {"name": "chase", "digest": "sha256:2"},
        "strategy": {"name": "ensemble"},
    }
    with pytest.raises(ConfigError) as caught:
        Journal(tmp_path, other)
    message = str(caught.value)
    assert "plan.seed: there 0, now 5" in message
    assert 'policy.digest: there "sha256:1", now "sha256:2"' in message
    assert 'strategy: there null, now {"name": "ensemble"}' in message
    assert "episodes" not in message.replace("evaluation", "")
    assert path.read_bytes() == before


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path, HEADER), pytest.raises(ConfigError, match="another evaluation is writing"):
        Journal(tmp_path, HEADER)
    with Journal(tmp_path, HEADER):
        pass


def test_an_episode_that_stands_twice_counts_once(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])
    assert len(read(tmp_path)[1]) == 2


FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import HEADER, Journal, episodes
directory, room = Path(sys.argv[1]), int(sys.argv[3])
with Journal(directory, HEADER) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + room,) * 2)
    for episode in episodes(9):
        journal.append(episode)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_full_disk_is_an_error_with_the_path_and_nothing_is_torn(tmp_path: Path) -> None:
    room = len(written(tmp_path / "measure", 3).read_bytes().splitlines()[1]) * 5 // 2  # two lines and a half
    done = subprocess.run(
        [sys.executable, "-B", "-c", FILLS_THE_DISK, str(tmp_path / "full"), str(Path(__file__).parent), str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "StoppedError" in done.stderr and f"{tmp_path / 'full' / FILE}: cannot be written: File too large" in done.stderr
    assert (tmp_path / "full" / FILE).read_bytes().endswith(b"\n")
    assert read(tmp_path / "full")[1] == episodes(2)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_that_takes_nothing_any_more_is_the_same_error(tmp_path: Path) -> None:
    with Journal(tmp_path, HEADER) as journal:
        journal.append(episodes(1)[0])
        read_only = os.open(journal.path, os.O_RDONLY)
        os.dup2(read_only, journal._file.fileno())  # as after an error of the file system
        os.close(read_only)
        with pytest.raises(StoppedError, match="cannot be written"):
            journal.append(episodes(2)[1])
    assert read(tmp_path)[1] == episodes(1)


def test_says_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/journal\.jsonl: cannot be written: (File exists|Not a directory)"):
        Journal(tmp_path / "file", HEADER)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path)
    (tmp_path / FILE).write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read(tmp_path)
