"""``actlink serve`` and ``ping`` as their users meet them: another process, real sockets, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from actlink import Field, Spec
from actlink.commands import serve
from actlink.commands._show import field_text, percentile, spec_lines, table
from actlink.commands.serve import Options, announcement, environment_for, health_urls, reachable
from cli_world import ECHO, Process, actlink, running, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str, str]]:
    with serving(tmp_path_factory.mktemp("server")) as running_server:
        yield running_server


# What it prints.


def test_it_tells_what_where_how_healthy_and_what_next(server: tuple[Process, str, str]) -> None:
    process, ws, tcp = server
    out = process.out()
    assert "name    echo" in out
    assert "takes   state: float32 (4)" in out
    assert "images.top: uint8 (6 x 8 x 3)" in out
    assert "gives   float32 (4), 8 per chunk" in out
    assert "rate    50 Hz" in out
    assert re.search(r"digest  sha256:\w{16}|digest  \(none\)", out)
    assert out.index(ws) < out.index(tcp) < out.index("health")
    assert f"actlink eval --policy {ws} --env ENV" in out


def test_the_health_page_answers_where_it_says(server: tuple[Process, str, str]) -> None:
    url = re.search(r"^  (http://\S+/healthz)$", server[0].out(), re.MULTILINE)
    assert url is not None
    with urllib.request.urlopen(url[1], timeout=30) as answer:
        assert json.load(answer)["status"] == "ok"


@pytest.mark.parametrize("which", [1, 2])
def test_ping(which: int, server: tuple[Process, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("ping", str(server[which]), "--count", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{server[which]} serves\n  name    echo\n")
    assert re.search(r"^round trip  min [\d.]+ ms, p50 [\d.]+ ms, p95 [\d.]+ ms \(3 pings\)$", out, re.MULTILINE)
    assert re.search(r"^clock       theirs minus ours [+-][\d.]+ ms", out, re.MULTILINE)


def test_ping_takes_at_least_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("ping", "127.0.0.1:1", "--count", "0") == 2
    assert "--count: expected at least 1, got 0" in capsys.readouterr().err


# Its life.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int, tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _, _):
        assert process.end(number) == 0
        assert "stopping" in process.err()
        assert "Traceback" not in process.err()


def test_alone_it_listens_on_one_address_of_this_machine() -> None:
    assert serve.DEFAULT_LISTEN == ("native+ws://127.0.0.1:8000",)
    assert Options("p").listen == ()


def test_a_gateway(server: tuple[Process, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, server[2]) as (process, ws, _):
        assert actlink("ping", ws) == 0
        assert "name    echo" in capsys.readouterr().out
        assert actlink("check", ws) == 0
        assert process.end() == 0, process.err()


def test_further_models_are_loaded_when_asked_for_and_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "later=scripted:echo?state=2&action=2&horizon=3"
    with serving(tmp_path, ECHO, "--allow-model", other, "broken=/no/such/policy") as (process, _, tcp):
        assert "later" not in process.out()
        assert actlink("ping", f"{tcp}/later", "--count", "1") == 0
        assert "gives   float32 (2), 3 per chunk" in capsys.readouterr().out
        for wrong, says in {"broken": "/no/such/policy", "other": "no model 'other' is served here"}.items():
            assert actlink("ping", f"{tcp}/{wrong}", "--count", "1") != 0
            assert says in capsys.readouterr().err


def test_a_token_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokens").write_text("first\nsecond\n")
    (tmp_path / "mine").write_text("second\n")
    (tmp_path / "wrong").write_text("third\n")
    with serving(tmp_path, ECHO, "--token-file", str(tmp_path / "tokens")) as (process, ws, tcp):
        assert "--token-file TOKEN_FILE" in process.out()
        for address in (ws, tcp):
            assert actlink("ping", address, "--token-file", str(tmp_path / "mine")) == 0
            capsys.readouterr()
            for wrong in ([], ["--token-file", str(tmp_path / "wrong")]):
                assert actlink("ping", address, *wrong) == 1
                said = capsys.readouterr()
                assert "echo" not in said.out + said.err, "nothing about the model leaves before the token is accepted"
        assert "second" not in process.out() + process.err()


def test_options_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "serve.yaml").write_text(
        "policy: scripted:zero\npolicy_options: {state: 3, action: 2}\nlisten: [{transport: tcp, port: 0, host: 127.0.0.1}]\n"
    )
    with running(tmp_path, "serve", "--config", str(tmp_path / "serve.yaml")) as process:
        address = process.wait_for(r"^  (native\+tcp://\S+)$")[1]
        assert actlink("ping", address) == 0
        assert "takes   state: float32 (3)" in capsys.readouterr().out


# What it refuses, at once and with a reason.

WRONG = {
    "open to others": ([ECHO, "--listen", "tcp://0.0.0.0:0"], "other machines can reach this address"),
    "the same place twice": ([ECHO, "--listen", "ws://127.0.0.1:7", "--listen", "tcp://127.0.0.1:7"], "are the same place"),
    "no such policy": (["no_such_policy"], "no policy 'no_such_policy'"),
    "no such option of the policy": ([ECHO, "--policy-options", "speed=3"], "unknown option 'speed'"),
    "option without value": ([ECHO, "--policy-options", "speed"], "expected option=value, got 'speed'"),
    "no such option of the address": ([ECHO, "--listen", "tcp://127.0.0.1:0?speed=3"], "unknown option 'speed'"),
    "no such dialect": ([ECHO, "--listen", "esperanto+tcp://127.0.0.1:0"], "no dialect 'esperanto'"),
    "no such transport": ([ECHO, "--listen", "native+pigeon://127.0.0.1:0"], "no transport 'pigeon'"),
    "not an address": ([ECHO, "--listen", "here"], "expected dialect+transport"),
    "no such token file": ([ECHO, "--token-file", "no/such"], "token file no/such"),
    "wrong number": ([ECHO, "--gather-ms", "-1"], "gather_ms: expected 0 or more, got -1"),
    "options for a gateway": (["127.0.0.1:1", "--policy-options", "a=1"], "not to a gateway"),
    "upstream token without upstream": ([ECHO, "--upstream-token-file", "x"], "is none"),
    "no such spec": (["scripted:zero", "--spec", "no/such.yaml"], "no such file"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("serve", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_port_in_use(server: tuple[Process, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("serve", ECHO, "--listen", server[2]) == 2
    err = capsys.readouterr().err
    assert server[2].rpartition(":")[2] in err and "in use" in err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for arguments in (["ping", f"127.0.0.1:{port}"], ["serve", f"127.0.0.1:{port}"]):
        assert actlink(*arguments) == 1
        assert f"127.0.0.1:{port}" in capsys.readouterr().err


# The texts themselves.


def test_specs_are_shown_shortly_and_wholly() -> None:
    names = tuple(f"joint_{i}" for i in range(20))
    spec = Spec(
        {
            "state": Field((20,), names=names, unit="rad"),
            "prompt": Field((), "str"),
            "images.x": Field((None, 4, 3), "uint8", required=False),
        },
        Field((1,), "int64", range=(0, 3), names=("push",)),
        action_horizon=5,
        accepts_prefix=True,
        stateful=True,
    )
    assert list(spec_lines(spec)) == [
        "  name    (none)",
        "  takes   state: float32 (20), rad [joint_0, joint_1, joint_2, joint_3, ... joint_19]",
        "          prompt: text",
        "          images.x: uint8 (any x 4 x 3) (optional)",
        "  gives   int64 (1), 0 to 3 [push], 5 per chunk",
        "  rate    none stated, control joint abs",
        "  how     batches of up to 1, remembers between requests, uses a prefix",
        "  digest  (none)",
    ]
    assert field_text(Field(())) == "float32 ()"


@pytest.mark.parametrize(
    ("bound", "urls"),
    [
        (["native+ws://127.0.0.1:8000", "native+tcp://127.0.0.1:8001"], ["http://127.0.0.1:8000/healthz"]),
        (["native+wss://0.0.0.0:8000"], ["https://127.0.0.1:8000/healthz"]),
        (["native+http://[::]:9000"], ["http://[::1]:9000/healthz"]),
        (["native+tcp://127.0.0.1:8001", "native+unix:///run/x.sock"], []),
    ],
)
def test_where_the_health_pages_are(bound: list[str], urls: list[str]) -> None:
    assert health_urls(bound) == urls


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("native+ws://0.0.0.0:8000", "native+ws://127.0.0.1:8000"),
        ("native+ws://[::]:8000/m", "native+ws://[::1]:8000/m"),
        ("native+tcp://10.0.0.7:1", "native+tcp://10.0.0.7:1"),
        ("native+unix:///run/0.0.0.0", "native+unix:///run/0.0.0.0"),
    ],
)
def test_nobody_is_told_to_connect_to_everywhere(address: str, shown: str) -> None:
    assert reachable(address) == shown


def test_the_next_command_names_the_environment_where_the_policy_does() -> None:
    assert environment_for(Spec(action=Field((1,)), name="aloha_transfer_cube")) == "aloha_transfer_cube"
    assert environment_for(Spec(action=Field((1,)), name="alohas")) == "ENV"
    assert environment_for(Spec(action=Field((1,)))) == "ENV"


def test_with_health_pages_alone_there_is_nothing_to_evaluate() -> None:
    assert "actlink eval" not in announcement(Spec(action=Field((1,))), ["native+http://127.0.0.1:9"], Options("p"))


def test_percentiles_and_tables() -> None:
    assert [percentile([4, 1, 3, 2], p) for p in (0, 50, 75, 99, 100)] == [1, 2, 3, 4, 4]
    assert percentile([], 50) != percentile([], 50)  # NaN
    assert table([("a", "bb"), ("ccc", "d")], ("x", "y")) == "x    y\na    bb\nccc  d"
    assert table([]) == ""
