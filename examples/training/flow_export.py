"""From a trained flow to the files of a ``flow`` policy: ``flow.json`` and ``flow.onnx``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from act_export import Statistics
from flow_model import Flow
from torch import Tensor, nn

from actlink.spec import Spec

STEPS = 8
"""Euler steps of a bundled policy."""
TOLERANCE = 1e-4
"""Largest difference allowed between graph and model, in normalised units."""
INPUTS, OUTPUTS = ("state", "noisy", "times", "target", "weight"), ("clean", "pull")
LARGE = 4096
"""Numbers from which a weight is stored in half precision."""


class OneStep(nn.Module):
    """What is exported: the clean chunk, and what guidance adds to it."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, noisy: Tensor, times: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.pull(state, noisy, times, target, weight)


def export(model: Flow, statistics: Statistics, env: Spec, name: str, description: str, folder: Path) -> None:
    """Write the policy's files; large weights are rounded to half precision in ``model`` first, then graph and model compared."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    round_weights(model)
    write_graph(model, folder / "flow.onnx")
    for size in (1, 8):
        print(f"exported graph, batch {size}: differs by at most {difference(model, folder / 'flow.onnx', size):.1e}", flush=True)
    plain = described(model, statistics, env, name, description)
    (folder / "flow.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def round_weights(model: Flow) -> None:
    """The numbers that the files can hold."""
    for parameter in model.parameters():
        if parameter.numel() >= LARGE:
            parameter.copy_(parameter.half().float())


def write_graph(model: Flow, path: Path) -> None:
    """ONNX opset 17 with a free batch axis, everything normalised; large weights in half precision, computed with in single."""
    config = model.config
    chunk, rows = torch.zeros(2, config.horizon, config.action_dim), torch.zeros(2, config.horizon)
    with warnings.catch_warnings():
        # The older exporter gives a smaller graph of plain operations, which onnxruntime 1.20 reads; torch deprecates it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OneStep(model),
            (torch.zeros(2, config.state_dim), chunk, rows, chunk, rows),
            str(path),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in (*INPUTS, *OUTPUTS)},
            opset_version=17,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    _halve(graph)
    for part in (graph, graph.graph, *graph.graph.node):  # where on this machine a node was made is of no use to anybody else
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def _halve(graph: onnx.ModelProto) -> None:
    """Store large weights in half precision, each followed by a cast, which onnxruntime does once, when it loads the graph."""
    casts = []
    for weight in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.size >= LARGE:
            single = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{single}.half"))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [single], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *nodes])


def difference(model: Flow, path: Path, size: int) -> float:
    """Largest difference between graph and torch's own derivative on random inputs; an error above ``TOLERANCE``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    config, generator = model.config, torch.Generator().manual_seed(size)
    shape = (size, config.horizon, config.action_dim)
    state, noisy, target = (torch.randn(one, generator=generator) for one in ((size, config.state_dim), shape, shape))
    times, weight = (torch.rand(shape[:2], generator=generator) for _ in range(2))
    clean, back = torch.func.vjp(lambda chunk: model(state, chunk, times), noisy)
    (pull,) = back((target - clean) * weight[..., None])
    feed = dict(zip(INPUTS, (one.numpy() for one in (state, noisy, times, target, weight)), strict=True))
    got = session.run(list(OUTPUTS), feed)
    found = max(float(np.abs(one.detach().numpy() - other).max()) for one, other in zip((clean, pull), got, strict=True))
    if found > TOLERANCE:
        raise RuntimeError(f"the exported graph differs from the model by {found:.1e} at batch {size}")
    return found


def described(model: Flow, statistics: Statistics, env: Spec, name: str, description: str) -> dict[str, Any]:
    """What ``flow.json`` holds: the spec, how inputs and output are normalised, and the flow's own numbers."""
    spec = env.to_dict()
    action = spec["action"]
    plain = {
        "observation": {"state": spec["observation"]["state"]},
        "action": action,
        "action_horizon": model.config.horizon,
        "rate_hz": env.rate_hz,
        "accepts_prefix": True,
        "max_batch_size": 64,
        "control_space": env.control_space,
        "control_type": env.control_type,
    }
    return {
        "format": 1,
        "name": name,
        "description": description,
        "spec": plain,
        "model": "flow.onnx",
        "inputs": {"state": {"key": "state", "mean": _plain(statistics.state_mean), "std": _plain(statistics.state_std)}},
        "output": {"name": "clean", "mean": _plain(statistics.action_mean), "std": _plain(statistics.action_std)},
        "flow": {"steps": STEPS, "longest_prefix": model.config.most_delay},
    }


def _plain(values: Any) -> list[float]:
    return [round(float(value), 9) for value in values]
