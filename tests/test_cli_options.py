"""Options: declared once, settable in a file and on the command line, where the command line wins; a mistake is named."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actlink import cli
from actlink.commands import _options, evaluate, serve
from actlink.errors import ConfigError
from cli_world import actlink

WriteYaml = Callable[[str], str]


@pytest.fixture
def yaml_file(tmp_path: Path) -> WriteYaml:
    def write(text: str) -> str:
        path = tmp_path / "options.yaml"
        path.write_text(text)
        return str(path)

    return write


def parse(module: ModuleType, *arguments: str) -> Any:
    return _options.parse(module, "actlink x", arguments)


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"actlink.commands.{cli.COMMANDS[name].module}")


# A file and the command line.


def test_a_file_sets_options_of_the_command_and_of_its_components(yaml_file: WriteYaml) -> None:
    path = yaml_file("policy: p\ngather_ms: 5\nlog-every-s: 1\ninsecure: true\ntoken_file: tokens\nlisten: [ws://127.0.0.1:1]\n")
    found = parse(serve, "--config", path)
    assert found.policy == "p"
    assert (found.server.gather_ms, found.server.log_every_s, found.server.insecure) == (5.0, 1.0, True)
    assert found.server.token_file == Path("tokens")
    assert found.listen == ("ws://127.0.0.1:1",)
    assert found.server.drain_s == serve.ServerConfig().drain_s


def test_the_command_line_wins(yaml_file: WriteYaml) -> None:
    path = yaml_file("policy: p\ngather_ms: 5\ninsecure: true\nlisten: [ws://127.0.0.1:1, ws://127.0.0.1:2]\nthreads: 3\n")
    found = parse(serve, "q", "--config", path, "--gather-ms", "1", "--no-insecure", "--listen", "tcp://127.0.0.1:3")
    assert (found.policy, found.server.gather_ms, found.server.insecure) == ("q", 1.0, False)
    assert found.listen == ("tcp://127.0.0.1:3",), "an option that can be repeated replaces what the file says"
    assert found.threads == 3


def test_required_options_may_come_from_either(yaml_file: WriteYaml) -> None:
    path = yaml_file("env: aloha\nepisodes: 3")
    found = parse(evaluate, f"--config={path}", "--policy", "p").evaluation
    assert (found.policy, found.env, found.episodes) == ("p", "aloha", 3)


def test_what_is_required_stays_so(yaml_file: WriteYaml, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("eval", "--config", yaml_file("env: aloha\ndeterministic: true")) == 2
    assert "--policy" in capsys.readouterr().err


def test_the_finished_options_are_checked_by_the_component(yaml_file: WriteYaml, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("eval", "--config", yaml_file("env: aloha\npolicy: p\nepisodes: 0")) == 2
    assert "actlink: episodes: expected at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: p\nspeed: 3", "unknown option 'speed'; known options: policy, listen, allow_model, policy_type, policy_options"),
        ("policy: p\nserver: {gather_ms: 1}", "unknown option 'server'"),
        ("policy: p\nverbose: 1", "unknown option 'verbose'"),
        ("policy: p\ngather_ms: soon", "option 'gather_ms': expected float, got 'soon'"),
        ("policy: p\nthreads: 1.5", "option 'threads': expected int | None, got 1.5"),
        ("policy: [p, q]", "option 'policy': expected str, got ['p', 'q']"),
        ("- policy", "expected a mapping from option to value, got list"),
        ("", "expected a mapping from option to value, got NoneType"),
        ("a: b: c", "not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text: str, message: str, yaml_file: WriteYaml) -> None:
    path = yaml_file(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse(serve, "--config", path)
    assert path in str(caught.value)


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("list", "--config", "no/such.yaml") == 2
    assert "no/such.yaml: no such file" in capsys.readouterr().err
    assert actlink("list", "--config") == 2
    assert "--config: expected the path of a YAML file" in capsys.readouterr().err


# Forms that only a file has.


@pytest.mark.parametrize(
    ("parts", "address"),
    [
        ({"address": "ws://0.0.0.0:8000"}, "ws://0.0.0.0:8000"),
        ({"address": "ws://box:1", "max_connections": 8, "jpeg": True}, "ws://box:1?max_connections=8&jpeg=true"),
        ({"address": "ws://box:1?a=1", "b": 2}, "ws://box:1?a=1&b=2"),
        ({"dialect": "openpi", "transport": "ws", "host": "box", "port": 9, "model": "pi0"}, "openpi+ws://box:9/pi0"),
        ({"transport": "tcp", "port": 8001}, "native+tcp://127.0.0.1:8001"),
        ({}, "native+ws://127.0.0.1"),
        ({"dialect": "act", "transport": "ipc", "path": "/run/act.sock", "x": 1}, "act+ipc:///run/act.sock?x=1"),
    ],
)
def test_an_address_as_a_map(parts: dict[str, Any], address: str) -> None:
    assert _options.address_of(parts) == address


def test_listen_as_a_list_of_strings_and_maps(yaml_file: WriteYaml) -> None:
    path = yaml_file("policy: p\nlisten:\n  - ws://127.0.0.1:1\n  - {transport: tcp, port: 2, max_connections: 3}\n")
    assert parse(serve, "--config", path).listen == ("ws://127.0.0.1:1", "native+tcp://127.0.0.1:2?max_connections=3")


def test_options_of_a_policy_as_a_map(yaml_file: WriteYaml) -> None:
    path = yaml_file("policy: p\npolicy_options: {state: 4, fast: true, cameras: [top, wrist], name: x}\n")
    assert parse(serve, "--config", path).policy_options == ("state=4", "fast=true", "cameras=[top, wrist]", "name=x")


# Names.


@pytest.mark.parametrize(
    ("argument", "full"),
    [
        ("--log-every", "--log-every-s"),
        ("--log_every=3", "--log-every-s=3"),
        ("--log-every-s", "--log-every-s"),
        ("--gather", "--gather-ms"),
        ("--rate", "--rate-hz"),
        ("--k", "--k"),
        ("--unknown", "--unknown"),
        ("-v", "-v"),
        ("value", "value"),
        ("-", "-"),
    ],
)
def test_the_unit_may_be_left_out(argument: str, full: str) -> None:
    assert _options.with_unit(argument, ["log_every_s", "gather_ms", "rate_hz", "k"]) == full


def test_without_its_unit_in_a_file_and_on_the_command_line(yaml_file: WriteYaml) -> None:
    found = parse(serve, "p", "--config", yaml_file("log-every: 7\ngather: 1"), "--gather", "2")
    assert (found.server.log_every_s, found.server.gather_ms) == (7.0, 2.0)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_can_stand_in_a_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names in --help and names in a file are the same; nested dataclasses lend theirs."""
    actlink(name, "--help")
    in_help = set(re.findall(r"--([a-z][a-z-]*)", capsys.readouterr().out))
    for option in _options.option_names(module_of(name).Options):
        flag = option.replace("_", "-")
        assert flag in in_help or option in _positionals(module_of(name).Options), option


