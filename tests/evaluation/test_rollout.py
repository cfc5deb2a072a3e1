from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_reach import Chase, Config, Picky, Reach

from actlink.asking import Waiting
from actlink.clock import ManualClock
from actlink.controller import Controller
from actlink.environments._base import Environment
from actlink.errors import ConfigError, LinkClosedError, SimulationError
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import EpisodeResult
from actlink.evaluation.rollout import run_episode
from actlink.execution import receding
from actlink.policies._base import Policy
from actlink.types import Array, Observation, Step


def run(
    environment: Environment | None = None, policy: Policy | None = None, seed: int = 0, max_steps: int | None = None
) -> EpisodeResult:
    policy = policy or Chase()
    clock = ManualClock()
    controller = Controller(Waiting(policy, clock), receding.Strategy(receding.Config(), policy.spec), clock)
    return run_episode(environment or Reach(Config()), controller, Trial("reach", 3, seed), clock, max_steps=max_steps)


def test_keeps_the_score() -> None:
    result = run()
    assert (result.task, result.episode, result.seed) == ("reach", 3, 0)
    assert result.success is True and result.error is None
    assert result.metrics["strict_success"] == 1.0
    assert 0 < result.length < result.steps  # length ends at the first success, the episode at the strict one
    assert result.return_ < 0
    assert len(result.latencies_ms) == -(-result.steps // 5)


def test_length_counts_all_steps_without_success() -> None:
    result = run(Reach(Config(far=50.0)))
    assert result.success is False
    assert result.length == result.steps == 20


def test_the_same_seed_gives_the_same_episode_and_another_does_not() -> None:
    environment = Reach(Config())
    first, other, again = run(environment), run(environment, seed=1), run(environment)
    assert first.outcome == again.outcome != other.outcome


def test_an_environment_that_knows_no_success_gives_none() -> None:
    class Silent(Reach):
        def step(self, action: Array) -> Step:
            return replace(super().step(action), success=None)

    result = run(Silent(Config()))
    assert result.success is None and result.length == result.steps


def test_max_steps_ends_what_would_go_on() -> None:
    result = run(Reach(Config(far=50.0)), max_steps=7)
    assert result.steps == 7 and result.success is False and result.error is None


def test_a_policy_error_ends_this_episode_as_an_error() -> None:
    target = {seed: np.random.default_rng(seed).uniform(0.2, 1.0) for seed in range(50)}
    far = next(seed for seed, where in target.items() if where > 0.9)
    result = run(policy=Picky(), seed=far)
    assert (result.error, result.success, result.steps) == ("policy: too far for me", False, 0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Config(raise_at=0), "simulation: step: ZeroDivisionError: the simulator fell over"),
        (Config(nan_at=0), "simulation: reward at step 0: expected a finite number, got nan"),
    ],
)
def test_an_environment_that_breaks_ends_this_episode_as_an_error(
    config: Config, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(Reach(config))
    assert (result.error, result.success) == (says, False)


def test_a_reset_that_fails_is_that_episodes_error(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Reach):
        def reset(self, task: str, seed: int) -> Observation:
            raise OSError("no such asset")

    result = run(Broken(Config()))
    assert (result.error, result.steps) == ("simulation: reset: OSError: no such asset", 0)


def test_what_the_operator_must_mend_and_what_the_link_did_is_raised() -> None:
    class Misnamed(Reach):
        def reset(self, task: str, seed: int) -> Observation:
            raise ConfigError("no such task")

    class Unlinked(Chase):
        def one(self, request: object) -> LinkClosedError:  # type: ignore[override]
            return LinkClosedError("gone")

    with pytest.raises(ConfigError, match="no such task"):
        run(Misnamed(Config()))
    with pytest.raises(LinkClosedError, match="gone"):
        run(policy=Unlinked())


def test_the_onlooker_sees_the_start_and_every_step_and_costs_no_time() -> None:
    class Counts:
        seen = 0

        def look(self, environment: Environment) -> None:
            self.seen += 1
            clock.advance(0.5)

    class Takes(Reach):
        def step(self, action: Array) -> Step:
            clock.advance(0.25)
            return super().step(action)

    policy, clock, onlooker = Chase(), ManualClock(), Counts()
    controller = Controller(Waiting(policy, clock), receding.Strategy(receding.Config(), policy.spec), clock)
    result = run_episode(Takes(Config()), controller, Trial("reach", 0, 0), clock, onlooker=onlooker)
    assert onlooker.seen == result.steps + 1
    assert result.wall_s == pytest.approx(0.25 * result.steps)


def test_simulation_errors_keep_their_own_words() -> None:
    class Fragile(Reach):
        def step(self, action: Array) -> Step:
            raise SimulationError("physics is unstable")

    assert run(Fragile(Config())).error == "simulation: physics is unstable"
