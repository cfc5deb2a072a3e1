"""SIGTERM and Ctrl-C, counted. Law: the handlers of before are back in the end; outside the main thread nothing is touched."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def counted(stop: Callable[[int], None]) -> Iterator[list[int]]:
    """Calls ``stop`` with the count of signals so far, in the midst of whatever the main thread does; gives their numbers."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop(len(received))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
