"""A directory with policy.json (spec and normalisation) and model.onnx.

::

    {"format": 1, "name": "my_policy", "description": "...",
     "spec": {"observation": {"state": {"shape": [14], "names": [...]}, "images.top": {"shape": [240, 320, 3], "dtype": "uint8"}},
              "action": {"shape": [14]}, "action_horizon": 50, "rate_hz": 50.0, "max_batch_size": 8},
     "model": "model.onnx",
     "inputs": {"<graph input>": {"key": "state", "select": ["elbow", ...], "mean": [...], "std": [...]},
                "<graph input>": {"key": "images.top", "scale": 0.00392, "layout": "chw", "mean": [r, g, b], "std": [r, g, b]}},
     "output": {"name": "actions", "mean": [...], "std": [...]}}

``spec`` is laid out as ``Spec.to_dict`` does, absent keys are defaults. An input is ``(value * scale - mean) / std``, per entry or
per channel; the output ``value * std + mean``; ``select``, ``scale``, ``mean``, ``std``, ``layout`` may be left out. The graph is
batched: inputs ``(batch, ...)``, output ``(batch, action_horizon, action_dim)``, or ``(batch, action_dim)`` for a horizon of 1; a
discrete action leaves it as an integer. What the file promises is compared with the graph when the policy is loaded.

Graphs that look at more than this observation (``_onnx_episode``): ``"history": 2`` of an input gives it the last two; beside
``inputs`` there may be ``"noise"``, inputs filled with random numbers (``_noise``), and ``"memory"``, inputs that take what an
output gave to the session's last request.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies import _noise, _past
from actlink.policies._base import Policy, Result, answer
from actlink.policies._hardware import is_out_of_memory
from actlink.policies._onnx_episode import KEYS, Episodes, memory_of, noise_of
from actlink.policies._onnx_facts import facts_of, in_words, with_typical
from actlink.policies._onnx_files import MODEL_FILE, POLICY_FILE, Checkpoint, Input, read
from actlink.policies._onnx_graph import DTYPES, check_shape, feed, open_session, shrinking
from actlink.types import Array, Observation, Request, Runtime

REQUIRES = ("onnxruntime",)
EXTRA = "onnx"
LOOKS_FOR = f"{POLICY_FILE} and {MODEL_FILE} in one directory (or one of the two files)"


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    max_batch_size: int | None = None
    """Requests per call of the graph; default: what policy.json says."""
    seed: int = 0
    """Decides the noise of a graph that wants some, together with each request's step and observation."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is such a directory, or one of its two files."""
    return (path.is_dir() and ((path / POLICY_FILE).exists() or (path / MODEL_FILE).exists())) or (
        path.is_file() and (path.name == POLICY_FILE or path.suffix == ".onnx")
    )


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in directory ``source`` (or beside the file ``source``). ``ConfigError`` says which file is wrong, and how."""
    path = Path(source).expanduser()
    directory = path if path.is_dir() or not path.exists() else path.parent
    if not directory.is_dir():
        raise ConfigError(f"{path}: no such directory; expected one with {POLICY_FILE} and {MODEL_FILE}")
    if runtime.dtype not in (None, "float32"):
        raise ConfigError(f"onnx: a graph computes in the precision it was exported in; got dtype {runtime.dtype!r}")
    if config.seed < 0:
        raise ConfigError(f"onnx: seed: expected at least 0, got {config.seed}")
    checkpoint = read(directory, more=KEYS)
    if config.max_batch_size is not None:
        if config.max_batch_size < 1:
            raise ConfigError(f"onnx: max_batch_size: expected at least 1, got {config.max_batch_size}")
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, max_batch_size=config.max_batch_size))
    loading.require(sys.modules[__name__])
    return OnnxPolicy(checkpoint, config, runtime)


@final
class OnnxPolicy(Policy):
    """One graph: observations stacked, normalised, run; actions denormalised."""

    def __init__(self, checkpoint: Checkpoint, config: Config, runtime: Runtime) -> None:
        self._noise, carried = noise_of(checkpoint), memory_of(checkpoint)
        self._seed = config.seed
        self._episodes = Episodes(checkpoint, carried)
        spec = with_typical(checkpoint)
        self.spec = replace(spec, stateful=True) if self._episodes.remember else spec
        self.facts = {**facts_of(checkpoint), **_facts(checkpoint, self._noise, config.seed)}
        self._session = open_session(checkpoint, runtime)
        self._output = checkpoint.output
        self._outputs = [checkpoint.output.name, *(each.output for each in carried)]
        self._crowded: Any = None
        """After a run that found no memory: the next one gives back what the session keeps for later, or nobody else finds any."""
        graph = {entry.name: entry for entry in self._session.get_inputs()}
        outputs = {entry.name: entry for entry in self._session.get_outputs()}
        _same_names(
            checkpoint,
            [*(each.name for each in checkpoint.inputs), *(each.name for each in self._noise), *(each.name for each in carried)],
            set(graph),
        )
        self._feeds: list[tuple[Input, Callable[[Sequence[Observation]], Array]]] = [
            (each, feed(each, checkpoint, graph[each.name])) for each in checkpoint.inputs
        ]
        for noise in self._noise:
            _check_floats(checkpoint, noise.shape, graph[noise.name])
        for one in carried:
            _check_floats(checkpoint, one.shape, graph[one.name])
            _check_floats(checkpoint, one.shape, _named(checkpoint, one.output, outputs), batched=False)
        _check_output(checkpoint, _named(checkpoint, self._output.name, outputs))

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        seen = [self._episodes.seen(request) for request in requests]
        feeds = self._observed(requests, seen)
        feeds |= _noise.batch(self._noise, requests, tuple(self.spec.observation), self._seed)
        feeds |= self._episodes.carried(requests)
        try:
            raw, *handed_on = self._session.run(self._outputs, feeds, self._crowded)
            self._crowded = None
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            if is_out_of_memory(error):
                self._crowded = shrinking()
            raise PolicyError(f"onnxruntime: {error}") from error
        actions = self._denormalised(raw, len(requests))
        memories = self._episodes.after(seen, handed_on)
        return [answer(request, rows, memory) for request, rows, memory in zip(requests, actions, memories, strict=True)]

    def _observed(self, requests: Sequence[Request], seen: Sequence[_past.Seen[Observation]]) -> dict[str, Array]:
        now = [request.observation for request in requests]
        return {
            each.name: make(now if each.history == 1 else [one for past in seen for one in _past.places(past, each.history)])
            for each, make in self._feeds
        }

    def _denormalised(self, raw: Array, count: int) -> Array:
        shape = (count, self.spec.action_horizon, self.spec.action_dim or 0)
        if raw.size != count * shape[1] * shape[2]:
            raise PolicyError(f"graph output {self._output.name!r}: expected shape {shape}, got {raw.shape}")
        actions = raw.reshape(shape)
        if self._output.std is not None:
            actions = actions * self._output.std
        if self._output.mean is not None:
            actions = actions + self._output.mean
        return actions.astype(self.spec.action.dtype, copy=False)


def _same_names(checkpoint: Checkpoint, named: Sequence[str], graph_inputs: set[str]) -> None:
    if set(named) != graph_inputs or len(set(named)) != len(named):
        raise ConfigError(
            f"{checkpoint.where}: the graph's inputs are {', '.join(sorted(graph_inputs)) or 'none'}, "
            f"{POLICY_FILE} feeds {', '.join(sorted(named))}"
        )


def _named(checkpoint: Checkpoint, name: str, outputs: Mapping[str, Any]) -> Any:
    if name not in outputs:
        raise ConfigError(
            f"{checkpoint.where}: the graph's outputs are {', '.join(sorted(outputs))}, {POLICY_FILE} expects {name!r}"
        )
    return outputs[name]


def _check_floats(checkpoint: Checkpoint, shape: tuple[int, ...], entry: Any, *, batched: bool = True) -> None:
    """A graph input or output that no observation and no action is: float32 of this shape behind the batch axis."""
    where = f"{checkpoint.where}: {entry.name!r}"
    check_shape(shape, entry.shape if batched else [None, *entry.shape[1:]], checkpoint.spec.max_batch_size, where)
    if DTYPES.get(entry.type) != "float32":
        raise ConfigError(f"{where}: expected float32, the graph has {entry.type}")


def _check_output(checkpoint: Checkpoint, entry: Any) -> None:
    spec, where = checkpoint.spec, f"{checkpoint.where}: output {entry.name!r}"
    row: tuple[int | None, ...] = (spec.action_horizon, *spec.action.shape)
    if spec.action_horizon == 1 and len(entry.shape) == 2:
        row = spec.action.shape
    check_shape(row, [None, *entry.shape[1:]], 1, where)
    dtype = DTYPES.get(entry.type, "")
    if not dtype or dtype.startswith("float") != (spec.action.dtype == "float32"):
        raise ConfigError(f"{where}: the graph gives {entry.type}, the spec's action is {spec.action.dtype}")


def _facts(checkpoint: Checkpoint, noise: Sequence[_noise.Noise], seed: int) -> dict[str, str]:
    longest = max(each.history for each in checkpoint.inputs)
    found = {"history": f"the last {longest} observations"} if longest > 1 else {}
    if noise:
        count = sum(math.prod(each.shape) for each in noise)
        found["noise"] = f"{in_words(count)} random numbers for each answer, from seed {seed}, step and observation"
    return found
