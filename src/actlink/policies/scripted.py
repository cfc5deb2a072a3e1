"""Policies without a network: zero, constant, replay, slow, echo. For trying links, servers and environments.

``scripted:zero?spec=spec.yaml``, or in short ``scripted:echo?state=14&action=14&horizon=50&cameras=top:480x640``.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from actlink import documents
from actlink.errors import ConfigError, PolicyError, SpecError
from actlink.policies._base import Policy, Result, answer
from actlink.spec import Field, Spec, digest_of
from actlink.types import Array, Request, Runtime


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family. The spec is a document (``spec``) or is put together from the short options."""

    spec: str = ""
    """YAML file with the spec, or the YAML itself; stands in for all the short options."""
    state: int = 0
    """Entries of the observation's ``state``; 0 = no state."""
    action: int = 0
    """Entries of an action."""
    discrete: int = 0
    """Number of choices of a discrete action (one int64); 0 = a continuous one."""
    horizon: int = 1
    """Actions per chunk."""
    cameras: tuple[str, ...] = ()
    """Cameras as name:HEIGHTxWIDTH, separated by commas: top:480x640,wrist:240x320."""
    rate_hz: float | None = None
    """Control steps per second."""
    batch: int = 64
    """Most requests per call."""
    value: tuple[float, ...] = ()
    """constant: the action, or one number for all its entries."""
    file: Path | None = None
    """replay: .npy or .npz file of actions (N, action_dim), one per control step."""
    delay_ms: float = 0.0
    """slow: how long a call takes, whatever its batch."""


