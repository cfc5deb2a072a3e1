"""Pictures over a whole run: a simulated robot with a camera, a real server, and every byte between them counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actlink.environments import _base as environments
from actlink.policies._base import Policy, Result, answer
from actlink.robot_client import session
from actlink.robot_client.config import RunConfig
from actlink.serving.server import Server
from actlink.spec import Field, Spec
from actlink.testing.links import bad_link
from actlink.types import Array, Observation, Request, Step

JOINTS = Field((2,), names=("waist", "elbow"), range=(-2.0, 2.0))
PICTURE = Field((120, 160, 3), "uint8")
RAW_BYTES = 120 * 160 * 3
RATE_HZ = 30.0
ROWS, COLUMNS = np.mgrid[:120, :160]
SCENE = np.stack([ROWS * 2, COLUMNS, 255 - ROWS * 2], axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class Config:
    """No options."""


class Seeing(environments.Environment):
    """Two joints that go where they are told at once, before a camera that always sees the same."""

    def __init__(self, config: Config, *, task: str = "", wanted: Spec | None = None) -> None:
        self.spec = Spec({"state": JOINTS, "images.top": PICTURE}, JOINTS, rate_hz=RATE_HZ, name="seeing")
        self._pose = np.zeros(2, np.float32)

    def tasks(self) -> tuple[str, ...]:
        return ("look",)

    def reset(self, task: str, seed: int) -> Observation:
        self._pose = np.zeros(2, np.float32)
        return self._observe()

    def step(self, action: Array) -> Step:
        self._pose = np.array(action, np.float32)
        return Step(self._observe(), 0.0, None, False, False)

    def hold_action(self, last: Array | None) -> Array:
        return self._pose.copy()

    def render(self) -> Array:
        return SCENE.copy()

    def _observe(self) -> Observation:
        return {"state": self._pose.copy(), "images.top": SCENE.copy()}


class Looking(Policy):
    """Keeps how far each picture it got was from the scene; the black one that warms it up is the server's own."""

    def __init__(self) -> None:
        self.spec = Spec({"state": JOINTS, "images.top": PICTURE}, JOINTS, action_horizon=20, rate_hz=RATE_HZ, name="looking")
        self.away: list[float] = []

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        pictures = [np.asarray(request.observation["images.top"]).astype(int) for request in requests]
        self.away += [float(np.abs(picture - SCENE).mean()) for picture in pictures if picture.any()]
        return [answer(request, np.full((20, 2), 0.1, np.float32)) for request in requests]


@pytest.mark.parametrize(("serves", "asks", "compressed"), [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_pictures_travel_as_jpeg_where_both_sides_have_it(transport: str, serves: bool, asks: bool, compressed: bool) -> None:
    pytest.importorskip("simplejpeg")
    policy, up = Looking(), []
    with Server({"looking": policy}, [f"native+{transport}://127.0.0.1:0?jpeg={str(serves).lower()}"]) as server:
        place = server.addresses[0].partition("?")[0]
        with bad_link(place, log=lambda event: up.append(event.size) if event.direction == "up" else None) as link:
            robot = ("simulated", f"env={Path(__file__).resolve()}:Seeing")
            summary = session.run(RunConfig(str(link.address), robot, duration_s=1.2, jpeg=asks))
    assert not summary.failed and summary.ended == "the time was up", summary.ended
    assert summary.record.lost == 0 and any(not tick.held for tick in summary.recorder.ticks)
    questions = len(policy.away)
    assert questions >= 3  # the one that warms up, the loop's first, and those that follow
    if compressed:
        assert sum(up) < questions * RAW_BYTES / 4
        assert all(0 < away < 3 for away in policy.away)
    else:
        assert sum(up) > questions * RAW_BYTES
        assert set(policy.away) == {0.0}
