"""A point on a line that has to reach a target, and policies for it: small, exact, and able to misbehave at a given seed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actlink.environments import _base
from actlink.errors import LinkClosedError, PolicyError
from actlink.policies._base import Policy, Result, answer
from actlink.spec import Field, Spec
from actlink.types import Array, Observation, Request, Step

HORIZON = 5
OBSERVATION = {"state": Field((2,), names=("position", "target"))}
ACTION = Field((1,), names=("speed",))

GATE = "ACTLINK_TEST_GATE"
"""``<seed>:<directory>``: the environment says in ``pipe`` there that it has begun that seed, and goes on once ``go`` is opened.

Once: the next to begin the seed does not wait. Not an option of the environment, because that would make it another evaluation."""


@dataclass(frozen=True)
class Config:
    far: float = 1.0
    """Targets are up to this far away; beyond 1.9 some cannot be reached in time."""
    raise_at: int = -1
    """Seed at which ``step`` raises."""
    nan_at: int = -1
    """Seed at which the reward is not a number."""
    die_at: int = -1
    """Seed that kills the process, every time."""
    refuse: bool = False
    """Whether it cannot be made at all."""
    blind: bool = False
    """Whether it cannot be drawn."""


class Reach(_base.Environment):
    def __init__(self, config: Config, *, task: str = "", wanted: Spec | None = None) -> None:
        if config.refuse:
            raise RuntimeError("no such simulator")
        self.config = config
        self.spec = Spec(OBSERVATION, ACTION, rate_hz=20.0)

    def tasks(self) -> tuple[str, ...]:
        return ("reach",)

    def reset(self, task: str, seed: int) -> Observation:
        self.seed, self.steps, self.reached, self.held = seed, 0, False, 0
        self.position = 0.0
        self.target = float(np.random.default_rng(seed).uniform(0.2, self.config.far))
        return self.observe()

    def step(self, action: Array) -> Step:
        if self.steps == 2:
            self.misbehave()
        self.steps += 1
        self.position += float(np.clip(action[0], -0.1, 0.1))
        near = abs(self.position - self.target) < 0.01
        self.reached, self.held = self.reached or near, self.held + near
        reward = float("nan") if self.seed == self.config.nan_at else -abs(self.position - self.target)
        over = self.held >= 3
        threads = float(os.environ.get("OPENBLAS_NUM_THREADS", "0"))
        metrics = {"strict_success": float(over), "distance": abs(self.position - self.target), "threads": threads}
        return Step(self.observe(), reward, self.reached, over, not over and self.steps >= 20, metrics)

    def observe(self) -> Observation:
        return {"state": np.array([self.position, self.target], np.float32)}

    def hold_action(self, last: Array | None) -> Array:
        return np.zeros(1, np.float32)

    def render(self) -> Array:
        if self.config.blind:
            raise RuntimeError("no display")
        image = np.zeros((33, 64, 3), np.uint8)  # an odd side, which H.264 does not take
        image[:, int(np.clip(self.position * 30, 0, 63))] = 255
        return image

    def misbehave(self) -> None:
        if self.seed == self.config.raise_at:
            raise ZeroDivisionError("the simulator fell over")
        if self.seed == self.config.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        wait_at_gate(self.seed)


def wait_at_gate(seed: int) -> None:
    gate_seed, _, directory = os.environ.get(GATE, "-1:").partition(":")
    if seed != int(gate_seed):
        return
    with contextlib.suppress(FileExistsError):
        os.close(os.open(f"{directory}/passed", os.O_CREAT | os.O_EXCL))
        pipe = os.open(f"{directory}/pipe", os.O_WRONLY)  # kept open: its end tells the test that this process is gone
        os.write(pipe, f"{os.getpid()}\n".encode())
        os.close(os.open(f"{directory}/go", os.O_RDONLY))


class Chase(Policy):
    """Goes straight to the target, a chunk at a time."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.spec = Spec(OBSERVATION, ACTION, action_horizon=HORIZON, max_batch_size=8, name="chase", digest=f"sha256:{gain}")

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Result:
        state = request.observation["state"]
        assert isinstance(state, np.ndarray)
        left = self.gain * float(state[1] - state[0])
        actions = []
        for _ in range(HORIZON):
            actions.append([np.clip(left, -0.1, 0.1)])
            left -= actions[-1][0]
        return answer(request, np.array(actions, np.float32))


class Wide(Chase):
    """Actions of two entries, which nobody here takes."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = Spec(OBSERVATION, Field((2,)), name="wide")


class Picky(Chase):
    """Fails where the target is far away."""

    def one(self, request: Request) -> Result:
        state = request.observation["state"]
        assert isinstance(state, np.ndarray)
        return PolicyError("too far for me") if state[1] > 0.9 else super().one(request)


class Flaky(Chase):
    """Loses its link in the second request of an episode, ``times`` times in all; counts in a file, across processes."""

    def __init__(self, count: str, times: int = 1) -> None:
        super().__init__()
        self.count, self.times = Path(count), times

    def one(self, request: Request) -> Result:
        lost = len(self.count.read_text()) if self.count.exists() else 0
        if request.step and lost < self.times:
            self.count.write_text("x" * (lost + 1))
            return LinkClosedError("the link broke")
        return super().one(request)


class Changing(Flaky):
    """Comes back from a lost link as another policy."""

    def __init__(self, count: str) -> None:
        super().__init__(count)
        if self.count.exists():
            self.spec = Chase(gain=0.5).spec


class Away(Chase):
    """A server that is not there."""

    def __init__(self) -> None:
        raise LinkClosedError("nobody answers")
