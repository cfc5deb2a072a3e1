"""An address made concrete: its dialect, its transport, their options and the port. Law: looks adapters up, opens nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from actlink import loading, options
from actlink.address import Address
from actlink.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wire:
    """Everything needed to listen at or connect to an address."""

    address: Address
    """With its port filled in."""
    dialect: ModuleType
    transport: ModuleType
    dialect_config: Any
    transport_config: Any


def wire_of(address: Address) -> Wire:
    """The wire that ``address`` names; ``ConfigError`` for an unknown dialect, transport, option or pair of them.

    Options belong to the dialect's ``Config`` or to the transport's; one that neither knows is an error that lists both.
    """
    transport = loading.load("transports", address.transport)
    loading.require(transport)
    dialect = loading.load("dialects", address.dialect)
    loading.require(dialect)
    if address.transport not in dialect.Server.transports:
        spoken = ", ".join(dialect.Server.transports)
        raise ConfigError(f"{address}: {address.dialect} is not spoken over {address.transport}; it is over: {spoken}")
    for_dialect, for_transport = _split(address, dialect.Config, transport.Config)
    if address.port is None and not address.path:
        address = _with_default_port(address, dialect)
    return Wire(
        address,
        dialect,
        transport,
        options.build(dialect.Config, for_dialect, str(address)),
        options.build(transport.Config, for_transport, str(address)),
    )


def _split(address: Address, dialect_config: type, transport_config: type) -> tuple[dict[str, str], dict[str, str]]:
    known = _names(dialect_config) | _names(transport_config)
    for key in address.options:
        if key.replace("-", "_") not in known:
            raise ConfigError(f"{address}: unknown option {key!r}; known options: {', '.join(sorted(known))}")
    for_dialect = _only(address.options, _names(dialect_config))
    return for_dialect, {key: value for key, value in address.options.items() if key not in for_dialect}


def _names(config: type) -> set[str]:
    return {f.name for f in dataclasses.fields(config)}


def _only(given: Mapping[str, str], known: set[str]) -> dict[str, str]:
    return {key: value for key, value in given.items() if key.replace("-", "_") in known}


def _with_default_port(address: Address, dialect: ModuleType) -> Address:
    if address.scheme == "memory":
        return address
    try:
        return replace(address, port=dialect.DEFAULT_PORTS[address.scheme])
    except KeyError:
        raise ConfigError(f"{address}: give a port; {address.dialect}+{address.scheme} has no default one") from None
