"""Scripted demonstrations of the conveyor: meet the object, go along with it, grip, carry, let go.

A plan is made of minimum-jerk pieces between rest, the belt's speed and rest again, and turned into targets that a spring with
the environment's lag follows exactly. When the meeting takes place is drawn at random within what the gripper can do, as a person
would not always be equally quick. The executed actions carry noise while the clean plan is recorded. In a part of the episodes the
gripper is held still for a while, then chases the plan that went on without it, and the expert plans anew from where that left it:
so the states that a late answer leads to are among the demonstrations, and what to do in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flow_windows import Windows

from actlink.environments.conveyor import BELT_END_M, DAMPING, DT_S, STIFFNESS, Environment

Floats = npt.NDArray[np.float64]
FIRST_SEED = 100_000
"""Training starts here; evaluation seeds lie below."""
HOVER_M, LOW_M, CARRY_M = 0.12, 0.012, 0.24
DESCEND_S, CLOSE_S, STAY_S = 0.4, 0.3, 0.4
SLOWEST_S = 0.5
"""No approach is shorter."""
BRISK = 0.7, 4.0
"""Speed (m/s) and acceleration (m/s^2) that an approach keeps below."""
WHIM_S = 0.4
"""How much later than possible the meeting may be."""
HOLDS = 0.6
"""Share of episodes with a hold and a chase."""
MOST_HELD, MOST_CHASED = 30, 30
"""Steps."""


@dataclass(frozen=True)
class Seen:
    """A state of the environment, by name."""

    x: float
    z: float
    x_speed: float
    z_speed: float
    opening: float
    object_x: float
    object_z: float
    belt_speed: float
    bin_x: float
    held: float

    @classmethod
    def of(cls, state: npt.NDArray[np.float32]) -> Seen:
        return cls(*(float(value) for value in state))


def plan(seen: Seen, random: np.random.Generator) -> Floats | None:
    """Targets (steps, 3) from ``seen`` to the end; None where the object can no longer be met."""
    if seen.held:
        return _carry(seen.x, seen.z, seen.x_speed, seen.z_speed, seen.bin_x)
    approach_s = _approach_s(seen)
    if approach_s is None:
        return None
    approach_s += random.uniform(0.05, WHIM_S)
    meet = seen.object_x + seen.belt_speed * approach_s
    gripped_s = approach_s + DESCEND_S + CLOSE_S
    end = seen.object_x + seen.belt_speed * gripped_s
    if end > BELT_END_M - 0.03:
        return None
    times = np.arange(1, round(gripped_s / DT_S) + 1) * DT_S
    x = np.where(
        times < approach_s,
        _quintic(times, approach_s, (seen.x, seen.x_speed), (meet, seen.belt_speed)),
        seen.object_x + seen.belt_speed * times,
    )
    hover = _quintic(times, approach_s, (seen.z, seen.z_speed), (HOVER_M, 0.0))
    z = np.where(times < approach_s, hover, _quintic(times - approach_s, DESCEND_S, (HOVER_M, 0.0), (LOW_M, 0.0)))
    targets = _targets(np.concatenate([[seen.x], x]), np.concatenate([[seen.z], z]), seen.x_speed, seen.z_speed)
    grip = np.where(times <= approach_s + DESCEND_S, 1.0, 0.0)
    rest = _carry(end, LOW_M, seen.belt_speed, 0.0, seen.bin_x)
    return np.concatenate([np.column_stack([targets, grip]), rest])


def _approach_s(seen: Seen) -> float | None:
    """Shortest time in which the gripper meets the object within brisk speed and acceleration."""
    for duration in np.arange(SLOWEST_S, 4.0, 0.05):
        times = np.arange(0, duration, DT_S)
        meet = seen.object_x + seen.belt_speed * duration
        path = _quintic(times, duration, (seen.x, seen.x_speed), (meet, seen.belt_speed))
        speed = np.diff(path) / DT_S
        if np.abs(speed).max() < BRISK[0] and np.abs(np.diff(speed) / DT_S).max() < BRISK[1]:
            return float(duration)
    return None


def _carry(x: float, z: float, x_speed: float, z_speed: float, bin_x: float) -> Floats:
    """Lift, go to the bin, let go and stay."""
    lift_s = 0.5
    carry_s = max(0.8, abs(bin_x - x) / 0.4)
    times = np.arange(1, round((carry_s + STAY_S) / DT_S) + 1) * DT_S
    xs = _quintic(times, carry_s, (x, x_speed), (bin_x, 0.0))
    zs = _quintic(times, lift_s, (z, z_speed), (CARRY_M, 0.0))
    targets = _targets(np.concatenate([[x], xs]), np.concatenate([[z], zs]), x_speed, z_speed)
    return np.column_stack([targets, np.where(times <= carry_s, 0.0, 1.0)])


def _quintic(times: Floats, duration: float, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    """Minimum jerk from ``start`` to ``end`` (position, speed; no acceleration); stays at ``end`` afterwards."""
    s = np.clip(times / duration, 0.0, 1.0)
    shift, first, last = end[0] - start[0], start[1] * duration, end[1] * duration
    a3, a4, a5 = 10 * shift - 6 * first - 4 * last, -15 * shift + 8 * first + 7 * last, 6 * shift - 3 * first - 3 * last
    return np.asarray(start[0] + first * s + a3 * s**3 + a4 * s**4 + a5 * s**5)


def _targets(x: Floats, z: Floats, x_speed: float, z_speed: float) -> Floats:
    """Targets (n, 2) that make the spring pass through positions (n + 1,), the first of which it has; if not for the table."""
    columns = []
    for path, speed in ((x, x_speed), (z, z_speed)):
        speeds = np.concatenate([[speed], np.diff(path) / DT_S])
        columns.append(path[:-1] + (np.diff(speeds) / DT_S + DAMPING * speeds[:-1]) / STIFFNESS)
    return np.column_stack(columns)


def demonstrate(env: Environment, seed: int, noise: float) -> tuple[bool, list[tuple[Floats, Floats]]]:
    """One episode; whether it ended in the bin, and its stretches of states and the plan in force."""
    random = np.random.default_rng([seed, 1])
    state = np.asarray(env.reset("", seed)["state"])
    targets = plan(Seen.of(state), random)
    hold_at = int(random.integers(0, 110)) if random.random() < HOLDS else -1
    disturbance, shake = np.zeros(3), noise * np.sqrt(1 - 0.9**2) * np.array([1.0, 0.6, 0.0])
    stretches: list[tuple[Floats, Floats]] = []
    states: list[Floats] = []
    step = begun = 0
    while targets is not None and step - begun < len(targets):
        if step == hold_at:
            stretches.append((np.array(states), targets))
            state, over = _fallen_behind(env, targets, step - begun, random)
            if over:
                return False, []
            hold_at, states = -1, []
            targets, begun = plan(Seen.of(state), random), step
            continue
        states.append(state.astype(np.float64))
        disturbance = 0.9 * disturbance + shake * random.standard_normal(3)
        outcome = env.step(targets[step - begun] + disturbance)
        state, step = np.asarray(outcome.observation["state"]), step + 1
        if outcome.terminated or outcome.truncated:
            stretches.append((np.array(states), targets))
            return bool(outcome.success), [(s, p) for s, p in stretches if len(s)]
    return False, []


def _fallen_behind(
    env: Environment, targets: Floats, row: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], bool]:
    """Hold before row ``row`` of a plan, then go on with the rows whose time it is by then; the state, and whether all is over."""
    last = targets[row - 1] if row else None
    held, chased = int(random.integers(3, MOST_HELD + 1)), int(random.integers(0, MOST_CHASED + 1))
    for index in range(held + chased):
        late = targets[min(row + index, len(targets) - 1)]
        outcome = env.step(env.hold_action(last) if index < held else late)
        if outcome.terminated or outcome.truncated:
            break
    return np.asarray(outcome.observation["state"]), outcome.terminated or outcome.truncated


def collect(episodes: int, noise: float, progress: Callable[[int, int], None]) -> tuple[Windows, int]:
    """Windows of ``episodes`` successful demonstrations, and how many were tried; gives up when more than nine of ten fail."""
    env = Environment()
    kept: list[tuple[Floats, Floats]] = []
    successes = attempts = 0
    while successes < episodes:
        if attempts > 100 and successes < attempts / 10:
            raise RuntimeError(f"only {successes} of {attempts} demonstrations succeeded")
        good, stretches = demonstrate(env, FIRST_SEED + attempts, noise)
        attempts += 1
        if good:
            successes += 1
            kept += stretches
            progress(successes, attempts)
    starts = np.cumsum([0, *(len(targets) for _, targets in kept)])
    first = np.concatenate([start + np.arange(len(states)) for (states, _), start in zip(kept, starts[:-1], strict=True)])
    end = np.concatenate([np.full(len(states), stop) for (states, _), stop in zip(kept, starts[1:], strict=True)])
    states, plans = (np.concatenate([pair[part] for pair in kept]).astype(np.float32) for part in (0, 1))
    return Windows(states, plans, first, end), attempts
