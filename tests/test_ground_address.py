"""Addresses: text in, record out, and the other way round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.address import Address, is_address, parse
from actlink.errors import ConfigError

WRITTEN = {
    # text: (dialect, transport, tls, host, port, model)
    "native+ws://127.0.0.1:8000": ("native", "websocket", False, "127.0.0.1", 8000, ""),
    "ws://box:8000": ("native", "websocket", False, "box", 8000, ""),
    "wss://box": ("native", "websocket", True, "box", None, ""),
    "tcp://box:8001": ("native", "tcp", False, "box", 8001, ""),
    "native+tcps://box:8001": ("native", "tcp", True, "box", 8001, ""),
    "box:8001": ("native", "tcp", False, "box", 8001, ""),
    "10.0.0.7:0": ("native", "tcp", False, "10.0.0.7", 0, ""),
    "[::1]:8001": ("native", "tcp", False, "::1", 8001, ""),
    "openpi+ws://box:8000/pi0": ("openpi", "websocket", False, "box", 8000, "pi0"),
    "lerobot+grpcs://box:8080/a/b": ("lerobot", "grpc", True, "box", 8080, "a/b"),
    "act+zmq://box:5555": ("act", "zmq", False, "box", 5555, ""),
    "https://box": ("native", "http", True, "box", None, ""),
    "http://box:9/": ("native", "http", False, "box", 9, ""),
    "native+ws://[fe80::1]:8000/a%20b": ("native", "websocket", False, "fe80::1", 8000, "a b"),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_parsed(text: str) -> None:
    found = parse(text)
    assert (found.dialect, found.transport, found.tls, found.host, found.port, found.model) == WRITTEN[text]
    assert is_address(text)


@pytest.mark.parametrize("text", [*WRITTEN, "act+ipc:///run/act.sock", "ilstudio+unix:///tmp/a%20b?x=1", "ws://box?a=1&b=x%20y"])
def test_written_and_read_again_it_is_the_same(text: str) -> None:
    once = parse(text)
    assert parse(str(once)) == once


def test_a_path_instead_of_a_host() -> None:
    found = parse("act+ipc:///run/act.sock?batch=2")
    assert (found.path, found.port, found.transport, found.options) == ("/run/act.sock", None, "zmq", {"batch": "2"})
    assert parse("ilstudio+unix://relative/place").path == "relative/place"


def test_options() -> None:
    assert parse("ws://box?max_frame_bytes=1024&empty=&name=a%20b").options == {
        "max_frame_bytes": "1024",
        "empty": "",
        "name": "a b",
    }


def test_what_a_bare_address_means_is_the_callers_choice() -> None:
    assert parse("box:5000", bare="ilstudio+tcp") == Address("ilstudio", "tcp", "box", 5000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("box", "expected dialect"),
        ("", "expected dialect"),
        ("C:\\checkpoints\\act", "expected dialect"),
        ("://box:1", "expected dialect"),
        ("na tive+ws://box", "expected dialect"),
        ("native+ws+tcp://box", "expected dialect"),
        ("ws://box:port", "Port could not be cast"),
        ("ws://box:70000", "0-65535"),
        ("ws://", "no host"),
        ("ws://:8000", "no host"),
        ("ws://[::1:8000", "ws://"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="address") as caught:
        parse(text)
    assert message in str(caught.value)


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="--token-file") as caught:
        parse("ws://me:secret@box:8000")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["aloha_transfer_cube", "checkpoints/act", "my.py:Policy", "module:Class", "box:port", "a b:80", ""]
)
def test_what_is_not_an_address(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("ws://127.0.0.1", True),
        ("ws://127.8.8.8", True),
        ("ws://localhost", True),
        ("ws://[::1]", True),
        ("act+ipc:///x", True),
        ("ws://0.0.0.0", False),
        ("ws://[::]", False),
        ("ws://127evil.example", False),
        ("ws://127.evil.example", False),
        ("ws://box", False),
    ],
)
def test_whether_only_this_machine_can_reach_it(text: str, loopback: bool) -> None:
    assert parse(text).loopback is loopback


def test_with_port() -> None:
    assert str(parse("ws://box:0/model?a=1").with_port(8123)) == "native+ws://box:8123/model?a=1"


@given(
    host=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,4})?", fullmatch=True),
    port=st.none() | st.integers(0, 65535),
    model=st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=8),
    options=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
)
def test_any_record_survives_being_written(host: str, port: int | None, model: str, options: dict[str, str]) -> None:
    options = {key: value for key, value in options.items() if _is_encodable(key + value)}
    address = Address("native", "ws", host, port, model, options=options)
    assert parse(str(address)) == address


def _is_encodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert "address" in str(error)
