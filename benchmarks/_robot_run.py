"""One robot client for a number of actions, in this process; prints what happened as one line of JSON. Runs where lerobot is.

    python _robot_run.py stock|ours HOST:PORT --actions 300 --fps 30 ...

The robot is the fake one of ``tests/interop/lerobot``, whose pictures are noise; both clients see and command it through LeRobot's
own robot class, and both are timed there: at ``send_action``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "interop" / "lerobot"))

import fake_robot

CAMERAS = ("top", "left", "right")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=("stock", "ours"))
    parser.add_argument("address")
    parser.add_argument("--actions", type=int, default=300)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=50)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--limit-s", type=float, default=60.0)
    given = parser.parse_args()
    os.chdir(tempfile.mkdtemp())  # LeRobot writes logs/ where it stands
    sent: list[float] = []
    over = threading.Event()
    original = fake_robot.Fake.send_action

    def send_action(self: Any, action: Any) -> Any:
        if not over.is_set():
            sent.append(time.perf_counter())
        if len(sent) >= given.actions:
            over.set()
        return original(self, action)

    told = (stock if given.client == "stock" else ours)(given, over, sent, send_action)
    gaps = [1e3 * abs((b - a) - 1 / given.fps) for a, b in pairwise(sent)]
    print(json.dumps({"actions": len(sent), "gaps_ms": [round(gap, 3) for gap in gaps], **told}))
    sys.stdout.flush()
    os._exit(0)  # the stock client's receiving thread has no end of its own


def stock(given: argparse.Namespace, over: threading.Event, sent: list[float], send_action: Any) -> dict[str, Any]:
    """LeRobot's RobotClient, as its own main program drives it."""
    from lerobot.async_inference.configs import RobotClientConfig
    from lerobot.async_inference.robot_client import RobotClient

    logging.disable(logging.ERROR)
    fake_robot.Fake.send_action = send_action
    robot = fake_robot.FakeConfig(motors=6, camera_names=CAMERAS, height=480, width=640)
    client = RobotClient(
        RobotClientConfig(
            policy_type="act",
            pretrained_name_or_path="default",
            robot=robot,
            actions_per_chunk=given.chunk,
            task="move",
            server_address=given.address,
            chunk_size_threshold=given.threshold,
            fps=given.fps,
        )
    )
    assert client.start(), "the stock client did not start"
    counts = {"ticks": 0, "starved": 0, "waited": 0}
    available = client.actions_available

    def counted() -> bool:
        there = bool(available())
        counts["ticks"] += 1
        counts["starved"] += not there
        counts["waited"] += not (there or sent)
        if over.is_set():
            client.shutdown_event.set()
        return there

    client.actions_available = counted
    receiver = threading.Thread(target=client.receive_actions, daemon=True)
    receiver.start()
    timer = threading.Timer(given.limit_s, client.shutdown_event.set)
    timer.start()
    begun = time.perf_counter()
    client.control_loop(task="move")
    seconds = time.perf_counter() - begun
    timer.cancel()
    client.stop()
    return {**counts, "seconds": seconds}


def ours(given: argparse.Namespace, over: threading.Event, sent: list[float], send_action: Any) -> dict[str, Any]:
    """``actlink run`` over the same wire."""
    from actlink.robot_client import session
    from actlink.robot_client.config import RunConfig
    from actlink.robot_client.session import Controls

    robot = ("fake", "motors=6", f"camera_names=[{','.join(CAMERAS)}]", "height=480", "width=640")
    where = given.address if "://" in given.address else f"lerobot+grpc://{given.address}?pretrained_name_or_path=default"
    config = RunConfig(
        policy=where,
        robot=robot,
        task="move",
        fps=given.fps,
        actions_per_chunk=given.chunk,
        chunk_size_threshold=given.threshold,
        duration_s=given.limit_s,
    )

    class Begun(session.Spectator):
        """Only what the loop sends counts."""

        at_s = 0.0

        def watch(self, recorder: Any, rows: int) -> Any:
            fake_robot.Fake.send_action = send_action
            self.at_s = time.perf_counter()
            return super().watch(recorder, rows)

    begun, controls = Begun(), Controls.new()

    def ended() -> None:
        over.wait()
        controls.stop()

    threading.Thread(target=ended, daemon=True).start()
    summary = session.run(config, controls, begun)
    record = summary.record
    held = sum(tick.held for tick in summary.recorder.ticks)
    assert summary.record.error is None, summary.record.error
    last = summary.recorder.ticks[-1]
    # Steps count from the first question on, as the stock client's do: those that passed before the first chunk was there as well.
    waited = next(tick.step for tick in summary.recorder.ticks if not tick.held)
    before = summary.recorder.ticks[0].step
    return {"ticks": record.steps, "starved": before + held + record.missed, "waited": waited, "seconds": last.at_s + 1 / given.fps}


if __name__ == "__main__":
    main()
