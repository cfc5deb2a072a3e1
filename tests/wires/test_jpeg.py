"""Pictures as JPEG over a real socket: what the policy sees, and that a server which does not take them gets them raw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actlink import connect
from actlink.policies._base import Policy, answer
from actlink.serving.server import Server
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Request

pytest.importorskip("simplejpeg")

SPEC = Spec({"images.top": Field((48, 64, 3), "uint8")}, Field((1,)), action_horizon=2)
ROWS, COLUMNS = np.mgrid[:48, :64]
PICTURE = np.stack([ROWS * 5, COLUMNS * 4, 255 - ROWS * 5], axis=-1).astype(np.uint8)


class Looking(Policy):
    """Keeps what it saw last."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.seen = np.zeros(0)

    def infer(self, requests: Sequence[Request]) -> list[ActionChunk]:
        self.seen = np.array(requests[-1].observation["images.top"])
        return [answer(request, np.zeros((2, 1), np.float32)) for request in requests]


@pytest.mark.parametrize(
    ("serves", "asks", "compressed"), [("true", "true", True), ("true", "false", False), ("false", "true", False)]
)
@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_what_the_policy_sees(transport: str, serves: str, asks: str, compressed: bool) -> None:
    policy = Looking()
    with Server({"looking": policy}, [f"native+{transport}://127.0.0.1:0?jpeg={serves}"]) as server:
        place = server.addresses[0].partition("?")[0]
        with connect(f"{place}?jpeg={asks}&jpeg_quality=95") as remote:
            remote.infer_one({"images.top": PICTURE})
    away = np.abs(policy.seen.astype(int) - PICTURE)
    assert policy.seen.shape == PICTURE.shape and policy.seen.dtype == np.uint8
    assert away.mean() < 3
    assert away.any() == compressed
