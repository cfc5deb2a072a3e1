"""Make an untrained ACT in the layout of the original: ``policy_best.ckpt`` of 344 tensors, its statistics and its cameras.

    python examples/training/act_random.py --out results/act_random
    actlink serve results/act_random --listen act+zmq://127.0.0.1:5555

By default it takes a state of 17 and three cameras and gives actions of 16, as the documented ACT server does. Its actions mean
nothing; its files, sizes and speed are those of a trained one. Needs numpy and actlink only. ``--hidden 512 --feed-forward 3200``
is the size of the original's default, 84 M parameters.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from actlink.codecs import safe_pickle, torch_files

LATENT, ENCODER_LAYERS, DECODER_LAYERS, HEADS = 32, 4, 7, 8
STAGES = (64, 128, 256, 512)


class Tensors(dict[str, np.ndarray]):
    """Tensors with random values of the size that keeps activations near 1."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> None:
        spread = np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.02
        self[f"model.{name}"] = (self.random.standard_normal(shape) * spread).astype(np.float32)

    def linear(self, name: str, out: int, width: int) -> None:
        self.weight(f"{name}.weight", out, width)
        self.weight(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self[f"model.{name}.weight"] = self.random.uniform(0.8, 1.2, width).astype(np.float32)
        self.weight(f"{name}.bias", width)

    def attention(self, name: str, width: int) -> None:
        self.weight(f"{name}.in_proj_weight", 3 * width, width)
        self.weight(f"{name}.in_proj_bias", 3 * width)
        self.linear(f"{name}.out_proj", width, width)

    def layer(self, name: str, width: int, feed_forward: int, attentions: tuple[str, ...]) -> None:
        for attention in attentions:
            self.attention(f"{name}.{attention}", width)
        self.linear(f"{name}.linear1", feed_forward, width)
        self.linear(f"{name}.linear2", width, feed_forward)
        for index in range(1, len(attentions) + 2):
            self.norm(f"{name}.norm{index}", width)

    def convolution(self, name: str, norm: str, out: int, width: int, kernel: int) -> None:
        """With the frozen batch norm behind it."""
        place = "backbones.0.0.body"
        self.weight(f"{place}.{name}.weight", out, width, kernel, kernel)
        self.norm(f"{place}.{norm}", out)
        self.weight(f"{place}.{norm}.running_mean", out)
        self[f"model.{place}.{norm}.running_var"] = self.random.uniform(0.5, 1.5, out).astype(np.float32)

    def resnet18(self) -> None:
        self.convolution("conv1", "bn1", STAGES[0], 3, 7)
        width = STAGES[0]
        for stage, out in enumerate(STAGES, 1):
            for block in range(2):
                name = f"layer{stage}.{block}"
                self.convolution(f"{name}.conv1", f"{name}.bn1", out, width, 3)
                self.convolution(f"{name}.conv2", f"{name}.bn2", out, out, 3)
                if block == 0 and stage > 1:
                    self.convolution(f"{name}.downsample.0", f"{name}.downsample.1", out, width, 1)
                width = out


def checkpoint(state: int, action: int, horizon: int, hidden: int, feed_forward: int, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of an ACT with ResNet-18, under the original's names."""
    found = Tensors(seed)
    found.weight("pos_table", 1, 2 + horizon, hidden)
    for index in range(ENCODER_LAYERS):
        found.layer(f"transformer.encoder.layers.{index}", hidden, feed_forward, ("self_attn",))
        found.layer(f"encoder.layers.{index}", hidden, feed_forward, ("self_attn",))
    for index in range(DECODER_LAYERS):
        found.layer(f"transformer.decoder.layers.{index}", hidden, feed_forward, ("self_attn", "multihead_attn"))
    found.norm("transformer.decoder.norm", hidden)
    for name, out, width in (
        ("action_head", action, hidden),
        ("is_pad_head", 1, hidden),
        ("input_proj_robot_state", hidden, state),
        ("encoder_action_proj", hidden, action),
        ("encoder_joint_proj", hidden, state),
        ("latent_proj", 2 * LATENT, hidden),
        ("latent_out_proj", hidden, LATENT),
    ):
        found.linear(name, out, width)
    for name, rows in (("query_embed", horizon), ("cls_embed", 1), ("additional_pos_embed", 2)):
        found.weight(f"{name}.weight", rows, hidden)
    found.weight("input_proj.weight", hidden, STAGES[-1], 1, 1)
    found.weight("input_proj.bias", hidden)
    found.resnet18()
    return dict(found)


def statistics(state: int, action: int, seed: int) -> dict[str, np.ndarray]:
    """``dataset_stats.pkl`` of made-up data."""
    random = np.random.default_rng([seed, 1])
    found = {}
    for name, width in (("qpos", state), ("action", action)):
        found[f"{name}_mean"] = random.standard_normal(width).astype(np.float32)
        found[f"{name}_std"] = random.uniform(0.1, 1.0, width).astype(np.float32)
    return {**found, "example_qpos": found["qpos_mean"][None]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write; made if it is not there")
    parser.add_argument("--state", type=int, default=17, help="entries of the state (17)")
    parser.add_argument("--action", type=int, default=16, help="entries of the action (16)")
    parser.add_argument("--cameras", nargs="+", default=["rgb_main", "rgb_left", "rgb_under"], help="their names (rgb_main ...)")
    parser.add_argument("--horizon", type=int, default=50, help="actions of a chunk (50)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (64)")
    parser.add_argument("--feed-forward", type=int, default=128, help="width of the feed-forward layers (128)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    tensors = checkpoint(given.state, given.action, given.horizon, given.hidden, given.feed_forward, given.seed)
    torch_files.save(given.out / "policy_best.ckpt", tensors)
    config = {"camera_names": given.cameras, "policy": {"nheads": HEADS}}
    (given.out / "inference_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    encoded = safe_pickle.encode(statistics(given.state, given.action, given.seed))
    (given.out / "dataset_stats.pkl").write_bytes(b"".join(bytes(part) for part in encoded))
    print(f"{given.out}: {len(tensors)} tensors, {sum(each.size for each in tensors.values()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
