"""What the peers' own clients do to ask once, for the wires benchmark: as their authors write it, plain pickle included.

Each class connects when made; ``ask`` sends the observation and returns the decoded answer. They unpickle what a server sends, as
the originals do, and therefore talk only to servers that the benchmark has started on this machine.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import socket
import struct
import sys
import time
import types
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from _standins import pack_openpi, unpack_openpi

Observation = dict[str, Any]
"""``state`` float32 (14,) and ``images``, camera -> uint8 (480, 640, 3)."""

HELPERS = "lerobot.async_inference.helpers"


def known_as(name: str, **members: Any) -> None:
    """Make ``members`` importable from a module of this name, as a pickle asks for them."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        module = sys.modules.setdefault(path, types.ModuleType(path))
        if end > 1:
            setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)
    for key, value in members.items():
        if isinstance(value, type):
            value.__module__ = name
        setattr(sys.modules[name], key, value)


# IL-Studio


@dataclass
class MetaObs:
    state: Any = None
    state_ee: Any = None
    state_joint: Any = None
    state_obj: Any = None
    image: Any = None
    depth: Any = None
    pc: Any = None
    raw_lang: Any = ""
    timestep: Any = -1


known_as("benchmark.base", MetaObs=MetaObs)


class IlStudio:
    def __init__(self, port: int, observation: Observation) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        images = np.stack([image.transpose(2, 0, 1) for image in observation["images"].values()])[None]
        self._observation = MetaObs(state=observation["state"][None], image=images, raw_lang=[""])
        self._step = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> Any:
        self._observation.timestep = np.array([[self._step]])
        self._step += 1
        data = pickle.dumps(self._observation)
        self._socket.sendall(struct.pack(">I", len(data)))
        self._socket.sendall(data)
        (size,) = struct.unpack(">I", self._exactly(4))
        answer = pickle.loads(self._exactly(size))
        assert len(answer) == 50 and answer[0][0]["action"].shape == (14,)
        return answer

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            packet = self._socket.recv(size - len(data))
            if not packet:
                raise ConnectionError("the server has gone")
            data += packet
        return data


# ACT


class Act:
    def __init__(self, port: int, observation: Observation) -> None:
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._observation = {"qpos": observation["state"], "images": observation["images"]}

    def close(self) -> None:
        self._socket.close(0)

    def ask(self) -> Any:
        self._socket.send(pickle.dumps(self._observation))
        answer = pickle.loads(self._socket.recv())
        assert answer["joint_positions"].shape == (14,)
        return answer


# vibe-rl


class Vibe:
    """Its example is asynchronous and leaves ``websockets`` as it comes: compression is offered."""

    def __init__(self, port: int, observation: Observation) -> None:
        from websockets.asyncio.client import connect

        self._loop = asyncio.new_event_loop()
        self._observation = {"state": observation["state"], "image": next(iter(observation["images"].values()))}

        async def open_it() -> Any:
            return await connect(f"ws://127.0.0.1:{port}")

        self._connection = self._loop.run_until_complete(open_it())

    def ask(self) -> Any:
        return self._loop.run_until_complete(self._ask())

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    async def _ask(self) -> Any:
        payload: dict[bytes, Any] = {}
        meta: dict[bytes, Any] = {}
        for name, value in self._observation.items():
            array = np.ascontiguousarray(value)
            payload[name.encode()] = array.tobytes()
            meta[name.encode()] = {b"dtype": array.dtype.str, b"shape": list(array.shape)}
        payload[b"__meta__"] = meta
        await self._connection.send(msgpack.packb(payload, use_bin_type=True))
        answer = msgpack.unpackb(await self._connection.recv(), raw=True)
        info = answer[b"__meta__"][b"action"]
        action = np.frombuffer(answer[b"action"], dtype=np.dtype(info[b"dtype"].decode())).reshape(info[b"shape"])
        assert action.shape == (14,)
        return action


# openpi


