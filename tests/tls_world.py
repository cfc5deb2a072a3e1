"""Certificates for tests: two authorities, one of them trusted, and what they have signed. Nothing here outlives the test run."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme

from actlink.credentials import Credentials
from actlink.serving.config import ServerConfig
from actlink.transports._tls import TlsClient, TlsServer

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True)
class Papers:
    """PEM files in a directory; certificates stand in one file with their key unless said otherwise."""

    directory: Path

    def __getattr__(self, name: str) -> Path:
        path = self.directory / f"{name}.pem"
        assert path.exists(), f"no such paper: {name}"
        return path

    @property
    def tls(self) -> tuple[TlsServer, TlsClient]:
        """What an honest server and a client that trusts it need."""
        return TlsServer(self.server), TlsClient(self.ca)

    def serving(self, server: str = "server", *, mutual: bool = False, **more: object) -> ServerConfig:
        client_ca = self.ca if mutual else None
        return ServerConfig(tls_certificate=getattr(self, server), tls_client_ca=client_ca, **more)  # type: ignore[arg-type]

    def credentials(self, own: str = "", ca: str = "ca", **more: object) -> Credentials:
        mine = getattr(self, own) if own else None
        return Credentials(tls_ca=getattr(self, ca) if ca else None, tls_certificate=mine, **more)  # type: ignore[arg-type]


def issue(directory: Path) -> Papers:
    """All papers there are."""
    ours, theirs = trustme.CA(), trustme.CA()
    _write(directory / "ca.pem", ours.cert_pem)
    _write(directory / "other_ca.pem", theirs.cert_pem)
    for name, authority, identity, until in (
        ("server", ours, ("127.0.0.1", "localhost"), None),
        ("elsewhere", ours, ("gpu-box.example",), None),
        ("expired", ours, ("127.0.0.1", "localhost"), LONG_AGO),
        ("strange", theirs, ("127.0.0.1", "localhost"), None),
        ("client", ours, ("robot-7",), None),
        ("old_client", ours, ("robot-7",), LONG_AGO),
        ("strange_client", theirs, ("robot-7",), None),
    ):
        before = None if until is None else until - datetime.timedelta(days=30)
        paper = authority.issue_cert(*identity, not_before=before, not_after=until)
        _write(directory / f"{name}.pem", paper.private_key_and_cert_chain_pem)
        _write(directory / f"{name}_key.pem", paper.private_key_pem)
        _write(directory / f"{name}_certificate.pem", *paper.cert_chain_pems)
    return Papers(directory)


def _write(path: Path, *blobs: trustme.Blob) -> None:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
