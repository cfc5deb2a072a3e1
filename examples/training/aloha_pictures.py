"""Demonstrations of the ALOHA cube transfer with pictures: what the cameras saw every few steps beside the expert's plan.

An episode is tried first without drawing, and drawn only if it succeeded: a picture costs a hundred times the physics. One file an
episode, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from aloha_demonstrations import FIRST_SEED, demonstrate
from aloha_expert import Expert, Timing, action_noise

from actlink.environments.aloha import Config, Environment

JOINTS = 14


@dataclass(frozen=True)
class Pictures:
    """Frames of all episodes, end to end."""

    images: list[npt.NDArray[np.uint8]]
    """For each episode (frames, cameras, height, width, 3) RGB."""
    states: list[npt.NDArray[np.float32]]
    """For each episode (frames, 14): the joints in the same moment."""
    plans: list[npt.NDArray[np.float32]]
    """For each episode (steps, 14): the clean joint targets, all steps."""
    every: int
    """Frame i was taken at step i * every."""

    def window(self, episode: int, frame: int, chunk: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Actions (chunk, 14) from a frame on, the last one repeated after the plan's end, and which rows (chunk,) those are."""
        plan = self.plans[episode]
        rows = frame * self.every + np.arange(chunk)
        return plan[np.minimum(rows, len(plan) - 1)], rows >= len(plan)


def collect(
    folder: Path, episodes: int, cameras: Sequence[str], height: int, width: int, every: int, noise: float, jitter: int
) -> Pictures:
    """Make what is not yet in ``folder`` and read all back; prints its progress. Gives up when more than nine of ten fail."""
    folder.mkdir(parents=True, exist_ok=True)
    expert, bare = Expert(), Environment()
    views = [Environment(Config(camera_height=height, camera_width=width, render_camera=name)) for name in cameras]
    begun, made = time.monotonic(), 0
    done = sorted(folder.glob("*.npz"))
    seed = FIRST_SEED if not done else int(done[-1].stem) + 1
    while len(done) < episodes:
        if seed - FIRST_SEED > 100 and len(done) < (seed - FIRST_SEED) / 10:
            raise RuntimeError(f"only {len(done)} of {seed - FIRST_SEED} demonstrations succeeded")
        success, stretches = demonstrate(bare, expert, seed, noise, jitter)
        if success:
            states, images, plan = _draw(views, expert, seed, noise, jitter, every, len(stretches[0].states))
            partial = folder / "partial"
            with partial.open("wb") as file:
                np.savez(file, images=images, states=states, plan=plan)
            done.append(partial.rename(folder / f"{seed}.npz"))
            made += 1
            spent = time.monotonic() - begun
            print(
                f"demonstrations {len(done)}/{episodes}, {spent:.0f} s, {spent / made * (episodes - len(done)):.0f} s left",
                flush=True,
            )
        seed += 1
    for view in views:
        view.close()
    loaded = [np.load(path) for path in done[:episodes]]
    return Pictures([x["images"] for x in loaded], [x["states"] for x in loaded], [x["plan"] for x in loaded], every)


def _draw(
    views: Sequence[Environment], expert: Expert, seed: int, noise: float, jitter: int, every: int, steps: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The episode that ``demonstrate`` makes of this seed, once more, with one environment a camera in lockstep."""
    rng = np.random.default_rng(seed)
    timing = Timing().jittered(rng, jitter)
    observed, *_ = [np.asarray(view.reset("", seed)["state"]) for view in views]
    disturbance = action_noise(rng, 1000, noise)
    plan = expert.plan(views[0].hold_action(None).astype(np.float64), observed[JOINTS:].astype(np.float64), 0, timing)
    states, images = [], []
    for step in range(steps):
        if step % every == 0:
            states.append(observed[:JOINTS])
            images.append([view.render() for view in views])
        observed, *_ = [np.asarray(view.step(plan[step] + disturbance[step]).observation["state"]) for view in views]
    return np.asarray(states, np.float32), np.asarray(images, np.uint8), np.asarray(plan, np.float32)
