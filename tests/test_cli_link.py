"""``actlink link``: what it prints is an address to use, its options mean what they say, and wrong ones are one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from actlink.client import connect
from actlink.link import tunnel
from actlink.policies._open import open_policy
from actlink.serving.server import Server, ServerConfig
from actlink.types import Runtime
from cli_world import actlink, running

ECHO = "scripted:echo?state=4&action=4&horizon=8"


def test_the_printed_address_leads_to_the_server_and_the_log_tells_of_it(tmp_path: Path) -> None:
    log, options = tmp_path / "events.jsonl", tmp_path / "link.yaml"
    options.write_text("delay_ms: 20\nfaults:\n- blackhole from 100 s for 2 s\n")
    with Server({"echo": open_policy(ECHO, Runtime(), {})}, ["ws://127.0.0.1:0"], ServerConfig()) as server:
        to = str(server.addresses[0])
        with running(tmp_path, "link", to, "--config", str(options), "--log", str(log)) as process:
            address = process.wait_for(r"^(\S+) leads to (\S+)$")
            assert address[1].startswith("native+ws://127.0.0.1:") and address[1] != address[2] == to
            with connect(address[1]) as remote:
                assert remote.infer_one({"state": np.zeros(4, np.float32)}).timing["round_trip_ms"] >= 40.0
            assert process.end() == 0, process.err()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["what"] == "open"
    pieces = [event for event in events if event["what"] == "piece"]
    assert {event["direction"] for event in pieces} == {"up", "down"}
    assert all(event["arrival_s"] - event["at_s"] >= 0.0199 for event in pieces)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to be had")
def test_a_full_disk_costs_the_log_and_not_the_link(tmp_path: Path) -> None:
    with (
        Server({"echo": open_policy(ECHO, Runtime(), {})}, ["ws://127.0.0.1:0"], ServerConfig()) as server,
        running(tmp_path, "link", str(server.addresses[0]), "--log", "/dev/full") as process,
    ):
        address = process.wait_for(r"^(\S+) leads to (\S+)$")
        with connect(address[1]) as remote:
            for step in range(3):
                remote.infer_one({"state": np.zeros(4, np.float32)}, step=step)
        assert process.end() == 0, process.err()
        assert process.err().count("the link goes on without it") == 1, process.err()


@pytest.mark.skipif(bool(tunnel.missing()), reason=f"no tunnel of packets here: {tunnel.missing()}")
def test_a_tunnel_says_how_to_use_it(tmp_path: Path) -> None:
    name = f"cli{os.getpid()}"
    with running(tmp_path, "link", "--tun", "--name", name, "--network", "10.77.4.12", "--loss", "0.1") as process:
        found = process.wait_for(rf"^10\.77\.4\.13 is in {name}-near: ip netns exec {name}-near COMMAND$")
        assert "10.77.4.14 is in " in process.out() and found
        assert process.end() == 0, process.err()
    assert not Path(f"/run/netns/{name}-near").exists()


WRONG = {
    "neither": ([], "--tun: one of them"),
    "both": (["--tun", "127.0.0.1:1"], "--tun: one of them"),
    "fault": (["127.0.0.1:1", "--faults", "rain at 3 s"], "none of blackhole"),
    "share": (["127.0.0.1:1", "--loss", "20"], "from 0 to 1"),
    "stream": (["127.0.0.1:1", "--reorder", "0.1"], "--tun"),
    "port": (["act+zmq://127.0.0.1:1", "--listen", "ws://127.0.0.1"], "expected host:port"),
    "log": (["127.0.0.1:1", "--log", "/nowhere/log"], "/nowhere/log"),
    "log of a tunnel": (["--tun", "--log", "x"], "tcpdump"),
}


@pytest.mark.parametrize(("arguments", "why"), WRONG.values(), ids=WRONG.keys())
def test_wrong_options_are_one_line(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("link", *arguments) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1
