"""Where a server listens. Law: everything that can be wrong with the addresses is found before the first one is bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from actlink import address as addresses
from actlink import loading, options
from actlink.address import Address
from actlink.errors import ConfigError
from actlink.serving.access import Access
from actlink.transports._base import Listener, Pages
from actlink.transports._curve import CurveServer, server_keys
from actlink.transports._tls import TlsServer, server_context
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
    tls: TlsServer | None = None
    """Only where the address is TLS."""
    curve: CurveServer | None = None
    """Only where the wire has CURVE."""

    @property
    def carries_token(self) -> bool:
        """Whether a peer can show a token here."""
        return bool(self.transport.Listener.carries_token or (self.wire is not None and self.wire.dialect.Server.carries_token))

    @property
    def knows_clients(self) -> bool:
        """Whether peers show a certificate or a key that the operator has named."""
        return bool((self.tls and self.tls.client_ca) or (self.curve and self.curve.clients))

    def listener(self, pages: Pages) -> Listener:
        given = {"tls": self.tls, "curve": self.curve}
        secured = {name: value for name, value in given.items() if value is not None}  # other transports need not know of it
        listener: Listener = self.transport.Listener(self.address, self.transport_config, pages, **secured)
        return listener

    def at(self, bound: str) -> str:
        """The address as a client writes it, once ``bound`` (``host:port``) is known."""
        plain = replace(self.address, options={})
        host, colon, port = bound.rpartition(":")
        if plain.path or not colon or not port.isdigit():
            return str(plain)
        if not plain.tls:  # there the name may stand in the certificate, and what it resolved to may not
            plain = replace(plain, host=host.strip("[]"))
        return str(replace(plain, port=int(port)))


def plan(
    listen: Sequence[str | Address], access: Access, tls: TlsServer | None = None, curve: CurveServer | None = None
) -> list[Listening]:
    """What to listen at; ``ConfigError`` for an address that is wrong or too open, two that collide, a wrong certificate or key."""
    if not listen:
        raise ConfigError("listen: expected at least one address, got none")
    planned: list[Listening] = []
    for given in listen:
        one = _secured(_listening(addresses.parse(given) if isinstance(given, str) else given), tls, curve)
        access.check_listener(one.address, one.carries_token, one.knows_clients)
        for other in planned:
            if _collide(one.address, other.address):
                raise ConfigError(f"{other.address} and {one.address} are the same place; give one of them another port")
        planned.append(one)
    if tls is not None and not any(one.tls for one in planned):
        raise ConfigError("tls_certificate: no address is TLS, so nothing would be encrypted; write wss://, tcps:// or grpcs://")
    if curve is not None and not any(one.curve for one in planned):
        raise ConfigError("curve_key: no address is a zmq:// one, so nothing would be encrypted")
    return planned


def _secured(one: Listening, tls: TlsServer | None, curve: CurveServer | None) -> Listening:
    """With what its address needs; its files are read to see whether they are good."""
    if one.address.tls:
        server_context(tls, str(one.address))
        one = replace(one, tls=tls)
    if curve is not None and one.transport.Listener.speaks_curve and not one.address.path:
        server_keys(curve)
        one = replace(one, curve=curve)
    return one


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


def _collide(one: Address, other: Address) -> bool:
    if one.path or other.path or "memory" in (one.scheme, other.scheme):
        return (one.scheme, one.path, one.host) == (other.scheme, other.path, other.host)
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or one.host in _ANY_HOST or other.host in _ANY_HOST