class OpenPi:
    def __init__(self, port: int, observation: Observation) -> None:
        from websockets.sync.client import connect

        self._connection = connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None)
        unpack_openpi(self._connection.recv())
        self._observation = {"state": observation["state"], "images": observation["images"]}

    def close(self) -> None:
        self._connection.close()

    def ask(self) -> Any:
        self._connection.send(pack_openpi(self._observation))
        answer = unpack_openpi(self._connection.recv())
        assert answer["actions"].shape == (50, 14)
        return answer


# LeRobot


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"


@dataclass
class TimedData:
    timestamp: float
    timestep: int


@dataclass
class TimedAction(TimedData):
    action: Any


@dataclass
class TimedObservation(TimedData):
    observation: dict[str, Any]
    must_go: bool = False


class FloatStorage:
    """Stands for torch's; the rows it holds come out as numpy's."""


def _load_from_bytes(data: bytes) -> Any:
    stream = io.BytesIO(data)
    for _ in range(5):
        _Storages(stream).load()
    stream.read(8)
    return np.frombuffer(stream.read(), np.float32)


class _Storages(pickle.Unpickler):
    def persistent_load(self, name: Any) -> Any:
        return name


def _rebuild_tensor_v2(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    return storage[offset : offset + size[0]]


PIECE_BYTES = 2 * 1024 * 1024


class LeRobot:
    """Observation up, then the actions; torch's pickles are read by stand-ins for its two functions."""

    def __init__(self, port: int, observation: Observation) -> None:
        import grpc

        known_as(HELPERS, **{each.__name__: each for each in (RemotePolicyConfig, TimedAction, TimedObservation)})
        if "torch" not in sys.modules:
            known_as("torch", FloatStorage=FloatStorage)
            known_as("torch.storage", _load_from_bytes=_load_from_bytes)
            known_as("torch._utils", _rebuild_tensor_v2=_rebuild_tensor_v2)
        limits = [("grpc.max_send_message_length", 4 << 20), ("grpc.max_receive_message_length", 4 << 20)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=limits)
        service = "/transport.AsyncInference/"
        self._send = self._channel.stream_unary(f"{service}SendObservations")
        self._get = self._channel.unary_unary(f"{service}GetActions")
        names = [f"joint_{index}.pos" for index in range(14)]
        features: dict[str, Any] = {"observation.state": {"dtype": "float32", "shape": (14,), "names": names}}
        for camera in observation["images"]:
            shape = ["height", "width", "channels"]
            features[f"observation.images.{camera}"] = {"dtype": "image", "shape": (480, 640, 3), "names": shape}
        self._channel.unary_unary(f"{service}Ready")(b"")
        setup = pickle.dumps(RemotePolicyConfig("act", "somewhere", features, 50))
        self._channel.unary_unary(f"{service}SendPolicyInstructions")(_field(1, setup))
        self._observation = dict(zip(names, observation["state"].tolist(), strict=True)) | observation["images"] | {"task": ""}
        self._step = 0

    def close(self) -> None:
        self._channel.close()

    def ask(self) -> Any:
        self._step += 1
        self._send(self._pieces(pickle.dumps(TimedObservation(time.time(), self._step, self._observation, True))))
        data = self._get(b"")
        answer = pickle.loads(memoryview(data)[1 + _varint_bytes(data, 1) :])
        assert len(answer) == 50 and answer[0].action.shape == (14,)
        return answer

    def _pieces(self, payload: bytes) -> Any:
        for start in range(0, len(payload), PIECE_BYTES):
            state = 3 if start + PIECE_BYTES >= len(payload) else 1 if start == 0 else 2
            yield bytes((8, state)) + _field(2, payload[start : start + PIECE_BYTES])


def _field(number: int, data: bytes) -> bytes:
    size, rest = b"", len(data)
    while rest > 127:
        size += bytes((rest & 127 | 128,))
        rest >>= 7
    return bytes((number << 3 | 2,)) + size + bytes((rest,)) + data


def _varint_bytes(data: bytes, at: int) -> int:
    return next(index for index in range(1, 11) if data[at + index - 1] < 128)


CLIENTS = {"openpi": OpenPi, "lerobot": LeRobot, "vibe": Vibe, "ilstudio": IlStudio, "act": Act}
