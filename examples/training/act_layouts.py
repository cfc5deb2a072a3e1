"""Write a bundled ACT in the layout of another program: the same weights, the same actions, other files.

    python examples/training/act_layouts.py original --out results/layouts/original
    python examples/training/act_layouts.py ilstudio --out results/layouts/ilstudio
    python examples/training/act_layouts.py lerobot --out results/layouts/lerobot

    original    policy_best.ckpt and dataset_stats.pkl, as the original ACT program and its forks write them
    ilstudio    policy_metadata.json, config.json, model.safetensors, normalize.json and statistics, as IL-Studio does
    lerobot     config.json, model.safetensors and the two processors, as LeRobot (0.4 and later) does; it loads there

Then serve what came out: ``actlink serve results/layouts/original --listen act+zmq://127.0.0.1:5555``. Needs
``pip install 'actlink[act]'``. What is written is what inference needs: the bundled policy was trained without the style encoder.
The original's own program knows no network without cameras that has a latent token, so it does not run the first two; actlink does.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from actlink.codecs import safe_pickle, torch_files
from actlink.policies import _act_names as names
from actlink.policies._open import MODELS

BUNDLED = MODELS / "aloha_transfer_cube"
HEADS = 8
DATASETS = ("sim_transfer_cube_scripted", "my_robot_dataset", "my_dataset")
"""The last two have the first one's statistics: documents show commands with these names."""


@dataclass(frozen=True)
class Trained:
    """The bundled policy's weights (LeRobot's names without ``model.``) and its statistics."""

    tensors: dict[str, np.ndarray]
    size: names.Sizes
    state: tuple[np.ndarray, np.ndarray]
    """Mean and deviation of joints and cube pose, (21,)."""
    action: tuple[np.ndarray, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """From ``weights.safetensors`` and ``policy.json``."""
        tensors = names.from_lerobot(load_file(folder / "weights.safetensors"))
        plain = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        inputs, output = plain["inputs"], plain["output"]

        def statistic(name: str) -> np.ndarray:
            return np.concatenate([np.asarray(inputs[key][name], np.float32) for key in ("state", "environment_state")])

        size = names.sizes({name: value.shape for name, value in tensors.items()}, str(folder))
        action = np.asarray(output["mean"], np.float32), np.asarray(output["std"], np.float32)
        return cls(tensors, size, (statistic("mean"), statistic("std")), action)


def original(trained: Trained, out: Path) -> None:
    """``policy_best.ckpt`` and ``dataset_stats.pkl``."""
    torch_files.save(out / "policy_best.ckpt", names.to_original(trained.tensors))
    statistics = {
        "qpos_mean": trained.state[0],
        "qpos_std": trained.state[1],
        "action_mean": trained.action[0],
        "action_std": trained.action[1],
        "example_qpos": trained.state[0][None],
    }
    pickle(out / "dataset_stats.pkl", statistics)


def ilstudio(trained: Trained, out: Path) -> None:
    """A directory as ``compat/ckpt`` has one."""
    size = trained.size
    save_file(names.to_original(trained.tensors), out / "model.safetensors", metadata={"format": "pt"})
    write(out / "policy_metadata.json", {"policy_module": "policy.act", "policy_name": "act"})
    config = {
        "architectures": ["ACTPolicy"],
        "camera_names": [],
        "chunk_size": size.horizon,
        "state_dim": size.state_dim + size.environment_dim,
        "action_dim": size.action_dim,
        "hidden_dim": size.hidden,
        "dim_feedforward": trained.tensors["encoder.layers.0.linear1.weight"].shape[0],
        "enc_layers": size.encoder_layers,
        "dec_layers": size.decoder_layers,
        "nheads": HEADS,
        "pre_norm": False,
    }
    write(out / "config.json", config)
    kinds = dict.fromkeys(DATASETS, "zscore")
    datasets = [{"dataset_id": name, "ctrl_space": "joint", "ctrl_type": "abs"} for name in DATASETS]
    write(out / "normalize.json", {"version": "2.0", "datasets": datasets, "state": kinds, "action": kinds})
    for name in DATASETS:
        pickle(
            out / f"{name}_stats_joint_abs.pkl",
            {
                part: {"mean": mean.tolist(), "std": std.tolist()}
                for part, (mean, std) in (("state", trained.state), ("action", trained.action))
            },
        )


def lerobot(trained: Trained, out: Path) -> None:
    """A pretrained_model directory."""
    size = trained.size
    save_file(
        {f"model.{name}": value for name, value in trained.tensors.items()}, out / "model.safetensors", metadata={"format": "pt"}
    )
    inputs = {
        "observation.state": {"type": "STATE", "shape": [size.state_dim]},
        "observation.environment_state": {"type": "ENV", "shape": [size.environment_dim]},
    }
    outputs = {"action": {"type": "ACTION", "shape": [size.action_dim]}}
    modes = dict.fromkeys(("STATE", "ENV", "VISUAL", "ACTION"), "MEAN_STD")
    config = {
        "type": "act",
        "input_features": inputs,
        "output_features": outputs,
        "device": "cpu",
        "chunk_size": size.horizon,
        "n_action_steps": size.horizon,
        "normalization_mapping": modes,
        "pretrained_backbone_weights": None,
        "dim_model": size.hidden,
        "n_heads": HEADS,
        "dim_feedforward": trained.tensors["encoder.layers.0.linear1.weight"].shape[0],
        "n_encoder_layers": size.encoder_layers,
        "n_decoder_layers": size.decoder_layers,
        "use_vae": False,
        "latent_dim": size.latent_dim,
    }
    write(out / "config.json", config)
    cut = size.state_dim
    statistics = {
        "observation.state": (trained.state[0][:cut], trained.state[1][:cut]),
        "observation.environment_state": (trained.state[0][cut:], trained.state[1][cut:]),
        "action": trained.action,
    }
    tensors = {
        f"{key}.{name}": value for key, pair in statistics.items() for name, value in zip(("mean", "std"), pair, strict=True)
    }
    to_cpu = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        to_cpu,
    ]
    processor(out, "policy_preprocessor", before, "normalizer_processor", [], {**inputs, **outputs}, modes, tensors)
    processor(out, "policy_postprocessor", [], "unnormalizer_processor", [to_cpu], outputs, modes, tensors)


def processor(
    out: Path, name: str, before: list[Any], kind: str, after: list[Any], features: Any, modes: Any, tensors: dict[str, np.ndarray]
) -> None:
    """A processor's JSON file and the statistics of its one step that has any."""
    state = f"{name}_step_{len(before)}_{kind}.safetensors"
    step = {"registry_name": kind, "config": {"eps": 1e-8, "features": features, "norm_map": modes}, "state_file": state}
    write(out / f"{name}.json", {"name": name, "steps": [*before, step, *after]})
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, out / state)


def write(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def pickle(path: Path, value: Any) -> None:
    """A pickle that any numpy reads, written by this package's own encoder."""
    path.write_bytes(b"".join(bytes(part) for part in safe_pickle.encode(value)))


LAYOUTS = {"original": original, "ilstudio": ilstudio, "lerobot": lerobot}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("--out", type=Path, required=True, help="directory to write; made if it is not there")
    parser.add_argument(
        "--policy", type=Path, default=BUNDLED, help="a policy that act_aloha_transfer_cube.py trained (default: bundled)"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    LAYOUTS[given.layout](Trained.read(given.policy), given.out)
    print(f"{given.out}: {', '.join(sorted(path.name for path in given.out.iterdir()))}")


if __name__ == "__main__":
    main()
