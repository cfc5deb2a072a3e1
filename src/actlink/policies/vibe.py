"""vibe-rl checkpoints (``state.eqx``, or Orbax through jax): PPO, DQN and SAC networks of any sizes, in numpy.

PPO and DQN answer with the index of the largest output, SAC with ``tanh(mean)``. ``norm_stats.json`` is taken from the option, from
the directory, or from its parent; ``obs`` is subtracted and divided before the network. As in vibe-rl, a SAC action stays in -1..1
unless the file has statistics of ``action``: then it is put between ``action_low`` and ``action_high``, multiplied by the deviation
and shifted by the mean. The two options by themselves rescale as well. Means and deviations are used, not the quantiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from actlink.errors import ConfigError
from actlink.policies import _vibe_files as files
from actlink.policies._base import Policy, Result, answer
from actlink.policies._mlp import Mlp, mlp
from actlink.spec import Field, Spec, digest_of
from actlink.types import Array, Request, Runtime

LOOKS_FOR = "state.eqx, step_<n>/state.eqx, or Orbax's numbered directories (vibe-rl)"
NORM_FILE = "norm_stats.json"
_SMALLEST_STD = np.float32(1e-8)


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known of a training setup beyond its weights."""

    algorithm: str
    observation: tuple[str, ...]
    action: tuple[str, ...]
    rate_hz: float | None = None


_CARTPOLE = ("cart_position", "cart_velocity", "pole_angle", "pole_angular_velocity")
PRESETS: Mapping[str, Preset] = {
    "cartpole_ppo": Preset("ppo", _CARTPOLE, ("push",), 50.0),
    "cartpole_dqn": Preset("dqn", _CARTPOLE, ("push",), 50.0),
    "pendulum_ppo": Preset("ppo", ("cos_angle", "sin_angle", "angular_velocity"), ("torque",), 20.0),
    "pendulum_sac": Preset("sac", ("cos_angle", "sin_angle", "angular_velocity"), ("torque",), 20.0),
    "gridworld_dqn": Preset("dqn", ("row", "column"), ("move",)),
}


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    step: int | None = None
    """Which step_<n>; default: state.eqx in the directory itself, else the highest step."""
    norm_stats: Path | None = None
    """Statistics; default: norm_stats.json in the directory or its parent, if there is one."""
    preset: str = ""
    """cartpole_ppo, cartpole_dqn, pendulum_ppo, pendulum_sac or gridworld_dqn: names of the entries and the rate."""
    algorithm: str = ""
    """ppo, dqn or sac; default: the preset's, else by the shapes of the layers."""
    activation: str = ""
    """tanh, relu, elu, leakyrelu, silu or sigmoid; default: tanh for ppo, relu for dqn and sac."""
    action_low: float | None = None
    """Smallest action of a sac policy; default -1."""
    action_high: float | None = None
    """Largest action of a sac policy; default 1."""
    obs_norm_key: str = "obs"
    """Which statistics of the file are the observation's."""
    action_norm_key: str = "action"
    """Which are the action's."""


