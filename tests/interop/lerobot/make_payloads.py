"""Writes ``tests/data/lerobot/VERSION.json``: messages as the installed LeRobot's own classes and torch make them (base64).

python make_payloads.py DIRECTORY
"""

import base64
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot import __version__
from lerobot.async_inference.helpers import (
    RemotePolicyConfig,
    TimedAction,
    TimedObservation,
    resize_robot_observation_image,
)
from lerobot.transport import services_pb2
from lerobot.transport.utils import send_bytes_in_chunks

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b.pos", "c.pos"]},
    "observation.images.top": {
        "dtype": "image",
        "shape": (4, 6, 3),
        "names": ["height", "width", "channels"],
        "info": {"is_depth_map": False},
    },
}


def uploaded(observation: TimedObservation) -> list[bytes]:
    return [message.SerializeToString() for message in send_bytes_in_chunks(pickle.dumps(observation), services_pb2.Observation)]


def actions(rows: list[torch.Tensor]) -> bytes:
    timed = [TimedAction(timestamp=12.5 + i / 30, timestep=7 + i, action=row) for i, row in enumerate(rows)]
    return services_pb2.Actions(data=pickle.dumps(timed)).SerializeToString()


def resized(height: int, width: int) -> bytes:
    """The test's image as the server resizes it."""
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    return resize_robot_observation_image(torch.tensor(image), (3, height, width)).permute(1, 2, 0).numpy().tobytes()


def main() -> None:
    renames = {"observation.images.top": "observation.images.front"}
    config = RemotePolicyConfig("act", "outputs/train/x", FEATURES, 5, "cuda", renames)
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    raw = {"a.pos": 1.5, "b.pos": -2.0, "c.pos": 3.25, "top": image, "task": "grab"}
    (small,) = uploaded(TimedObservation(timestamp=12.5, timestep=7, observation=raw, must_go=True))
    chunk = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    made = {
        "setup": services_pb2.PolicySetup(data=pickle.dumps(config)).SerializeToString(),
        "upload": small,
        "actions_views": actions(list(chunk)),
        "actions_float64": actions([row.double().clone() for row in chunk]),
        **{f"resized_{height}_{width}": resized(height, width) for height, width in ((20, 11), (37, 90), (64, 53), (1, 1))},
    }
    encoded = {name: base64.b64encode(data).decode() for name, data in made.items()}
    Path(sys.argv[1], f"{__version__}.json").write_text(json.dumps(encoded, indent=1) + "\n")


if __name__ == "__main__":
    main()
