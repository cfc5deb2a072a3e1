"""Tokens and certificates are named, never given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actlink.credentials import Credentials, tokens
from actlink.errors import ConfigError


def test_none_are_needed() -> None:
    assert tokens(None, None) == []
    assert Credentials().token() is None


def test_a_file_has_one_token_per_line_and_a_client_shows_the_first(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("\n  first \n\nsecond\n")
    assert tokens(path, None) == ["first", "second"]
    given = Credentials(token_file=path, tls_ca=tmp_path)
    assert given.token() == "first"
    assert given.without_token() == Credentials(tls_ca=tmp_path)
    assert "first" not in repr(given)


def test_a_descriptor_is_read_and_closed() -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"from a pipe\nmore\n")
    os.close(theirs)
    assert Credentials(token_fd=ours).token() == "from a pipe"
    with pytest.raises(ConfigError, match=f"token descriptor {ours}: Bad file descriptor"):
        tokens(None, ours)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "got nothing"), (b"\n \n", "got nothing"), (b"\xff\xfe", "expected text in UTF-8")]
)
def test_a_file_without_a_token(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"token file {path}: .*{words}"):
        tokens(path, None)
    with pytest.raises(ConfigError, match=r"token file .*none: No such file"):
        tokens(tmp_path / "none", None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"token_file": Path("a"), "token_fd": 3}, "not both"),
        ({"tls_key": Path("a")}, "tls_key: expected the certificate"),
        ({"curve_key": Path("a")}, "curve_key: expected the server's"),
    ],
)
def test_what_makes_no_sense_together(given: dict[str, Path | int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Credentials(**given)  # type: ignore[arg-type]
