"""Servers to compare with, for the wires benchmark: stand-ins of the originals, and the floor.

A stand-in has its original's libraries, concurrency and codec, and as little else as can be: no model, no torch, no preparation of
images. So it is at least as fast as the original. A floor does what the transport asks for (it reads a request to its end and takes
off WebSocket's mask), decodes nothing and answers with bytes made before: what is left is the client and the transport. Both run on
this machine alone and only for the benchmark.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import pickle
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import msgpack
import numpy as np
from _raw import announce, read_exactly

HORIZON, ACTIONS = 50, 14
CHUNK = np.ones((HORIZON, ACTIONS), np.float32)
BUFFER_BYTES = 8 << 20


# openpi: asyncio websockets, msgpack-numpy, inference on the loop


def pack_openpi(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_pack_array)
    return packed


def unpack_openpi(data: Any) -> Any:
    return msgpack.unpackb(data, object_hook=_unpack_array)


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def _unpack_array(value: Any) -> Any:
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    if b"__npgeneric__" in value:
        return np.dtype(value[b"dtype"]).type(value[b"data"])
    return value


def openpi() -> None:
    from websockets.asyncio.server import serve

    async def handle(connection: Any) -> None:
        await connection.send(pack_openpi({}))
        previous_s = None
        while True:
            began_s = time.monotonic()
            unpack_openpi(await connection.recv())
            infer_s = time.monotonic()
            answer: dict[str, Any] = {"actions": CHUNK}
            answer["server_timing"] = {"infer_ms": 1e3 * (time.monotonic() - infer_s)}
            if previous_s is not None:
                answer["server_timing"]["prev_total_ms"] = 1e3 * previous_s
            await connection.send(pack_openpi(answer))
            previous_s = time.monotonic() - began_s

    _serve_websockets(lambda: serve(handle, "127.0.0.1", 0, compression=None, max_size=None))


# vibe-rl: the same with __meta__, and websockets as it comes


def vibe_reply() -> bytes:
    meta = {b"action": {b"dtype": "<f4", b"shape": [ACTIONS]}, b"latency_ms": 0.1}
    packed: bytes = msgpack.packb({b"action": CHUNK[0].tobytes(), b"__meta__": meta}, use_bin_type=True)
    return packed


def vibe() -> None:
    from websockets.asyncio.server import serve

    async def handle(connection: Any) -> None:
        async for message in connection:
            found = msgpack.unpackb(message, raw=True)
            meta = found.pop(b"__meta__")
            for key, data in found.items():
                np.frombuffer(data, np.dtype(meta[key][b"dtype"].decode())).reshape(meta[key][b"shape"])
            await connection.send(vibe_reply())

    _serve_websockets(lambda: serve(handle, "127.0.0.1", 0))


def _serve_websockets(make: Callable[[], Any]) -> None:
    async def run() -> None:
        async with make() as server:
            announce(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    asyncio.run(run())


# IL-Studio: a thread per client, pickle; one write, for the original's two wait 40 ms for an acknowledgement each time


def ilstudio_reply() -> bytes:
    steps = []
    for row in CHUNK:
        step = np.empty(1, object)
        step[0] = {"ctrl_space": "joint", "ctrl_type": "abs", "action": row, "gripper_continuous": False}
        steps.append(step)
    return pickle.dumps(steps)


def ilstudio() -> None:
    import _stock_clients  # noqa: F401 - the classes that the pickles name

    def handle(sock: socket.socket) -> None:
        while True:
            (size,) = struct.unpack(">I", _received(sock, 4))
            pickle.loads(_received(sock, size))
            reply = ilstudio_reply()
            sock.sendall(struct.pack(">I", len(reply)) + reply)

    listening = socket.create_server(("127.0.0.1", 0))
    announce(listening.getsockname()[1])
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=handle, args=(sock,), daemon=True).start()


def _received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        packet = sock.recv(size - len(data))
        if not packet:
            raise SystemExit
        data += packet
    return data


# ACT: a ZeroMQ reply socket, pickle, temporal aggregation over a table of all steps


def act() -> None:
    import zmq

    sock = zmq.Context.instance().socket(zmq.REP)
    announce(sock.bind_to_random_port("tcp://127.0.0.1"))
    steps = 1000
    table = np.zeros((steps, steps + HORIZON, ACTIONS), np.float32)
    step = 0
    while True:
        pickle.loads(sock.recv())
        table[step, step : step + HORIZON] = CHUNK
        column = table[:, step]
        rows = column[np.all(column != 0, axis=1)]
        weights = np.exp(-0.01 * np.arange(len(rows)))
        action = (rows * (weights / weights.sum())[:, None]).sum(axis=0)
        sock.send(act_reply(action))
        step = (step + 1) % steps


def act_reply(action: Any) -> bytes:
    return pickle.dumps({"joint_positions": action, "status": "OK"})


# LeRobot: gRPC with four threads, pickle, a queue of one observation


def lerobot_reply(timestep: int, timestamp: float) -> bytes:
    from _stock_clients import TimedAction, _field

    return _field(1, pickle.dumps([TimedAction(timestamp + i / 30, timestep + i, row) for i, row in enumerate(CHUNK)]))


def lerobot() -> None:
    waiting: queue.Queue[Any] = queue.Queue(1)

    def upload(messages: Any, context: Any) -> bytes:
        gathered = BytesIO()
        for message in messages:
            at = 3
            while message[at] > 127:
                at += 1
            gathered.write(memoryview(message)[at + 1 :])
        waiting.put(pickle.loads(gathered.getvalue()))
        return b""

    def actions(_: bytes, context: Any) -> bytes:
        observation = waiting.get(timeout=2)
        np.array([value for value in observation.observation.values() if isinstance(value, float)], np.float32)
        return lerobot_reply(observation.timestep, observation.timestamp)

    _serve_grpc(upload, actions)


def lerobot_floor() -> None:
    reply = b""

    def upload(messages: Any, context: Any) -> bytes:
        for _ in messages:
            pass
        return b""

    def actions(_: bytes, context: Any) -> bytes:
        return reply

    import _stock_clients

    _stock_clients.known_as(_stock_clients.HELPERS, TimedAction=_stock_clients.TimedAction)
    reply = lerobot_reply(1, 0.0)
    _serve_grpc(upload, actions)


def _serve_grpc(upload: Callable[[Any, Any], bytes], actions: Callable[[bytes, Any], bytes]) -> None:
    import _stock_clients as stock
    import grpc

    stock.known_as(stock.HELPERS, **{each.__name__: each for each in (stock.TimedAction, stock.TimedObservation)})
    nothing = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    handlers = {
        "Ready": nothing,
        "SendPolicyInstructions": nothing,
        "SendObservations": grpc.stream_unary_rpc_method_handler(upload),
        "GetActions": grpc.unary_unary_rpc_method_handler(actions),
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("transport.AsyncInference", handlers),))
    announce(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


# Floors


def ilstudio_floor() -> None:
    import _stock_clients  # noqa: F401

    reply = ilstudio_reply()
    _serve_blocking(_ilstudio_once(struct.pack(">I", len(reply)) + reply))


def _ilstudio_once(reply: bytes) -> Callable[[socket.socket, memoryview], None]:
    def serve(sock: socket.socket, buffer: memoryview) -> None:
        while read_exactly(sock, buffer[:4]):
            if not read_exactly(sock, buffer[: struct.unpack(">I", buffer[:4])[0]]):
                return
            sock.sendall(reply)

    return serve


def act_floor() -> None:
    import zmq

    sock = zmq.Context.instance().socket(zmq.REP)
    announce(sock.bind_to_random_port("tcp://127.0.0.1"))
    reply = act_reply(CHUNK[0].astype(np.float64))
    while True:
        sock.recv(copy=False)
        sock.send(reply)


def openpi_floor() -> None:
    timing = {"infer_ms": 0.1, "prev_total_ms": 0.1}
    _serve_blocking(_websocket_once(pack_openpi({}), pack_openpi({"actions": CHUNK, "server_timing": timing})))


def vibe_floor() -> None:
    _serve_blocking(_websocket_once(b"", vibe_reply()))


def _serve_blocking(serve: Callable[[socket.socket, memoryview], None]) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    announce(listening.getsockname()[1])
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while True:
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve(sock, buffer)
        sock.close()


def _websocket_once(greeting: bytes, reply: bytes) -> Callable[[socket.socket, memoryview], None]:
    """Binary messages answered as they end; unmasked, which is the transport's part, and not looked at. Nothing is compressed."""

    def serve(sock: socket.socket, buffer: memoryview) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(4096)
        key = next(line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        sock.sendall(upgrade + accept + b"\r\n\r\n" + (_message(greeting) if greeting else b""))
        answer = _message(reply)
        while _one_message(sock, buffer):
            sock.sendall(answer)

    return serve


def _one_message(sock: socket.socket, buffer: memoryview) -> bool:
    """Read to the end of a message; False once the peer has gone or closes. Pings are left unanswered: none comes in this time."""
    while read_exactly(sock, buffer[:2]):
        first, second = buffer[0], buffer[1]
        size = second & 127
        if size >= 126:
            wide = 2 if size == 126 else 8
            if not read_exactly(sock, buffer[:wide]):
                return False
            size = int.from_bytes(buffer[:wide], "big")
        if first & 15 == 8 or not read_exactly(sock, buffer[: 4 + size]):
            return False
        words = np.frombuffer(buffer, np.uint32, -(-size // 4), 4)
        np.bitwise_xor(words, np.frombuffer(buffer, np.uint32, 1), out=words)
        if first & 128 and first & 15 in (0, 2):
            return True
    return False


def _message(data: bytes) -> bytes:
    head = bytes((0x82, len(data))) if len(data) < 126 else b"\x82\x7e" + struct.pack(">H", len(data))
    return head + data


STANDINS = {"openpi": openpi, "lerobot": lerobot, "vibe": vibe, "ilstudio": ilstudio, "act": act}
FLOORS = {
    "openpi": openpi_floor,
    "lerobot": lerobot_floor,
    "vibe": vibe_floor,
    "ilstudio": ilstudio_floor,
    "act": act_floor,
}
