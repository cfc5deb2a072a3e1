"""vibe-rl checkpoints: where the files are and what the leaves mean. Law: sizes are read off the arrays, nothing is guessed twice.

``state.eqx`` is Equinox's leaf serialisation of the training state, ``.npy`` arrays in tree order: weight and bias of each linear
layer of the networks, then the optimizers' counters and moments, the step, the random key. The networks in order: PPO actor and
critic (``... -> 1``); DQN the online network and its target, alike; SAC the actor's layers, its heads for mean and log standard
deviation, then critics over observation and action. The trainers themselves save with Orbax: ``<step>/`` with the same leaves by
number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actlink.codecs import npy_leaves
from actlink.errors import ConfigError, MissingPackageError
from actlink.types import Array

STATE_FILE = "state.eqx"
ALGORITHMS = {"ppo": "tanh", "dqn": "relu", "sac": "relu"}
"""Algorithm -> activation of its networks."""
_STEP = re.compile(r"(?:step_)?(\d+)")
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "default/_METADATA")

Pair = tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class Network:
    """The network that acts, out of a training state."""

    algorithm: str
    pairs: tuple[Pair, ...]
    """Weight (outputs, inputs) and bias of each layer; the last gives logits, values or means."""


def steps(directory: Path) -> dict[int, Path]:
    """Step -> sub-directory with a state: ``step_<n>`` with ``state.eqx``, or Orbax's ``<n>``."""
    found = {}
    for entry in sorted(directory.iterdir()):
        match = _STEP.fullmatch(entry.name)
        if match and entry.is_dir() and ((entry / STATE_FILE).is_file() or is_orbax(entry)):
            found[int(match[1])] = entry
    return found


def is_orbax(directory: Path) -> bool:
    return any((directory / name).exists() for name in _ORBAX) and not (directory / STATE_FILE).exists()


def find(path: Path, step: int | None) -> Path:
    """The state file, or Orbax directory, that ``path`` and ``step`` mean: ``state.eqx`` itself, else the highest step."""
    if path.is_file():
        if step is not None:
            raise ConfigError(f"{path}: a file has no steps; give its directory with step {step}")
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or directory; expected one with {STATE_FILE} or step_<n>/{STATE_FILE}")
    there = steps(path)
    if step is not None:
        if step not in there:
            known = ", ".join(map(str, sorted(there))) or "none"
            raise ConfigError(f"{path / f'step_{step}' / STATE_FILE}: no such file; steps in {path}: {known}")
        chosen = there[step]
    elif (path / STATE_FILE).is_file() or is_orbax(path):
        chosen = path
    elif there:
        chosen = there[max(there)]
    else:
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise ConfigError(f"{path}: expected {STATE_FILE} or step_<n>/{STATE_FILE}, it holds {names}")
    return chosen if is_orbax(chosen) else chosen / STATE_FILE


def leaves(state: Path) -> list[Array]:
    """The arrays of a ``state.eqx`` or of an Orbax directory, in tree order."""
    return _orbax(state) if state.is_dir() else npy_leaves.read(state)


def _orbax(directory: Path) -> list[Array]:
    try:
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise MissingPackageError(f"{directory}: an Orbax checkpoint needs jax and orbax: pip install 'actlink[jax]'") from error
    inner = directory / "default" if (directory / "default").is_dir() else directory
    try:
        tree = orbax.PyTreeCheckpointer().restore(inner.resolve())
    except Exception as error:  # orbax and tensorstore raise classes of their own that share no base
        raise ConfigError(f"{directory}: Orbax cannot read it: {' '.join(str(error).split())[:300]}") from error
    numbered = {int(key[5:]): value for key, value in tree.items() if re.fullmatch(r"leaf_\d+", str(key))}
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        raise ConfigError(f"{directory}: expected leaf_0, leaf_1, ... without gaps, got {', '.join(map(str, list(tree)[:6]))}")
    return [np.asarray(numbered[index]) for index in range(len(numbered))]


