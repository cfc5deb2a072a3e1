"""Short time-outs that are to run out in one particular stage, on machines that may stand still in an earlier one."""

from __future__ import annotations

from collections.abc import Callable

from actlink.errors import ActlinkError

TRIES_S = (0.1, 1.0, 10.0)


def runs_out(call: Callable[[float], object], says: str) -> ActlinkError:
    """What ``call(timeout_s)`` raises where it waits for what never comes; ``says`` is part of its text, ``{}`` the seconds.

    Its time may be over before it has got that far: then it is given more. ``AssertionError`` if it never says so.
    """
    heard: list[str] = []
    for timeout_s in TRIES_S:
        try:
            call(timeout_s)
        except ActlinkError as error:
            heard.append(f"{error!r}")
            if says.format(f"{timeout_s:g}") in str(error):
                return error
        else:
            heard.append("no error")
    raise AssertionError(f"expected {says!r}, got: {'; '.join(heard)}")
