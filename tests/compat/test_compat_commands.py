"""Every command, option, default, import path, printed line and output file of ``docs/mission.md``, walked from that list."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest

from actlink import cli
from actlink.commands import _options
from documented import (
    COMPAT,
    LATER,
    LIST,
    NOTHING,
    ROWS,
    START_S,
    SUBSTITUTIONS,
    Row,
    World,
    as_printed,
    card,
    checkpoints,
    config,
    evaluate,
    substituted,
    tables,
)
from documented import quoted as words_of

pytestmark = pytest.mark.timeout(900)  # a row may be several evaluations

NEEDS = {"lerobot": "grpc", "start_policy_server": "onnxruntime", "inference_server": "onnxruntime"}
SERVERS = [row for row in ROWS.values() if row.here.startswith("serves")]
ALONE = [row for row in ROWS.values() if row.here.startswith("evaluates alone")]
PARTS = [row for row in ROWS.values() if row.here.startswith("part of")]
KINDS = r"serves: |asks \w+[:,] |evaluates over \w+, |evaluates alone, |stops \w+: |part of |tool$|tool; |robot loop$|sweep$"
OPTIONS = "| program | option | default | the actlink way |"
IMPORTS = "| import | with | the actlink way |"

PARSED = """
import argparse, json, runpy, sys

def told(parser, *_):
    print(json.dumps({word: "required" if each.required else str(each.default) for each in parser._actions
                      for word in each.option_strings}))
    sys.exit(0)

argparse.ArgumentParser.parse_known_args = told
program = sys.argv[1]
runpy.run_path(program, run_name="__main__") if program.endswith(".py") else runpy.run_module(program, run_name="__main__")
"""
"""Prints a program's options and their defaults."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("documented") / "compat"
    shutil.copytree(COMPAT, place, ignore=shutil.ignore_patterns("__pycache__", "results", "outputs", "*.log"))
    model = place / "outputs" / "train" / "smolvla_so101_test2"
    model.mkdir(parents=True)
    for name in ("policy.json", "model.onnx"):
        shutil.copy(place / "ckpt" / name, model)
    checkpoints(place)
    return World(place)


def skip_without(row: Row) -> None:
    """What is optional may be missing; then the row says that it did not run."""
    for word, module in NEEDS.items():
        if word in row.command:
            pytest.importorskip(module, reason=f"{module} is not installed: {row.name} is NOT RUN")


def name(row: Row) -> str:
    return row.name


@pytest.mark.parametrize("row", SERVERS, ids=name)
def test_a_server_and_those_who_ask_it(row: Row, world: World) -> None:
    skip_without(row)
    partners = [each for each in ROWS.values() if each.partner == row.name and LATER not in each.here]
    stopped = [each for each in partners if each.here.startswith("stops")]
    with world.serving(row) as server:
        for each in [*(each for each in partners if each not in stopped), *stopped]:
            with config(world, each):
                if each.here.startswith("evaluates"):
                    for module in ("gym_aloha", "imageio_ffmpeg"):
                        pytest.importorskip(module, reason=f"{module} is not installed: {each.name} is NOT RUN")
                    evaluate(world, each, server, whole=False)
                    continue
            if each.ours.startswith("actlink ping") and each.documented != NOTHING:
                done = world.run(substituted(each.ours), server)
                assert done.returncode == 0, f"{each.name}: {done.stdout}\n{done.stderr}\n{server.log}"
            if each.command.startswith("curl") and not shutil.which("curl"):
                continue
            done = world.run(substituted(each.command), server)
            assert done.returncode == 0, f"{each.name}: {done.stdout}\n{done.stderr}\n{server.log}"
            if each in stopped:
                server.process.wait(START_S)
                assert each.told[0] in server.log, server.log
            elif "whose log" in each.here:
                server.wait_for(each.told[0])
            else:
                assert each.told[0] in done.stdout, f"{each.name}: {done.stdout}\n{done.stderr}"
            if f"prints={each.name}" in LIST.read_text(encoding="utf-8"):
                assert as_printed(each.name, done.stdout), done.stdout


@pytest.mark.parametrize("row", ALONE, ids=name)
def test_an_evaluation_without_a_server(row: Row, world: World) -> None:
    for module in ("onnxruntime", "gym_aloha", "imageio_ffmpeg"):
        pytest.importorskip(module, reason=f"{module} is not installed: {row.name} is NOT RUN")
    evaluate(world, row, None, whole=False)


def test_the_log_of_a_server_is_the_documented_one(world: World) -> None:
    skip_without(ROWS["A8"])
    with world.serving(ROWS["A8"]) as server:
        done = world.run("python policy_client_example.py --port 5000 --num_requests 25 --delay 0", server)
        assert done.returncode == 0, done.stderr
        server.wait_for("connection closed")
    assert as_printed("A8", server.printed), server.printed


def parsed(world: World, program: str) -> dict[str, str]:
    done = world.run(f"python -c {shlex.quote(PARSED)} {program}")
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def documented_options() -> dict[str, dict[str, str]]:
    """Program -> option -> default, as written."""
    found: dict[str, dict[str, str]] = {}
    program = ""
    for first, option, default, _ in tables(OPTIONS):
        program = words_of(first)[0] if first else program
        found.setdefault(program, {}).update(dict.fromkeys(words_of(option), default))
    return found


