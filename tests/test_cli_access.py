"""Certificates and tokens on the command line: a server in a process of its own, and every command that connects to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actlink.commands.serve import Upstream, shown_by_clients
from actlink.serving.config import ServerConfig
from cli_world import ECHO, Process, actlink, running
from tls_world import Papers, issue


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    papers = issue(tmp_path_factory.mktemp("papers"))
    (papers.directory / "token").write_text("s3cret\n")
    return papers


@pytest.fixture(scope="module")
def guarded(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str]]:
    """A server that wants a certificate and a token, and its address."""
    shown = ["--tls-certificate", str(papers.server_certificate), "--tls-key", str(papers.server_key)]
    asked = ["--tls-client-ca", str(papers.ca), "--token-file", str(papers.directory / "token")]
    listen = ["--listen", "tcps://127.0.0.1:0", "--listen", "wss://127.0.0.1:0"]
    with running(tmp_path_factory.mktemp("server"), "serve", ECHO, *listen, *shown, *asked) as process:
        yield process, process.wait_for(r"^  (native\+wss://\S+)$")[1]


def own(papers: Papers) -> list[str]:
    files = {"tls-ca": papers.ca, "tls-certificate": papers.client_certificate, "tls-key": papers.client_key}
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def test_every_command_gets_in_with_its_papers(guarded: tuple[Process, str], papers: Papers, tmp_path: Path) -> None:
    _, address = guarded
    shown = [*own(papers), "--token-file", str(papers.directory / "token")]
    assert actlink("ping", address, *shown) == 0
    assert actlink("check", address, *shown) == 0
    assert actlink("bench", address, "--duration-s", "1", *shown) == 0


def test_a_token_comes_through_a_descriptor_into_every_process(
    guarded: tuple[Process, str], papers: Papers, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("ping", "bench"):
        ours, theirs = os.pipe()
        os.write(theirs, b"s3cret")
        os.close(theirs)
        more = ["--duration-s", "1", "--clients", "2"] if command == "bench" else []
        assert actlink(command, guarded[1], *own(papers), "--token-fd", str(ours), *more) == 0
    said = capsys.readouterr()
    assert "errors      none" in said.out
    assert "s3cret" not in said.out + said.err


def test_without_them_it_is_told_what_lacks(
    guarded: tuple[Process, str], papers: Papers, capsys: pytest.CaptureFixture[str]
) -> None:
    process, address = guarded
    token = ["--token-file", str(papers.directory / "token")]
    for given, words in (
        ([], "--tls-ca"),
        (["--tls-ca", str(papers.ca), *token], "--tls-certificate"),
        (own(papers), "asks for a token"),
    ):
        assert actlink("ping", address, *given) != 0
        said = capsys.readouterr()
        assert words in said.err
        assert "echo" not in said.out + said.err
    assert "s3cret" not in process.out() + process.err()


def test_a_gateway_has_papers_of_its_own(guarded: tuple[Process, str], papers: Papers, tmp_path: Path) -> None:
    upstream = [f"--upstream-{word[2:]}" if word.startswith("--") else word for word in own(papers)]
    options = [*upstream, "--upstream-token-file", str(papers.directory / "token"), "--listen", "tcp://127.0.0.1:0"]
    with running(tmp_path, "serve", guarded[1], *options) as gateway:
        assert actlink("ping", gateway.wait_for(r"^  (native\+tcp://\S+)$")[1]) == 0


def test_the_announcement_names_what_a_client_must_show(guarded: tuple[Process, str], papers: Papers) -> None:
    line = "--token-file TOKEN_FILE --tls-ca CA_FILE --tls-certificate CERTIFICATE_FILE --tls-key KEY_FILE"
    assert line in guarded[0].out()
    assert "https://127.0.0.1:" in guarded[0].out()
    assert shown_by_clients(ServerConfig()) == ""
    assert shown_by_clients(ServerConfig(curve_key=papers.server_key)) == " --curve-server-key KEY_FILE"


def test_a_gateway_can_show_whatever_a_client_can() -> None:
    paths = {f"upstream_{name}": Path(name) for name in ("token_file", "tls_ca", "tls_certificate", "tls_key")}
    more = {f"upstream_{name}": Path(name) for name in ("curve_server_key", "curve_key")}
    given = Upstream(**paths, **more).credentials
    assert (given.token_file, given.tls_key, given.curve_key) == (Path("token_file"), Path("tls_key"), Path("curve_key"))