def network(arrays: Sequence[Array], algorithm: str | None, where: str) -> Network:
    """The acting network among the leaves; ``algorithm`` says which kind, None asks the shapes."""
    pairs = _pairs(arrays)
    readings = {name: reading for name, read in _READ.items() if (reading := read(pairs)) is not None}
    if algorithm is not None and algorithm in readings:
        return Network(algorithm, readings[algorithm])
    shapes = " ".join(str(weight.shape) for weight, _ in pairs[:12]) or f"none (first arrays: {[a.shape for a in arrays[:4]]})"
    if algorithm is not None:
        raise ConfigError(f"{where}: expected the networks of {algorithm}, its linear layers are {shapes}")
    if len(readings) != 1:
        fits = f"fits {' and '.join(readings)}: say which with the option algorithm" if readings else "fits none of ppo, dqn, sac"
        raise ConfigError(f"{where}: {fits}; its linear layers are {shapes}")
    ((name, reading),) = readings.items()
    return Network(name, reading)


def _pairs(arrays: Sequence[Array]) -> list[Pair]:
    """The linear layers at the start: (weight, bias), (weight, bias), ... up to the optimizer's counter."""
    found: list[Pair] = []
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=False):
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.dtype.kind != "f" or bias.dtype.kind != "f":
            break
        found.append((weight, bias))
    return found


def _chained(pairs: Sequence[Pair]) -> bool:
    return bool(pairs) and all(after.shape[1] == before.shape[0] for (before, _), (after, _) in itertools.pairwise(pairs))


def _ppo(pairs: list[Pair]) -> tuple[Pair, ...] | None:
    """Actor, then critic; where square layers allow several cuts, the two are of one depth."""
    cuts = [cut for cut in range(1, len(pairs)) if _actor_and_critic(pairs[:cut], pairs[cut:])]
    cut = len(pairs) // 2 if len(pairs) // 2 in cuts else cuts[0] if len(cuts) == 1 else 0
    return tuple(pairs[:cut]) or None


def _actor_and_critic(actor: list[Pair], critic: list[Pair]) -> bool:
    return (
        _chained(actor)
        and _chained(critic)
        and critic[0][0].shape[1] == actor[0][0].shape[1]
        and critic[-1][0].shape[0] == 1
        and actor[-1][0].shape[0] > 1
    )


def _dqn(pairs: list[Pair]) -> tuple[Pair, ...] | None:
    half = len(pairs) // 2
    online, target = pairs[:half], pairs[half:]
    alike = [weight.shape for weight, _ in online] == [weight.shape for weight, _ in target]
    return tuple(online) if alike and _chained(online) and online[-1][0].shape[0] > 1 else None


def _sac(pairs: list[Pair]) -> tuple[Pair, ...] | None:
    """Layers, two heads of one shape, then critics whose input is observation and action."""
    for heads in range(1, len(pairs) - 2):
        (mean, _), (spread, _) = pairs[heads], pairs[heads + 1]
        critics = pairs[heads + 2 :]
        inputs = pairs[0][0].shape[1] + mean.shape[0]
        starts = [index for index in range(len(critics)) if critics[index][0].shape[1] == inputs and _begins(critics, index)]
        chains = [critics[a:b] for a, b in zip(starts, [*starts[1:], len(critics)], strict=False)]
        if (
            mean.shape == spread.shape
            and _chained(pairs[: heads + 1])
            and starts[:1] == [0]
            and all(_chained(chain) and chain[-1][0].shape[0] == 1 for chain in chains)
        ):
            return tuple(pairs[: heads + 1])
    return None


def _begins(critics: list[Pair], index: int) -> bool:
    """Whether a critic may begin here: at the start, or where the one before has given its single value."""
    return index == 0 or critics[index - 1][0].shape[0] == 1


_READ = {"ppo": _ppo, "dqn": _dqn, "sac": _sac}
