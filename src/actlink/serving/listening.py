"""Where a server listens. Law: everything that can be wrong with the addresses is found before the first one is bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actlink import address as addresses
from actlink import loading, options
from actlink.address import Address
from actlink.errors import ConfigError
from actlink.transports._base import Listener, Pages
from actlink.transports._wire import Wire, wire_of

PAGES = "http"
"""Transport of a listener that has health pages and nothing else."""

_ANY_HOST = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Listening:
    """One address to listen at."""

    address: Address
    """With its port filled in."""
    transport: Any
    """Module of the transport."""
    transport_config: Any
    wire: Wire | None
    """None where only health pages are served."""

    def listener(self, pages: Pages) -> Listener:
        listener: Listener = self.transport.Listener(self.address, self.transport_config, pages)
        return listener

    def at(self, bound: str) -> str:
        """The address as a client writes it, once ``bound`` (``host:port``) is known."""
        plain = replace(self.address, options={})
        host, colon, port = bound.rpartition(":")
        if plain.path or not colon or not port.isdigit():
            return str(plain)
        return str(replace(plain, host=host.strip("[]"), port=int(port)))


def plan(listen: Sequence[str | Address], *, insecure: bool, tokens: Sequence[str]) -> list[Listening]:
    """What to listen at; ``ConfigError`` for a wrong address, one that is too open, or two that collide."""
    if not listen:
        raise ConfigError("listen: expected at least one address, got none")
    planned: list[Listening] = []
    for given in listen:
        one = _listening(addresses.parse(given) if isinstance(given, str) else given)
        _require_protection(one.address, insecure, bool(tokens))
        for other in planned:
            if _collide(one.address, other.address):
                raise ConfigError(f"{other.address} and {one.address} are the same place; give one of them another port")
        planned.append(one)
    return planned


def read_tokens(path: Path) -> list[str]:
    """The tokens in a file, one per line; ``ConfigError`` if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path}: {error}") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise ConfigError(f"token file {path}: expected a token in it, got nothing")
    return tokens


def _listening(address: Address) -> Listening:
    if address.transport == PAGES and address.dialect == "native":
        return _pages_only(address)
    wire = wire_of(address)
    return Listening(wire.address, wire.transport, wire.transport_config, wire)


def _pages_only(address: Address) -> Listening:
    transport = loading.load("transports", PAGES)
    loading.require(transport)
    if address.port is None:
        raise ConfigError(f"{address}: give a port; the health pages have no default one")
    return Listening(address, transport, options.build(transport.Config, address.options, str(address)), None)


def _require_protection(address: Address, insecure: bool, has_tokens: bool) -> None:
    if not (address.loopback or insecure or has_tokens):
        raise ConfigError(
            f"{address}: other machines can reach this address, and nothing would keep them out. Give a token file "
            "(--token-file), listen at 127.0.0.1, or say that you mean it (--insecure)"
        )


def _collide(one: Address, other: Address) -> bool:
    if one.path or other.path or "memory" in (one.scheme, other.scheme):
        return (one.scheme, one.path, one.host) == (other.scheme, other.path, other.host)
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or one.host in _ANY_HOST or other.host in _ANY_HOST
