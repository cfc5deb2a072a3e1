"""The records: frozen, without surprises."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from actlink.types import ActionChunk, Request, Runtime, Step

RECORDS = [
    Request({"state": np.zeros(3, np.float32)}),
    ActionChunk(np.zeros((4, 2), np.float32)),
    Step({}, 0.0, None, False, False),
    Runtime(),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_frozen(record: object) -> None:
    first = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, first, None)
    with pytest.raises((AttributeError, TypeError)):
        record.surprise = 1  # type: ignore[attr-defined]


def test_a_chunk_is_as_long_as_its_rows() -> None:
    assert len(ActionChunk(np.zeros((4, 2), np.float32))) == 4
    assert len(ActionChunk(np.zeros((1, 14), np.float32))) == 1


def test_records_with_arrays_are_compared_by_identity() -> None:
    """Comparing them by value would compare arrays, whose truth is ambiguous."""
    one, other = ActionChunk(np.zeros((4, 2))), ActionChunk(np.zeros((4, 2)))
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_defaults_are_not_shared() -> None:
    assert ActionChunk(np.zeros((1, 1))).timing is not ActionChunk(np.zeros((1, 1))).timing
    assert Runtime() == Runtime(device="cpu", threads=None, deterministic=False)
