"""What the two reinforcement learning scripts share. Law: nothing here knows an algorithm.

Checkpoints are plain ``.npz`` files (no pickle), so a run that was interrupted continues where it stopped.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

EVALUATION_SEEDS = range(1000, 1050)
"""Episodes the card reports; training never resets an environment with one of these seeds."""


def mlp(sizes: Sequence[int], activation: type[nn.Module], scales: Sequence[float] | None = None) -> nn.Sequential:
    """Linear layers with ``activation`` between them; ``scales`` asks for orthogonal weights of these gains and zero biases."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(fan_in, fan_out)
        if scales is not None:
            nn.init.orthogonal_(linear.weight, scales[index])
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def linears(network: nn.Sequential, name: str) -> dict[str, np.ndarray]:
    """Weights of the linear layers as ``<name>.layers.<i>.weight`` (out, in) and ``.bias``."""
    found = [module for module in network if isinstance(module, nn.Linear)]
    arrays = {}
    for index, linear in enumerate(found):
        arrays[f"{name}.layers.{index}.weight"] = linear.weight.detach().numpy()
        arrays[f"{name}.layers.{index}.bias"] = linear.bias.detach().numpy()
    return arrays


class Run:
    """A training run on disk: its checkpoint, its clock and its progress line."""

    def __init__(self, folder: Path, steps: int, seconds: float | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.npz"
        self.steps, self.seconds = steps, seconds
        self._started_s = time.monotonic()
        self._shown_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process took the run up."""
        return time.monotonic() - self._started_s

    def over(self, step: int) -> bool:
        """Whether the wanted number of steps, or of seconds, has passed."""
        return step >= self.steps or (self.seconds is not None and self.elapsed_s >= self.seconds)

    def show(self, step: int, returns: Sequence[float], **numbers: float) -> None:
        """A line every other second: steps, mean return of the last episodes and whatever else matters."""
        if time.monotonic() - self._shown_s < 2.0:
            return
        self._shown_s = time.monotonic()
        mean = float(np.mean(returns[-20:])) if returns else float("nan")
        rest = "".join(f"  {name} {value:.3g}" for name, value in numbers.items())
        print(f"{step:8d}/{self.steps} steps  {self.elapsed_s:6.1f} s  return (last 20) {mean:8.1f}{rest}", flush=True)


def save(path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], **arrays: Any) -> None:
    """Everything a run needs to continue, written beside the old file and then put in its place."""
    found: dict[str, Any] = dict(arrays)
    for name, module in modules.items():
        found.update({f"module/{name}/{key}": value.detach().numpy() for key, value in module.state_dict().items()})
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            found.update({f"optimizer/{name}/{index}/{key}": value.numpy() for key, value in moments.items()})
    found["torch_rng"] = torch.get_rng_state().numpy()
    partial = path.with_name("partial.npz")
    np.savez(partial, **found)
    partial.replace(path)


def restore(path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, np.ndarray]:
    """The inverse of ``save``: fills modules and optimizers, returns the arrays."""
    with np.load(path, allow_pickle=False) as file:
        found = {key: file[key] for key in file.files}
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({key[len(prefix) :]: torch.from_numpy(found[key]) for key in found if key.startswith(prefix)})
    for name, optimizer in optimizers.items():
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in found.items():
            if key.startswith(f"optimizer/{name}/"):
                _, _, index, moment = key.split("/")
                moments.setdefault(int(index), {})[moment] = torch.from_numpy(value)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(torch.from_numpy(found["torch_rng"]))
    return found


def evaluate(env_id: str, act: Callable[[np.ndarray], Any], seeds: Sequence[int]) -> np.ndarray:
    """Return of one episode per seed, acting by ``act(observation)``."""
    environment = gymnasium.make(env_id)
    returns = []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(act(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    environment.close()
    return np.asarray(returns)


def mean_with_interval(values: np.ndarray) -> str:
    """``mean [low, high]``: normal 95 % interval of the mean, and the smallest and largest value."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    spread = f"from {values.min():.1f} to {values.max():.1f}"
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}] over {len(values)} episodes, {spread}"


def _without_traces(model: Any) -> Any:
    """The exporter records in every node which line of which file on this machine made it: of no use to anybody else."""
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def export(folder: Path, network: nn.Module, description: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write ``policy.json``, ``model.onnx`` (input ``state`` (batch, state_dim)) and ``weights.npz`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    state_dim = description["spec"]["observation"]["state"]["shape"][0]
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, state_dim),),
        input_names=["state"],
        output_names=["actions"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    (folder / "model.onnx").write_bytes(_without_traces(program.model_proto).SerializeToString())
    (folder / "policy.json").write_text(json.dumps(description, indent=2) + "\n")
    np.savez(folder / "weights.npz", **weights)
