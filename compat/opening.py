"""What the servers in this folder share: the model, the device and who may connect."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from actlink.address import Address
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.serving.access import LOCAL_NETWORKS
from actlink.serving.config import ServerConfig
from actlink.types import Runtime

CUDA = "cuda"


def prepare() -> None:
    """Lines appear as they are written, also in a file; the package's warnings go to stderr."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def opened(path: str, device: str | None) -> Policy:
    """The policy at ``path``; a device that nobody typed (None) is cuda where there is one, else cpu."""
    if device is not None:
        return open_policy(path, Runtime(device))
    try:
        return open_policy(path, Runtime(CUDA))
    except ConfigError as error:
        if "device" not in str(error):
            raise
        policy = open_policy(path, Runtime("cpu"))
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
    """Say what went wrong, in one line; the exit code."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1
