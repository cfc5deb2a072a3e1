"""Errors as gRPC statuses, both ways. Law: nothing that the stock client tries again by itself (UNAVAILABLE, DEADLINE_EXCEEDED).

The details are ``code: message`` with the code of ``actlink.errors``, from which our client makes the same error again.
"""

from __future__ import annotations

from typing import Any

from actlink.dialects._base import Frame
from actlink.errors import (
    ActlinkError,
    ConfigError,
    InternalError,
    OverloadedError,
    PolicyError,
    RefusedError,
    RemoteProtocolError,
    SpecError,
    UnauthorizedError,
    from_code,
)


def told(error: ActlinkError, call: Any, status: str = "") -> Frame:
    """The frame that ends ``call`` with ``error``."""
    return Frame((f"{error.code}: {error}".encode(),), text=True, route=status or _status(error), call=call)


def _status(error: ActlinkError) -> str:
    for kinds, status in _STATUSES:
        if isinstance(error, kinds):
            return status
    return "INTERNAL"


_STATUSES: tuple[tuple[tuple[type[ActlinkError], ...], str], ...] = (
    ((UnauthorizedError,), "UNAUTHENTICATED"),
    ((OverloadedError,), "RESOURCE_EXHAUSTED"),
    ((RemoteProtocolError,), "INVALID_ARGUMENT"),
    ((InternalError,), "INTERNAL"),
    ((SpecError, ConfigError, RefusedError), "FAILED_PRECONDITION"),
)


def error_of(status: str, details: str) -> ActlinkError:
    """The error that a server told: of ours by its code, of the original's by its status."""
    code, colon, words = details.partition(": ")
    if colon:
        error = from_code(code, words)
        if error.code == code:
            return error
    if status in ("INTERNAL", "UNKNOWN"):  # UNKNOWN: an exception in the original's handler
        return PolicyError(f"the server failed: {details}")
    if status == "UNIMPLEMENTED":
        return RemoteProtocolError(f"this server does not speak the lerobot wire: {details}")
    if status == "UNAUTHENTICATED":
        return UnauthorizedError(details)
    return RefusedError(f"{status}: {details}")
