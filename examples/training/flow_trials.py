"""Measuring a flow policy in a world that does not wait, in this process: for its card.

Every answer comes a fixed number of control steps after its question, and the world goes on meanwhile; where a strategy has no
action the embodiment holds. ``actlink eval --latency virtual`` is the real measurement, over the wire, with results that can be
resumed and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actlink.environments._base import Environment
from actlink.execution import realtime, receding
from actlink.execution._base import Strategy
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.types import ActionChunk, Request

HORIZON = 25
"""Control steps from one question to the next."""


@dataclass(frozen=True)
class Trial:
    """A condition under which a policy is measured."""

    strategy: str
    """``receding``, ``guided`` or ``hard``: the last two are real-time chunking with that ``prefix_mode``."""
    delay: int
    """Control steps from question to answer."""
    seeds: range = range(1000, 1050)


TRIALS = (
    Trial("receding", 0),
    Trial("receding", 0, range(2000, 2100)),
    *(Trial("receding", delay) for delay in (5, 15, 25)),
    *(Trial(mode, delay) for mode in ("guided", "hard") for delay in (0, 5, 15, 25)),
)


def measure(folder: Path, env: Environment, episodes: int, trials: Sequence[Trial] = TRIALS) -> list[tuple[Trial, int]]:
    """Successes of the exported policy in each trial, over at most so many of its seeds."""
    policies = {mode: open_policy(f"{folder}?prefix_mode={mode}") for mode in ("ignore", "guided", "hard")}
    results = []
    for full in trials:
        trial = replace(full, seeds=full.seeds[:episodes])
        policy = policies["ignore" if trial.strategy == "receding" else trial.strategy]
        successes = sum(episode(env, policy, _strategy(trial, policy), trial.delay, seed) for seed in trial.seeds)
        print(f"{trial.strategy}, delay {trial.delay}: {successes}/{len(trial.seeds)}", flush=True)
        results.append((trial, successes))
    return results


def episode(env: Environment, policy: Policy, strategy: Strategy, delay: int, seed: int) -> bool:
    """Whether the episode of ``seed`` was solved."""
    strategy.reset()
    observation, last, pending = env.reset("", seed), None, None
    step = 0
    while True:
        if pending is None and (replan := strategy.replan(step)) is not None:
            request = Request(policy.spec.check(observation), step, prefix=replan.prefix, inference_delay=replan.inference_delay)
            (pending,) = policy.infer([request])
            if not isinstance(pending, ActionChunk):
                raise pending
        if pending is not None and step >= pending.step + delay:
            strategy.add(pending, step)
            pending = None
        action = strategy.action(step)
        last = env.hold_action(last) if action is None else action
        outcome = env.step(last)
        observation, step = outcome.observation, step + 1
        if outcome.terminated or outcome.truncated:
            return bool(outcome.success)


def _strategy(trial: Trial, policy: Policy) -> Strategy:
    if trial.strategy == "receding":
        return receding.Strategy(receding.Config(execution_horizon=HORIZON), policy.spec)
    return realtime.Strategy(realtime.Config(execution_horizon=HORIZON), policy.spec)
