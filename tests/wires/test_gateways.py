"""A gateway serves on one wire what it gets on another: eight robots at once, and each is answered for itself."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from actlink.client import connect
from actlink.errors import ActlinkError
from actlink.serving.config import ServerConfig
from actlink.serving.server import Server

pytest.importorskip("grpc", reason="grpcio is not installed: gateways to and from the LeRobot wire are NOT TESTED")

from wires_world import LISTEN, PATIENCE, STEPWISE, Wires, echo, nonces

ROBOTS = 8
REQUESTS = 40
PAIRS = [
    ("openpi", "lerobot"),  # a LeRobot robot uses an openpi server
    ("native+tcp", "act"),
    ("lerobot", "native+ws"),
    ("ilstudio", "openpi"),
    ("act", "ilstudio"),
    ("vibe", "native+tcp"),
]
"""Wire of the server behind the gateway, wire of the robots before it."""


def robot(url: str, spec: Any, number: int, began: threading.Barrier, wrong: list[str]) -> None:
    """Asks in step with the others and compares every action with what its own observation says."""
    rows = nonces(number + 1, REQUESTS)
    try:
        with connect(url, spec=spec, config=PATIENCE) as policy:
            began.wait(30)
            for step, row in enumerate(rows):
                found = policy.infer_one({"state": row}, step=step).actions
                if not np.array_equal(found, np.tile(row[:4], (len(found), 1))):
                    wrong.append(f"robot {number}, step {step}: asked with {row[:4]}, got {found[0]}")
    except (ActlinkError, threading.BrokenBarrierError) as error:
        wrong.append(f"robot {number}: {error!r}")
        began.abort()


@pytest.mark.parametrize(("behind", "before"), PAIRS, ids=[" to ".join(pair) for pair in PAIRS])
def test_eight_robots_through_a_gateway(behind: str, before: str) -> None:
    # An ensemble would mix the steps of one robot; chunks of one action leave nothing to mix.
    stepwise = {behind, before} & set(STEPWISE)
    origin = echo(horizon=1 if stepwise else 3)
    wrong: list[str] = []
    with ExitStack() as opened:
        wires = opened.enter_context(Wires({"echo": origin}, [behind]))
        upstream = connect(wires.url(behind), spec=origin.spec, config=PATIENCE)
        gateway = opened.enter_context(Server({"g": upstream}, [LISTEN[before]], ServerConfig(log_every_s=0.0, warm_up=False)))
        began = threading.Barrier(ROBOTS)
        robots = [
            threading.Thread(target=robot, args=(gateway.addresses[0], origin.spec, number, began, wrong))
            for number in range(ROBOTS)
        ]
        for each in robots:
            each.start()
        for each in robots:
            each.join(60)
        assert not any(each.is_alive() for each in robots)
        assert not wrong
        assert wires.server.statistics().answered == ROBOTS * REQUESTS == gateway.statistics().answered
        assert wires.server.statistics().sessions_total >= ROBOTS  # one behind for each before


@pytest.mark.parametrize("behind", LISTEN)
def test_a_gateway_warms_up_what_is_behind_it(behind: str) -> None:
    """One, two, and the largest batch that it may be asked for, all of it on one connection."""
    with Wires({"echo": echo()}, [behind], warm_up=False) as wires:
        upstream = connect(wires.url(behind), spec=wires.spec, config=PATIENCE)
        with Server({"g": upstream}, [LISTEN["native+tcp"]], ServerConfig(log_every_s=0.0)) as gateway:
            assert gateway.ready
        assert wires.server.statistics().answered == 1 + 2 + upstream.spec.max_batch_size
        assert not wires.server.statistics().errors


@pytest.mark.parametrize("before", ["native+tcp", "openpi", "lerobot"])
def test_a_new_episode_before_the_gateway_is_one_behind_it(before: str) -> None:
    """The server behind mixes the chunks of an episode; what it did in the last one must not show."""
    with Wires({"echo": echo(horizon=3)}, ["act"]) as wires:
        upstream = connect(wires.url("act"), spec=wires.spec, config=PATIENCE)
        gateway = Server({"g": upstream}, [LISTEN[before]], ServerConfig(log_every_s=0.0, warm_up=False))
        with gateway, connect(gateway.addresses[0], spec=wires.spec, config=PATIENCE) as policy:
            episodes = []
            for _ in range(3):
                rows = enumerate(nonces(1, 5))
                episodes.append([policy.infer_one({"state": row}, step=step).actions[0] for step, row in rows])
                policy.reset()
    first = episodes[0]
    assert not np.array_equal(first[1], nonces(1, 5)[1, :4])  # it does mix
    np.testing.assert_array_equal(episodes, [first] * 3)
