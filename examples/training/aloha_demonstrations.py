"""Demonstrations of the ALOHA cube transfer: the scripted expert in the simulator, successful episodes only.

Noise is added to the actions that are executed, while the clean plan is what is recorded: the network sees states beside the path
and learns the way back to it. In a part of the episodes the cube is pushed before it is touched and the expert plans anew from
there; each plan in force is a stretch of its own, so that no recorded chunk foresees a push.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from aloha_expert import Expert, Timing, action_noise

from actlink.environments.aloha import Config, Environment

Floats = npt.NDArray[np.float32]
FIRST_SEED = 100_000
"""Training starts here; evaluation seeds lie below."""
PUSHES_M = (0.0, 0.0, 0.015, 0.025, 0.035)
"""How far the cube is pushed, by turns: two episodes of five are undisturbed."""


@dataclass(frozen=True)
class Stretch:
    """What happened under one plan."""

    states: Floats
    """(steps, 21), as observed."""
    plan: Floats
    """(steps or more, 14): the clean joint targets from the stretch's first step to the end of the plan, executed or not."""


@dataclass(frozen=True)
class Demonstrations:
    """All stretches, end to end."""

    states: Floats
    """(n, 21)."""
    plans: Floats
    """(m, 14)."""
    first: npt.NDArray[np.int64]
    """(n,): row of ``plans`` that is the action for each state."""
    end: npt.NDArray[np.int64]
    """(n,): row after the last one of that state's plan."""
    episodes: int
    attempts: int

    @classmethod
    def join(cls, stretches: list[Stretch], episodes: int, attempts: int) -> Demonstrations:
        starts = np.cumsum([0, *(len(s.plan) for s in stretches)])
        first = [start + np.arange(len(s.states)) for s, start in zip(stretches, starts[:-1], strict=True)]
        end = [np.full(len(s.states), start + len(s.plan)) for s, start in zip(stretches, starts[:-1], strict=True)]
        states = np.concatenate([s.states for s in stretches])
        plans = np.concatenate([s.plan for s in stretches])
        return cls(states, plans, np.concatenate(first), np.concatenate(end), episodes, attempts)

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **vars(self))
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Demonstrations:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("states", "plans", "first", "end")}
            return cls(**arrays, episodes=int(file["episodes"]), attempts=int(file["attempts"]))


def demonstrate(env: Environment, expert: Expert, seed: int, noise: float, jitter: int) -> tuple[bool, list[Stretch]]:
    """One episode; whether the left hand alone held the cube at the end, and its stretches."""
    rng = np.random.default_rng(seed)
    timing = Timing().jittered(rng, jitter)
    observed = np.asarray(env.reset("", seed)["state"])
    disturbance = action_noise(rng, 1000, noise)
    targets = env.hold_action(None).astype(np.float64)
    stretches: list[Stretch] = []
    plan, begun, states = expert.plan(targets, observed[14:].astype(np.float64), 0, timing), 0, [observed]
    step = -1
    while (step := step + 1) - begun < len(plan):
        targets = plan[step - begun]
        outcome = env.step(targets + disturbance[step])
        before, observed = observed, np.asarray(outcome.observation["state"])
        if outcome.terminated or outcome.truncated:
            stretches.append(_stretch(states, plan))
            return bool(outcome.metrics["strict_success"]), stretches
        if _pushed(before, observed):
            stretches.append(_stretch(states, plan))
            plan, begun, states = expert.plan(targets, observed[14:].astype(np.float64), step + 1, timing), step + 1, []
        states.append(observed)
    return False, stretches


def collect(episodes: int, yaw_deg: float, noise: float, jitter: int, progress: Callable[[int, int], None]) -> Demonstrations:
    """Demonstrate until ``episodes`` succeeded; gives up when more than nine of ten fail."""
    expert = Expert()
    worlds = [Environment(Config(push_cube_m=push, push_window=(5, 60), yaw_deg=yaw_deg)) for push in PUSHES_M]
    kept: list[Stretch] = []
    successes = attempts = 0
    while successes < episodes:
        if attempts > 100 and successes < attempts / 10:
            raise RuntimeError(f"only {successes} of {attempts} demonstrations succeeded")
        # The turn goes by successes, not attempts: pushed episodes fail more often and must not become rarer for it.
        good, stretches = demonstrate(worlds[successes % len(worlds)], expert, FIRST_SEED + attempts, noise, jitter)
        attempts += 1
        if good:
            successes += 1
            kept += stretches
            progress(successes, attempts)
    return Demonstrations.join(kept, successes, attempts)


def _stretch(states: list[Floats], plan: npt.NDArray[np.float64]) -> Stretch:
    return Stretch(np.stack(states).astype(np.float32), plan.astype(np.float32))


def _pushed(before: Floats, after: Floats) -> bool:
    """Whether the cube jumped sideways on the table; no grasp moves it 8 mm within one step."""
    return bool(np.hypot(*(after[14:16] - before[14:16])) > 0.008 and after[16] < 0.03)
