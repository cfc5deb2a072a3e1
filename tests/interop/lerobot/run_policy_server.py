"""LeRobot's own PolicyServer with a tiny ACT checkpoint made on the spot (random weights); prints ``ready PORT CHECKPOINT``.

    python run_policy_server.py DIRECTORY [--motors 6] [--horizon 8] [--chunk OBSERVATION.npz CHUNK.npy]

With ``--chunk`` nothing is served: the policy is asked directly, as the server asks it, and its chunk is written.
"""

import argparse
import os
import socket
from concurrent import futures
from pathlib import Path

import numpy as np
import torch

HEIGHT, WIDTH = 32, 32


def make_checkpoint(directory: Path, motors: int, horizon: int) -> Path:
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    torch.manual_seed(0)
    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (motors,)),
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (motors,))},
        chunk_size=horizon,
        n_action_steps=horizon,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_decoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
    )
    policy = ACTPolicy(config)
    one, image = torch.ones(motors), torch.ones(3, 1, 1)
    stats = {
        "observation.state": {"mean": 0.5 * one, "std": 2 * one},
        "observation.images.top": {"mean": 0.4 * image, "std": 0.3 * image},
        "action": {"mean": torch.linspace(-1, 1, motors), "std": 3 * one},
    }
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    place = directory / "tiny_act"
    for part in (policy, before, after):
        part.save_pretrained(place)
    return place


def serve(checkpoint: Path) -> None:
    import grpc
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2_grpc

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    config = PolicyServerConfig(host="127.0.0.1", port=port, inference_latency=0.0)
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(PolicyServer(config), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", port, checkpoint, flush=True)
    server.wait_for_termination()


def write_chunk(checkpoint: Path, observation: Path, chunk: Path, motors: int) -> None:
    """What the server would answer, without the wire between."""
    import pickle

    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2

    names = [f"joint_{index}.pos" for index in range(motors)]
    features = {
        "observation.state": {"dtype": "float32", "shape": (motors,), "names": names},
        "observation.images.top": {"dtype": "image", "shape": (1, 1, 3), "names": ["height", "width", "channels"]},
    }

    class Context:
        def peer(self) -> str:
            return "here"

    server = PolicyServer(PolicyServerConfig())
    config = RemotePolicyConfig("act", str(checkpoint), features, 1000)
    server.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(config)), Context())
    arrays = np.load(observation)
    raw = {name: float(value) for name, value in zip(names, arrays["state"], strict=True)}
    timed = TimedObservation(0.0, 0, {**raw, "top": arrays["top"], "task": ""}, True)
    np.save(chunk, np.stack([one.get_action().numpy() for one in server._predict_action_chunk(timed)]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--motors", type=int, default=6)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--chunk", type=Path, nargs=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    directory = given.directory.resolve()
    os.chdir(directory)  # LeRobot writes logs/ where it stands
    place = directory / "tiny_act"
    if not place.exists():
        make_checkpoint(directory, given.motors, given.horizon)
    if given.chunk:
        write_chunk(place, given.chunk[0].resolve(), given.chunk[1].resolve(), given.motors)
    else:
        serve(place)


if __name__ == "__main__":
    main()
