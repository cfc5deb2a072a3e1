"""Serve a trained policy to vibe-rl's clients::

python scripts/serve_policy.py cartpole_ppo --checkpoint_dir runs/cartpole/checkpoints
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vibe_rl.serving import PRESETS, PolicyServer, TrainConfig, create_trained_policy

from actlink.errors import ActlinkError, ConfigError


def main() -> None:
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if not options.checkpoint_dir.is_dir():
            raise ConfigError(f"--checkpoint_dir {options.checkpoint_dir}: no such directory")
        config = TrainConfig(options.preset)
        policy = create_trained_policy(config, options.checkpoint_dir, options.step, options.norm_stats_path)
        PolicyServer(policy=policy, host=options.host, port=options.port, allow=options.allow).run_blocking()
    except ActlinkError as error:
        sys.exit(f"error: {error}")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve a trained policy over WebSocket.")
    parser.add_argument("preset", choices=PRESETS, help="what was trained on what")
    parser.add_argument("--checkpoint_dir", type=Path, required=True)
    parser.add_argument(
        "--step",
        type=int,
        help="load <checkpoint_dir>/step_<STEP>; default: what lies in checkpoint_dir itself, else the highest step",
    )
    parser.add_argument(
        "--norm_stats_path", type=Path, help="default: norm_stats.json in checkpoint_dir or beside it, if there is one"
    )
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NETWORK", help="who may connect; several times for several"
    )
    return parser


if __name__ == "__main__":
    main()
