"""What the tests of hostile peers share: a server in a process of its own, good requests, bad bytes, counting."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from actlink import connect
from actlink.address import Address, parse
from actlink.codecs import safe_pickle
from actlink.dialects import native
from actlink.dialects._base import Frame, Hello
from actlink.transports import _ws_frames as ws
from actlink.transports import _zmtp

HUNG_S = 20.0
MIB = 1024 * 1024
SERVER = Path(__file__).parent / "hardened_server.py"
PORTS = {
    "tcp": "native+tcp://127.0.0.1:0",
    "ws": "native+ws://127.0.0.1:0",
    "zmq": "act+zmq://127.0.0.1:0",
    "grpc": "lerobot+grpc://127.0.0.1:0",
}


class Child:
    """A server process as its operator sees it."""

    def __init__(self, process: subprocess.Popen[str], log: Path, addresses: Sequence[Address]) -> None:
        self.process = process
        self.addresses = {address.scheme: address for address in addresses}
        self._log = log
        self._proc = Path(f"/proc/{process.pid}")

    def known(self) -> dict[str, int]:
        """What the server says of its peers."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told: dict[str, int] = json.loads(line_of(self.process))
        return told

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes, as /proc/PID/status has them."""
        for line in (self._proc / "status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {what}")

    def descriptors(self) -> int:
        return len(os.listdir(self._proc / "fd"))

    def threads(self) -> int:
        return len(os.listdir(self._proc / "task"))

    def log(self) -> str:
        return self._log.read_text()

    def serves(self, ports: Sequence[str] = tuple(PORTS)) -> float:
        """A new client of each port gets its answer; the seconds that all of them took."""
        begun_s = time.monotonic()
        for port in ports:
            GOOD[port](self.addresses[port])
        assert self.process.poll() is None
        return time.monotonic() - begun_s

    def settled(self, limits: Callable[[], bool]) -> float:
        """Wait until ``limits`` holds; the seconds it took. Hung if it never does."""
        begun_s = time.monotonic()
        while not limits():
            assert time.monotonic() - begun_s < HUNG_S, (self.descriptors(), self.threads(), self.known())
            select.select([], [], [], 0.05)
        return time.monotonic() - begun_s


def line_of(process: subprocess.Popen[str]) -> str:
    """What the server says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the server has ended: {process.poll()}"
    return line


@contextlib.contextmanager
def child(place: Path, options: str = "", ports: Sequence[str] = tuple(PORTS)) -> Iterator[Child]:
    """A server with one address for each of ``ports``; ``options`` are those of all of them."""
    log = place / "server.log"
    command = [sys.executable, str(SERVER), *(PORTS[port] + options for port in ports)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            made = Child(process, log, [parse(address) for address in json.loads(line_of(process))])
            made.serves(ports)
            yield made
            assert process.poll() is None
            assert "Traceback" not in log.read_text()
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(HUNG_S) == 0, log.read_text()[-2000:]
        finally:
            process.kill()


# What a good client does


def _ask_native(address: Address) -> None:
    with connect(str(address)) as policy:
        state = np.arange(4, dtype=np.float32)
        assert np.array_equal(policy.infer_one({"state": state}).actions, np.tile(state, (8, 1)))


def _ask_zmq(address: Address) -> None:
    from actlink.transports import zmq

    link = zmq.connect(address, zmq.Config(), timeout_s=HUNG_S)
    link.send([Frame(tuple(safe_pickle.encode("RESET")))], HUNG_S)
    assert isinstance(safe_pickle.decode(link.receive(HUNG_S).data), dict)
    link.close()


def _ask_grpc(address: Address) -> None:
    import grpc

    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200))
    with grpc.insecure_channel(f"{address.host}:{address.port}", options=options) as channel:
        assert channel.unary_unary("/transport.AsyncInference/Ready")(b"", timeout=HUNG_S, wait_for_ready=True) == b""


GOOD: dict[str, Callable[[Address], None]] = {"tcp": _ask_native, "ws": _ask_native, "zmq": _ask_zmq, "grpc": _ask_grpc}


# Bytes


def tls_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def upgrade(address: Address) -> bytes:
    """The request that opens a WebSocket."""
    lines = ("GET / HTTP/1.1", f"Host: 127.0.0.1:{address.port}", "Upgrade: websocket", "Connection: Upgrade")
    key = ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13", "", "")
    return "\r\n".join((*lines, *key)).encode()


def ws_frame(data: bytes, opcode: int = ws.BINARY) -> bytes:
    return ws.control(opcode, data, masked=True)


def prefixed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def native_hello() -> bytes:
    """The first message of a native client."""
    (frame,) = native.Client(native.Config()).send(Hello(call=1))
    return b"".join(bytes(part) for part in frame.parts)


def opening(port: str, address: Address) -> bytes:
    """Everything that a good client says until it is welcome."""
    return {
        "tcp": prefixed(native_hello()),
        "ws": upgrade(address) + ws_frame(native_hello()),
        "zmq": _zmtp.greeting(server=False) + _zmtp.ready(b"REQ"),
        "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    }[port]


# Sockets


@contextlib.contextmanager
def peers(address: Address, count: int, receive_bytes: int = 0) -> Iterator[list[socket.socket]]:
    """So many bare connections."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.settimeout(HUNG_S)
            sock.connect((address.host, address.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.append(sock)
        yield made


def read_to_the_end(sock: socket.socket) -> bytes:
    """What the server says until it closes; a hung one fails by the socket's timeout."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            received += piece
    return received


def has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed; what it says before that is read and forgotten."""
    try:
        while select.select([sock], [], [], 0)[0]:
            if not sock.recv(65536):
                return True
    except ConnectionError:
        return True
    return False
