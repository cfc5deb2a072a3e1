"""How a server behaves. Law: one frozen dataclass; the command line's options are derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actlink.errors import ConfigError
from actlink.transports._curve import CurveServer
from actlink.transports._tls import TlsServer


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Options of ``Server`` and ``serve``; the defaults suit one machine with a robot or a simulator beside it."""

    token_file: Path | None = None
    """File with one token per line; a peer must present one of them. Read once, at start."""
    token_fd: int | None = None
    """The same from an open file descriptor, so that it need not lie on the disk; 0 = standard input."""
    tls_certificate: Path | None = None
    """PEM file for wss, tcps and grpcs addresses: the server's certificate, then those that signed it. Read once, at start."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key, without passphrase; None = it is in the same file."""
    tls_client_ca: Path | None = None
    """PEM file with certificates of authorities; at TLS addresses only clients with a certificate that one has signed come in."""
    curve_key: Path | None = None
    """File with the server's secret key, as zmq.auth writes it: zmq addresses then speak CURVE and nothing else. Read at start."""
    curve_clients: Path | None = None
    """Directory with the public keys (*.key) of the clients that may come to them; None = all who know the server's public key."""
    allow: tuple[str, ...] = ()
    """Networks whose machines may connect, such as 192.168.1.0/24; empty = no such limit."""
    insecure: bool = False
    """Allow an address that other machines can reach without asking them for a token or looking where they are."""
    deterministic: bool = False
    """Each request runs alone, so that equal requests give equal bits."""
    max_batch_size: int | None = None
    """Most requests per inference; None = what the policy's spec says (never more than that)."""
    gather_ms: float = 8.0
    """With several sessions: longest wait for those just answered to come back and share the next batch (never more than a quarter
    of what an inference takes). 0 = never wait."""
    queue_per_session: int = 256
    """Requests of one session that may wait; further ones are refused at once."""
    queue_total: int = 1024
    """Requests that may wait in all."""
    queue_mib: int = 1024
    """Memory that waiting observations may hold, in MiB."""
    resume_s: float = 30.0
    """How long a session outlives its broken connection, so that the peer can continue it. 0 = not at all."""
    resume_sessions: int = 64
    """Most sessions kept that way; the oldest goes first."""
    heartbeat_s: float = 2.0
    """How often a waiting client is asked to ping. 0 = never."""
    drain_s: float = 30.0
    """How long a stopping server waits for the answers it still owes."""
    log_every_s: float = 30.0
    """Seconds between two lines of statistics in the log. 0 = never."""
    warm_up: bool = True
    """Run the policy on zeros before the server says that it is ready."""

    def __post_init__(self) -> None:
        for name in ("gather_ms", "resume_s", "heartbeat_s", "drain_s", "log_every_s", "resume_sessions"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("queue_per_session", "queue_total", "queue_mib", "max_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if self.token_file is not None and self.token_fd is not None:
            raise ConfigError("give a token file or a descriptor (--token-file or --token-fd), not both")
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_certificate is None:
                raise ConfigError(f"{name}: expected the server's certificate as well (--tls-certificate)")

        if self.curve_clients is not None and self.curve_key is None:
            raise ConfigError("curve_clients: expected the server's secret key as well (--curve-key)")

    @property
    def curve(self) -> CurveServer | None:
        """What zmq addresses need for CURVE; None without a key."""
        return None if self.curve_key is None else CurveServer(self.curve_key, self.curve_clients)

    @property
    def tls(self) -> TlsServer | None:
        """What TLS addresses need; None without a certificate."""
        if self.tls_certificate is None:
            return None
        return TlsServer(self.tls_certificate, self.tls_key, self.tls_client_ca)
