"""Ask a policy server for actions, and show how long that took."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from actlink import address
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError
from actlink.transports._wire import wire_of

TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Send observations to a policy server.")
    parser.add_argument("--url", default="ws://localhost:8000")
    parser.add_argument("--obs_shape", type=int, nargs="+", default=[4])
    parser.add_argument("--image", action="store_true", help="send a state and an image of 64 x 64 instead of obs alone")
    parser.add_argument("--n_steps", type=int, default=10)
    options = parser.parse_args()
    try:
        talk(options.url, tuple(options.obs_shape), options.image, options.n_steps)
    except ActlinkError as error:
        sys.exit(f"error: {options.url}: {error}")


def talk(url: str, shape: tuple[int, ...], image: bool, n_steps: int) -> None:
    random = np.random.default_rng(0)
    wire = wire_of(address.parse(f"vibe+{url}"))
    with closing(wire.transport.connect(wire.address, wire.transport_config)) as link:
        for step in range(n_steps):
            observation = {"obs": random.standard_normal(shape, np.float32)}
            if image:
                observation = {"state": random.standard_normal(shape[0], np.float32), "image": random_image(random)}
            started_s = time.perf_counter()
            link.send([Frame((encode(observation),))], TIMEOUT_S)
            action, latency_ms = decode(bytes(link.receive(TIMEOUT_S).data))
            rtt_ms = 1e3 * (time.perf_counter() - started_s)
            print(f"step {step} | action={action} | server={latency_ms:.2f}ms | rtt={rtt_ms:.2f}ms", flush=True)


def random_image(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encode(observation: dict[str, np.ndarray]) -> bytes:
    message: dict[bytes, Any] = {key.encode(): array.tobytes() for key, array in observation.items()}
    message[b"__meta__"] = {
        key.encode(): {b"dtype": array.dtype.str, b"shape": list(array.shape)} for key, array in observation.items()
    }
    packed: bytes = msgpack.packb(message)
    return packed


def decode(reply: bytes) -> tuple[np.ndarray, float]:
    message = msgpack.unpackb(reply, raw=True)
    meta = message[b"__meta__"]
    described = meta[b"action"]
    action = np.frombuffer(message[b"action"], described[b"dtype"].decode()).reshape(described[b"shape"])
    return action, meta.get(b"latency_ms", 0.0)


if __name__ == "__main__":
    main()
