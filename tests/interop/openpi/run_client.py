"""openpi-client as a user runs it, against the server at 127.0.0.1:PORT; prints what it saw as JSON.

Runs in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from openpi_client import action_chunk_broker, image_tools, websocket_client_policy

STEPS = 25
EXECUTION_HORIZON = 10


def observation(step: int) -> dict[str, Any]:
    """ALOHA's layout: a state, cameras with their channels first, a prompt."""
    source = np.random.default_rng(step)
    picture = source.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    picture = image_tools.resize_with_pad(picture, 240, 320)
    return {"state": source.normal(size=21), "images": {"top": np.transpose(picture, (2, 0, 1))}, "prompt": "hand it over"}


def main(port: int, key: str) -> None:
    policy = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, api_key=key)
    seen: dict[str, Any] = {"metadata": sorted(policy.get_server_metadata()), "replies": [], "steps": []}
    for step in range(3):
        reply = policy.infer(observation(step))
        seen["replies"].append({**reply, "actions": reply["actions"].tolist(), "dtype": reply["actions"].dtype.str})
    broker = action_chunk_broker.ActionChunkBroker(policy, EXECUTION_HORIZON)
    for step in range(STEPS):
        seen["steps"].append(broker.infer(observation(step))["actions"].tolist())
    seen["errors"] = errors(policy)
    print(json.dumps(seen))


def errors(policy: Any) -> list[str]:
    """What the client says of a wrong shape, and when it asks again on the same connection."""
    found = []
    for asked in ({"state": np.zeros(3)}, observation(0)):
        try:
            found.append(sorted(policy.infer(asked)))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


main(int(sys.argv[1]), sys.argv[2])
