"""One episode: environment x controller -> result. Law: no loop of its own; the controller drives, this keeps the score."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from actlink.clock import Clock
from actlink.controller import Controller
from actlink.environments._base import Environment
from actlink.errors import ActlinkError, ConfigError, SimulationError
from actlink.evaluation import intervals
from actlink.evaluation.motion import Motion, Onlooker
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import EpisodeResult
from actlink.types import Array, Observation, Step

logger = logging.getLogger("actlink.evaluation")

T = TypeVar("T")


class Watcher(Protocol):
    """Who watches an episode: a video."""

    def look(self, environment: Environment) -> None:
        """Called after the reset and after every step."""


class Lag:
    """Control steps that passed without a command, told to whatever episode is going on."""

    def __init__(self) -> None:
        self.world: _Episode | None = None

    def __call__(self, steps: int) -> None:
        if self.world is not None:
            self.world.pass_by(steps)


def run_episode(
    environment: Environment,
    controller: Controller,
    trial: Trial,
    clock: Clock,
    *,
    max_steps: int | None = None,
    onlooker: Watcher | None = None,
    lag: Lag | None = None,
    motion: Onlooker | None = None,
    rate_hz: float | None = None,
) -> EpisodeResult:
    """Run ``trial`` to its end; what fails in this episode alone is in ``EpisodeResult.error``, everything else is raised.

    ``max_steps`` ends episodes of environments that would go on. ``lag`` and ``motion`` are what the controller tells of steps that
    passed and of its ticks; ``rate_hz`` makes seconds of steps.
    """
    started_s = clock.now()
    try:
        episode = _Episode(environment, trial, clock, max_steps, onlooker)
    except ConfigError:
        raise
    except ActlinkError as error:
        return _result(trial, None, error=f"{error.code}: {error}", wall_s=clock.now() - started_s)
    if lag is not None:
        lag.world = episode
    record = controller.run(episode)
    inference = record.inference_ms
    moved = Motion() if motion is None else motion.motion
    return _result(
        trial,
        episode,
        error=record.error,
        starved=record.starved,
        wall_s=clock.now() - started_s - episode.watched_s,
        latencies_ms=record.latencies_ms,
        inference_ms=intervals.mean(inference) if inference else None,
        batched=record.batched,
        missed=record.missed,
        moved=moved,
        rate_hz=rate_hz,
    )


class _Episode:
    """An environment in the middle of a trial, as the controller's world."""

    def __init__(
        self, environment: Environment, trial: Trial, clock: Clock, max_steps: int | None, onlooker: Watcher | None
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._max_steps = max_steps
        self._onlooker = onlooker
        self.return_ = 0.0
        self.steps = 0
        self.length: int | None = None
        self.success: bool | None = None
        self.metrics: Mapping[str, float] = {}
        self.watched_s = 0.0
        self._last: Array | None = None
        self._over = False
        self._observation: Observation = _guarded(lambda: environment.reset(trial.task, trial.seed), "reset")
        self._show()

    def observe(self) -> Observation:
        return self._observation

    def act(self, action: Array) -> bool:
        if self._over:  # it ended in a step that passed without a command
            return False
        self._last = action
        step = _guarded(lambda: self._environment.step(action), "step")
        self.steps += 1
        self._score(step)
        self._observation = step.observation
        self._show()
        self._over = step.terminated or step.truncated or self.steps == self._max_steps
        return not self._over

    def pass_by(self, steps: int) -> None:
        """Control steps pass without a command: the embodiment holds."""
        for _ in range(steps):
            self.act(self.hold_action(self._last))

    def hold_action(self, last: Array | None) -> Array:
        return self._environment.hold_action(last)

    def _score(self, step: Step) -> None:
        numbers = {"reward": float(step.reward), **{name: float(value) for name, value in step.metrics.items()}}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise SimulationError(f"{name} at step {self.steps - 1}: expected a finite number, got {value}")
        self.return_ += numbers.pop("reward")
        self.metrics = numbers
        if step.success is not None:
            self.success = bool(self.success or step.success)
        if self.success and self.length is None:
            self.length = self.steps

    def _show(self) -> None:
        if self._onlooker is not None:
            started_s = self._clock.now()
            self._onlooker.look(self._environment)
            self.watched_s += self._clock.now() - started_s


def _guarded(call: Callable[[], T], what: str) -> T:
    """Whatever an environment raises is a ``SimulationError``: the simulator's own, or its adapter's bug."""
    try:
        return call()
    except ActlinkError:
        raise
    except Exception as error:
        logger.exception("the environment failed in %s", what)
        raise SimulationError(f"{what}: {type(error).__name__}: {error}") from error


def _result(
    trial: Trial,
    episode: _Episode | None,
    *,
    error: str | None,
    wall_s: float,
    starved: int = 0,
    latencies_ms: tuple[float, ...] = (),
    inference_ms: float | None = None,
    batched: int = 0,
    missed: int = 0,
    moved: Motion | None = None,
    rate_hz: float | None = None,
) -> EpisodeResult:
    steps = episode.steps if episode else 0
    moved = moved or Motion()
    length = steps if episode is None or episode.length is None else episode.length
    success = False if error or episode is None else episode.success
    return EpisodeResult(
        task=trial.task,
        episode=trial.episode,
        seed=trial.seed,
        success=success,
        return_=episode.return_ if episode else 0.0,
        length=length,
        steps=steps,
        metrics=dict(episode.metrics) if episode else {},
        error=error,
        starved=starved,
        wall_s=wall_s,
        latencies_ms=latencies_ms,
        inference_ms=inference_ms,
        batched=batched,
        missed=missed,
        seconds=steps / rate_hz if rate_hz else None,
        finish_s=length / rate_hz if rate_hz and success else None,
        seams=moved.seams,
        inside=moved.inside,
        jerk=moved.jerk,
        sent_bytes=moved.sent_bytes,
        received_bytes=moved.received_bytes,
    )
