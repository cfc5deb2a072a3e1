"""What drives an episode: controller, asker and clock for the kind of time that was asked for. Law: one loop for all of them."""

from __future__ import annotations

from actlink.asking import Asker, Waiting
from actlink.clock import Clock
from actlink.controller import Controller
from actlink.environments._base import Environment
from actlink.errors import ConfigError
from actlink.evaluation.latency import Delayed, LatencyConfig, Live, Trace, VirtualClock, delays_of
from actlink.evaluation.motion import Metered, Onlooker
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import EpisodeResult
from actlink.evaluation.rollout import Lag, Watcher, run_episode
from actlink.execution._base import Strategy
from actlink.policies._base import Policy


class Driver:
    """Runs trials of one environment with one policy and strategy."""

    def __init__(
        self,
        policy: Policy,
        strategy: Strategy,
        environment: Environment,
        clock: Clock,
        latency: LatencyConfig,
        trace: Trace | None,
    ) -> None:
        """``clock`` is the machine's. ``ConfigError`` where time is to pass and the environment does not say how fast."""
        spec = environment.spec
        rate_hz = latency.rate_hz or spec.rate_hz
        if latency.passes and rate_hz is None:
            raise ConfigError(
                f"--latency {latency.latency}: the environment {spec.name or ''} states no control rate; give --rate-hz"
            )
        self._environment = environment
        self._clock = clock
        self._onlooker = Onlooker(rate_hz)
        self._rate_hz = rate_hz
        self._lag = Lag()
        self._virtual: Delayed | None = None
        ticking = clock
        if latency.latency == "virtual":
            ticking = VirtualClock()
            self._asker: Asker = Delayed(policy, ticking, delays_of(latency, trace))
            self._virtual = self._asker
        elif latency.latency == "wallclock":
            self._asker = Live(policy, clock)
        else:
            self._asker = Waiting(policy, clock)
        self._controller = Controller(
            Metered(self._asker, policy.spec, self._onlooker),
            strategy,
            ticking,
            rate_hz=rate_hz if latency.passes else None,
            log=self._onlooker,
            missed=self._lag,
        )

    def run(self, trial: Trial, *, max_steps: int | None = None, watcher: Watcher | None = None) -> EpisodeResult:
        """``run_episode`` with all of it."""
        if self._virtual is not None:
            self._virtual.seed = trial.seed
        return run_episode(
            self._environment,
            self._controller,
            trial,
            self._clock,
            max_steps=max_steps,
            onlooker=watcher,
            lag=self._lag,
            motion=self._onlooker,
            rate_hz=self._rate_hz,
        )

    def close(self) -> None:
        """Ask nothing any more; the policy belongs to whoever opened it."""
        self._asker.close()
