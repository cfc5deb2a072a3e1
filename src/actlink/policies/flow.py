"""A directory with flow.json and flow.onnx: flow matching that can continue a prefix (real-time chunking), without torch.

``flow.json`` is laid out like ``policy.json`` of the ``onnx`` family, plus ``"flow": {"steps": 8, "longest_prefix": 32}``: Euler
steps, and the longest prefix the network was trained to continue (0: none). The graph is one step of the flow, batched, in
normalised units: beside the observation's inputs it takes ``noisy`` and ``target`` ``(batch, action_horizon, action_dim)``,
``times`` and ``weight`` ``(batch, action_horizon)``, and gives ``clean``, the chunk at the end of the flow as seen from here, and
``pull``, which is ``J^T (weight * (target - clean))`` with ``J`` the derivative of ``clean`` by ``noisy``.

**Plain.** From noise ``x`` at t = 0 by Euler steps along ``v = (clean - x) / (1 - t)`` to t = 1 (Lipman et al., arXiv 2210.02747).

**Guided**, real-time chunking (Black et al. 2025, arXiv 2506.07339, equations 2 to 5), for any flow: the velocity becomes
``v + min(beta, (t^2 + (1 - t)^2) / (t (1 - t))) * pull``. Row i of a chunk weighs 1 while i < d, the inference delay;
``c (exp(c) - 1) / (e - 1)`` with ``c = (n - i) / (n - d + 1)`` over the rest of the n prefix rows; and 0 after them. Rows 0..d-1
come out close to the prefix, not equal to it: how close, the network's own certainty decides.

**Hard**, training-time real-time chunking (arXiv 2512.05964), for a network trained so: rows 0..d-1 are set to the prefix and have
t = 1, the others flow. Rows 0..d-1 come out equal to the prefix; the rest of it is not used. A delay above ``longest_prefix`` is
cut to that.

Law: an answer is a function of the request. The noise is drawn from the option ``seed``, the request's step and its observation
(``_noise``), and from nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies import _noise
from actlink.policies._base import Policy, Result, answer
from actlink.policies._onnx_facts import facts_of
from actlink.policies._onnx_files import Checkpoint, read
from actlink.policies._onnx_graph import check_shape, feed, open_session
from actlink.types import Array, Request, Runtime

REQUIRES = ("onnxruntime",)
EXTRA = "onnx"
LOOKS_FOR = "a directory with flow.json"

FLOW_FILE, GRAPH_FILE = "flow.json", "flow.onnx"
_STEP_INPUTS = ("noisy", "times", "target", "weight")
_PULL = "pull"


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    prefix_mode: Literal["guided", "hard", "ignore"] = "guided"
    """How a request's prefix is continued: by guidance, as a hard beginning, or not at all."""
    steps: int | None = None
    """Euler steps; default: what flow.json says."""
    guidance: float = 5.0
    """beta, the largest weight of the guidance."""
    seed: int = 0
    """Decides the noise, together with each request's step and observation."""
    max_batch_size: int | None = None
    """Requests per call of the graph; default: what flow.json says."""

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("max_batch_size", self.max_batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if not (np.isfinite(self.guidance) and self.guidance >= 0):
            raise ConfigError(f"guidance: expected a finite number of at least 0, got {self.guidance}")
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, got {self.seed}")


def recognises(path: Path) -> bool:
    """Whether ``path`` is such a directory, or its flow.json."""
    return (path / FLOW_FILE).exists() if path.is_dir() else path.name == FLOW_FILE and path.is_file()


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in directory ``source`` (or beside its ``flow.json``). ``ConfigError`` says which file is wrong, and how."""
    path = Path(source).expanduser()
    directory = path if path.is_dir() or not path.exists() else path.parent
    if not directory.is_dir():
        raise ConfigError(f"{path}: no such directory; expected one with {FLOW_FILE} and {GRAPH_FILE}")
    if runtime.dtype not in (None, "float32"):
        raise ConfigError(f"flow: a graph computes in the precision it was exported in; got dtype {runtime.dtype!r}")
    checkpoint = read(directory, FLOW_FILE, GRAPH_FILE, frozenset({"flow"}))
    described = _Numbers.read(checkpoint.more.get("flow"), directory / FLOW_FILE)
    if config.prefix_mode == "hard" and not described.longest_prefix:
        raise ConfigError(f"{directory}: prefix_mode: this network was not trained to continue a hard prefix; use guided or ignore")
    if config.max_batch_size is not None:
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, max_batch_size=config.max_batch_size))
    if any(each.history > 1 for each in checkpoint.inputs):
        raise ConfigError(f"{directory}: history: a flow looks at one observation, got an input of several")
    loading.require(sys.modules[__name__])
    return FlowPolicy(checkpoint, described, config, runtime)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The part ``flow`` of ``flow.json``."""

    steps: int
    longest_prefix: int

    @classmethod
    def read(cls, plain: Any, path: Path) -> _Numbers:
        if not isinstance(plain, dict) or set(plain) != {"steps", "longest_prefix"}:
            got = sorted(plain) if isinstance(plain, dict) else plain
            raise ConfigError(f"{path}: 'flow': expected an object with steps and longest_prefix, got {got}")
        for name, least in (("steps", 1), ("longest_prefix", 0)):
            if not isinstance(plain[name], int) or isinstance(plain[name], bool) or plain[name] < least:
                raise ConfigError(f"{path}: flow.{name}: expected an integer of at least {least}, got {plain[name]!r}")
        return cls(plain["steps"], plain["longest_prefix"])


@final
class FlowPolicy(Policy):
    """See the module."""

    def __init__(self, checkpoint: Checkpoint, described: _Numbers, config: Config, runtime: Runtime) -> None:
        self.spec = replace(checkpoint.spec, accepts_prefix=config.prefix_mode != "ignore")
        self._mode, self._guidance, self._seed = config.prefix_mode, config.guidance, config.seed
        self._steps = config.steps or described.steps
        self._longest_prefix = described.longest_prefix
        self._graph = open_session(checkpoint, runtime)
        inputs = {entry.name: entry for entry in self._graph.get_inputs()}
        _fits(checkpoint, inputs, {entry.name: entry for entry in self._graph.get_outputs()})
        self._feeds = [(each.name, feed(each, checkpoint, inputs[each.name])) for each in checkpoint.inputs]
        self._clean = checkpoint.output.name
        width = self.spec.action_dim or 0
        mean, std = checkpoint.output.mean, checkpoint.output.std
        self._mean = np.zeros(width, np.float32) if mean is None else mean
        self._std = np.ones(width, np.float32) if std is None else std
        self._shape = (self.spec.action_horizon, width)
        self.facts: Mapping[str, str] = {
            **facts_of(checkpoint),
            "flow": f"{self._steps} Euler steps",
            "prefix": {
                "guided": f"guided, weight at most {config.guidance:g}",
                "hard": f"hard, at most {described.longest_prefix} rows",
                "ignore": "ignored",
            }[config.prefix_mode],
        }

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        """Chunks in the order of the requests; a request whose prefix is malformed has a ``PolicyError`` of its own."""
        results: list[Result | None] = [self._refusal(request) for request in requests]
        good = [index for index, refusal in enumerate(results) if refusal is None]
        if good:
            chosen = [requests[index] for index in good]
            for index, request, actions in zip(good, chosen, self._flow(chosen), strict=True):
                results[index] = answer(request, actions)
        return [result for result in results if result is not None]

    def _flow(self, requests: Sequence[Request]) -> Array:
        """Actions ``(len(requests), action_horizon, action_dim)`` in the spec's units."""
        observations = [request.observation for request in requests]
        feeds = {name: make(observations) for name, make in self._feeds}
        x = np.stack([self._noise(request) for request in requests])
        target, weight, given = np.zeros_like(x), np.zeros(x.shape[:2], np.float32), np.zeros(x.shape[:2], bool)
        for lane, request in enumerate(requests):
            self._place(request, target[lane], weight[lane], given[lane])
        x[given] = target[given]
        outputs = [self._clean, _PULL] if weight.any() else [self._clean]
        for index in range(self._steps):
            time = index / self._steps
            times = np.where(given, np.float32(1), np.float32(time))
            clean, *pulled = self._run(outputs, {**feeds, "noisy": x, "times": times, "target": target, "weight": weight})
            velocity = (clean - x) / np.float32(1 - time)
            if pulled:
                velocity += np.float32(self._strength(time)) * pulled[0]
            x = x + velocity / np.float32(self._steps)
            x[given] = target[given]
        actions: Array = (x * self._std + self._mean).astype(np.float32, copy=False)
        for lane, request in enumerate(requests):  # not by way of the normalisation, which rounds
            if request.prefix is not None and given[lane].any():
                rows = int(given[lane].sum())
                actions[lane, :rows] = request.prefix[:rows]
        return actions

    def _place(self, request: Request, target: Array, weight: Array, given: Array) -> None:
        """Write what is to be continued into one lane: its target rows, and their weights or which of them are given."""
        if request.prefix is None or self._mode == "ignore":
            return
        rows = min(len(request.prefix), self._shape[0])
        target[:rows] = (np.asarray(request.prefix[:rows], np.float32) - self._mean) / self._std
        if self._mode == "hard":
            given[: min(request.inference_delay, rows, self._longest_prefix)] = True
        else:
            weight[:] = soft_mask(request.inference_delay, rows, self._shape[0])

    def _strength(self, time: float) -> float:
        """How strongly the chunk is pulled at ``time``: equation 2 of the paper, clipped as there."""
        return self._guidance if time == 0 else min(self._guidance, (time**2 + (1 - time) ** 2) / (time * (1 - time)))

    def _noise(self, request: Request) -> Array:
        return _noise.source(request, self.spec.observation, self._seed).standard_normal(self._shape, np.float32)

    def _run(self, outputs: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            found: list[Array] = self._graph.run(outputs, feeds)
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise PolicyError(f"onnxruntime: {error}") from error
        return found

    def _refusal(self, request: Request) -> PolicyError | None:
        if request.prefix is None or self._mode == "ignore":
            return None
        prefix, width = np.asarray(request.prefix), self._shape[1]
        if prefix.ndim != 2 or prefix.shape[1] != width or prefix.dtype.kind not in "fiu":
            return PolicyError(f"prefix: expected numbers of shape (n, {width}), got {prefix.dtype} {prefix.shape}")
        if not np.isfinite(prefix).all():
            return PolicyError("prefix: expected finite numbers, got NaN or infinity")
        if request.inference_delay < 0:
            return PolicyError(f"inference_delay: expected at least 0 control steps, got {request.inference_delay}")
        return None


def soft_mask(delay: int, rows: int, horizon: int) -> Array:
    """Equation 5 of the real-time chunking paper: float32 ``(horizon,)``, 1 up to ``delay``, falling to 0 at ``rows``."""
    index, start = np.arange(horizon), min(delay, rows)
    share = np.clip((rows - index) / (rows - start + 1), 0, 1)
    weights = np.where(index < start, 1.0, share * np.expm1(share) / (np.e - 1))
    return np.where(index < rows, weights, 0.0).astype(np.float32)


def _fits(checkpoint: Checkpoint, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """``ConfigError`` unless the graph is one step of a flow over chunks of the spec's shape."""
    spec, where = checkpoint.spec, checkpoint.where
    expected = {*(each.name for each in checkpoint.inputs), *_STEP_INPUTS}
    if set(inputs) != expected:
        raise ConfigError(f"{where}: expected the graph inputs {', '.join(sorted(expected))}, got {', '.join(sorted(inputs))}")
    wanted = {checkpoint.output.name, _PULL}
    if not wanted <= set(outputs):
        raise ConfigError(f"{where}: expected the graph outputs {', '.join(sorted(wanted))}, got {', '.join(sorted(outputs))}")
    if spec.action.dtype != "float32" or spec.action_dim is None:
        raise ConfigError(f"{where}: expected an action of a known number of floats, got {spec.action.dtype} {spec.action.shape}")
    row, chunk = (spec.action_horizon,), (spec.action_horizon, spec.action_dim)
    entries = {**{name: inputs[name] for name in _STEP_INPUTS}, **{name: outputs[name] for name in wanted}}
    for name, entry in entries.items():
        shape = row if name in ("times", "weight") else chunk
        sizes = entry.shape if name in inputs else [None, *entry.shape[1:]]
        check_shape(shape, sizes, spec.max_batch_size, f"{where}: {name!r}", checkpoint.described)
        if entry.type != "tensor(float)":
            raise ConfigError(f"{where}: {name!r}: expected float32, got {entry.type}")
