"""Tensors that share one storage: it is written once, and each is the view that it was."""

from __future__ import annotations

import numpy as np
import pytest

from actlink.codecs.safe_pickle import Tensor, decode, encode
from actlink.errors import LocalProtocolError

CHUNK = np.arange(24, dtype=np.float32).reshape(4, 6)


def both_ways(value: object) -> object:
    return decode(b"".join(encode(value)))


def test_rows_of_one_array() -> None:
    data = b"".join(encode([Tensor(row, CHUNK) for row in CHUNK]))
    assert data.count(CHUNK[2].tobytes()) == 1
    assert data.count(b"_load_from_bytes") == 1
    found = decode(data)
    assert all(np.array_equal(row, back) for row, back in zip(CHUNK, found, strict=True))


@pytest.mark.parametrize(
    "view", [CHUNK, CHUNK[1:3], CHUNK[:, 2], CHUNK[::2, 1::2], CHUNK.T, CHUNK[3, 5], CHUNK[2:2], CHUNK[1:2, :0]], ids=str
)
def test_any_view(view: np.ndarray) -> None:
    view = np.asarray(view) if isinstance(view, np.ndarray) else CHUNK[3:4, 5]
    assert np.array_equal(both_ways(Tensor(view, CHUNK)), view)  # type: ignore[arg-type]


def test_two_arrays_are_two_storages() -> None:
    other = CHUNK + 1
    found = both_ways([Tensor(CHUNK[0], CHUNK), Tensor(other[0], other), Tensor(CHUNK[1], CHUNK)])
    assert np.array_equal(np.stack(found), np.stack([CHUNK[0], other[0], CHUNK[1]]))  # type: ignore[arg-type,call-overload]


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        (CHUNK[0].copy(), CHUNK),
        (CHUNK[0], CHUNK[1:]),
        (CHUNK[3], CHUNK[:3]),
        (CHUNK[0, ::-1], CHUNK),
        (CHUNK[0].view(np.int32), CHUNK),
        (CHUNK.T[0], CHUNK.T),
        (CHUNK.astype(">f4")[0], CHUNK.astype(">f4")),
    ],
    ids=["copy", "before", "after", "backwards", "dtype", "not contiguous", "big-endian"],
)
def test_what_is_no_view_of_it(part: np.ndarray, whole: np.ndarray) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Tensor(part, whole))
