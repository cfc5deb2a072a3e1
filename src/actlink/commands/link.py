"""Put a bad link between a client and a server: delay, jitter, loss, limited bandwidth, blackholes, resets, all from a seed.

With an address it is a proxy for connections: clients connect to what it prints instead. With --tun it is a link of IP packets
between two network namespaces (Linux, root): packets are also doubled and reordered, and TCP is the kernel's own on both sides.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink import address as addresses
from actlink import loading
from actlink.address import Address
from actlink.commands._options import Common
from actlink.errors import ConfigError
from actlink.link.faults import LinkConfig
from actlink.link.proxy import Event, Proxy
from actlink.link.tunnel import Tunnel

EXAMPLES = """\
  actlink link ws://127.0.0.1:8000 --delay-ms 40 --jitter-ms 10 --faults "blackhole from 3 s for 2 s" "reset at 20 s"
  actlink link lerobot+grpc://robot-server:8080 --listen 127.0.0.1:9000 --loss 0.02 --bandwidth-mbit-s 20 --seed 7
  actlink link --tun --delay-ms 25 --loss 0.02 --duplicate 0.01 --reorder 0.01
"""

logger = logging.getLogger("actlink.link")


@dataclass(frozen=True)
class Options:
    """Options of ``actlink link``."""

    link: OmitArgPrefixes[LinkConfig]
    to: Annotated[Positional[str | None], arg(metavar="ADDRESS")] = None
    """The server: dialect+transport://host:port or host:port."""
    listen: str = "127.0.0.1:0"
    """Where clients connect instead: host:port, or a path where the server's address has one. Port 0 = any free one."""
    tun: bool = False
    """A link of packets between two network namespaces, instead of a proxy."""
    name: str = "actlink"
    """--tun: the namespaces are NAME-near and NAME-far."""
    network: str = "10.77.0.0"
    """--tun: first of the four addresses that the link takes."""
    log: Path | None = None
    """File for a line of JSON per event of the proxy: what, when, which connection, how many bytes, when they arrive."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)

    def __post_init__(self) -> None:
        if self.tun == (self.to is not None):
            raise ConfigError("expected the address of a server, or --tun: one of them")
        if self.tun and self.log is not None:
            raise ConfigError("--log: packets of a tunnel are not logged; tcpdump sees them in either namespace")


def run(options: Options) -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.to is None:
        _tunnel(options, stop)
    else:
        _proxy(options, options.to, stop)
    return 0


def _proxy(options: Options, to: str, stop: threading.Event) -> None:
    target = with_default_port(addresses.parse(to))
    with _logged(options.log) as log, Proxy(target, options.link, listen=listening(target, options.listen), log=log) as proxy:
        print(f"{proxy.address} leads to {target}", flush=True)
        stop.wait()


def _tunnel(options: Options, stop: threading.Event) -> None:
    with Tunnel(options.link, name=options.name, network=options.network) as tunnel:
        for space, host in ((tunnel.far, tunnel.far_host), (tunnel.near, tunnel.near_host)):
            print(f"{host} is in {space}: ip netns exec {space} COMMAND", flush=True)
        stop.wait()


def with_default_port(target: Address) -> Address:
    """``target`` with a port, where its dialect has one for it; ``ConfigError`` where it has none."""
    if target.port is not None or target.path:
        return target
    ports = loading.load("dialects", target.dialect).DEFAULT_PORTS
    if target.scheme not in ports:
        raise ConfigError(f"{target}: expected a port; {target.dialect} has no default one for {target.scheme}")
    return target.with_port(ports[target.scheme])


def listening(target: Address, listen: str) -> Address:
    """``listen`` as an address of the same wire as ``target``, so that it can be typed where the server's was."""
    if target.path:
        if listen == "127.0.0.1:0":
            return replace(target, path=f"{target.path}.link")
        return replace(target, path=listen)
    place = addresses.parse(listen)
    if place.port is None:
        raise ConfigError(f"--listen {listen}: expected host:port")
    return replace(target, host=place.host, port=place.port)


@contextmanager
def _logged(path: Path | None) -> Iterator[Callable[[Event], None] | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"--log {path}: {error.strerror}") from error

    broken = False

    def write(event: Event) -> None:
        nonlocal broken
        plain: dict[str, Any] = {k: round(v, 6) if isinstance(v, float) else v for k, v in event.to_dict().items()}
        try:
            if not broken:
                file.write(json.dumps(plain) + "\n")
        except OSError as error:  # a full disk is no reason to break the connections
            broken = True
            logger.error("--log %s: %s; the link goes on without it", path, error.strerror)

    try:
        yield write
    finally:
        with suppress(OSError):
            file.close()