@pytest.mark.parametrize("program", documented_options())
def test_options_and_defaults(program: str, world: World) -> None:
    if "lerobot" in program:
        pytest.importorskip("grpc")
    found = parsed(world, program)
    for option, default in documented_options()[program].items():
        assert option in found, f"{program} has no {option}; it has {', '.join(found)}"
        wanted = (words_of(default) or [default])[0]
        if "where there is none" in default:
            assert found[option] == "None", option  # decided when the model is loaded; see the warning in its own test
        else:
            assert found[option] == wanted.replace("''", "") or float(found[option]) == float(wanted), f"{program} {option}"
    called = program if program.endswith(".py") else f"-m {program}"
    done = world.run(f"python {called} --help")
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
    assert all(option in done.stdout for option in documented_options()[program])


@pytest.mark.parametrize("row", PARTS, ids=name)
def test_parts_of_commands(row: Row, world: World) -> None:
    found = parsed(world, row.told[0])
    assert {word for word in row.command.split() if word.startswith("--")} <= set(found)


@pytest.mark.parametrize("line", [cell[:2] for cell in tables(IMPORTS)], ids=lambda line: line[0].split()[1])
def test_import_paths(line: list[str], world: World) -> None:
    code = "\n".join([*words_of(line[0]), *(f"assert {each}, {each!r}" for each in words_of(line[1]))])
    done = world.run(f"python -c {shlex.quote(code)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["test_zmq_client.py", "scripts/start_policy_server.sh", "scripts/example_eval_remote.sh"])
def test_help_of_the_others(program: str, world: World) -> None:
    done = world.run(f"./{program} --help" if program.endswith(".sh") else f"python {program} --help")
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("python start_policy_server.py --model_name_or_path ckpt/nothing", "ckpt/nothing"),
        ("./scripts/start_policy_server.sh --model_path ckpt/nothing", "ckpt/nothing"),
        ("python eval_remote.py --model_name_or_path ckpt/nothing --num_rollout 1", "ckpt/nothing"),
        ("python eval_remote.py --model_name_or_path localhost:5003", "ConnectionRefusedError: [Errno 111] Connection refused"),
        ("python eval_remote.py --model_name_or_path localhost:99999", "expected host:port, got 'localhost:99999'"),
        ("python eval_remote.py --env kitchen", "no environment 'kitchen'; there are: aloha, real_world, simulation"),
        ("python scripts/serve_policy.py cartpole_ppo --checkpoint_dir runs/nothing", "runs/nothing: no such directory"),
        ("python scripts/serve_policy.py cartpole_ppo --checkpoint_dir runs/cartpole", "runs/cartpole"),
        ("mv ckpt ckpt_elsewhere; python inference_server.py", "no policy './ckpt'"),
        ("python policy_client_example.py --port 5003", "ConnectionRefusedError: [Errno 111] Connection refused"),
        ("python test_zmq_client.py --port 5003", "Error"),
        ("python examples/simple_client.py --url ws://localhost:5003", "error: ws://localhost:5003"),
    ],
)
def test_what_is_missing_is_said(command: str, says: str, world: World) -> None:
    try:
        done = world.run(command)
    finally:
        with contextlib.suppress(FileNotFoundError):
            (world.compat / "ckpt_elsewhere").rename(world.compat / "ckpt")
    assert done.returncode in (1, 2), done.stdout
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["A1", "C4", "D1", "E2"])
def test_an_address_that_is_taken(name: str, world: World) -> None:
    skip_without(ROWS[name])
    with world.serving(ROWS[name]):
        done = world.run(substituted(ROWS[name].command))
    assert done.returncode == 1
    assert f"port {ROWS[name].port} is already in use" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_devices(world: World) -> None:
    """One that nobody typed is cuda where there is one, else the cpu with a warning; one that is typed must be there."""
    skip_without(ROWS["A4"])
    if card():
        pytest.skip("there is a card here: the way without one is NOT RUN")
    done = world.run("python start_policy_server.py --device cuda")
    assert done.returncode == 1 and "ConfigError: device 'cuda'" in done.stderr
    with world.serving(ROWS["A4"]) as server:
        assert "⚠ no cuda here" in server.log and "it runs on the cpu" in server.log


def test_a_probe_leaves_one_line(world: World) -> None:
    skip_without(ROWS["A4"])
    with world.serving(ROWS["A4"]) as server:
        server.wait_for("Waiting for connections...")
        before = len(server.log.split("\n"))
        socket.create_connection(("localhost", 5000)).close()
        server.wait_for("Client #1 connected")
    assert len(server.log.split("\n")) == before + 1, server.log


# The list itself.


def test_the_list_is_whole() -> None:
    assert [len([one for one in ROWS if one[0] == letter]) for letter in "ABCDE"] == [12, 28, 8, 14, 11]
    for row in ROWS.values():
        assert re.match(KINDS, row.here), f"{row.name}: {row.here}"
        assert row.partner is None or ROWS[row.partner] in SERVERS, row.name
        assert row.documented != NOTHING or row.command.startswith("actlink"), row.name


def test_every_substitution_is_used() -> None:
    text = "\n".join(row.command for row in ROWS.values())
    assert [old for old, _ in SUBSTITUTIONS if old not in text] == []


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.ours.startswith("actlink ")], ids=name)
def test_the_actlink_way_parses(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(row.ours)[1:]
    if "--config" in words:
        return  # the file would have to be there; docs/evaluation.md has one
    _options.parse(importlib.import_module(f"actlink.commands.{cli.COMMANDS[words[0]].module}"), words[0], words[1:])
