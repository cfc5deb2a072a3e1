"""Where a server may listen, decided before anything is bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_world import Probe

from actlink import address as addresses
from actlink.errors import ConfigError
from actlink.serving.config import ServerConfig
from actlink.serving.listening import plan, read_tokens
from actlink.serving.server import Server


def planned(*listen: str, insecure: bool = False, tokens: tuple[str, ...] = ()) -> list[str]:
    return [str(one.address) for one in plan(listen, insecure=insecure, tokens=tokens)]


class TestProtection:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
    def test_this_machine_alone_needs_none(self, host: str) -> None:
        assert planned(f"native+tcp://{host}:8001") == [f"native+tcp://{host}:8001"]

    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "gpu-box"])
    def test_a_wider_address_needs_a_token_or_a_word(self, host: str) -> None:
        wide = f"native+tcp://{host}:8001"
        with pytest.raises(ConfigError, match=r"other machines can reach this address.*--token-file.*--insecure"):
            planned(wide)
        assert planned(wide, insecure=True) == planned(wide, tokens=("secret",)) == [wide]


class TestCollisions:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("native+tcp://127.0.0.1:8001", "native+ws://127.0.0.1:8001"),
            ("native+tcp://127.0.0.1:8001", "native+tcp://0.0.0.0:8001"),
            ("native+ws://[::]:8001", "native+tcp://127.0.0.1:8001"),
            ("native+ws://127.0.0.1", "http://127.0.0.1:8000"),
            ("native+unix:///tmp/a.sock", "native+unix:///tmp/a.sock"),
        ],
    )
    def test_both_are_named(self, one: str, other: str) -> None:
        with pytest.raises(ConfigError) as raised:
            planned(one, other, insecure=True)
        host = other.split("://")[1].split(":")[0]
        assert "are the same place" in str(raised.value) and host in str(raised.value)
        assert str(raised.value).count("://") == 2

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("native+tcp://127.0.0.1:8001", "native+ws://127.0.0.1:8000"),
            ("native+tcp://127.0.0.1:0", "native+tcp://127.0.0.1:0"),
            ("native+tcp://127.0.0.1:8001", "native+tcp://127.0.0.2:8001"),
            ("native+unix:///tmp/a.sock", "native+unix:///tmp/b.sock"),
        ],
    )
    def test_others_may_stand_beside_each_other(self, one: str, other: str) -> None:
        assert len(planned(one, other)) == 2


class TestAddresses:
    def test_ports_are_filled_in(self) -> None:
        assert planned("native+ws://127.0.0.1", "tcp://127.0.0.1") == ["native+ws://127.0.0.1:8000", "native+tcp://127.0.0.1:8001"]

    def test_health_pages_alone_have_no_wire(self) -> None:
        (one,) = plan(["http://127.0.0.1:9000"], insecure=False, tokens=())
        assert one.wire is None and one.at("127.0.0.1:9000") == "native+http://127.0.0.1:9000"

    def test_an_address_may_be_given_as_one(self) -> None:
        (one,) = plan([addresses.parse("127.0.0.1:8001")], insecure=False, tokens=())
        assert str(one.address) == "native+tcp://127.0.0.1:8001"

    def test_what_is_bound_takes_the_place_of_what_was_asked(self) -> None:
        (one,) = plan(["native+tcp://localhost:0/model?max_frame_bytes=1000"], insecure=False, tokens=())
        assert one.transport_config.max_frame_bytes == 1000
        assert one.at("127.0.0.1:43210") == "native+tcp://127.0.0.1:43210/model"
        assert one.at("[::1]:43210") == "native+tcp://[::1]:43210/model"

    @pytest.mark.parametrize(
        ("listen", "message"),
        [
            ((), "at least one address"),
            (("native+tcp://127.0.0.1:1?colour=red",), "unknown option 'colour'"),
            (("native+smoke://127.0.0.1:1",), "no transport 'smoke'"),
            (("latin+tcp://127.0.0.1:1",), "no dialect 'latin'"),
            (("http://127.0.0.1",), "give a port"),
            (("http://127.0.0.1:1?colour=red",), "unknown option 'colour'"),
        ],
    )
    def test_what_is_wrong_is_named(self, listen: tuple[str, ...], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            plan(listen, insecure=False, tokens=())


class TestTokenFiles:
    def test_one_token_per_line(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text("\n first \n\nsecond\n")
        assert read_tokens(path) == ["first", "second"]

    @pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe"])
    def test_one_without_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "tokens"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="token file"):
            read_tokens(path)

    def test_a_missing_one_stops_the_server_before_it_starts(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"token file .*none: "):
            Server({"m": Probe()}, ["native+tcp://127.0.0.1:0"], ServerConfig(token_file=tmp_path / "none"))

    def test_its_token_opens_wider_addresses(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text("secret\n")
        Server({"m": Probe()}, ["native+tcp://0.0.0.0:0"], ServerConfig(token_file=path))


class TestModels:
    def test_an_address_may_name_its_default_model_but_no_unknown_one(self) -> None:
        Server({"a": Probe(), "b": Probe()}, ["native+tcp://127.0.0.1:0/b"])
        with pytest.raises(ConfigError, match="no model 'c'; there are: a, b"):
            Server({"a": Probe(), "b": Probe()}, ["native+tcp://127.0.0.1:0/c"])
        with pytest.raises(ConfigError, match="models: expected at least one"):
            Server({}, ["native+tcp://127.0.0.1:0"])


class TestConfig:
    @pytest.mark.parametrize(
        "options", [{"gather_ms": -1}, {"drain_s": -0.1}, {"queue_total": 0}, {"max_batch_size": 0}, {"gather_ms": float("nan")}]
    )
    def test_numbers_without_sense_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            ServerConfig(**options)  # type: ignore[arg-type]
