"""LeRobot's policy server: ``python -m lerobot.async_inference.policy_server --host=0.0.0.0 --port=8080``.

Clients name the model they want. Here they may have the checkpoints below ``outputs/train``, each loaded when first asked for.

The actlink way: ``actlink serve outputs/train/x --listen 'lerobot+grpc://0.0.0.0:8080?any_model=true' --allow 192.168.1.0/24``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from opening import config, fail, opened, prepare

from actlink.errors import ActlinkError, ConfigError
from actlink.policies._base import Policy
from actlink.policies._recognise import families_of
from actlink.serving.server import Server

ROOT = Path("outputs/train")
NARROWER = "Narrow or open it with --allow=NETWORK (192.168.1.0/24; 0.0.0.0/0 for everybody)"
logger = logging.getLogger("policy_server")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="policy_server", description="Serve policies to LeRobot's robot clients.")
    parser.add_argument("--host", default="localhost", help="address to listen at; 0.0.0.0 = all of this machine's")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fps", type=float, default=30, help="control steps per second")
    parser.add_argument("--inference_latency", type=float, default=0.033, help="seconds that a call with actions lasts at least")
    parser.add_argument("--obs_queue_timeout", type=float, default=1.0, help="seconds that a call waits for an observation")
    parser.add_argument("--device", help="cuda (default, where there is one), cpu, cuda:1")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NETWORK", help="who may connect; several times for several"
    )
    return parser


def checkpoints(directory: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Directories at or below ``directory`` that a policy family recognises; what is inside one is its own."""
    real = directory.resolve()
    if real in above or not real.is_relative_to(ROOT.resolve()):
        return  # a link that leads round in a circle, or out
    if families_of(directory):
        yield directory
        return
    for below in sorted(path for path in directory.iterdir() if path.is_dir()):
        yield from checkpoints(below, above | {real})


def models(device: str | None) -> dict[str, Callable[[], Policy]]:
    """Relative name -> how to load it."""
    found = [path.as_posix() for path in checkpoints(ROOT)] if ROOT.is_dir() else []
    if not found:
        logger.warning("no checkpoint below %s: clients will be told so. Put one there and start again", ROOT.resolve())
        return {ROOT.as_posix(): nothing_there}
    logger.info(
        "clients may ask for: %s (what is below %s; move directories in or out to widen or narrow it)", ", ".join(found), ROOT
    )
    return {name: partial(opened, name, device) for name in found}


def nothing_there() -> Policy:
    raise ConfigError(f"{ROOT}: no checkpoint there")


def address(given: argparse.Namespace) -> str:
    if not 1 <= given.port <= 65535:
        raise ConfigError(f"--port: expected 1 to 65535, got {given.port}")
    host = f"[{given.host}]" if ":" in given.host else given.host
    return (
        f"lerobot+grpc://{host}:{given.port}?fps={given.fps}&inference_latency={given.inference_latency}"
        f"&obs_queue_timeout={given.obs_queue_timeout}"
    )


def main() -> int:
    given = options().parse_args()
    prepare()
    for name in ("policy_server", "actlink.dialects.lerobot", "actlink.serving"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        server = Server(models(given.device), [address(given)], config(given.host, given.allow, NARROWER))
        server.serve(lambda: logger.info("PolicyServer started on %s:%s", given.host, given.port))
    except ActlinkError as error:
        return fail(error)
    logger.info("Server terminated")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
