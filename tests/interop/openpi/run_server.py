"""openpi's server as its authors wrote it, on the package's own msgpack_numpy and websockets. Runs in its own environment.

Its policy answers with the state, and with the first pixel of each camera, over and over; the prompt ``fail`` makes it fail.
"""

from __future__ import annotations

import asyncio
import http
import time
import traceback
from typing import Any

import numpy as np
import websockets.asyncio.server
import websockets.exceptions
import websockets.frames
from openpi_client import msgpack_numpy

HORIZON = 10


def infer(observation: dict[str, Any]) -> dict[str, Any]:
    state, images = observation["state"], observation["images"]
    assert state.shape == (14,) and state.dtype == np.float32
    if observation["prompt"] == "fail":
        raise ValueError("no such object on the table")
    pixels = [image[0, 0, 0] for image in images.values()]
    assert all(image.shape == (3, 24, 32) for image in images.values())
    row = np.concatenate([state, pixels])
    return {"actions": np.stack([row + step for step in range(HORIZON)]), "state": state}


async def handler(connection: Any) -> None:
    packer = msgpack_numpy.Packer()
    await connection.send(packer.pack({"reset_pose": [0.0, -1.5]}))
    previous_s = None
    while True:
        try:
            started_s = time.monotonic()
            observation = msgpack_numpy.unpackb(await connection.recv())
            asked_s = time.monotonic()
            action = infer(observation)
            action["server_timing"] = {"infer_ms": (time.monotonic() - asked_s) * 1000}
            if previous_s is not None:
                action["server_timing"]["prev_total_ms"] = previous_s * 1000
            await connection.send(packer.pack(action))
            previous_s = time.monotonic() - started_s
        except websockets.exceptions.ConnectionClosed:
            break
        except Exception:
            await connection.send(traceback.format_exc())
            await connection.close(
                code=websockets.frames.CloseCode.INTERNAL_ERROR,
                reason="Internal server error. Traceback included in previous frame.",
            )
            raise


def health(connection: Any, request: Any) -> Any:
    if request.path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    return None


async def main() -> None:
    serve = websockets.asyncio.server.serve
    async with serve(handler, "127.0.0.1", 0, compression=None, max_size=None, process_request=health) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
