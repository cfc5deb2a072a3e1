"""Train the bundled policy ``aloha_transfer_cube``: an ACT cloned from a scripted expert, in some ten minutes on one core.

    python examples/training/act_aloha_transfer_cube.py --out results/training/aloha_transfer_cube

Demonstrations are made first and kept in ``--out``; training writes a checkpoint now and then and goes on from it when the same
command is started again; at the end the policy is exported (``policy.json``, ``model.onnx``, ``weights.safetensors``), the
exported graph is measured in the simulator on seeds that are not in the training set, and ``CARD.md`` records how it went.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch
import tyro
from act_export import JOINTS, Statistics, export
from act_model import ACTION, ENVIRONMENT_STATE, STATE, Act, ActConfig, act_loss
from aloha_card import card
from aloha_demonstrations import Demonstrations, collect
from aloha_trials import TRIALS, Predict, glance, measure, onnx_policy
from torch import Tensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Args:
    """Options; the defaults made the bundled policy."""

    out: Path = Path("results/training/aloha_transfer_cube")
    """Demonstrations, checkpoint and log; the exported policy goes to its folder ``policy``."""
    demonstrations: int = 400
    """Successful episodes to train on."""
    yaw_deg: float = 20.0
    """The cube is turned by up to this much in the demonstrations."""
    noise: float = 0.02
    """Deviation (rad) of the noise on executed actions."""
    jitter: int = 4
    """Steps by which each part of the expert's timing may vary."""
    steps: int = 9000
    """Optimiser steps."""
    seconds: float = float("inf")
    """Stop training after this long instead, if that is earlier; the learning rate decays accordingly."""
    batch_size: int = 32
    learning_rate: float = 5e-4
    """Highest learning rate, after 200 steps of warm-up; it decays as a cosine."""
    weight_decay: float = 1e-4
    vae: bool = False
    """Train the paper's CVAE; on demonstrations without modes its latent collapses and it only costs time."""
    seed: int = 0
    """Decides the first weights and the order of the windows; the demonstrations have seeds of their own."""
    threads: int = 1
    """CPU threads; the network is so small that more than one gains little."""
    log_every: int = 100
    """Steps between lines of progress."""
    checkpoint_every: int = 500
    """Steps between checkpoints: what a kill can cost."""
    evaluate_every: int = 1500
    """Steps between short evaluations; 0 for none."""


class Batches:
    """Random windows of the demonstrations, normalised. A batch depends on seed and step only, so a resumed run repeats it."""

    def __init__(self, data: Demonstrations, statistics: Statistics, chunk: int, size: int, seed: int) -> None:
        self._states = torch.from_numpy((data.states - statistics.state_mean) / statistics.state_std)
        self._plans = torch.from_numpy((data.plans - statistics.action_mean) / statistics.action_std)
        self._first, self._end = torch.from_numpy(data.first), torch.from_numpy(data.end)
        self._rows, self._size, self._seed = torch.arange(chunk), size, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        chosen = np.random.default_rng([self._seed, step]).integers(0, len(self._states), self._size)
        index = torch.from_numpy(chosen)
        rows = self._first[index, None] + self._rows
        end = self._end[index, None]
        states = self._states[index]
        return {
            STATE: states[:, :JOINTS],
            ENVIRONMENT_STATE: states[:, JOINTS:],
            ACTION: self._plans[torch.minimum(rows, end - 1)],
            "action_is_pad": rows >= end,
        }


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    refuse_other_run(args)
    data = demonstrations(args)
    statistics = Statistics.of(data.states, data.plans[data.first])
    model, trained = train(args, data, statistics)
    folder = args.out / "policy"
    export(model, statistics, folder)
    results = [(trial, *measure(onnx_policy(folder), trial)) for trial in TRIALS]
    (folder / "CARD.md").write_text(card(asdict(args), data, trained, results), encoding="utf-8")
    print(f"exported to {folder}")


def refuse_other_run(args: Args) -> None:
    """A folder keeps the options its contents were made with; how long and how often may change when a run goes on."""
    free = {"out", "steps", "seconds", "threads", "log_every", "checkpoint_every", "evaluate_every"}
    settings = {name: value for name, value in asdict(args).items() if name not in free}
    path = args.out / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    changed = [f"{name} {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value]
    if changed:
        raise SystemExit(f"{args.out} holds a run with other options ({', '.join(changed)}): choose another --out")
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def demonstrations(args: Args) -> Demonstrations:
    """Made once, then read back."""
    path = args.out / "demonstrations.npz"
    if not path.exists():
        begun = time.monotonic()

        def progress(kept: int, attempts: int) -> None:
            if kept % 25 == 0:
                print(f"demonstrations {kept}/{args.demonstrations} of {attempts} tried, {time.monotonic() - begun:.0f} s")

        collect(args.demonstrations, args.yaw_deg, args.noise, args.jitter, progress).save(path)
    return Demonstrations.load(path)


def train(args: Args, data: Demonstrations, statistics: Statistics) -> tuple[Act, dict[str, float]]:
    """The trained model, and ``steps``, ``seconds`` and ``loss`` of its training."""
    torch.manual_seed(args.seed)
    model = Act(ActConfig(use_vae=args.vae))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    batches = Batches(data, statistics, model.config.chunk_size, args.batch_size, args.seed)
    path = args.out / "checkpoint.pt"
    step, elapsed, loss = resume(path, model, optimizer)
    begun = time.monotonic() - elapsed
    while (done := max(step / args.steps, elapsed / args.seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done))
        value, parts = act_loss(model, batches(step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        loss = parts["l1"] if step == 1 else 0.99 * loss + 0.01 * parts["l1"]
        elapsed = time.monotonic() - begun
        if step % args.log_every == 0:
            left = elapsed / max(done, 1e-9) - elapsed
            print(f"step {step}  L1 {loss:.4f}  KL {parts['kl']:.4f}  {elapsed:.0f} s, {left:.0f} s left", flush=True)
        if step % args.checkpoint_every == 0:
            save(path, model, optimizer, step, elapsed, loss)
        if args.evaluate_every and step % args.evaluate_every == 0:
            glance(torch_policy(model, statistics))
            begun = time.monotonic() - elapsed  # evaluation does not count as training
    save(path, model, optimizer, step, elapsed, loss)
    return model.eval(), {"steps": step, "seconds": elapsed, "loss": loss}


def resume(path: Path, model: Act, optimizer: torch.optim.Optimizer) -> tuple[int, float, float]:
    """Steps, seconds and loss so far; zeros where there is no checkpoint."""
    if not path.exists():
        return 0, 0.0, 0.0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"going on from step {saved['step']}")
    return saved["step"], saved["elapsed"], saved["loss"]


def save(path: Path, model: Act, optimizer: torch.optim.Optimizer, step: int, elapsed: float, loss: float) -> None:
    """Written beside and renamed: a kill leaves the previous checkpoint whole."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "elapsed": elapsed, "loss": loss}, partial)
    partial.replace(path)


def torch_policy(model: Act, statistics: Statistics) -> Predict:
    """The model as it is now, for a look during training."""

    def predict(state: Floats) -> Floats:
        normal = torch.from_numpy((state - statistics.state_mean) / statistics.state_std)[None]
        with torch.inference_mode():
            actions = model(normal[:, :JOINTS], normal[:, JOINTS:])[0].numpy()
        return np.asarray(actions * statistics.action_std + statistics.action_mean, dtype=np.float32)

    return predict


if __name__ == "__main__":
    main(tyro.cli(Args))
