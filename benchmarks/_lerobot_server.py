"""LeRobot's own PolicyServer around a policy that does nothing; runs where lerobot is installed.

    python _lerobot_server.py [DELAY_MS [ACTIONS]]       for wires.py and robot_clients.py

The server's code is the original's, unchanged, from the receipt of an observation to the pickled actions; only the model and its
processors, which are no part of a server, are replaced. Images have the policy's size already, and nothing waits on purpose.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import torch
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.transport import services_pb2, services_pb2_grpc

DELAY_S = float(sys.argv[1]) / 1e3 if len(sys.argv) > 1 else 0.0
ACTIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 14


class Policy:
    def __init__(self, features: dict[str, Any]) -> None:
        images = {
            key: PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for key in features if key.startswith("observation.images.")
        }
        self.config = SimpleNamespace(image_features=images)

    def predict_action_chunk(self, observation: Any) -> Any:
        time.sleep(DELAY_S)
        return torch.ones(1, 50, ACTIONS)


class Server(PolicyServer):
    def SendPolicyInstructions(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        asked = pickle.loads(request.data)
        self.lerobot_features, self.actions_per_chunk, self.device = asked.lerobot_features, asked.actions_per_chunk, "cpu"
        self.policy = Policy(asked.lerobot_features)
        self.preprocessor = self.postprocessor = lambda value: value
        return services_pb2.Empty()


def main() -> None:
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())  # it writes logs/ where it stands
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    servicer = Server(PolicyServerConfig(host="127.0.0.1", port=port, inference_latency=0.0))
    logging.disable(logging.CRITICAL)
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
