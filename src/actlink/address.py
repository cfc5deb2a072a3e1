"""Addresses: ``dialect+transport://host[:port][/model][?option=value]``. Law: text in, record out; nothing is looked up.

``ws://`` means ``native+ws``, ``tcp://`` means ``native+tcp``, and a bare ``host:port`` is ``native+tcp``. ``wss``, ``tcps`` and
``grpcs`` are TLS. ``ipc`` and ``unix`` take a path instead of a host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from actlink.errors import ConfigError

_SCHEMES = {
    # scheme: (transport file, TLS)
    "ws": ("websocket", False),
    "wss": ("websocket", True),
    "tcps": ("tcp", True),
    "unix": ("tcp", False),
    "grpcs": ("grpc", True),
    "ipc": ("zmq", False),
    "https": ("http", True),
}
"""Schemes that are not themselves the name of a transport file."""

_PATH_SCHEMES = ("ipc", "unix")
_BARE = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})$")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens or a client connects, and what is spoken there."""

    dialect: str
    scheme: str
    """As written: ``ws``, ``wss``, ``tcp``, ...; ``transport`` and ``tls`` derive from it."""
    host: str = "127.0.0.1"
    port: int | None = None
    """None = the dialect's default port for this scheme; 0 = any free port (listening)."""
    model: str = ""
    path: str = ""
    """File path of ``ipc`` and ``unix`` addresses."""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def transport(self) -> str:
        """Name of the file in ``transports/``."""
        return _SCHEMES.get(self.scheme, (self.scheme, False))[0]

    @property
    def tls(self) -> bool:
        return _SCHEMES.get(self.scheme, (self.scheme, False))[1]

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path) or self.scheme == "memory" or self.host == "localhost" or _is_loopback(self.host)

    def with_port(self, port: int) -> Address:
        return replace(self, port=port)

    def __str__(self) -> str:
        query = f"?{urlencode(self.options)}" if self.options else ""
        if self.path:
            return f"{self.dialect}+{self.scheme}://{quote(self.path)}{query}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        model = f"/{quote(self.model)}" if self.model else ""
        return f"{self.dialect}+{self.scheme}://{host}{port}{model}{query}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: only ``localhost`` is known to stay here


def is_address(text: str) -> bool:
    """Whether ``text`` names a server rather than a checkpoint: it has ``://`` or is a bare ``host:port``."""
    return "://" in text or _BARE.match(text) is not None


def parse(text: str, *, bare: str = "native+tcp") -> Address:
    """``text`` as an ``Address``; ``bare`` is what a plain ``host:port`` means. ``ConfigError`` says what is wrong."""
    if _BARE.match(text):
        text = f"{bare}://{text}"
    if "://" not in text:
        raise ConfigError(f"address {text!r}: expected dialect+transport://host:port or host:port")
    both, rest = text.split("://", 1)
    dialect, plus, scheme = both.partition("+")
    if not plus:
        dialect, scheme = "native", both
    if not re.fullmatch(r"\w+", dialect) or not re.fullmatch(r"\w+", scheme):
        raise ConfigError(f"address {text!r}: expected dialect+transport before '://', got {both!r}")
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError as error:
        raise ConfigError(f"address {text!r}: {error}") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if scheme in _PATH_SCHEMES:
        return Address(dialect, scheme, path=unquote(parts.netloc + parts.path), options=options)
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"address {text!r}: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"address {both}://...: no credentials in an address; use --token-file")
    if not parts.hostname:
        raise ConfigError(f"address {text!r}: no host")
    return Address(dialect, scheme, parts.hostname, port, unquote(parts.path.strip("/")), "", options)