_OWN = {"constant": "value", "replay": "file", "slow": "delay_ms"}
"""Kind -> the option that only it has."""


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The scripted policy ``source``; ``ConfigError`` lists the kinds, or says which option is missing or out of place."""
    if source not in _KINDS:
        raise ConfigError(f"no scripted policy {source!r}; there are: {', '.join(_KINDS)}")
    default = Config()
    for kind, option in _OWN.items():
        given = getattr(config, option) != getattr(default, option)
        if given and kind != source:
            raise ConfigError(f"scripted:{source}: option {option!r} belongs to scripted:{kind}")
        if not given and kind == source:
            raise ConfigError(f"scripted:{source}: needs the option {option!r}")
    policy = _KINDS[source](config)
    policy.facts = {"parameters": "none"}
    return policy


@final
class Zero(Policy):
    """Chunks of zeros."""

    def __init__(self, config: Config) -> None:
        self.spec = _spec(config, "zero")
        self._actions = _chunk(self.spec, 0)

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [answer(request, self._actions.copy()) for request in requests]


@final
class Constant(Policy):
    """Chunks of one action, over and over."""

    def __init__(self, config: Config) -> None:
        self.spec = _spec(config, "constant")
        if len(config.value) not in (1, self.spec.action_dim):
            raise ConfigError(f"scripted:constant: value: expected 1 or {self.spec.action_dim} numbers, got {len(config.value)}")
        self._actions = _checked(self.spec, _chunk(self.spec, config.value), "scripted:constant: value")

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [answer(request, self._actions.copy()) for request in requests]


@final
class Replay(Policy):
    """Recorded actions: row ``i`` of the file at control step ``i``; after its end the last row."""

    def __init__(self, config: Config) -> None:
        assert config.file is not None  # load() has seen to it
        recorded, content = _recording(config.file)
        if not config.spec and not config.action and not config.discrete:
            config = replace(config, action=recorded.shape[1])
        self.spec = replace(_spec(config, "replay"), digest=digest_of(content))
        self._recorded = _checked(self.spec, recorded, f"scripted:replay: {config.file}")

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        last, ahead = len(self._recorded) - 1, np.arange(self.spec.action_horizon)
        return [answer(request, self._recorded[np.clip(request.step + ahead, 0, last)]) for request in requests]


@final
class Slow(Policy):
    """Zeros after ``delay_ms``: a network on an accelerator, which takes as long for a batch as for one."""

    def __init__(self, config: Config) -> None:
        if not 0 < config.delay_ms < float("inf"):
            raise ConfigError(f"scripted:slow: delay_ms: expected milliseconds above 0, got {config.delay_ms:g}")
        self._delay_s = config.delay_ms / 1000
        self._zero = Zero(replace(config, delay_ms=0.0))
        self.spec = replace(self._zero.spec, name="slow")

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        time.sleep(self._delay_s)
        return self._zero.infer(requests)


@final
class Echo(Policy):
    """The first entries of ``state`` as every action of the chunk: shows that values cross a wire unharmed."""

    def __init__(self, config: Config) -> None:
        self.spec = _spec(config, "echo")
        state = self.spec.observation.get("state")
        if state is None or len(state.shape) != 1 or state.dtype != "float32" or self.spec.action.dtype != "float32":
            raise ConfigError("scripted:echo: the spec needs a float32 'state' of one axis and a float32 action")
        if state.shape[0] is not None and state.shape[0] < (self.spec.action_dim or 0):
            raise ConfigError(f"scripted:echo: the state has {state.shape[0]} entries, an action {self.spec.action_dim}")

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [self._echo(request) for request in requests]

    def _echo(self, request: Request) -> Result:
        state = np.asarray(request.observation["state"], np.float32)
        dim = self.spec.action_dim or 0
        if len(state) < dim:
            return PolicyError(f"echo: expected a state of at least {dim} entries, got {len(state)}")
        return answer(request, np.repeat(state[None, :dim], self.spec.action_horizon, axis=0))


_KINDS: dict[str, Callable[[Config], Policy]] = {
    "zero": Zero,
    "constant": Constant,
    "replay": Replay,
    "slow": Slow,
    "echo": Echo,
}


def _chunk(spec: Spec, value: Any) -> Array:
    shape = (spec.action_horizon, spec.action.shape[0] or 0)
    return np.broadcast_to(np.asarray(value, np.float32), shape).astype(spec.action.dtype)


def _spec(config: Config, name: str) -> Spec:
    if config.spec:
        short = [f.name for f in fields(Config) if f.name in _SHORT and getattr(config, f.name) != f.default]
        if short:
            raise ConfigError(f"scripted:{name}: give either spec or {', '.join(short)}, not both")
        spec = documents.read_spec(config.spec, f"scripted:{name}: spec")
    else:
        spec = _short_spec(config, name)
    if spec.action_dim is None:
        raise ConfigError(f"scripted:{name}: the spec must say how many entries an action has")
    return replace(spec, name=spec.name or name)


_SHORT = ("state", "action", "discrete", "horizon", "cameras", "rate_hz", "batch")


def _short_spec(config: Config, name: str) -> Spec:
    if not config.action and not config.discrete:
        raise ConfigError(
            f"scripted:{name} needs to know what it serves: spec=spec.yaml (on the command line --spec), "
            "or in short state=14&action=14&horizon=50"
        )
    observation = {"state": Field((config.state,))} if config.state else {}
    observation |= {f"images.{camera}": field for camera, field in map(_camera, config.cameras)}
    action = Field((config.action or 1,))
    if config.discrete:
        action = Field((config.action or 1,), "int64", range=(0, config.discrete - 1))
    return Spec(observation, action, config.horizon, config.rate_hz, max_batch_size=config.batch)


def _camera(text: str) -> tuple[str, Field]:
    name, _, size = text.partition(":")
    height, _, width = size.partition("x")
    if not name or not height.isdigit() or not width.isdigit():
        raise ConfigError(f"cameras: expected name:HEIGHTxWIDTH, as in top:480x640, got {text!r}")
    return name, Field((int(height), int(width), 3), "uint8")


def _checked(spec: Spec, actions: Array, where: str) -> Array:
    try:
        return spec.check_actions(actions, where)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _recording(path: Path) -> tuple[Array, bytes]:
    """The actions in ``path`` and the file's bytes."""
    where = f"scripted:replay: {path}"
    try:
        content = path.expanduser().read_bytes()
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        recorded: Array = loaded if isinstance(loaded, np.ndarray) else loaded[_only_array(loaded.files, where)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: expected a .npy or .npz file of actions: {error}") from error
    if recorded.ndim != 2 or not recorded.size:
        raise ConfigError(f"{where}: expected actions (N, action_dim), got shape {recorded.shape}")
    return recorded, content


def _only_array(names: Sequence[str], where: str) -> str:
    if "actions" not in names and len(names) != 1:
        raise ConfigError(f"{where}: expected an array 'actions', got {', '.join(names) or 'none'}")
    return "actions" if "actions" in names else names[0]
