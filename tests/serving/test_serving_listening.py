"""Where a server may listen, decided before anything is bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_world import Probe

from actlink import address as addresses
from actlink.client import connect
from actlink.credentials import tokens
from actlink.errors import ActlinkError, ConfigError
from actlink.serving.access import LOCAL_NETWORKS, Access
from actlink.serving.config import ServerConfig
from actlink.serving.listening import plan
from actlink.serving.server import Server

OPEN = Access((), (), insecure=False)


def planned(*listen: str, insecure: bool = False, tokens: tuple[str, ...] = (), allow: tuple[str, ...] = ()) -> list[str]:
    return [str(one.address) for one in plan(listen, Access(tokens, allow, insecure))]


class TestProtection:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
    def test_this_machine_alone_needs_none(self, host: str) -> None:
        assert planned(f"native+tcp://{host}:8001") == [f"native+tcp://{host}:8001"]

    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "gpu-box"])
    def test_a_wider_address_needs_a_token_or_a_word(self, host: str) -> None:
        wide = f"native+tcp://{host}:8001"
        with pytest.raises(ConfigError, match=r"other machines can reach this address.*--token-file.*--insecure"):
            planned(wide)
        assert planned(wide, insecure=True) == planned(wide, tokens=("secret",)) == planned(wide, allow=("10.0.0.0/8",)) == [wide]

    @pytest.mark.parametrize(
        ("peer", "may_come"),
        [
            ("127.0.0.1:5", True),
            ("10.1.2.3:5", True),
            ("[::ffff:192.168.7.7]:5", True),
            ("[fe80::1%eth0]:5", True),
            ("8.8.8.8:5", False),
            ("172.32.0.1:5", False),
            ("[2001:db8::1]:5", False),
            ("[::ffff:8.8.8.8]:5", False),
            ("memory#1", True),
        ],
    )
    def test_only_the_named_networks_may_come(self, peer: str, may_come: bool) -> None:
        assert (Access((), LOCAL_NETWORKS, insecure=True).refusal(peer) is None) is may_come
        assert Access((), (), insecure=False).refusal(peer) is None

    def test_a_wire_without_a_place_for_a_token_needs_networks_and_hears_of_tunnels(self) -> None:
        wide = addresses.parse("ilstudio+tcp://0.0.0.0:5000")
        with pytest.raises(ConfigError, match=r"no place for a token.*--allow.*ssh -L 5000:127\.0\.0\.1:5000.*--insecure"):
            Access(("secret",), (), insecure=False).check_listener(wide, carries_token=False)
        Access((), ("10.0.0.0/8",), insecure=False).check_listener(wide, carries_token=False)

    def test_a_network_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match=r"allow: expected a network.*'10\.0\.0\.0/99'"):
            Access((), ("10.0.0.0/99",), insecure=False)

    def test_a_stranger_is_turned_away_before_a_word(self) -> None:
        config = ServerConfig(allow=("192.0.2.0/24",))
        with Server({"probe": Probe()}, ["native+tcp://127.0.0.1:0"], config) as server, pytest.raises(ActlinkError):
            connect(server.addresses[0])


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
        (one,) = plan(["http://127.0.0.1:9000"], OPEN)
        assert one.wire is None and one.at("127.0.0.1:9000") == "native+http://127.0.0.1:9000"

    def test_an_address_may_be_given_as_one(self) -> None:
        (one,) = plan([addresses.parse("127.0.0.1:8001")], OPEN)
        assert str(one.address) == "native+tcp://127.0.0.1:8001"

    def test_what_is_bound_takes_the_place_of_what_was_asked(self) -> None:
        (one,) = plan(["native+tcp://localhost:0/model?max_frame_bytes=1000"], OPEN)
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
            plan(listen, OPEN)


class TestTokenFiles:
    def test_one_token_per_line(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text("\n first \n\nsecond\n")
        assert tokens(path, None) == ["first", "second"]

    @pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe"])
    def test_one_without_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "tokens"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="token file"):
            tokens(path, None)

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