def recognises(path: Path) -> bool:
    if path.is_dir():
        return (path / files.STATE_FILE).exists() or files.is_orbax(path) or bool(files.steps(path))
    return path.suffix == ".eqx"


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy in directory or file ``source``; ``ConfigError`` says which file is missing or what does not fit."""
    path = Path(source).expanduser()
    preset = _preset(config)
    if runtime.device != "cpu":
        raise ConfigError(f"device {runtime.device!r}: vibe-rl policies run in numpy, on the cpu; use device cpu")
    state = files.find(path, config.step)
    algorithm = config.algorithm or (preset.algorithm if preset else None)
    found = files.network(files.leaves(state), algorithm, str(state))
    network = mlp(found.pairs, config.activation or files.ALGORITHMS[found.algorithm], str(state))
    if preset and network.inputs != len(preset.observation):
        raise ConfigError(f"{state}: {config.preset} observes ({len(preset.observation)},), this policy ({network.inputs},)")
    norm_path = _norm_path(path, state, config.norm_stats)
    discrete = found.algorithm != "sac"
    sizes = {"obs": network.inputs} if discrete else {"obs": network.inputs, "action": network.outputs}
    statistics = _Statistics.read(norm_path, sizes, {"obs": config.obs_norm_key, "action": config.action_norm_key})
    weights = b"".join(weight.tobytes() + bias.tobytes() for weight, bias in network.layers)
    low, high = config.action_low, config.action_high
    if discrete and (low, high) != (None, None):
        raise ConfigError(f"{state}: action_low and action_high are for sac; {found.algorithm} answers with one of its choices")
    scaling = _scaling(statistics, low, high, str(state))
    digest = digest_of(weights, *(part.tobytes() for part in (statistics.obs or ())), *(part.tobytes() for part in scaling or ()))
    facts = {
        "family": f"vibe-rl {found.algorithm}",
        "weights": str(state),
        "parameters": f"{sum(weight.size + bias.size for weight, bias in network.layers)}",
        "layout": str(network),
        "normalisation": str(norm_path) if norm_path else "none",
    }
    if discrete:
        return Discrete(network, _spec(network, preset, config.preset, digest, (0, network.outputs - 1)), statistics, facts)
    facts["actions"] = "rescaled" if scaling else f"in -1..1 (no action in {NORM_FILE}, no option action_low or action_high)"
    factor, offset = scaling or (np.float32(1), np.float32(0))
    bounds = float(np.min(offset - factor)), float(np.max(offset + factor))
    return Continuous(network, _spec(network, preset, config.preset, digest, bounds, discrete=False), statistics, scaling, facts)


@dataclass(frozen=True, slots=True, eq=False)
class _Statistics:
    obs: tuple[Array, Array] | None = None
    """Mean and deviation, float32 ``(state_dim,)``."""
    action: tuple[Array, Array] | None = None

    @classmethod
    def read(cls, path: Path | None, sizes: Mapping[str, int], keys: Mapping[str, str]) -> _Statistics:
        """Those of ``sizes`` (entries by part) that the file has under its ``keys``; none without a file."""
        if path is None:
            return cls()
        try:
            given = dict(json.loads(path.read_text(encoding="utf-8")).items())
            found = {
                part: tuple(np.asarray(given[keys[part]][name], np.float32) for name in ("mean", "std"))
                for part in sizes
                if keys[part] in given
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            expected = f"{{{keys['obs']}: {{mean: [...], std: [...]}}, {keys['action']}: ...}}"
            raise ConfigError(f"{path}: expected {expected}, got {error!r}") from None
        checked: dict[str, tuple[Array, Array]] = {}
        for part, (mean, std) in found.items():
            size = sizes[part]
            if any(each.shape not in ((size,), ()) or not np.isfinite(each).all() for each in (mean, std)):
                raise ConfigError(
                    f"{path}: {keys[part]}: expected finite mean and std of shape ({size},), got {mean.shape} and {std.shape}"
                )
            checked[part] = np.broadcast_to(mean, size), np.maximum(np.broadcast_to(std, size), _SMALLEST_STD)
        return cls(**checked)

    def normalised(self, states: Array) -> Array:
        if self.obs is None:
            return states
        mean, std = self.obs
        result: Array = (states - mean) / std
        return result


def _scaling(statistics: _Statistics, low: float | None, high: float | None, where: str) -> tuple[Array, Array] | None:
    """Factor and offset of an action in -1..1; None where it stays as it is."""
    if statistics.action is None and low is None and high is None:
        return None
    bottom, top = np.float32(-1 if low is None else low), np.float32(1 if high is None else high)
    if not bottom < top:
        raise ConfigError(f"{where}: expected action_low below action_high, got {low} and {high}")
    factor, offset = np.asarray((top - bottom) / 2), np.asarray((top + bottom) / 2)
    if statistics.action is not None:
        mean, std = statistics.action
        factor, offset = factor * std, offset * std + mean
    return factor.astype(np.float32), offset.astype(np.float32)


@final
class Discrete(Policy):
    """The index of the largest output: PPO's logits, DQN's values."""

    def __init__(self, network: Mlp, spec: Spec, statistics: _Statistics, facts: Mapping[str, str]) -> None:
        self.spec, self.facts = spec, facts
        self._network, self._statistics = network, statistics

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        choices = self._network(self._statistics.normalised(_states(requests))).argmax(axis=1)
        return [answer(request, choices[row : row + 1, None]) for row, request in enumerate(requests)]


@final
class Continuous(Policy):
    """SAC: ``tanh`` of the mean, rescaled where that is known."""

    def __init__(
        self, network: Mlp, spec: Spec, statistics: _Statistics, scaling: tuple[Array, Array] | None, facts: Mapping[str, str]
    ) -> None:
        self.spec, self.facts = spec, facts
        self._network, self._statistics, self._scaling = network, statistics, scaling

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        actions = np.tanh(self._network(self._statistics.normalised(_states(requests))))
        if self._scaling is not None:
            factor, offset = self._scaling
            actions = actions * factor + offset
        return [answer(request, actions[row : row + 1]) for row, request in enumerate(requests)]


def _states(requests: Sequence[Request]) -> Array:
    return np.stack([np.asarray(request.observation["state"], np.float32) for request in requests])


def _spec(
    network: Mlp, preset: Preset | None, name: str, digest: str, bounds: tuple[float, float] | None, *, discrete: bool = True
) -> Spec:
    dimension = 1 if discrete else network.outputs
    names = preset.action if preset and len(preset.action) == dimension else None
    action = Field((dimension,), "int64" if discrete else "float32", names=names, range=bounds)
    state = Field((network.inputs,), names=preset.observation if preset else None)
    return Spec({"state": state}, action, rate_hz=preset.rate_hz if preset else None, max_batch_size=64, name=name, digest=digest)


def _preset(config: Config) -> Preset | None:
    if config.preset and config.preset not in PRESETS:
        raise ConfigError(f"vibe: preset {config.preset!r}: there are {', '.join(PRESETS)}")
    if config.preset == "pendulum_ppo":
        raise ConfigError(
            "vibe: preset 'pendulum_ppo': vibe-rl serves PPO with discrete actions only, and so does this; use pendulum_sac"
        )
    if config.algorithm and config.algorithm not in files.ALGORITHMS:
        raise ConfigError(f"vibe: algorithm {config.algorithm!r}: there are {', '.join(files.ALGORITHMS)}")
    return PRESETS.get(config.preset)


def _norm_path(path: Path, state: Path, given: Path | None) -> Path | None:
    """The statistics file: the one given, else in the directory or its parent, as seen from the checkpoint and from its step."""
    if given is not None:
        return given
    folder = path if path.is_dir() else path.parent
    inner = state if state.is_dir() else state.parent
    places: list[Path] = [inner, folder, folder.resolve().parent]
    if folder.resolve() in files.steps(folder.resolve().parent).values():
        places.append(folder.resolve().parent.parent)  # a step's directory was named itself
    return next((place / NORM_FILE for place in places if (place / NORM_FILE).is_file()), None)
