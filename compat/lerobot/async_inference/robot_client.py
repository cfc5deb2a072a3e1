"""LeRobot's robot client: ``python -m lerobot.async_inference.robot_client --server_address=gpu-box:8080 --robot.type=...``.

Robots and cameras are those of an installed lerobot; ``--robot.type=simulated --robot.env=aloha_transfer_cube`` needs none.

The actlink way: ``actlink run --robot.type=so101_follower ... --policy lerobot+grpc://gpu-box:8080/outputs/train/x``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where a checkout of lerobot stands first

from opening import fail, prepare

from actlink.commands import run as command
from actlink.errors import ActlinkError, ConfigError
from actlink.robot_client import session
from actlink.robot_client.config import RunConfig
from actlink.robot_client.session import Controls
from actlink.safety import Config as SafetyConfig

logger = logging.getLogger("robot_client")


def yes(text: str) -> bool:
    """``True`` and ``False`` as the documents write them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return text.lower() == "true"


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robot_client", description="Run a robot by a policy on a LeRobot policy server, or on any that actlink speaks with."
    )
    parser.add_argument("--server_address", default="localhost:8080", help="host:port, or an address such as openpi+ws://host:8000")
    parser.add_argument("--robot.type", dest="type", required=True, help="any of LeRobot's, or simulated; it takes any --robot.X=Y")
    parser.add_argument("--robot.port", dest="port", help="the arm's serial port")
    parser.add_argument("--robot.id", dest="id", help="the arm's name, under which its calibration lies")
    parser.add_argument("--robot.cameras", dest="cameras", help="{name: {type: opencv, index_or_path: ..., width: ..., ...}, ...}")
    parser.add_argument("--task", default="", help="instruction for the policy")
    parser.add_argument("--policy_type", required=True, help="act, smolvla, diffusion, pi0, ...")
    parser.add_argument("--pretrained_name_or_path", required=True, help="the checkpoint, as the server knows it")
    parser.add_argument("--policy_device", default="cpu", help="device that the server is asked to use")
    parser.add_argument("--client_device", default="cpu", help="taken and not needed: actions are numbers here")
    parser.add_argument("--actions_per_chunk", type=int, default=50)
    parser.add_argument("--chunk_size_threshold", type=float, default=0.5)
    parser.add_argument("--aggregate_fn_name", default="weighted_average", help="or latest_only, average, conservative")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--debug_visualize_queue_size", type=yes, default=False, metavar="True")
    parser.add_argument("--on_link_loss", choices=("exit", "hold"), default="exit", help="what to do without fresh actions")
    parser.add_argument("--duration_s", type=float, help="seconds to run; else until Ctrl-C")
    return parser


def robot(given: argparse.Namespace, others: list[str]) -> tuple[str, ...]:
    """Name and options; what follows ``--robot.`` and is not declared here is the robot's affair."""
    named = [f"{name}={value}" for name in ("type", "port", "id", "cameras") if (value := getattr(given, name)) is not None]
    while others:
        flag, separator, value = others.pop(0).partition("=")
        if not flag.startswith("--robot."):
            raise ConfigError(f"unknown option {flag}; --help lists them")
        if not separator:
            if not others:
                raise ConfigError(f"{flag}: expected a value")
            value = others.pop(0)
        named.append(f"{flag[len('--robot.') :]}={value}")
    return tuple(named)


def address(given: argparse.Namespace) -> str:
    if "://" in given.server_address:
        return str(given.server_address)
    told = {name: getattr(given, name) for name in ("policy_type", "pretrained_name_or_path", "policy_device", "actions_per_chunk")}
    return f"lerobot+grpc://{given.server_address}?{urlencode({**told, 'task': given.task, 'fps': given.fps})}"


def main() -> int:
    given, others = options().parse_known_args()
    prepare()
    for name in ("robot_client", "actlink.run", "actlink.robots"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        config = RunConfig(
            policy=address(given),
            robot=robot(given, others),
            task=given.task,
            fps=given.fps,
            actions_per_chunk=given.actions_per_chunk,
            chunk_size_threshold=given.chunk_size_threshold,
            aggregate_fn_name=given.aggregate_fn_name,
            debug_visualize_queue_size=given.debug_visualize_queue_size,
            duration_s=given.duration_s,
            safety=SafetyConfig(on_link_loss=given.on_link_loss),
        )
        out = command.directory(config)
        controls = Controls.new()
        with command.operated(controls):
            summary = session.run(config, controls, command.spectator(config, quiet=False))
    except KeyboardInterrupt:  # before the loop began, or a second time
        logger.info("Client stopped")
        return 130
    except ActlinkError as error:
        if error.infrastructure:
            logger.error("Failed to connect to policy server: %s", error)
        return fail(error)
    print("\n".join(command.report(summary)))
    for path in command.written(config, summary, out):
        print(path)
    logger.info("Client stopped")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
