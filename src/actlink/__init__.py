"""actlink: trained robot policies behind a network address, robots and simulators in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actlink.credentials import Credentials
from actlink.errors import ActlinkError
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Observation, Request, Runtime, Step

if TYPE_CHECKING:
    from actlink.client import RemotePolicy, connect
    from actlink.policies._base import Policy
    from actlink.serving.server import serve

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "ActlinkError",
    "Credentials",
    "Field",
    "Observation",
    "Policy",
    "RemotePolicy",
    "Request",
    "Runtime",
    "Spec",
    "Step",
    "connect",
    "serve",
]

_LAZY = {
    "connect": "actlink.client",
    "RemotePolicy": "actlink.client",
    "serve": "actlink.serving.server",
    "Policy": "actlink.policies._base",
}
"""Names whose modules are imported on first use, so that a client never loads the server and the other way round."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'actlink' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
