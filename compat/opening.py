"""What the servers in this folder share: the model, the device and who may connect."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actlink.address import Address
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.policies._recognise import families_of
from actlink.serving.access import LOCAL_NETWORKS
from actlink.serving.config import ServerConfig
from actlink.types import Runtime

CUDA = "cuda"


def prepare() -> None:
    """Lines appear as they are written, also in a file; the package's warnings go to stderr."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def for_act(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an ACT checkpoint that were given, or nothing where ``path`` is none: other families have no such options."""
    return {name: value for name, value in options.items() if value} if families_of(Path(path)) == ["act"] else {}


def opened(path: str, device: str | None, options: Mapping[str, Any] | None = None) -> Policy:
    """The policy at ``path``; a device that nobody typed (None) is cuda where there is one, else cpu."""
    if device is not None:
        return open_policy(path, Runtime(device), options)
    try:
        return open_policy(path, Runtime(CUDA), options)
    except ConfigError as error:
        if "device" not in str(error):
            raise
        policy = open_policy(path, Runtime("cpu"), options)
        print(f"⚠ no {CUDA} here for this model ({error}); it runs on the cpu", file=sys.stderr)
        return policy


def config(host: str, allow: Sequence[str], how: str) -> ServerConfig:
    """Who may connect to an address that other machines reach: ``allow``, or, said in one line, the networks around this one."""
    if allow or Address("", "", host).loopback:
        return ServerConfig(allow=tuple(allow))
    print(
        f"⚠ {host} is open to other machines: those in loopback, private and link-local networks may connect. {how}",
        file=sys.stderr,
    )
    return ServerConfig(allow=LOCAL_NETWORKS)


def fail(error: Exception) -> int:
    """Say what went wrong, in one line; the exit code. A missing file is called what the documents call it."""
    name = FileNotFoundError.__name__ if isinstance(error, FileNotFoundError) else type(error).__name__
    print(f"{name}: {error}", file=sys.stderr)
    return 1
