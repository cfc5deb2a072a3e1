"""Any environment, run in real time: a robot that moves on while nobody commands it.

``--robot.type=simulated --robot.env=aloha_transfer_cube``: the whole robot loop without a robot. Actions are the environment's;
what is outside the range is brought inside, as a driver does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from actlink.clock import Clock
from actlink.errors import ConfigError, SimulationError
from actlink.robots import _base
from actlink.robots._simulation import Simulation, open_environment
from actlink.spec import Spec
from actlink.types import Array, Observation

RATE_HZ = 30.0
"""Of environments that name none."""


@dataclass(frozen=True)
class Config:
    """Options of the simulated robot."""

    env: str = "aloha_transfer_cube"
    """Environment, as for 'actlink eval', with its options: aloha_transfer_cube?yaw_deg=15."""
    seed: int = 0
    """Seed of the (first) episode."""
    again: bool = False
    """After an episode's end begin the next one, with the next seed; else the scene stays as it is."""
    limits: tuple[float, float] = (-3.2, 3.2)
    """Range of the action's entries of which the environment states none."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, got {self.seed}")
        if not self.limits[0] < self.limits[1]:
            raise ConfigError(f"limits: expected (low, high), got {self.limits}")


@final
class Robot(_base.Robot):
    """See the module."""

    def __init__(self, config: Config, *, wanted: Spec | None = None, clock: Clock | None = None) -> None:
        """``wanted``: the policy's spec, which names the cameras. ``clock``: simulated time; None: the machine's, on a thread."""
        self._config = config
        self._wanted = wanted
        self._clock = clock
        environment, _ = open_environment(config.env, wanted)
        environment.close()
        action = environment.spec.action
        if environment.limits is not None:
            # Where the environment leaves an entry open, the option's bound.
            lower, upper = (
                np.where(np.isfinite(each), each, bound).astype(np.float32)
                for each, bound in zip(environment.limits, config.limits, strict=True)
            )
            self.limits = lower, upper
            if action.range is None:
                action = replace(action, range=(float(lower.min()), float(upper.max())))
        elif action.range is None and action.dtype == "float32":
            action = replace(action, range=config.limits)
        rate_hz = environment.spec.rate_hz or RATE_HZ
        self.spec = replace(environment.spec, action=action, rate_hz=rate_hz, name=f"simulated {environment.spec.name}".strip())
        self._simulation: Simulation | None = None

    @property
    def successes(self) -> int:
        """Episodes that ended with success since ``connect``."""
        return 0 if self._simulation is None else self._simulation.successes

    def connect(self) -> None:
        environment, task = open_environment(self._config.env, self._wanted)
        rate_hz = self.spec.rate_hz or RATE_HZ
        self._simulation = Simulation(environment, task, self._config.seed, rate_hz, self._clock, self._config.again)

    def observe(self) -> Observation:
        return self._connected("observe").observe()

    def act(self, action: Array) -> Array:
        if np.shape(action) != self.spec.action.shape or not np.isfinite(action).all():
            raise SimulationError(f"simulated: action: expected finite {self.spec.action.shape}, got {action!r}")
        low, high = self.limits or self.spec.action.range or (-np.inf, np.inf)
        sent = np.clip(action, low, high).astype(self.spec.action.dtype)
        self._connected("act").command(sent)
        return sent

    def hold(self) -> None:
        self._connected("hold").hold()

    def stop(self) -> None:
        if self._simulation is not None:
            self._simulation.hold()

    def close(self) -> None:
        simulation, self._simulation = self._simulation, None
        if simulation is not None:
            simulation.hold()
            simulation.close()

    def _connected(self, what: str) -> Simulation:
        if self._simulation is None:
            raise SimulationError(f"simulated: {what} called while not connected")
        return self._simulation
