"""How secrets get in: by the names of files or by open descriptors. Law: a secret is never an option's value, nor in a log."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from actlink.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows a server, and how it knows that the server is the right one."""

    token_file: Path | None = None
    """File whose first line is the server's token."""
    token_fd: int | None = None
    """The same from an open file descriptor, so that it need not lie on the disk; 0 = standard input."""
    tls_ca: Path | None = None
    """PEM file with the certificates to trust at wss, tcps and grpcs addresses: that of the authority which signed the server's, or
    a self-signed server's own. None = the authorities that this system trusts."""
    tls_certificate: Path | None = None
    """PEM file with this client's own certificate, for servers that ask for one."""
    tls_key: Path | None = None
    """PEM file with its private key; None = it is in the same file."""
    curve_server_key: Path | None = None
    """File with the server's public key, as zmq.auth writes it, for zmq addresses that speak CURVE."""
    curve_key: Path | None = None
    """File with this client's own secret key; None = a fresh one each time, where the server lets anybody in."""

    def __post_init__(self) -> None:
        if self.token_file is not None and self.token_fd is not None:
            raise ConfigError("give a token file or a descriptor (--token-file or --token-fd), not both")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ConfigError("tls_key: expected the certificate that it belongs to as well (--tls-certificate)")
        if self.curve_key is not None and self.curve_server_key is None:
            raise ConfigError("curve_key: expected the server's public key as well (--curve-server-key)")

    def token(self) -> str | None:
        """The first token of the file or descriptor, if one was named; a descriptor can be read once."""
        found = tokens(self.token_file, self.token_fd)
        return found[0] if found else None

    def without_token(self) -> Credentials:
        """The rest, for processes that are told the token itself."""
        return replace(self, token_file=None, token_fd=None)


def tokens(file: Path | None, descriptor: int | None) -> list[str]:
    """All tokens in a file or behind a descriptor, one per line; ``ConfigError`` if there is none in what was named."""
    if file is None and descriptor is None:
        return []
    where = f"token file {file}" if file is not None else f"token descriptor {descriptor}"
    try:
        with open(descriptor if file is None else os.fspath(file), encoding="utf-8") as opened:  # type: ignore[arg-type]
            lines = opened.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {getattr(error, 'strerror', None) or 'expected text in UTF-8'}") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{where}: expected a token in it, got nothing")
    return found
