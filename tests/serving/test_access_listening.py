"""What certificates change about where a server may listen; decided before anything is bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_world import Probe

from actlink.errors import ConfigError
from actlink.serving.config import ServerConfig
from actlink.serving.server import Server
from tls_world import Papers, issue


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("papers"))


@pytest.mark.parametrize("scheme", ["tcps", "wss"])
def test_a_certificate_alone_opens_no_wide_address(scheme: str, papers: Papers) -> None:
    wide = f"native+{scheme}://0.0.0.0:0"
    with pytest.raises(ConfigError, match=r"other machines can reach.*--token-file.*--tls-client-ca.*--allow.*--insecure"):
        Server({"m": Probe()}, [wide], papers.serving())
    Server({"m": Probe()}, [wide], papers.serving(mutual=True))
    Server({"m": Probe()}, [wide], papers.serving(), tokens=["t"])
    Server({"m": Probe()}, [wide], papers.serving(allow=("10.0.0.0/8",)))
    Server({"m": Probe()}, [wide], papers.serving(insecure=True))


def test_certificates_of_clients_protect_no_plain_address(papers: Papers) -> None:
    with pytest.raises(ConfigError, match=r"native\+tcp://0\.0\.0\.0:0: other machines"):
        Server({"m": Probe()}, ["native+tcps://0.0.0.0:0", "native+tcp://0.0.0.0:0"], papers.serving(mutual=True))


@pytest.mark.parametrize("scheme", ["tcps", "wss", "https"])
def test_an_address_that_is_tls_wants_a_certificate(scheme: str) -> None:
    with pytest.raises(ConfigError, match="TLS needs a certificate: --tls-certificate"):
        Server({"m": Probe()}, [f"native+{scheme}://127.0.0.1:1"])


def test_a_certificate_that_nothing_uses_is_a_mistake(papers: Papers) -> None:
    with pytest.raises(ConfigError, match="no address is TLS, so nothing would be encrypted"):
        Server({"m": Probe()}, ["native+ws://127.0.0.1:0"], papers.serving())


def test_a_wrong_file_is_found_before_anything_is_bound(papers: Papers) -> None:
    config = ServerConfig(tls_certificate=papers.server_certificate, tls_key=papers.client_key)
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        Server({"m": Probe()}, ["native+tcp://127.0.0.1:0", "native+tcps://127.0.0.1:0"], config)


@pytest.mark.parametrize("option", ["tls_key", "tls_client_ca"])
def test_options_that_lack_the_certificate(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: expected the server's certificate"):
        ServerConfig(**{option: Path("x")})  # type: ignore[arg-type]


def test_within_tls_an_address_keeps_the_name_that_its_certificate_has(papers: Papers) -> None:
    with Server({"m": Probe()}, ["native+tcps://localhost:0", "native+tcp://localhost:0"], papers.serving()) as server:
        secure, plain = server.addresses
    assert secure.startswith("native+tcps://localhost:")
    assert plain.startswith(("native+tcp://127.0.0.1:", "native+tcp://[::1]:"))


def test_one_source_of_tokens() -> None:
    with pytest.raises(ConfigError, match="not both"):
        ServerConfig(token_file=Path("x"), token_fd=3)
