"""Any environment of the Gymnasium registry: gymnasium:CartPole-v1, gymnasium:package:Env-v0.

Observation spaces become values of the spec: a uint8 Box ``(height, width, 3)`` is ``images.main``, any other Box is ``state``,
flattened to float32; Discrete, MultiDiscrete and MultiBinary are ``state`` as int64. The entries of a Dict space keep their own
names (images as ``images.<name>``, a nested Dict's joined by dots), those of a Tuple are ``0``, ``1``, ...
Actions: Box as float32, everything discrete as int64.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np

from actlink.environments._base import Environment as Base
from actlink.errors import ConfigError, SimulationError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Step

REQUIRES = ("gymnasium",)
EXTRA = "gymnasium"

Read = Callable[[Any], Any]
Limits = tuple[Array, Array] | None


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the environment."""

    max_steps: int | None = None
    """Steps after which an episode is cut off; default: what the environment is registered with."""
    success_return: float | None = None
    """Sum of rewards from which an episode counts as a success, where the environment itself tells none."""
    hold: Literal["zero", "last"] = "zero"
    """What keeps the embodiment where it is: no force or velocity (zero), or the last position commanded (last)."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment, as a YAML mapping: {g: 9.8}."""


@final
class Environment(Base):
    """One Gymnasium environment. Success is ``info["is_success"]`` or ``info["success"]`` where there is one, else by return."""

    def __init__(self, config: Config, task: str = "", wanted: Spec | None = None) -> None:
        if not task:
            raise ConfigError("gymnasium: which environment? Write its id: gymnasium:CartPole-v1")
        self._config, self._id = config, task
        self._inner = _make(task, config)
        self._reads = _reads(self._inner.observation_space, "")
        self._act, action, self.limits = _action(self._inner.action_space)
        observation = {key: found for key, (found, _, _) in self._reads.items()}
        self.spec = Spec(observation, action, rate_hz=_rate_hz(self._inner), name=f"gymnasium:{task}")
        self._return, self._success = 0.0, self._unsolved

    def tasks(self) -> tuple[str, ...]:
        return (self._id,)

    def reset(self, task: str, seed: int) -> Observation:
        if task != self._id:
            raise ConfigError(f"gymnasium: no task {task!r}; this environment is {self._id}")
        observation, _ = self._inner.reset(seed=seed)
        self._return, self._success = 0.0, self._unsolved
        return self._observed(observation)

    def step(self, action: Array) -> Step:
        observation, reward, terminated, truncated, info = self._inner.step(self._act(action))
        self._return += float(reward)
        self._success = self._solved(info)
        return Step(self._observed(observation), float(reward), self._success, bool(terminated), bool(truncated))

    def hold_action(self, last: Array | None) -> Array:
        action, dim = self.spec.action, self.spec.action_dim or 0
        if self._config.hold == "last" and last is not None:
            return np.array(last, action.dtype)
        low, high = self.limits or action.range or (-np.inf, np.inf)
        return np.clip(np.zeros(dim), low, high).astype(action.dtype)

    def render(self) -> Array:
        if self._inner.render_mode != "rgb_array":
            raise SimulationError(f"gymnasium:{self._id} cannot be drawn: it has no render mode rgb_array")
        try:
            with _no_window():
                picture = self._inner.render()
        except Exception as error:  # whatever the environment's drawing library raises
            raise SimulationError(
                f"gymnasium:{self._id} cannot be drawn: {error} (try: pip install 'gymnasium[all]', or the environment's own extra)"
            ) from error
        return np.ascontiguousarray(picture, np.uint8)

    def close(self) -> None:
        self._inner.close()

    @property
    def _unsolved(self) -> bool | None:
        return None if self._config.success_return is None else False

    def _solved(self, info: Mapping[str, Any]) -> bool | None:
        if self._success:
            return True
        for key in ("is_success", "success"):
            if key in info:
                return bool(info[key])
        goal = self._config.success_return
        return self._success if goal is None else self._return >= goal

    def _observed(self, observation: Any) -> Observation:
        return {key: read(_at(observation, path)) for key, (_, path, read) in self._reads.items()}


