"""Arrays one behind the other: read as numpy wrote them, and every damaged file is an error that says where."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from actlink.codecs import npy_leaves
from actlink.errors import ConfigError

LEAVES = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(7, np.int32),
    np.zeros((0, 3), np.float16),
    np.array([True, False]),
    np.arange(3, dtype=">u4"),
]


def written(path: Path, leaves: list[np.ndarray]) -> Path:
    with open(path, "wb") as file:
        for leaf in leaves:
            np.save(file, leaf)
    return path


def test_they_are_views_in_their_order(tmp_path: Path) -> None:
    read = npy_leaves.read(written(tmp_path / "a", LEAVES))
    assert len(read) == len(LEAVES)
    for got, expected in zip(read, LEAVES, strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape and not got.flags.writeable and not got.flags.owndata
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(tmp_path: Path, version: tuple[int, int]) -> None:
    with open(tmp_path / "a", "wb") as file:
        np.lib.format.write_array(file, LEAVES[0], version=version)
    np.testing.assert_array_equal(npy_leaves.read(tmp_path / "a")[0], LEAVES[0])


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (np.array(["text"]), "expected numbers or booleans, got dtype '<U4'"),
        (np.zeros(2, [("a", "f4")]), "expected the header of an array of numbers"),
        (np.zeros(2, "M8[s]"), "expected the header of an array of numbers"),
        (np.zeros((1,) * 9), "absurd shape"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, leaf: np.ndarray, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"array 1 at byte 152: .*{says}"):
        npy_leaves.read(written(tmp_path / "a", [LEAVES[0], leaf]))


def test_damaged_files_are_read_or_an_error_of_ours(tmp_path: Path) -> None:
    whole = written(tmp_path / "a", LEAVES[:2]).read_bytes()
    ends = {0, 152, len(whole)}
    for length in range(1, len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        if length not in ends:
            with pytest.raises(ConfigError):
                npy_leaves.read(tmp_path / "cut")
    for at in range(len(whole)):
        (tmp_path / "changed").write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with contextlib.suppress(ConfigError):
            npy_leaves.read(tmp_path / "changed")
