"""Who may come in. Law: decided before a peer's first byte is read, or from the credential it shows; safe unless told otherwise.

Four ways to open an address to other machines: a token, on wires that can carry one; certificates or keys that clients must show,
on addresses that are encrypted; a list of networks (``allow``); or ``insecure``, which says in so many words that anybody may run
the policy.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from actlink.address import Address
from actlink.errors import ConfigError, UnauthorizedError

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

LOCAL_NETWORKS = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)
"""Loopback, private and link-local ranges."""


class Access:
    """The rules of one server."""

    def __init__(self, tokens: Sequence[str], allow: Sequence[str], insecure: bool) -> None:
        """``ConfigError`` if an entry of ``allow`` is not a network."""
        self._tokens = [token.encode() for token in tokens]
        self._networks = [_network(each) for each in allow]
        self._insecure = insecure

    def check_listener(self, address: Address, carries_token: bool, knows_clients: bool = False) -> None:
        """``ConfigError`` if the address is open to other machines and nothing keeps them out.

        ``knows_clients``: those that come there have shown a certificate or a key.
        """
        if address.loopback or self._insecure or self._networks or (self._tokens and carries_token):
            return
        if knows_clients:
            return
        if carries_token:
            remedy = (
                "Give a token file (--token-file), ask for clients' certificates (--tls-client-ca, at wss, tcps and grpcs "
                "addresses), name the networks that may come (--allow 192.168.1.0/24)"
            )
        else:
            port = address.port or "PORT"
            remedy = (
                f"The {address.dialect} wire has no place for a token: name the networks that may come (--allow 192.168.1.0/24), "
                "ask for clients' certificates or keys (--tls-client-ca at tcps addresses, --curve-clients at zmq ones), "
                f"or tunnel: listen at 127.0.0.1 and run 'ssh -L {port}:127.0.0.1:{port} THIS_MACHINE' on the other side"
            )
        raise ConfigError(
            f"{address}: other machines can reach this address, and nothing would keep them out. {remedy}, listen at 127.0.0.1, or "
            "say that you mean it (--insecure)"
        )

    def refusal(self, peer: str) -> str | None:
        """Why a peer at ``host:port`` is turned away; None if it may come."""
        if not self._networks:
            return None
        try:
            address = ipaddress.ip_address(peer.rpartition(":")[0].strip("[]").partition("%")[0])
        except ValueError:
            return None  # a Unix socket or memory: this machine
        mapped = getattr(address, "ipv4_mapped", None) or address
        if any(mapped.version == network.version and mapped in network for network in self._networks):
            return None
        return "this address is not among the networks that may connect"

    def check_token(self, carries_token: bool, *given: str | None) -> None:
        """``UnauthorizedError`` unless one of ``given`` is right, no token is asked for, or the wire has no place for one."""
        if not self._tokens or not carries_token:
            return
        # Every pair is compared, so that the time taken tells nothing about which came close.
        pairs = [(mine, theirs.encode("utf-8", "replace")) for mine in self._tokens for theirs in given if theirs is not None]
        if not sum(hmac.compare_digest(*pair) for pair in pairs):
            raise UnauthorizedError("this server asks for a token, and the one given is missing or wrong")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"allow: expected a network such as 192.168.1.0/24, got {text!r} ({error})") from None
