"""From a trained ACT to the files of an ``onnx`` policy: ``policy.json``, ``model.onnx`` and the weights in LeRobot's names."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from act_model import Act, ActConfig, lerobot_tensors
from safetensors.torch import save_file

from actlink.environments.aloha import Environment

Floats = npt.NDArray[np.float32]
JOINTS = 14
STD_FLOOR = 0.01
"""Joints and quaternion parts that hardly move would be blown up to noise by their true deviation."""
TOLERANCE = 1e-5
"""Largest difference allowed between graph and model, in normalised units."""


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of states (21,) and actions (14,), for z-scores."""

    state_mean: Floats
    state_std: Floats
    action_mean: Floats
    action_std: Floats

    @classmethod
    def of(cls, states: Floats, actions: Floats) -> Statistics:
        """Over all rows of states (n, 21) and of the actions taken in them (n, 14); deviations floored."""
        floor = np.float32(STD_FLOOR)
        return cls(states.mean(0), states.std(0).clip(floor), actions.mean(0), actions.std(0).clip(floor))


def export(model: Act, statistics: Statistics, folder: Path) -> None:
    """Write the policy's files; the graph is held against the model first."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    write_graph(model, folder / "model.onnx")
    for size in (1, 8):
        print(f"exported graph, batch {size}: differs by at most {difference(model, folder / 'model.onnx', size):.1e}")
    save_file(lerobot_tensors(model), folder / "weights.safetensors")
    (folder / "policy.json").write_text(json.dumps(description(statistics), indent=1) + "\n", encoding="utf-8")


def write_graph(model: Act, path: Path) -> None:
    """ONNX opset 17 with a free batch axis: inputs ``state`` and ``environment_state``, output ``actions``, all normalised."""
    names = ("state", "environment_state", "actions")
    with warnings.catch_warnings():
        # The older exporter gives a smaller graph of plain operations, which onnxruntime 1.20 reads; torch deprecates it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, JOINTS), torch.zeros(2, 7)),
            str(path),
            input_names=list(names[:2]),
            output_names=[names[2]],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=17,
            dynamo=False,
        )


def difference(model: Act, path: Path, size: int) -> float:
    """Largest difference between graph and model on random inputs of batch ``size``; an error above ``TOLERANCE``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, environment_state = torch.randn(size, JOINTS), torch.randn(size, 7)
    with torch.inference_mode():
        expected = model(state, environment_state).numpy()
    (got,) = session.run(None, {"state": state.numpy(), "environment_state": environment_state.numpy()})
    found = float(np.abs(expected - got).max())
    if found > TOLERANCE:
        raise RuntimeError(f"the exported graph differs from the model by {found:.1e} at batch {size}")
    return found


def description(statistics: Statistics) -> dict[str, Any]:
    """What ``policy.json`` holds: the spec and how inputs and output are normalised."""
    env = Environment()
    names = list(env.spec.observation["state"].names or ())
    joints = list(env.spec.action.names or ())
    mean, std = [round(float(x), 9) for x in statistics.state_mean], [round(float(x), 9) for x in statistics.state_std]

    def part(first: int, end: int) -> dict[str, Any]:
        return {"key": "state", "select": names[first:end], "mean": mean[first:end], "std": std[first:end]}

    return {
        "format": 1,
        "name": "aloha_transfer_cube",
        "description": "ACT on joints and cube pose: the right arm picks up the cube and hands it to the left arm.",
        "spec": {
            "observation": {"state": {"shape": [len(names)], "dtype": "float32", "required": True, "names": names}},
            "action": {"shape": [JOINTS], "dtype": "float32", "names": joints, "unit": "rad", "range": None},
            "action_horizon": ActConfig().chunk_size,
            "rate_hz": 50.0,
            "accepts_prefix": False,
            "max_batch_size": 64,
            "control_space": "joint",
            "control_type": "abs",
        },
        "model": "model.onnx",
        "inputs": {"state": part(0, JOINTS), "environment_state": part(JOINTS, len(names))},
        "output": {
            "name": "actions",
            "mean": [round(float(x), 9) for x in statistics.action_mean],
            "std": [round(float(x), 9) for x in statistics.action_std],
        },
    }
