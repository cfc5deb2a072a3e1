"""A test of the ACT inference server by hand: ``python test_zmq_client.py``. It is no test of this package's."""

from __future__ import annotations

import argparse

import numpy as np

from actlink.address import Address
from actlink.codecs.safe_pickle import decode, encode
from actlink.dialects._base import Frame
from actlink.errors import ActlinkError
from actlink.transports import zmq

PORT = 5555
CAMERAS = ("rgb_main", "rgb_left", "rgb_under")
TIMEOUT_S = 60.0


def ask(link: zmq.Link, message: object) -> dict:
    link.send([Frame(tuple(encode(message)))], TIMEOUT_S)
    return decode(link.receive(TIMEOUT_S).data)


def observation() -> dict:
    """base_pos(3) + base_vel(6) + joint_pos(7) + gripper(1), and three cameras."""
    random = np.random.default_rng(0)
    images = {camera: random.integers(0, 255, (480, 640, 3), dtype=np.uint8) for camera in CAMERAS}
    return {"qpos": random.standard_normal(17).astype(np.float32), "images": images}


def main() -> int:
    parser = argparse.ArgumentParser(description="Try an ACT inference server.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    try:
        link = zmq.connect(Address("act", "zmq", given.host, given.port), zmq.Config())
    except ActlinkError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    print(f"Connected to ACT inference server on port {given.port}")
    print("\n--- Test 1: RESET ---")
    print(f"Response: {ask(link, 'RESET')}")
    print("\n--- Test 2: Inference ---")
    message = observation()
    print(f"Sending qpos shape: {message['qpos'].shape}")
    print(f"Sending images: {list(message['images'])}")
    response = ask(link, message)
    print(f"Response status: {response['status']}")
    if response["status"] == "OK":
        print(f"Action shape: {response['action'].shape}")
        print(f"Action: {response['action']}")
    else:
        print(f"Error: {response['message']}")
    print("\n--- Test 3: RESET again ---")
    print(f"Response: {ask(link, 'RESET')}")
    link.close()
    if response["status"] != "OK":
        return 1
    print("\n✓ All tests completed!")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
