"""Train an ACT that sees: two cameras and the joints, cloned from the scripted expert, in LeRobot's layout.

    python examples/training/act_aloha_vision.py --out results/training/act_aloha_vision
    actlink serve results/training/act_aloha_vision/policy
    actlink eval --policy native+ws://127.0.0.1:8000 --env aloha_transfer_cube \
        --transform results/training/act_aloha_vision/transform.yaml

Demonstrations are drawn first (a file an episode, kept in ``--out``), then the network is trained, on a GPU if there is one; both
go on where they were stopped when the same command is started again. At the end ``policy`` holds a checkpoint that LeRobot reads as
well, and ``loss.png`` and ``loss.csv`` how training and held-out episodes went. On a GPU the defaults take minutes; on a CPU an
optimiser step of 16 pairs of pictures takes seconds, so ``--seconds 1200`` shows that it learns and not much more.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import tyro
from act_export import Statistics
from act_model import ActConfig
from act_vision_model import IMAGENET_MEAN, IMAGENET_STD, VisionAct, lerobot_config, lerobot_tensors, normalised
from aloha_pictures import JOINTS, Pictures, collect
from safetensors.torch import save_file
from torch import Tensor

from actlink.environments.aloha import Environment


@dataclass(frozen=True)
class Args:
    """Options."""

    out: Path = Path("results/training/act_aloha_vision")
    """Demonstrations, checkpoint, log; the finished policy goes to its folder ``policy``."""
    episodes: int = 60
    """Demonstrations; every tenth is held out and measures what training cannot learn by heart."""
    cameras: tuple[str, ...] = ("top", "angle")
    """ALOHA's cameras: top, angle, front_close, left_pillar, right_pillar, left_wrist, right_wrist."""
    height: int = 120
    width: int = 160
    every: int = 4
    """Steps between two pictures of a demonstration."""
    noise: float = 0.02
    """Deviation (rad) of the noise on executed actions."""
    jitter: int = 4
    """Steps by which each part of the expert's timing may vary."""
    steps: int = 8000
    """Optimiser steps."""
    seconds: float = float("inf")
    """Stop training after this long instead, if that is earlier; the learning rate decays accordingly."""
    batch_size: int = 16
    learning_rate: float = 3e-4
    """Highest learning rate, after 100 steps of warm-up; it decays as a cosine. The backbone has no other."""
    weight_decay: float = 1e-4
    device: str = "auto"
    """``cpu``, ``cuda``; ``auto`` takes the GPU if there is one."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    log_every: int = 10
    """Steps between lines of progress and of loss.csv."""
    checkpoint_every: int = 50
    """Steps between checkpoints and measurements on the held-out episodes."""


class Batches:
    """Random frames, normalised; a batch depends on seed and step only, so a run that goes on repeats it."""

    def __init__(self, data: Pictures, statistics: Statistics, chunk: int, device: str) -> None:
        self._data, self._statistics, self._chunk, self._device = data, statistics, chunk, device
        frames = [(episode, frame) for episode, states in enumerate(data.states) for frame in range(len(states))]
        self.held_out = [pair for pair in frames if pair[0] % 10 == 9]
        self.training = [pair for pair in frames if pair[0] % 10 != 9]

    def random(self, size: int, *seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.of([self.training[i] for i in np.random.default_rng(seed).integers(0, len(self.training), size)])

    def of(self, chosen: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States (B, 14), pictures (B, cameras, 3, H, W), actions (B, chunk, 14), padding (B, chunk)."""
        s = self._statistics
        states = np.stack([self._data.states[episode][frame] for episode, frame in chosen])
        pictures = np.stack([self._data.images[episode][frame] for episode, frame in chosen])
        windows = [self._data.window(episode, frame, self._chunk) for episode, frame in chosen]
        actions = (np.stack([actions for actions, _ in windows]) - s.action_mean) / s.action_std
        parts = ((states - s.state_mean) / s.state_std, actions, np.stack([padding for _, padding in windows]))
        state, action, padding = (torch.from_numpy(part).to(self._device) for part in parts)
        return state, normalised(torch.from_numpy(pictures).to(self._device)), action, padding


