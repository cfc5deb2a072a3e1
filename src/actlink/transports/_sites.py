"""Which names a browser's request may carry. Law: pure; what any other client sends is not made harder by it.

A script in a page of another host must not reach a server on the same desk. The browser says which page asks (``Origin``) and what
it took this server's name to be (``Host``); a page whose name was made to resolve to this machine gives itself away by the second.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection

from actlink.address import Address
from actlink.transports._http import Head

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:@/?#\\]+)(?::\d{0,5})?")


class Sites:
    """The names of one listener."""

    def __init__(self, address: Address, hosts: Collection[str], origins: Collection[str]) -> None:
        """``hosts`` are further names of this server; ``origins`` are pages of other hosts that may connect."""
        self._names = {"localhost", address.host.lower(), socket.gethostname().lower(), *(host.lower() for host in hosts)}
        self._origins = frozenset(origins)
        # A listener that other machines reach is called by names that it cannot know, unless they are given.
        self._strict = address.loopback or bool(hosts)

    def refusal(self, request: Head) -> str | None:
        """Why the request is turned down; None if it may go on."""
        given, origin = request.header("host"), request.header("origin")
        host = host_of(given)
        if self._strict and "host" in request.headers and not self._is_ours(host):
            return f"this server does not go by the name {given[:100]!r}; the option 'hosts' would allow it"
        if "origin" not in request.headers or origin in self._origins:
            return None
        if host_of(origin.partition("://")[2]) == host and self._is_ours(host):
            return None
        return f"the web page {origin[:100]!r} may not connect to {given[:100]!r}; the option 'origins' would allow it"

    def _is_ours(self, host: str) -> bool:
        """Whether no stranger's name server can have given out ``host``."""
        return host in self._names or _is_literal(host)


def host_of(authority: str) -> str:
    """The host of ``host:port``, in lower case, without brackets; empty if it is none."""
    found = _AUTHORITY.fullmatch(authority)
    return found[1].strip("[]").lower() if found else ""


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
