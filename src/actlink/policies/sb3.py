"""Stable-Baselines3 zip files in numpy: MLP policies of PPO, A2C, SAC, TD3, DDPG and DQN, as ``predict(..., deterministic=True)``.

PPO and A2C answer with the mean, clipped to the action space, or the most likely choice; SAC with ``tanh`` of the mean, TD3 and
DDPG with ``tanh`` of the network, put between the bounds of the action space; DQN with the choice of the largest value. The kind is
read off the names of the tensors. Statistics of a VecNormalize are taken from the option, or from ``vecnormalize.pkl`` or
``vec_normalize.pkl`` beside the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from actlink.errors import ConfigError
from actlink.policies import _sb3_files as files
from actlink.policies._base import Policy, Result, answer
from actlink.policies._mlp import Mlp, mlp
from actlink.spec import Field, Spec, digest_of
from actlink.types import Array, Request, Runtime

LOOKS_FOR = "<name>.zip with data and policy.pth (Stable-Baselines3)"
NORM_FILES = ("vecnormalize.pkl", "vec_normalize.pkl")
_ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")

Finish = Callable[[Array], Array]
"""The network's output ``(batch, outputs)`` -> actions ``(batch, action_dim)``."""


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    vecnormalize: Path | None = None
    """Saved VecNormalize; default: vecnormalize.pkl or vec_normalize.pkl beside the file, if there is one."""
    normalize: bool = True
    """Whether a file of statistics that lies beside is used."""
    rate_hz: float | None = None
    """Control steps per second; the file does not say."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a family of algorithms keeps its acting network."""

    name: str
    layers: tuple[str, ...]
    """Prefixes of its linear layers, in order; ``<prefix>.<n>.weight`` or ``<prefix>.weight``."""
    activation: str
    squashed: bool


_KINDS = (
    _Kind("SAC", ("actor.latent_pi", "actor.mu"), "relu", True),
    _Kind("TD3 or DDPG", ("actor.mu",), "relu", True),
    _Kind("DQN", ("q_net.q_net",), "relu", False),
    _Kind("PPO or A2C", ("mlp_extractor.shared_net", "mlp_extractor.policy_net", "action_net"), "tanh", False),
)


def recognises(path: Path) -> bool:
    return path.suffix == ".zip" and path.is_file()


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in the zip file ``source``; ``ConfigError`` says what in it is missing, refused or not an MLP policy's."""
    path = Path(source).expanduser()
    if runtime.device != "cpu":
        raise ConfigError(f"device {runtime.device!r}: Stable-Baselines3 policies run in numpy, on the cpu; use device cpu")
    checkpoint = files.read(path)
    kind, pairs = _network(checkpoint, path)
    network = mlp(pairs, _activation(checkpoint, kind, path), str(path))
    shape, action = checkpoint.observation.shape, checkpoint.action
    if checkpoint.observation.choices or network.inputs != int(np.prod(shape)):
        got = f"{checkpoint.observation.choices} choices" if checkpoint.observation.choices else f"shape {shape}"
        raise ConfigError(f"{path}: the network takes {network.inputs} numbers, the observation space has {got}")
    outputs = action.choices or int(np.prod(action.shape))
    if network.outputs != outputs or len(action.shape) > 1:
        raise ConfigError(
            f"{path}: the network gives {network.outputs} numbers, the action space has {action.choices or action.shape}"
        )
    norm_path = _norm_path(path, config)
    normaliser = files.normaliser(norm_path, shape) if norm_path else None
    digest = digest_of(
        *(part.tobytes() for pair in network.layers for part in pair),
        *((normaliser.mean.tobytes(), normaliser.deviation.tobytes()) if normaliser else ()),
    )
    facts = {
        "family": f"Stable-Baselines3 {kind.name}",
        "parameters": str(sum(weight.size + bias.size for weight, bias in network.layers)),
        "layout": str(network),
        "normalisation": f"{norm_path} (VecNormalize)" if normaliser else "none",
    }
    spec = Spec({"state": Field(shape)}, _action(action), rate_hz=config.rate_hz, max_batch_size=64, digest=digest)
    return Sb3Policy(network, _finish(kind, checkpoint, path), spec, normaliser, facts)


