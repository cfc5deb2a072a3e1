"""Where received bytes land. Law: memory is reused only when nothing can see it any more.

Arrays decoded from a frame are views on the frame's buffer, so the buffer belongs to whoever received the frame. Fresh megabytes
from the allocator cost a page fault per 4 KiB: with two or more 2.76 MB frames in flight glibc gives the memory back to the kernel
each time, and a fault for every page costs 0.5-1 ms per frame, as much as moving the bytes. ``Buffers`` keeps its arrays instead
and hands one out again once it holds the only reference to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from actlink.dialects._base import Buffer
from actlink.types import Array

POOLED_BYTES = 64 * 1024
"""Buffers from this size on are worth keeping; below, the allocator's own lists are as fast."""

_KEEP_BYTES = 64 * 1024 * 1024
STAGING_BYTES = 16 * 1024


def flat(piece: Buffer) -> memoryview:
    """The bytes of any contiguous buffer, without a copy."""
    view = memoryview(piece)
    return view.cast("B") if view.nbytes else memoryview(b"")


def unsent(pieces: Sequence[memoryview], sent: int) -> list[memoryview]:
    """What is left of ``pieces`` after their first ``sent`` bytes."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [piece[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


class Buffers:
    """Writable buffers for frame bodies; used by one thread.

    Why reuse is safe: memory can be seen only through an object that holds a reference, directly or through other objects, to
    the array that owns it (memoryviews, numpy views, tensors made from them). When the reference in ``_kept`` is the only one,
    no such object is alive, which is also the moment at which the interpreter would free the memory. Where references are not
    counted (PyPy), nothing is reused.
    """

    def __init__(self) -> None:
        self._kept: list[Array] = []
        self.kept_bytes = 0

    def take(self, size: int) -> memoryview:
        """``size`` writable bytes with arbitrary contents, nobody else's."""
        if size < POOLED_BYTES:
            return memoryview(bytearray(size))
        for array, count in zip(self._kept, _reference_counts(self._kept), strict=True):
            if count == _ALONE and size <= array.nbytes <= 2 * size:
                return array.data[:size]
        array = np.empty(size, np.uint8)  # not zeroed: pages that never receive a byte are never touched
        self._keep(array)
        return array.data

    def clear(self) -> None:
        """Forget all kept memory; what is still in view lives on."""
        self._kept.clear()
        self.kept_bytes = 0

    def _keep(self, array: Array) -> None:
        self._kept.append(array)
        self.kept_bytes += array.nbytes
        while self.kept_bytes > _KEEP_BYTES:
            self.kept_bytes -= self._kept.pop(0).nbytes


def _reference_counts(arrays: list[Array]) -> list[int]:
    # By ``map``, so that no variable of ours holds an array while it is counted: the same on every CPython, tuned or not.
    return list(map(sys.getrefcount, arrays)) if hasattr(sys, "getrefcount") else [0] * len(arrays)


_ALONE = _reference_counts([np.empty(1, np.uint8)])[0] or -1
"""The count of an array that only a list holds; -1, which no count equals, where references are not counted."""


class Inbox:
    """Bytes of one peer on their way into frames. Sans-I/O.

    The reader of a wire peeks at staged bytes for its headers and then begins a body, which lands where it will stay: only what
    came in one piece with the header is copied.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._staging = memoryview(bytearray(STAGING_BYTES))
        self._start = 0
        self._end = 0
        self._body: memoryview | None = None
        self._got = 0

    def buffer(self) -> memoryview:
        """Where the next bytes from the wire belong; never empty."""
        if self._body is not None:
            return self._body[self._got :]
        if self._end == STAGING_BYTES:
            self._compact()
        return self._staging[self._end :]

    def filled(self, count: int) -> None:
        """``count`` bytes were written to ``buffer()``."""
        if self._body is not None:
            self._got += count
        else:
            self._end += count

    @property
    def staged(self) -> memoryview:
        """Bytes received and not yet consumed."""
        return self._staging[self._start : self._end]

    @property
    def received(self) -> int:
        """How much of the body has arrived."""
        return self._got

    @property
    def body(self) -> memoryview | None:
        """The body in progress, complete or not."""
        return self._body

    @property
    def idle(self) -> bool:
        """Whether nothing is half received."""
        return self._body is None and self._start == self._end

    def skip(self, count: int) -> None:
        """Consume ``count`` staged bytes."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    def begin(self, size: int) -> memoryview:
        """The next ``size`` bytes are a body; its size was checked."""
        body = self._body = self._buffers.take(size)
        self._got = min(size, self._end - self._start)
        body[: self._got] = self._staging[self._start : self._start + self._got]
        self.skip(self._got)
        return body

    def finish(self) -> memoryview:
        """The complete body; staged bytes follow."""
        assert self._body is not None
        body, self._body, self._got = self._body, None, 0
        return body

    def _compact(self) -> None:
        left = self._end - self._start
        self._staging[:left] = bytes(self.staged)
        self._start, self._end = 0, left
