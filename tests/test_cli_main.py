"""The command itself: overview, exit codes, one clear line for every error, and help that teaches."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest

import actlink as package
from actlink import cli
from actlink.commands import _options
from actlink.errors import ActlinkError, ConfigError, LinkError, ServerAwayError, StoppedError
from cli_world import actlink


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink(*arguments) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE)


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink() == 2
    assert "usage: actlink COMMAND" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("--version") == 0
    assert capsys.readouterr().out == f"actlink {package.__version__}\n"


def test_an_unknown_command_suggests_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("severe") == 2
    err = capsys.readouterr().err
    assert err.startswith("actlink: no command 'severe'; did you mean 'serve'? (there are: serve, eval")
    assert actlink("zzz") == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it does, at least two examples, and a text for every option with its default."""
    assert actlink(name, "--help") == 0
    out = capsys.readouterr().out
    examples = re.findall(rf"^  actlink {name}\b.*$", out, re.MULTILINE)
    assert len(examples) >= 2, out
    assert out.index("usage: actlink") < out.index("Examples:") < out.index("options")
    for option in re.findall(r"^\W+--([a-z-]+)", out, re.MULTILINE):
        following = out[out.index(f"--{option}") :]
        assert re.search(r"\((default|required|repeatable)", following), f"--{option} states no default"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_examples_parse(name: str) -> None:
    module = importlib.import_module(f"actlink.commands.{cli.COMMANDS[name].module}")
    lines = [line for line in module.EXAMPLES.splitlines() if line.strip()]
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["actlink", name]
        assert isinstance(_options.parse(module, f"actlink {name}", words[2:]), module.Options)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_an_unknown_option_is_an_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "ping": ["a:1"],
        "serve": ["p"],
        "bench": ["a:1"],
        "check": ["p"],
        "eval": ["--policy", "p", "--env", "e"],
        "report": ["d"],
        "export": ["p", "o"],
    }
    assert actlink(name, *given.get(name, []), "--no-such-option") == 2
    assert "no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (LinkError("x"), 1),
        (ActlinkError("x"), 1),
        (StoppedError("x"), 1),
        (StoppedError("x", exit_code=130), 130),
        (ServerAwayError("x"), 3),
    ],
)
def test_exit_codes(error: ActlinkError, code: int) -> None:
    assert cli.exit_code(error) == code


def test_an_error_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("ping", "127.0.0.1:1") == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"actlink: .*127\.0\.0\.1:1.*\n", err), err


@pytest.mark.parametrize("arguments", [["-vv", "ping", "nonsense"], ["ping", "nonsense", "-vv"], ["ping", "-v", "nonsense", "-v"]])
def test_twice_verbose_shows_the_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink(*arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "actlink: address 'nonsense': expected" in err


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["-vv"], True)])
def test_an_unexpected_error_is_said_to_be_one(
    flags: list[str], shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("actlink.commands.listing.run", broken)
    assert actlink("list", *flags) == 1
    err = capsys.readouterr().err
    assert "actlink: ZeroDivisionError: division by zero (unexpected; -vv shows where it came from)" in err
    assert ("Traceback" in err) == shown


def test_once_verbose_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("-v", "ping", "nonsense") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "actlink", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"actlink {package.__version__}\n"


def test_the_overview_loads_neither_tyro_nor_numpy() -> None:
    """So that `actlink --help` answers at once."""
    program = "import sys; from actlink.cli import overview; overview(); print(*(n for n in ('tyro', 'rich') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["ping", "check", "report"])
def test_commands_of_the_light_half_need_no_packages_of_the_server(name: str) -> None:
    """`actlink ping` works after a bare install: tyro and rich are there, everything else is not."""
    program = f"import sys, importlib; importlib.import_module('actlink.commands.{name}'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {
        "psutil",
        "picows",
        "onnxruntime",
        "PIL",
        "simplejpeg",
        "mujoco",
        "gymnasium",
        "torch",
        "imageio",
        "matplotlib",
    }
    assert "actlink.serving.server" not in loaded


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("actlink.commands.listing.run", interrupted)
    assert actlink("list") == 130
    assert capsys.readouterr().err == "actlink: interrupted\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m actlink list | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("bundled policies")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["list", "transports"], ["ping", "--help"]], ids=" ".join)
def test_a_reader_that_is_gone_before_a_word_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"
    }  # what is short stays in the buffer
    command = [sys.executable, "-m", "actlink", *words]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environment)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