@final
class Sb3Policy(Policy):
    """Observations stacked, normalised, run; actions as ``predict`` finishes them."""

    def __init__(
        self, network: Mlp, finish: Finish, spec: Spec, normaliser: files.Normaliser | None, facts: Mapping[str, str]
    ) -> None:
        self.spec, self.facts = spec, facts
        self._network, self._finish, self._normaliser = network, finish, normaliser

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        states = np.stack([np.asarray(request.observation["state"], np.float32) for request in requests])
        if self._normaliser is not None:
            states = self._normaliser(states)
        actions = self._finish(self._network(states.reshape(len(requests), -1)))
        return [answer(request, actions[row : row + 1]) for row, request in enumerate(requests)]


def _network(checkpoint: files.Checkpoint, path: Path) -> tuple[_Kind, list[tuple[Array, Array]]]:
    tensors = checkpoint.tensors
    others = [name for name in tensors if "features_extractor" in name]
    if others:
        raise ConfigError(f"{path}: {others[0]}: a features extractor with weights (CNN, LSTM, ...); MLP policies are read here")
    spread = any(name.startswith("actor.log_std") for name in tensors)
    for kind in _KINDS:
        if kind.layers[-1] == "actor.mu" and spread != (kind.name == "SAC"):
            continue  # SAC and TD3 name their layers alike; SAC alone has a spread
        pairs = [pair for prefix in kind.layers for pair in _linears(tensors, prefix)]
        if _linears(tensors, kind.layers[-1]):
            return kind, pairs
    got = ", ".join(list(tensors)[:6])
    raise ConfigError(f"{path}: expected the tensors of an MLP policy of PPO, A2C, SAC, TD3, DDPG or DQN, got {got}")


def _linears(tensors: Mapping[str, Array], prefix: str) -> list[tuple[Array, Array]]:
    """The linear layers under ``prefix``, by their number."""
    found = {}
    for name, weight in tensors.items():
        match = re.fullmatch(rf"{re.escape(prefix)}(?:\.(\d+))?\.weight", name)
        if match and f"{name[:-6]}bias" in tensors:
            found[int(match[1] or 0)] = weight, tensors[f"{name[:-6]}bias"]
    return [found[index] for index in sorted(found)]


def _activation(checkpoint: files.Checkpoint, kind: _Kind, path: Path) -> str:
    printed = checkpoint.kwargs.get("activation_fn")
    if printed is None:
        return kind.activation
    match = _ACTIVATION.fullmatch(str(printed))
    if match is None:
        raise ConfigError(f"{path}: activation_fn {str(printed)[:80]!r} is not one of torch's")
    return match[1].lower()


def _finish(kind: _Kind, checkpoint: files.Checkpoint, path: Path) -> Finish:
    """What ``predict`` does behind the network."""
    space = checkpoint.action
    if space.choices:
        if kind.squashed:
            raise ConfigError(f"{path}: {kind.name} with a Discrete action space")
        return lambda outputs: outputs.argmax(axis=1)[:, None]
    if kind.name == "DQN":
        raise ConfigError(f"{path}: DQN with a Box action space")
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if not (kind.squashed or checkpoint.kwargs.get("squash_output") is True):
        return lambda outputs: np.clip(outputs, low, high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ConfigError(f"{path}: {kind.name} puts its actions between the bounds of the action space, which are infinite")
    limit = _mean_limit(kind, checkpoint)

    def unscaled(outputs: Array) -> Array:
        squashed = np.tanh(outputs if limit is None else np.clip(outputs, -limit, limit))
        result: Array = low + np.float32(0.5) * (squashed + np.float32(1)) * (high - low)
        return result

    return unscaled


def _mean_limit(kind: _Kind, checkpoint: files.Checkpoint) -> float | None:
    """SAC with state-dependent exploration clips the mean (a Hardtanh behind the layer): its name has a number then."""
    if kind.name != "SAC" or "actor.mu.0.weight" not in checkpoint.tensors:
        return None
    given: Any = checkpoint.kwargs.get("clip_mean", 2.0)
    return float(given) if isinstance(given, int | float) else 2.0


def _action(space: files.Space) -> Field:
    if space.choices:
        return Field((1,), "int64", range=(0, space.choices - 1))
    low, high = float(np.min(np.asarray(space.low))), float(np.max(np.asarray(space.high)))
    return Field(space.shape, range=(low, high) if np.isfinite([low, high]).all() else None)


def _norm_path(path: Path, config: Config) -> Path | None:
    if config.vecnormalize is not None:
        return config.vecnormalize
    if not config.normalize:
        return None
    return next((path.parent / name for name in NORM_FILES if (path.parent / name).is_file()), None)
