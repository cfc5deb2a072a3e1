"""LeRobot's own RobotClient with the fake robot, for a number of control steps; prints what happened as one line of JSON.

python run_robot_client.py 127.0.0.1:8080 --model NAME [--steps 200] [--motors 6] [--cameras top] ...
"""

import argparse
import json
import logging
import os
import tempfile
import threading
import time

import fake_robot
from lerobot.async_inference.configs import RobotClientConfig
from lerobot.async_inference.robot_client import RobotClient


class Errors(logging.Handler):
    """What the client reported as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage()[:600])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--model", default="default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--motors", type=int, default=6)
    parser.add_argument("--actuated", type=int, default=0)
    parser.add_argument("--cameras", default="top")
    parser.add_argument("--size", type=int, nargs=2, default=(48, 64))
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--fps", type=int, default=100)
    parser.add_argument("--actions", type=int, default=10)
    parser.add_argument("--limit-s", type=float, default=60.0)
    given = parser.parse_args()
    os.chdir(tempfile.mkdtemp())  # it writes logs/ where it stands
    errors = Errors()
    RobotClient.logger.addHandler(errors)
    robot = fake_robot.FakeConfig(
        motors=given.motors,
        actuated=given.actuated,
        camera_names=tuple(filter(None, given.cameras.split(","))),
        height=given.size[0],
        width=given.size[1],
    )
    client = RobotClient(
        RobotClientConfig(
            policy_type="act",
            pretrained_name_or_path=given.model,
            robot=robot,
            actions_per_chunk=given.actions,
            task="move",
            server_address=given.address,
            chunk_size_threshold=given.threshold,
            fps=given.fps,
            aggregate_fn_name="latest_only",
        )
    )
    started = client.start()
    steps: list[int] = []
    if started:
        receiver = threading.Thread(target=client.receive_actions, daemon=True)
        receiver.start()
        original = client.robot.send_action

        def counted(action: dict[str, float]) -> dict[str, float]:
            steps.append(len(steps))
            if len(steps) >= given.steps:
                client.shutdown_event.set()
            return original(action)

        client.robot.send_action = counted
        timer = threading.Timer(given.limit_s, client.shutdown_event.set)
        timer.start()
        begun = time.perf_counter()
        client.control_loop(task="move")
        seconds = time.perf_counter() - begun
        timer.cancel()
        client.stop()
        receiver.join(5)
    print(
        json.dumps(
            {
                "started": started,
                "steps": len(steps),
                "latest": client.latest_action,
                "seconds": seconds if started else 0.0,
                "sent": client.robot.sent[:3] + client.robot.sent[-3:],
                "errors": errors.lines[:20],
            }
        )
    )


if __name__ == "__main__":
    main()
