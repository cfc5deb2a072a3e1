"""Memory for received frames: reused when nobody can see it, and never before."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from actlink.transports._buffers import POOLED_BYTES, STAGING_BYTES, Buffers, Inbox, flat, unsent

SIZE = 3 * POOLED_BYTES

counts_references = pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="nothing is reused where references are not counted")


def place(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


@counts_references
def test_memory_is_reused_once_nobody_sees_it() -> None:
    buffers = Buffers()
    first = buffers.take(SIZE)
    where = place(first)
    del first
    again = buffers.take(SIZE - 100)
    assert place(again) == where and len(again) == SIZE - 100


@pytest.mark.parametrize(
    "keep",
    [
        lambda view: view,
        lambda view: view[5:7],
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: np.frombuffer(view, np.uint8, 10, 50).reshape(2, 5)[::-1, 1:],
        lambda view: np.frombuffer(view, np.float32)[3:4].T,
        lambda view: memoryview(np.frombuffer(view, np.uint8)[9:]).cast("B"),
        lambda view: view.obj,
        lambda view: view.obj[3:],
        lambda view: iter(view),
        lambda view: lambda: view,
        lambda view: {"deep": [(np.asarray(view)[1:],)]},
        lambda view: np.lib.stride_tricks.sliding_window_view(np.frombuffer(view, np.uint8), 3),
    ],
)
def test_memory_in_view_is_never_handed_out(keep: object) -> None:
    buffers = Buffers()
    first = buffers.take(SIZE)
    where = place(first)
    kept = keep(first)  # type: ignore[operator]
    del first
    others = [buffers.take(SIZE) for _ in range(4)]
    assert where not in [place(other) for other in others]
    assert len({place(other) for other in others}) == 4
    assert kept is not None


def test_memory_seen_by_another_thread_is_not_handed_out() -> None:
    buffers = Buffers()
    wrong: list[int] = []

    def use(view: memoryview, value: int) -> None:
        array = np.frombuffer(view, np.uint8)
        del view
        array[:] = value
        wrong.extend(value for _ in range(5) if not (array == value).all())

    threads = []
    for value in range(60):
        thread = threading.Thread(target=use, args=(buffers.take(SIZE), value))
        thread.start()
        threads.append(thread)
        if len(threads) == 6:
            threads.pop(0).join()
    for thread in threads:
        thread.join()
    assert not wrong


def test_small_and_large_take_what_was_asked() -> None:
    buffers = Buffers()
    for size in (0, 1, POOLED_BYTES - 1, POOLED_BYTES, 10 * POOLED_BYTES):
        view = buffers.take(size)
        assert len(view) == size and not view.readonly and view.format == "B"


@counts_references
def test_large_memory_is_not_spent_on_small_frames() -> None:
    buffers = Buffers()
    where = place(buffers.take(10 * POOLED_BYTES))
    assert place(buffers.take(POOLED_BYTES)) != where


def test_what_is_kept_is_bounded() -> None:
    buffers = Buffers()
    views = [buffers.take(8 * 1024 * 1024) for _ in range(20)]
    assert buffers.kept_bytes <= 64 * 1024 * 1024
    del views
    buffers.clear()
    assert buffers.kept_bytes == 0


def test_pieces_left_after_a_partial_write() -> None:
    pieces = [flat(b"abc"), flat(b""), flat(np.arange(3, dtype=np.uint8).data), flat(np.zeros((0, 4)).data)]
    for sent in range(7):
        assert b"".join(unsent(pieces, sent)) == b"abc\x00\x01\x02"[sent:]


def test_inbox_keeps_what_follows_a_body() -> None:
    inbox = Inbox(Buffers())
    inbox.buffer()[:10] = b"headbodyNE"
    inbox.filled(10)
    assert bytes(inbox.staged) == b"headbodyNE"
    inbox.skip(4)
    inbox.begin(4)
    assert inbox.received == 4
    assert bytes(inbox.finish()) == b"body"
    inbox.buffer()[:2] = b"XT"
    inbox.filled(2)
    assert bytes(inbox.staged) == b"NEXT"
    inbox.skip(4)
    assert inbox.idle


def test_inbox_always_has_room() -> None:
    inbox = Inbox(Buffers())
    for _ in range(5):
        count = len(inbox.buffer())
        assert count > 0
        inbox.filled(count)
        inbox.skip(len(inbox.staged) - 3)
    assert len(inbox.staged) == 3 and len(inbox.buffer()) >= STAGING_BYTES - 3