def distance(model: VisionAct, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Mean absolute difference to the expert's normalised actions, rows after the plan's end left out."""
    state, pictures, actions, padding = batch
    kept = ~padding[..., None]
    return ((model(state, pictures) - actions).abs() * kept).sum() / (kept.sum() * actions.shape[-1])


def held_out(model: VisionAct, batches: Batches) -> float:
    """The same over some frames of episodes that are not trained on."""
    chosen = batches.held_out[:: max(1, len(batches.held_out) // 32)]
    model.eval()
    with torch.inference_mode():
        found = float(distance(model, batches.of(chosen)))
    model.train()
    return found


def train(args: Args, batches: Batches, device: str) -> VisionAct:
    torch.manual_seed(args.seed)
    model = VisionAct(ActConfig()).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    step, elapsed, rows = 0, 0.0, []
    path = args.out / "checkpoint.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, elapsed, rows = saved["step"], saved["elapsed"], saved["rows"]
        print(f"going on from step {step}")
    begun, losses = time.monotonic() - elapsed, []
    while (done := max(step / args.steps, elapsed / args.seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = distance(model, batches.random(args.batch_size, args.seed, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step, elapsed = step + 1, time.monotonic() - begun
        left = elapsed / max(step / args.steps, elapsed / args.seconds) - elapsed
        checkpoint = step % args.checkpoint_every == 0 or step == args.steps or elapsed >= args.seconds
        if step % args.log_every == 0 or checkpoint:
            found = held_out(model, batches) if checkpoint else math.nan
            rows.append((step, elapsed, float(np.mean(losses)), found))
            losses = []
            ending = f"  held out {found:.4f}" if checkpoint else ""
            print(f"step {step}  L1 {rows[-1][2]:.4f}{ending}  {elapsed:.0f} s, {left:.0f} s left", flush=True)
        if checkpoint:
            partial = path.with_suffix(".partial")
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "elapsed": elapsed,
                "rows": rows,
            }
            torch.save(state, partial)
            partial.replace(path)
            show(args.out, rows)
    return model.eval()


def show(out: Path, rows: list[tuple[int, float, float, float]]) -> None:
    """``loss.csv``, and ``loss.png`` where matplotlib is installed."""
    with (out / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "seconds", "l1_training", "l1_held_out"))
        writer.writerows((step, f"{seconds:.1f}", f"{seen:.5f}", f"{unseen:.5f}") for step, seconds, seen, unseen in rows)
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([row[0] for row in rows], [row[2] for row in rows], label="training")
    measured = [row for row in rows if not math.isnan(row[3])]
    axes.plot([row[0] for row in measured], [row[3] for row in measured], "o-", label="held-out episodes")
    axes.set(xlabel="optimiser steps", ylabel="mean absolute error (standard deviations)", ylim=(0, None))
    axes.legend()
    figure.savefig(out / "loss.png", dpi=120)
    pyplot.close(figure)


def write(model: VisionAct, args: Args, statistics: Statistics) -> Path:
    """The policy as LeRobot (0.4 and later) writes an ACT: weights, config, and the normalisers' files."""
    folder = args.out / "policy"
    folder.mkdir(exist_ok=True)
    config = lerobot_config(model.config, args.cameras, args.height, args.width)
    (folder / "config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    save_file(lerobot_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    named: dict[str, tuple[Tensor, Tensor]] = {
        "observation.state": (torch.from_numpy(statistics.state_mean), torch.from_numpy(statistics.state_std)),
        "action": (torch.from_numpy(statistics.action_mean), torch.from_numpy(statistics.action_std)),
    }
    for name in args.cameras:
        named[f"observation.images.{name}"] = tuple(torch.tensor(x).reshape(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    stored = {
        f"{key}.{kind}": value.clone() for key, pair in named.items() for kind, value in zip(("mean", "std"), pair, strict=True)
    }
    features, mapping = {**config["input_features"], **config["output_features"]}, config["normalization_mapping"]
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    ways = {
        "preprocessor": [
            {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            device,
            _normaliser("normalizer_processor", "policy_preprocessor_step_3", features, mapping),
        ],
        "postprocessor": [
            _normaliser("unnormalizer_processor", "policy_postprocessor_step_0", config["output_features"], mapping),
            device,
        ],
    }
    for way, steps in ways.items():
        document = {"name": f"policy_{way}", "steps": steps}
        (folder / f"policy_{way}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for step in steps:
            if "state_file" in step:
                save_file(stored, folder / str(step["state_file"]))
    return folder


def _normaliser(kind: str, prefix: str, features: object, mapping: object) -> dict[str, object]:
    config = {"eps": 1e-8, "features": features, "norm_map": mapping}
    return {"registry_name": kind, "config": config, "state_file": f"{prefix}_{kind}.safetensors"}


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    sizes = f"{args.height}x{args.width}-{'-'.join(args.cameras)}-every-{args.every}"
    folder = args.out / f"demonstrations-{sizes}"
    data = collect(folder, args.episodes, args.cameras, args.height, args.width, args.every, args.noise, args.jitter)
    trained_on = [i for i in range(args.episodes) if i % 10 != 9]
    statistics = Statistics.of(
        np.concatenate([data.states[i] for i in trained_on]), np.concatenate([data.plans[i] for i in trained_on])
    )
    model = train(args, Batches(data, statistics, ActConfig().chunk_size, device), device)
    folder = write(model.cpu(), args, statistics)
    names = list(Environment().spec.observation["state"].names or ())[:JOINTS]
    (args.out / "transform.yaml").write_text(f"- select: {{state: [{', '.join(names)}]}}\n", encoding="utf-8")
    print(f"wrote {folder}; {args.out / 'transform.yaml'} selects the joints from the simulator's state")


if __name__ == "__main__":
    main(tyro.cli(Args))
