"""TLS for both sides: which files, and what they make. Law: never less than TLS 1.2, and a client always checks whom it talks to.

Files are read when a listener or a connection is made. What is wrong with one is a ``ConfigError`` that names it; so is a server
that cannot show that it is the one asked for, because trying again would not help.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from actlink.errors import ActlinkError, ConfigError, RemoteProtocolError, UnauthorizedError

ALERT = b"\x15\x03\x03\x00\x02\x02\x0a"
"""The alert 'unexpected message' in clear: what a port that speaks TLS tells a peer that does not."""

_SELF_SIGNED, _UNKNOWN = (18, 19), (2, 20, 21, 27)  # X509_V_ERR_..., as in ``ssl.SSLCertVerificationError.verify_code``
_NAME = (62, 64)
_TIME = (9, 10)


@dataclass(frozen=True, slots=True)
class TlsServer:
    """What a listener shows its peers, and what it wants to see of them."""

    certificate: Path
    """PEM file: the server's certificate, then those that signed it."""
    key: Path | None = None
    """PEM file with its private key; None = in the same file."""
    client_ca: Path | None = None
    """PEM file with the certificates whose clients may come; None = clients show none."""


@dataclass(frozen=True, slots=True)
class TlsClient:
    """Whom a client trusts, and what it shows."""

    ca: Path | None = None
    """PEM file with the certificates to trust; None = those of this system."""
    certificate: Path | None = None
    """PEM file with the client's own certificate, for servers that ask for one."""
    key: Path | None = None
    """PEM file with its private key; None = in the same file."""


def server_context(tls: TlsServer | None, where: str) -> ssl.SSLContext:
    """How a listener at ``where`` speaks TLS; ``ConfigError`` names the file that is missing or wrong."""
    if tls is None:
        raise ConfigError(f"{where}: TLS needs a certificate: --tls-certificate FILE and --tls-key FILE (PEM)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0  # nothing is resumed
    _load_own(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_trusted(context, tls.client_ca, "tls_client_ca")
    return context


def client_context(tls: TlsClient) -> ssl.SSLContext:
    """How a client speaks TLS; ``ConfigError`` names the file that is wrong."""
    # Not create_default_context(): since Python 3.13 that refuses certificates as 'openssl req -x509' makes them.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    _harden(context)
    if tls.certificate is not None:
        _load_own(context, tls.certificate, tls.key)
    if tls.ca is not None:
        _load_trusted(context, tls.ca, "tls_ca")
    else:
        context.load_default_certs()
    return context


def refused_opening(error: OSError, where: str, host: str) -> ActlinkError | None:
    """Ours for what went wrong while a client opened TLS; None if the connection was merely lost."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigError(f"{where}: {_distrust(error, host)}")
    alert = refused_later(error, where)
    closed = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)  # Python 3.11.2 says an end of the stream with the latter
    if alert is not None or closed or not isinstance(error, ssl.SSLError):
        return alert
    reason = words(error)
    if reason in ("wrong version number", "record layer failure", "unknown protocol", "http request", "packet length too long"):
        return RemoteProtocolError(f"{where}: what listens there does not speak TLS; plain addresses are ws://, tcp://, grpc://")
    return RemoteProtocolError(f"{where}: TLS failed: {reason}")


def refused_later(error: OSError, where: str) -> ActlinkError | None:
    """Ours for the alert by which a server refuses its client's certificate, or the want of one; None for anything else.

    In TLS 1.3 a client learns of that with its first read.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    reason = words(error)
    if "alert" not in reason or not any(word in reason for word in ("certificate", "unknown ca", "handshake failure")):
        return None
    if "required" in reason or "handshake failure" in reason:
        return UnauthorizedError(f"{where}: the server asks for a client's certificate: --tls-certificate FILE and --tls-key FILE")
    return UnauthorizedError(f"{where}: the server does not accept this client's certificate ({reason})")


def words(error: ssl.SSLError) -> str:
    """What OpenSSL says, in plain words."""
    return (error.reason or error.strerror or str(error)).replace("_", " ").lower()


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _distrust(error: ssl.SSLCertVerificationError, host: str) -> str:
    code = error.verify_code
    if code in _SELF_SIGNED:
        return (
            "its certificate is signed by itself or by an authority of its own, which this machine does not know; give that "
            "certificate, got from the server's operator, with --tls-ca FILE"
        )
    if code in _UNKNOWN:
        return "nobody whom this client trusts has signed its certificate; give the certificate of who did with --tls-ca FILE"
    if code in _NAME:
        return f"its certificate is not for {host!r}; connect by a name that stands in it, or have one made for this name"
    if code in _TIME:
        return f"its certificate is not valid now ({error.verify_message}); renew it, or set the clocks"
    return f"its certificate does not hold: {error.verify_message}"


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    _check_pem(certificate, "tls_certificate", "CERTIFICATE", "a certificate")
    place = certificate if key is None else key
    text = _check_pem(place, "tls_certificate" if key is None else "tls_key", "PRIVATE KEY", "a private key")
    if "ENCRYPTED" in text:
        raise ConfigError(f"{place}: the private key has a passphrase; write it without: openssl pkey -in {place} -out KEY_FILE")
    try:
        context.load_cert_chain(certificate, key, password="")  # never asks at the terminal
    except (ssl.SSLError, OSError) as error:
        reason = words(error) if isinstance(error, ssl.SSLError) else str(error)
        if "mismatch" in reason:
            raise ConfigError(f"the private key in {place} does not belong to the certificate in {certificate}") from None
        raise ConfigError(f"tls_certificate {certificate}, key in {place}: cannot be used: {reason}") from None


def _load_trusted(context: ssl.SSLContext, path: Path, option: str) -> None:
    _check_pem(path, option, "CERTIFICATE", "a certificate")
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        reason = words(error) if isinstance(error, ssl.SSLError) else str(error)
        raise ConfigError(f"{option} {path}: cannot be used: {reason}") from None


def _check_pem(path: Path, option: str, kind: str, what: str) -> str:
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from None
    begins = [line for line in text.splitlines() if line.startswith("-----BEGIN ")]
    if any(kind in line for line in begins):
        return text
    hint = "; --tls-key names the file that has it" if begins and what == "a private key" else ""
    raise ConfigError(f"{option} {path}: expected {what} in PEM ('-----BEGIN ... {kind}-----'), found none{hint}")
