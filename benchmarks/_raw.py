"""What the round-trip benchmark compares with: bare blocking sockets, and the server most projects would write.

Both are as fast as they can honestly be. The bare socket moves the same bytes into memory it already has and looks at none of
them. The usual server is the common shape of policy servers over WebSocket (openpi's, among others): asyncio `websockets` without
compression or size limit, msgpack with every array copied to bytes, inference on the event loop, a blocking `websockets` client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_PREFIX = struct.Struct(">I")


# The bare socket


def read_exactly(sock: socket.socket, buffer: memoryview) -> bool:
    """Fill ``buffer``; False when the peer has gone."""
    got = 0
    while got < len(buffer):
        count = sock.recv_into(buffer[got:])
        if count == 0:
            return False
        got += count
    return True


def serve_raw() -> None:
    """One client after the other: first the length of the replies it wants, then length-prefixed frames, each answered."""
    listening = socket.create_server(("127.0.0.1", 0))
    announce(listening.getsockname()[1])
    prefix, buffer = memoryview(bytearray(4)), memoryview(bytearray(1))
    while True:
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not read_exactly(sock, prefix):
            continue
        reply = bytes(prefix) + bytes(_PREFIX.unpack(prefix)[0])
        while read_exactly(sock, prefix):
            (size,) = _PREFIX.unpack(prefix)
            if size > len(buffer):
                buffer = memoryview(bytearray(size))
            if not read_exactly(sock, buffer[:size]):
                break
            sock.sendall(reply)
        sock.close()


class RawClient:
    """Sends ``size`` bytes, waits for ``reply_bytes``; ``reno``: with that congestion control instead of the system's own."""

    def __init__(self, port: int, size: int, reply_bytes: int, *, reno: bool = False) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if reno and hasattr(socket, "TCP_CONGESTION"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        self._socket.sendall(_PREFIX.pack(reply_bytes))
        rng = np.random.default_rng(0)
        self._frame = memoryview(_PREFIX.pack(size) + rng.integers(0, 256, size, np.uint8).tobytes())
        self._reply = memoryview(bytearray(4 + reply_bytes))

    def round_trip(self) -> None:
        self._socket.sendall(self._frame)
        if not read_exactly(self._socket, self._reply):
            raise ConnectionError("the raw server has gone")

    def close(self) -> None:
        self._socket.close()


# The usual server


def pack(value: Any) -> bytes:
    """msgpack with arrays as maps of dtype, shape and a copy of their bytes."""
    packed: bytes = msgpack.packb(value, default=_pack_array)
    return packed


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, object_hook=_unpack_array)


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot pack a {type(value).__name__}")


def _unpack_array(value: dict[str, Any]) -> Any:
    if "__ndarray__" in value:
        return np.ndarray(buffer=value["data"], dtype=np.dtype(value["dtype"]), shape=value["shape"])
    return value


def serve_usual(infer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """The usual server; ``infer`` runs on its event loop."""
    from websockets.asyncio.server import ServerConnection, serve

    async def handle(connection: ServerConnection) -> None:
        await connection.send(pack({"name": "usual"}))
        async for message in connection:
            await connection.send(pack(dict(infer(unpack(message)))))  # type: ignore[arg-type]

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            announce(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    asyncio.run(run())


class UsualClient:
    """The client that comes with the usual server."""

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect

        self._open = contextlib.ExitStack()
        self._connection = self._open.enter_context(connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None))
        unpack(self._connection.recv())  # type: ignore[arg-type]

    def infer(self, observation: Mapping[str, Any]) -> Any:
        self._connection.send(pack(observation))
        return unpack(self._connection.recv())  # type: ignore[arg-type]

    def close(self) -> None:
        self._open.close()


def announce(where: object) -> None:
    """Tell the process that started this one where to connect."""
    sys.stdout.write(f"{where}\n")
    sys.stdout.flush()