def _positionals(options: type) -> set[str]:
    import typing

    from tyro.conf import Positional

    mark = typing.get_args(Positional[int])[1]
    hints = typing.get_type_hints(options, include_extras=True)
    return {name for name, hint in hints.items() if mark in typing.get_args(hint)}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_has_a_text_and_options_are_frozen(name: str) -> None:
    """A field's docstring is its --help text, also in the components' dataclasses."""
    from tyro._docstrings import get_field_docstring

    def check(cls: type) -> None:
        assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
        hints = _options._hints(cls)
        for field in fields(cls):
            hint = hints[field.name]
            if isinstance(hint, type) and is_dataclass(hint):
                check(hint)
            else:
                assert get_field_docstring(cls, field.name, ()), f"{cls.__module__}.{cls.__name__}.{field.name} has no docstring"

    check(module_of(name).Options)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_option_is_declared_twice(name: str) -> None:
    names = _options.option_names(module_of(name).Options)
    assert len(names) == len(set(names))


def test_a_default_is_made_without_the_components_checks(yaml_file: WriteYaml) -> None:
    """Its required options are still missing, which no check of theirs could know."""
    default = _options.default_from(evaluate.Options, {"deterministic": True}, [], "x.yaml")
    assert default.evaluation.deterministic is True
    assert default.evaluation.policy is not MISSING
    assert default.evaluation.episodes == 10
