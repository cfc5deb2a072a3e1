"""Train the bundled policy ``conveyor_flow``: flow matching on the conveyor's scripted expert, in some ten minutes on one core.

    python examples/training/flow_conveyor.py --out results/training/conveyor_flow

Demonstrations take seconds and are made anew each time. Training writes a checkpoint now and then and goes on from it when the same
command is started again. At the end the policy is exported (``flow.json``, ``flow.onnx``), measured on seeds that are not in the
training set, without prefix and in both ways of continuing one, and ``CARD.md`` records how it went.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tyro
from act_export import Statistics
from conveyor_expert import FIRST_SEED, HOLDS, MOST_CHASED, MOST_HELD, collect
from flow_card import About, card
from flow_export import export
from flow_model import FlowConfig
from flow_training import Options, Predict, refuse_other_run, train
from flow_trials import measure
from flow_windows import Windows

from actlink.environments.conveyor import Environment

SIZES = FlowConfig(state_dim=10, action_dim=3)


@dataclass(frozen=True)
class Args:
    """Options; the defaults made the bundled policy."""

    out: Path = Path("results/training/conveyor_flow")
    """Checkpoint and log; the exported policy goes to its folder ``policy``."""
    demonstrations: int = 3000
    """Successful episodes to train on."""
    noise: float = 0.01
    """Deviation (m) of the noise on executed actions."""
    trials: int = 100
    """Episodes that a row of the card counts, at most."""
    training: Options = field(default_factory=Options)


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    refuse_other_run(args.out, args.training, {"demonstrations": args.demonstrations, "noise": args.noise})

    def progress(kept: int, attempts: int) -> None:
        if kept % 500 == 0:
            print(f"demonstrations {kept}/{args.demonstrations} of {attempts} tried", flush=True)

    data, attempts = collect(args.demonstrations, args.noise, progress)
    statistics = Statistics.of(data.states, data.plans[data.first])
    model, trained = train(args.out, args.training, SIZES, data, statistics, glance)
    env, folder, about = Environment(), args.out / "policy", described(args, data, attempts)
    export(model, statistics, env.spec, about.name, about.what.split("\n")[0], folder)
    results = measure(folder, env, args.trials)
    (folder / "CARD.md").write_text(card(about, model, args.training, trained, results, 50.0), encoding="utf-8")
    print(f"exported to {folder}")


def described(args: Args, data: Windows, attempts: int) -> About:
    """For the card."""
    return About(
        "conveyor_flow",
        "conveyor",
        """Flow matching for the conveyor: the gripper takes an object off a moving belt and drops it into a bin.
It sees `state` (gripper, object, belt speed, bin; no images) and answers with target positions and grip at 50 Hz.""",
        f"""- Behaviour cloning of the scripted expert in `examples/training/conveyor_expert.py`: {args.demonstrations} successful
  episodes of {attempts} tried, seeds from {FIRST_SEED} on, {len(data.states)} states.
- Executed actions carry Ornstein-Uhlenbeck noise (deviation {args.noise} m, correlation 0.9), the clean ones are recorded. When the
  gripper meets the object is drawn at random.
- In {100 * HOLDS:.0f} % of the episodes tried the gripper was held for up to {MOST_HELD} steps at a random time and then chased its
  plan for up to {MOST_CHASED} steps; the expert planned anew from there. Neither hold nor chase is among the recorded states.""",
        "flow_conveyor",
    )


def glance(predict: Predict) -> None:
    """A short look at the policy during training, on seeds used for nothing else."""
    env = Environment()
    for horizon in (10, 25, 50):
        successes = 0
        for seed in range(4000, 4050):
            state, over = np.asarray(env.reset("", seed)["state"]), False
            while not over:
                for action in predict(state)[:horizon]:
                    step = env.step(action)
                    state, over = np.asarray(step.observation["state"]), step.terminated or step.truncated
                    if over:
                        break
            successes += bool(step.success)
        print(f"  horizon {horizon}: {successes}/50", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
