"""Train LeRobot's own Diffusion policy on the conveyor's scripted expert: a small checkpoint for the family ``lerobot``.

    python examples/training/lerobot_diffusion_conveyor.py --out results/training/lerobot_diffusion_conveyor

Needs ``pip install 'actlink[lerobot]'`` (Python 3.12 for LeRobot 0.6). There are no cameras: the gripper is LeRobot's
``observation.state``, object, belt and bin are its ``observation.environment_state``. Policy and processors are written every
``--save-every`` steps, as LeRobot's ``save_pretrained`` writes them, and can be served while the training goes on. Ctrl-C ends the
training and saves. The learning rate falls to nothing by the last step or second, whichever is first: a short run is a whole one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import tyro
from conveyor_expert import collect
from conveyor_parts import GRIPPER
from flow_windows import Windows
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from actlink.environments.conveyor import ACTION, RATE_HZ, STATE

AVERAGED = 0.995
"""What the weights that are saved keep of themselves at each step: an exponential average, as Diffusion Policy's authors use."""
WARM_UP = 100
"""Steps."""


@dataclass(frozen=True)
class Args:
    """Options."""

    out: Path = Path("results/training/lerobot_diffusion_conveyor")
    """The policy goes to its folder ``policy``."""
    demonstrations: int = 1000
    """Successful episodes of the scripted expert to train on."""
    noise: float = 0.01
    """Deviation (m) of the noise on executed actions."""
    steps: int = 20_000
    """Optimiser steps."""
    seconds: float = float("inf")
    """Stop training after this long instead, if that is earlier."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Highest learning rate; it falls as a cosine."""
    horizon: int = 16
    """Actions in a chunk, of 0.02 s each; a multiple of 4."""
    down_dims: tuple[int, ...] = (32, 64)
    """Channels of the U-Net's levels."""
    save_every: int = 1000
    seed: int = 1


class Data:
    """Demonstrations as LeRobot's batches: tensors ``(batch, steps, entries)`` under its keys."""

    def __init__(self, windows: Windows, horizon: int) -> None:
        self._windows, self._ahead = windows, np.arange(horizon)
        self._random = np.random.default_rng(0)

    def batch(self, size: int) -> dict[str, Any]:
        """Rows drawn at random; after a plan's end its last action goes on."""
        rows = self._random.integers(0, len(self._windows.states), size)
        at, end = self._windows.first[rows, None] + self._ahead, self._windows.end[rows, None]
        states = torch.from_numpy(self._windows.states[rows, None])
        return {
            "observation.state": states[..., :GRIPPER],
            "observation.environment_state": states[..., GRIPPER:],
            "action": torch.from_numpy(self._windows.plans[np.minimum(at, end - 1)]),
            "action_is_pad": torch.from_numpy(at >= end),
        }

    def statistics(self) -> dict[str, dict[str, torch.Tensor]]:
        """What the processors normalise with."""
        states, found = torch.from_numpy(self._windows.states), {}
        parts = {"observation.state": states[:, :GRIPPER], "observation.environment_state": states[:, GRIPPER:]}
        for key, values in {**parts, "action": torch.from_numpy(self._windows.plans)}.items():
            found[key] = {"min": values.amin(0), "max": values.amax(0), "mean": values.mean(0), "std": values.std(0)}
        return found


def configuration(args: Args) -> DiffusionConfig:
    """Small: some 300 thousand parameters, ten denoising steps (DDIM) towards the chunk itself."""
    return DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (GRIPPER,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (len(STATE) - GRIPPER,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (len(ACTION),))},
        normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), "MIN_MAX"),
        n_obs_steps=1,  # speeds are among the state, so one observation says it all
        horizon=args.horizon,
        n_action_steps=args.horizon,
        drop_n_last_frames=0,
        down_dims=args.down_dims,
        diffusion_step_embed_dim=64,
        noise_scheduler_type="DDIM",
        num_train_timesteps=50,
        num_inference_steps=10,
        prediction_type="sample",
        device="cpu",
        push_to_hub=False,
    )


class Run:
    """Policy, processors and the average of its weights."""

    def __init__(self, args: Args, data: Data) -> None:
        self._args, self._data = args, data
        config = configuration(args)
        self.policy = get_policy_class("diffusion")(config)
        self._averaged = get_policy_class("diffusion")(config)
        self._averaged.load_state_dict(self.policy.state_dict())
        self._before, self._after = make_pre_post_processors(config, dataset_stats=data.statistics())
        self._optimizer = torch.optim.AdamW(self.policy.parameters(), lr=0.0, betas=(0.95, 0.999), weight_decay=1e-6)

    def train(self) -> int:
        """Until the steps or seconds are over; how many steps were made."""
        args, begun, step, lately = self._args, time.monotonic(), 0, 0.0
        self.policy.train()
        while step < args.steps and (seconds := time.monotonic() - begun) < args.seconds:
            done = max(step / args.steps, seconds / args.seconds)
            rate = args.learning_rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * done))
            loss = self._step(float(rate))
            step += 1
            lately = loss if step == 1 else 0.99 * lately + 0.01 * loss
            if step % 100 == 0 or step == 1:
                print(f"step {step:6}/{args.steps}  loss {lately:.5f}  rate {rate:.1e}  {seconds:5.0f} s", flush=True)
            if step % args.save_every == 0:
                self.save()
        return step

    def _step(self, rate: float) -> float:
        self._optimizer.param_groups[0]["lr"] = rate
        loss, _ = self.policy.forward(self._before(self._data.batch(self._args.batch_size)))
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self._optimizer.step()
        with torch.no_grad():
            for own, new in zip(self._averaged.parameters(), self.policy.parameters(), strict=True):
                own.lerp_(new, 1 - AVERAGED)
        return float(loss.detach())

    def save(self) -> Path:
        """The averaged weights with their processors."""
        place = self._args.out / "policy"
        for part in (self._averaged.eval(), self._before, self._after):
            part.save_pretrained(place)
        return place


def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    def progress(kept: int, attempts: int) -> None:
        if kept % 250 == 0:
            print(f"demonstrations {kept}/{args.demonstrations} of {attempts} tried", flush=True)

    windows, _ = collect(args.demonstrations, args.noise, progress)
    run = Run(args, Data(windows, args.horizon))
    size = sum(value.numel() for value in run.policy.parameters())
    print(f"{len(windows.states)} states, {size / 1e6:.2f} million parameters", flush=True)
    try:
        print(f"{run.train()} steps made")
    except KeyboardInterrupt:
        print("stopped; what has been learnt is saved")
    place = run.save()
    parts = Path(__file__).with_name("conveyor_parts.py")
    print(f"""
written: {place}

  actlink serve '{place}?rate_hz={RATE_HZ:g}' --listen native+ws://127.0.0.1:8000
  actlink eval --policy ws://127.0.0.1:8000 --env {parts}:Parts --execution-horizon {args.horizon // 2} --episodes 20

The second runs where there is no LeRobot, too.""")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
