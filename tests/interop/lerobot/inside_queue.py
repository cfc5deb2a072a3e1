"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): our asynchronous strategy beside the queue of its RobotClient.

The original's own methods work on the original's own objects; only its constructor, which opens a robot and a channel, is left out.
"""

from __future__ import annotations

import logging
import threading
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.async_inference.configs import AGGREGATE_FUNCTIONS
from lerobot.async_inference.helpers import TimedAction
from lerobot.async_inference.robot_client import RobotClient

from actlink.execution.asynchronous import AGGREGATE_FUNCTIONS as OURS
from actlink.execution.asynchronous import Config, Strategy
from actlink.spec import Field, Spec
from actlink.types import ActionChunk, Array

DIM, STEPS, RUNS = 3, 80, 15


def original(threshold: float) -> Any:
    client = object.__new__(RobotClient)
    client.logger = logging.getLogger("robot_client")
    client.latest_action_lock, client.action_queue_lock = threading.Lock(), threading.Lock()
    client.latest_action, client.action_chunk_size = -1, -1
    client.action_queue, client._chunk_size_threshold = Queue(), threshold
    return client


def receive(client: Any, actions: Array, first: int, function: str) -> None:
    """What its receiving thread does with a chunk."""
    timed = [TimedAction(timestamp=0.0, timestep=first + i, action=torch.from_numpy(row.copy())) for i, row in enumerate(actions)]
    client.action_chunk_size = max(client.action_chunk_size, len(timed))
    client._aggregate_action_queues(timed, AGGREGATE_FUNCTIONS[function])


def performed(client: Any, step: int) -> Array | None:
    """What its control loop takes from the queue at a step."""
    if not client.actions_available():
        return None
    timed = client.action_queue.get_nowait()
    assert timed.get_timestep() == step
    return timed.get_action().numpy()


@pytest.mark.parametrize("function", sorted(AGGREGATE_FUNCTIONS))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_asks_and_acts_as_the_original(function: str, threshold: float) -> None:
    """Chunks of random lengths arrive in order and late by random steps, some too late for the queue to last."""
    random = np.random.default_rng(3)
    asked = starved = mixed = 0
    for _ in range(RUNS):
        client = original(threshold)
        strategy = Strategy(Config(100, threshold, function), Spec(action=Field((DIM,)), action_horizon=20))
        due: tuple[int, Array, int] | None = None
        for step in range(STEPS):
            client.latest_action = step - 1
            if due is not None and step == due[0]:
                _, actions, first = due
                before = client.action_queue.qsize()
                receive(client, actions, first, function)
                strategy.add(ActionChunk(actions, first), step)
                mixed += before > 0
                due = None
            if due is None:
                replan = strategy.replan(step)
                assert (replan is not None) == client._ready_to_send_observation(), step
                if replan is not None:
                    assert replan.must_go == (not client.actions_available())
                    asked += 1
                    length = int(random.integers(8, 21))
                    due = step + int(random.integers(1, 7)), random.normal(size=(length, DIM)).astype(np.float32), step
            theirs, ours = performed(client, step), strategy.action(step)
            assert (theirs is None) == (ours is None), step
            if theirs is not None and ours is not None:
                np.testing.assert_allclose(ours, theirs, atol=1e-6)
            starved += ours is None
    assert asked > RUNS * 4 and starved > RUNS
    assert mixed or threshold == 0.0


def test_the_four_functions_are_theirs() -> None:
    assert set(OURS) == set(AGGREGATE_FUNCTIONS)
