"""Train the bundled policy ``aloha_transfer_cube_flow``: flow matching on the scripted expert, in some ten minutes on one core.

    python examples/training/flow_aloha_transfer_cube.py --out results/training/aloha_transfer_cube_flow

The demonstrations are those of ``act_aloha_transfer_cube.py``: made first and kept in ``--out`` (copy ``demonstrations.npz`` from
its folder to save the time). Training writes a checkpoint now and then and goes on from it when the same command is started again.
At the end the policy is exported (``flow.json``, ``flow.onnx``), measured in the simulator on seeds that are not in the training
set, without prefix and in both ways of continuing one, and ``CARD.md`` records how it went.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro
from act_export import Statistics
from aloha_demonstrations import FIRST_SEED, PUSHES_M, Demonstrations, collect
from aloha_trials import Trial
from aloha_trials import measure as measure_paused
from flow_card import About, card
from flow_export import export
from flow_model import FlowConfig
from flow_training import Options, Predict, refuse_other_run, train
from flow_trials import measure
from flow_windows import Windows

from actlink.environments.aloha import Config as EnvironmentConfig
from actlink.environments.aloha import Environment

SIZES = FlowConfig(state_dim=21, action_dim=14)


@dataclass(frozen=True)
class Args:
    """Options; the defaults made the bundled policy."""

    out: Path = Path("results/training/aloha_transfer_cube_flow")
    """Demonstrations, checkpoint and log; the exported policy goes to its folder ``policy``."""
    demonstrations: int = 400
    """Successful episodes to train on."""
    yaw_deg: float = 20.0
    """The cube is turned by up to this much in the demonstrations."""
    noise: float = 0.02
    """Deviation (rad) of the noise on executed actions."""
    jitter: int = 4
    """Steps by which each part of the expert's timing may vary."""
    trials: int = 100
    """Episodes that a row of the card counts, at most."""
    training: Options = field(default_factory=Options)


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    made = {name: getattr(args, name) for name in ("demonstrations", "yaw_deg", "noise", "jitter")}
    refuse_other_run(args.out, args.training, made)
    data = demonstrations(args)
    statistics = Statistics.of(data.states, data.plans[data.first])
    windows = Windows(data.states, data.plans, data.first, data.end)
    model, trained = train(args.out, args.training, SIZES, windows, statistics, glance)
    env, folder, about = Environment(), args.out / "policy", described(args, data)
    export(model, statistics, env.spec, about.name, about.what.split("\n")[0], folder)
    results = measure(folder, env, args.trials)
    (folder / "CARD.md").write_text(card(about, model, args.training, trained, results, 50.0), encoding="utf-8")
    print(f"exported to {folder}")


def demonstrations(args: Args) -> Demonstrations:
    """Made once, then read back."""
    path = args.out / "demonstrations.npz"
    if not path.exists():
        begun = time.monotonic()

        def progress(kept: int, attempts: int) -> None:
            if kept % 25 == 0:
                print(f"demonstrations {kept}/{args.demonstrations} of {attempts} tried, {time.monotonic() - begun:.0f} s")

        collect(args.demonstrations, args.yaw_deg, args.noise, args.jitter, progress).save(path)
    return Demonstrations.load(path)


def glance(predict: Predict) -> None:
    """A short look at the policy during training, on seeds used for nothing else."""
    measure_paused(predict, Trial("  horizon 25", range(4000, 4020), 25, EnvironmentConfig()))
    measure_paused(predict, Trial("  horizon 50", range(4000, 4020), 50, EnvironmentConfig()))


def described(args: Args, data: Demonstrations) -> About:
    """For the card."""
    pushes = ", ".join(f"{1000 * push:g}" for push in PUSHES_M)
    return About(
        "aloha_transfer_cube_flow",
        "aloha_transfer_cube",
        """Flow matching for gym-aloha's bimanual cube transfer: the right arm picks up the cube and hands it to the left arm.
It sees `state` (14 joints, cube position and quaternion; no images) and answers with joint targets at 50 Hz.""",
        f"""- Behaviour cloning of the scripted expert in `examples/training/aloha_expert.py`, the demonstrations of the
  bundled ACT: {data.episodes} successful (strict) episodes of {data.attempts} tried, seeds from {FIRST_SEED} on,
  {len(data.states)} states.
- Executed actions carry Ornstein-Uhlenbeck noise (deviation {args.noise} rad, correlation 0.9), the clean ones are recorded; each
  part of the timing varies by up to {args.jitter} steps. The cube is turned by up to {args.yaw_deg:g} degrees and, by turns, pushed
  by {pushes} mm at a random step from 5 to 60, whereupon the expert plans anew.""",
        "flow_aloha_transfer_cube",
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
