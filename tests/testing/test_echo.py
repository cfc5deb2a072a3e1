"""The echoing listener: every frame comes back, over every transport that has frames both ways, and it ends when told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actlink import loading
from actlink.address import parse
from actlink.dialects._base import Frame
from actlink.errors import ConfigError
from actlink.testing.echo import echoing, main

HUNG_S = 20.0


def exchange(url: str, data: bytes) -> bytes:
    """What comes back to a client of the transport."""
    address = parse(url)
    transport = loading.load("transports", address.transport)
    link = transport.connect(address, transport.Config(), timeout_s=HUNG_S)
    try:
        link.send([Frame((data,))], HUNG_S)
        return bytes(link.receive(HUNG_S).data)
    finally:
        link.close()


@pytest.mark.parametrize("wire", ["native+tcp", "native+ws", "act+zmq"])
def test_every_frame_comes_back(wire: str) -> None:
    async def ask() -> bytes:
        async with echoing(f"{wire}://127.0.0.1:0") as listener:
            return await asyncio.to_thread(exchange, f"{wire}://{listener.bound}", bytes(range(256)) * 300)

    assert asyncio.run(ask()) == bytes(range(256)) * 300


@pytest.mark.parametrize("url", ["native+tcp://127.0.0.1:0?speed=3", "native+pigeon://127.0.0.1:0"])
def test_a_wrong_address_is_refused(url: str) -> None:
    async def enter() -> None:
        async with echoing(url):
            raise AssertionError("it was taken")

    with pytest.raises(ConfigError):
        asyncio.run(enter())


def test_the_command_says_how_it_is_used() -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m actlink\.testing\.echo"):
        main([])


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actlink.testing.echo", f"native+unix://{tmp_path}/socket"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"{tmp_path}/socket"
            assert exchange(f"native+unix://{tmp_path}/socket", b"hello") == b"hello"
            process.send_signal(signal.SIGTERM)
            assert process.wait(HUNG_S) == 0
            assert not (tmp_path / "socket").exists()
        finally:
            process.kill()
