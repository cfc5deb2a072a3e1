"""Training a flow-matching policy on demonstrations: the loop, its checkpoint, its progress. Law: nothing here knows a task."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from act_export import Statistics
from flow_model import Flow, FlowConfig, flow_loss, parameters_of, sample
from flow_windows import Windows
from torch import Tensor

Floats = npt.NDArray[np.float32]
Predict = Callable[[Floats], Floats]
"""State (state_dim,) -> actions (horizon, action_dim), both in the environment's units."""


@dataclass(frozen=True)
class Options:
    """Options of the loop; the defaults made the bundled policies."""

    steps: int = 9000
    """Optimiser steps."""
    seconds: float = float("inf")
    """Stop training after this long instead, if that is earlier; the learning rate decays accordingly."""
    batch_size: int = 256
    learning_rate: float = 1e-3
    """Highest learning rate, after 200 steps of warm-up; it decays as a cosine."""
    weight_decay: float = 1e-4
    average: float = 0.998
    """Decay per step of the running average of the weights, which is what is exported."""
    seed: int = 0
    """Decides the first weights and the order of the windows; the demonstrations have seeds of their own."""
    threads: int = 1
    log_every: int = 200
    """Steps between lines of progress."""
    checkpoint_every: int = 500
    """Steps between checkpoints: what a kill can cost."""
    evaluate_every: int = 2000
    """Steps between short evaluations; 0 for none."""


class Batches:
    """Random windows, normalised. A batch depends on seed and step only, so a resumed run repeats it."""

    def __init__(self, data: Windows, statistics: Statistics, horizon: int, options: Options) -> None:
        self._states = torch.from_numpy((data.states - statistics.state_mean) / statistics.state_std)
        self._plans = torch.from_numpy((data.plans - statistics.action_mean) / statistics.action_std)
        self._first, self._end = torch.from_numpy(data.first), torch.from_numpy(data.end)
        self._rows, self._size, self._seed = torch.arange(horizon), options.batch_size, options.seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """States, chunks, and the generator for the noise of this step."""
        chosen = torch.from_numpy(np.random.default_rng([self._seed, step]).integers(0, len(self._states), self._size))
        rows = torch.minimum(self._first[chosen, None] + self._rows, self._end[chosen, None] - 1)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return self._states[chosen], self._plans[rows], generator


def train(
    out: Path, options: Options, sizes: FlowConfig, data: Windows, statistics: Statistics, glance: Callable[[Predict], None]
) -> tuple[Flow, dict[str, float]]:
    """The averaged model, and ``steps``, ``seconds`` and ``loss`` of its training. Goes on from ``out/checkpoint.pt``.

    Ctrl-C ends it between two steps with a checkpoint; a second one ends it at once.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = Flow(sizes)
    average = copy.deepcopy(model).requires_grad_(False)
    print(f"{parameters_of(model) / 1e6:.2f} M parameters, {len(data.states)} states", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    batches = Batches(data, statistics, sizes.horizon, options)
    path = out / "checkpoint.pt"
    step, elapsed, loss = _resume(path, model, average, optimizer)
    begun = time.monotonic() - elapsed
    asked_to_stop = _interrupts()
    while (done := max(step / options.steps, elapsed / options.seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done))
        value = flow_loss(model, *batches(step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        _follow(average, model, min(options.average, (step + 1) / (step + 10)))
        loss = value.item() if step == 1 else 0.99 * loss + 0.01 * value.item()
        elapsed = time.monotonic() - begun
        if step % options.log_every == 0:
            left = elapsed / max(done, 1e-9) - elapsed
            print(f"step {step}  loss {loss:.5f}  {elapsed:.0f} s, {left:.0f} s left", flush=True)
        if step % options.checkpoint_every == 0 or asked_to_stop:
            _save(path, model, average, optimizer, step, elapsed, loss)
        if asked_to_stop:
            raise SystemExit(f"stopped after step {step}; the same command goes on from there")
        if options.evaluate_every and step % options.evaluate_every == 0:
            glance(torch_policy(average, statistics))
            begun = time.monotonic() - elapsed  # evaluation does not count as training
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _save(path, model, average, optimizer, step, elapsed, loss)
    return average.eval(), {"steps": step, "seconds": elapsed, "loss": loss}


def refuse_other_run(out: Path, options: Options, others: dict[str, object]) -> None:
    """A folder keeps the options its contents were made with; how long and how often may change when a run goes on."""
    free = {"steps", "seconds", "threads", "log_every", "checkpoint_every", "evaluate_every"}
    settings = {**{name: value for name, value in asdict(options).items() if name not in free}, **others}
    path = out / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    changed = [f"{name} {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value]
    if changed:
        raise SystemExit(f"{out} holds a run with other options ({', '.join(changed)}): choose another --out")
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def torch_policy(model: Flow, statistics: Statistics, steps: int = 8) -> Predict:
    """The model as it is now, for a look during training; its noise differs from call to call but not from run to run."""
    generator = torch.Generator().manual_seed(0)

    def predict(state: Floats) -> Floats:
        normal = torch.from_numpy((state - statistics.state_mean) / statistics.state_std)[None]
        noise = torch.randn(1, model.config.horizon, model.config.action_dim, generator=generator)
        with torch.inference_mode():
            actions = sample(model, normal, noise, steps)[0].numpy()
        return np.asarray(actions * statistics.action_std + statistics.action_mean, dtype=np.float32)

    return predict


def _interrupts() -> list[int]:
    """Empty until Ctrl-C was pressed."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    return seen


@torch.no_grad()
def _follow(average: Flow, model: Flow, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def _resume(path: Path, model: Flow, average: Flow, optimizer: torch.optim.Optimizer) -> tuple[int, float, float]:
    """Steps, seconds and loss so far; zeros where there is no checkpoint."""
    if not path.exists():
        return 0, 0.0, 0.0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"going on from step {saved['step']}", flush=True)
    return saved["step"], saved["elapsed"], saved["loss"]


def _save(path: Path, model: Flow, average: Flow, optimizer: torch.optim.Optimizer, step: int, elapsed: float, loss: float) -> None:
    """Written beside and renamed: a kill leaves the previous checkpoint whole."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "elapsed": elapsed, "loss": loss}, partial)
    partial.replace(path)