def _make(task: str, config: Config) -> Any:
    import gymnasium

    try:
        module, separator, _ = task.rpartition(":")
        if separator:
            importlib.import_module(module)
        entry = gymnasium.spec(task.rpartition(":")[2]).entry_point
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        modes = getattr(creator, "metadata", {}).get("render_modes", ())
        drawn = "rgb_array" if "rgb_array" in modes else None
        # The checker would warn about, and slow down, environments that are not ours to judge.
        return gymnasium.make(task, config.max_steps, disable_env_checker=True, render_mode=drawn, **config.kwargs)
    except Exception as error:  # an unknown id, a missing package, a wrong keyword: whatever the environment raises
        raise ConfigError(f"gymnasium:{task}: {type(error).__name__}: {error}") from error


def _reads(space: Any, name: str, path: tuple[str | int, ...] = ()) -> dict[str, tuple[Field, tuple[str | int, ...], Read]]:
    """Key -> its field, where it lies in the environment's observation, and how a value is read."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        found = {}
        entries = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for entry, inner in entries:
            found.update(_reads(inner, f"{name}.{entry}" if name else str(entry), (*path, entry)))
        return found
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3:
        return {f"images.{name or 'main'}": (Field(space.shape, "uint8"), path, lambda value: np.array(value, np.uint8))}
    key = name or "state"
    if isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))
        return {key: (Field((size,)), path, lambda value: np.array(value, np.float32).reshape(size))}
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        size = int(np.prod(space.shape)) if space.shape else 1
        return {key: (Field((size,), "int64"), path, lambda value: np.array(value, np.int64).reshape(size))}
    if isinstance(space, spaces.Text):
        return {key: (Field((), "str"), path, str)}
    raise ConfigError(f"gymnasium: observation {key!r}: cannot be served: {space}")


def _at(observation: Any, path: tuple[str | int, ...]) -> Any:
    for entry in path:
        observation = observation[entry]
    return observation


def _action(space: Any) -> tuple[Callable[[Array], Any], Field, Limits]:
    """How an action ``(action_dim,)`` is handed over, its field, and each entry's limits where they are not one range."""
    from gymnasium import spaces

    size = int(np.prod(space.shape)) if space.shape else 1
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = float(np.min(space.low)), float(np.max(space.high))
        uniform = bool(np.isfinite([low, high]).all() and (space.low == low).all() and (space.high == high).all())
        dtype, shape = space.dtype, space.shape
        bounds = (low, high) if uniform else None
        uneven = not uniform and bool(np.isfinite([space.low, space.high]).any())
        limits = (_flat(space.low), _flat(space.high)) if uneven else None
        return lambda action: np.asarray(action, dtype).reshape(shape), Field((size,), range=bounds), limits
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        field = Field((1,), "int64", range=(first, first + int(space.n) - 1))
        return lambda action: int(np.asarray(action).reshape(())), field, None
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape
        return lambda action: np.asarray(action, np.int8).reshape(shape), Field((size,), "int64", range=(0, 1)), None
    if isinstance(space, spaces.MultiDiscrete):
        choices, shape = np.unique(space.nvec), space.shape
        same = (0.0, float(choices[0] - 1)) if len(choices) == 1 else None
        limits = None if same else (np.zeros(size, np.float32), _flat(space.nvec) - 1)
        return lambda action: np.asarray(action, np.int64).reshape(shape), Field((size,), "int64", range=same), limits
    raise ConfigError(f"gymnasium: actions cannot be served: {space}")


def _flat(values: Any) -> Array:
    return np.asarray(values, np.float32).reshape(-1)


def _rate_hz(inner: Any) -> float | None:
    """Control steps per second: the simulation's own step where it tells (``dt``, ``tau``), else the rate of its pictures."""
    for name in ("dt", "tau"):
        seconds = getattr(inner.unwrapped, name, None)
        if isinstance(seconds, int | float) and 0 < seconds < 60:
            return round(1.0 / seconds, 6)
    shown = inner.metadata.get("render_fps")
    return float(shown) if shown else None


@contextmanager
def _no_window() -> Iterator[None]:
    """pygame asks for a display when it starts, even to draw into memory: give it SDL's dummy one for that moment."""
    hidden = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    added = [name for name in hidden if name not in os.environ]
    os.environ.update({name: hidden[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
