"""The client that vibe-rl's serving document prints, as it is printed there; ``URL`` stands for the address."""

import asyncio
import sys

import msgpack
import numpy as np
import websockets


def encode_observation(obs: dict[str, np.ndarray]) -> bytes:
    meta = {}
    payload = {}
    for key, arr in obs.items():
        arr = np.ascontiguousarray(arr)
        bkey = key.encode()
        payload[bkey] = arr.tobytes()
        meta[bkey] = {b"dtype": arr.dtype.str, b"shape": list(arr.shape)}
    payload[b"__meta__"] = meta
    return msgpack.packb(payload, use_bin_type=True)


def decode_action(data: bytes) -> tuple[np.ndarray, dict]:
    resp = msgpack.unpackb(data, raw=True)
    meta = resp[b"__meta__"]
    action_meta = meta[b"action"]
    dtype = action_meta[b"dtype"].decode()
    shape = tuple(action_meta[b"shape"])
    action = np.frombuffer(resp[b"action"], dtype=dtype).reshape(shape)
    latency_ms = meta.get(b"latency_ms", 0.0)
    return action, {"latency_ms": latency_ms}


async def infer_loop(url: str, obs: dict[str, np.ndarray]):
    async with websockets.connect(url) as ws:
        await ws.send(encode_observation(obs))
        resp = await ws.recv()
        action, meta = decode_action(resp)
        print(f"action={action}, latency={meta['latency_ms']:.2f}ms")


URL = sys.argv[1]
asyncio.run(infer_loop(URL, {"obs": np.zeros(4, dtype=np.float32)}))
