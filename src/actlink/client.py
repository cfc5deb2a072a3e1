"""The client half: a policy behind an address. Law: blocking I/O; a wrong address or secret is told before it is used.

::

    with connect("native+tcp://gpu-box:8001") as policy:
        chunk = policy.infer_one({"state": state})      # chunk.actions: (action_horizon, action_dim)

A remote policy is a policy: it can be evaluated, wrapped and served like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from actlink import address as addresses
from actlink import documents
from actlink._remote import RemotePolicy
from actlink._upstream import ClientConfig, PingResult
from actlink.clock import Clock, MonotonicClock
from actlink.credentials import Credentials, tokens
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._open import open_policy as open_local_policy
from actlink.spec import Spec
from actlink.transports._curve import CurveClient
from actlink.transports._tls import TlsClient
from actlink.transports._wire import Wire, wire_of
from actlink.types import Runtime

__all__ = [
    "ClientConfig",
    "Credentials",
    "PingResult",
    "RemotePolicy",
    "connect",
    "given_spec",
    "needs_spec",
    "open_policy",
    "read_token",
]

logger = logging.getLogger("actlink.client")


def connect(
    url: str,
    *,
    spec: Spec | None = None,
    token: str | None = None,
    token_file: str | Path | None = None,
    credentials: Credentials = Credentials(),  # noqa: B008 - frozen
    config: ClientConfig | None = None,
    clock: Clock | None = None,
) -> RemotePolicy:
    """The policy served at ``url`` (``dialect+transport://host:port/model?option=value`` or ``host:port``).

    Connects at once: ``ConnectError`` if nobody answers, ``UnauthorizedError`` and its like if the server says no,
    ``ConfigError`` for a wrong address, file, or a server that is not the one asked for. ``spec`` is for wires that do not announce
    one. ``token_file`` is short for ``credentials=Credentials(token_file=...)``, which also has what TLS may need.
    """
    if token_file is not None:
        credentials = replace(credentials, token_file=Path(token_file))
    named = credentials.token()
    if token is not None and named is not None:
        raise ConfigError("give a token or the file that has it, not both")
    wire = wire_of(addresses.parse(url))
    token = named if token is None else token
    if token is not None and not token.isprintable():
        raise ConfigError("token: expected letters, digits and signs alone, got others among them")
    secured = _secured(wire, credentials)
    if token is not None and not (secured or wire.address.loopback):
        _warn_readable(wire.address.host)
    policy = RemotePolicy(wire, spec, token, secured, config or ClientConfig(), clock or MonotonicClock())
    try:
        policy.open()
    except BaseException:
        policy.close()
        raise
    return policy


def _secured(wire: Wire, given: Credentials) -> Mapping[str, Any]:
    """What the transport is told besides; ``ConfigError`` for papers that nobody would look at: nothing would be encrypted."""
    address = wire.address
    if address.tls:
        return {"tls": TlsClient(given.tls_ca, given.tls_certificate, given.tls_key)}
    if given.tls_ca is not None or given.tls_certificate is not None:
        raise ConfigError(f"{address}: this address is not TLS, so nothing would be encrypted; write wss://, tcps:// or grpcs://")
    if given.curve_server_key is None:
        return {}
    if address.path or not wire.transport.Listener.speaks_curve:
        raise ConfigError(f"{address}: only zmq:// addresses speak CURVE; nothing would be encrypted")
    return {"curve": CurveClient(given.curve_server_key, given.curve_key)}


@cache
def _warn_readable(host: str) -> None:
    """Once for each host."""
    logger.warning(
        "the token for %s crosses the network unencrypted, and whoever sees the traffic can use it: connect with wss://, tcps:// "
        "or grpcs://, or through an SSH tunnel",
        host,
    )


def open_policy(
    reference: str,
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
    options: Mapping[str, str] | None = None,
    *,
    spec: Spec | None = None,
    token: str | None = None,
    credentials: Credentials = Credentials(),  # noqa: B008 - frozen
    config: ClientConfig | None = None,
) -> Policy:
    """The policy that ``reference`` names: an address, or anything ``policies._open.open_policy`` knows.

    ``spec`` is for addresses whose wire announces none.
    """
    if not addresses.is_address(reference):
        return open_local_policy(reference, runtime, options or {})
    if options:
        raise ConfigError(f"{reference}: policy options belong to the server that loads the policy; got {', '.join(options)}")
    return connect(reference, spec=spec, token=token, credentials=credentials, config=config)


def needs_spec(reference: str) -> bool:
    """Whether ``reference`` is an address whose wire may not tell what the policy needs and gives."""
    return addresses.is_address(reference) and wire_of(addresses.parse(reference)).dialect.Client.announces_spec is not True


def given_spec(file: str | Path | None, like: str | None) -> Spec | None:
    """The spec that the user states: in a YAML file, or as that of a local policy; None if neither is given."""
    if file is not None and like is not None:
        raise ConfigError("give a file with the spec or a policy that has it (--spec or --like), not both")
    if file is not None:
        return documents.read_spec(str(file), "spec")
    if like is None:
        return None
    policy = open_local_policy(like)
    policy.close()
    return replace(policy.spec, digest="")  # its form, not its weights


def read_token(path: str | Path) -> str:
    """The first token in a file, without surrounding blanks; ``ConfigError`` if there is none."""
    return tokens(Path(path), None)[0]
