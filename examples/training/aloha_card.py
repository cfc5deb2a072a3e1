"""``CARD.md`` of the bundled ALOHA policy: what it is, what it achieves, how it was trained, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from act_export import STD_FLOOR
from act_model import Act, ActConfig
from aloha_demonstrations import FIRST_SEED, PUSHES_M, Demonstrations
from aloha_trials import Trial, wilson


def card(
    options: Mapping[str, Any], data: Demonstrations, trained: Mapping[str, float], results: Sequence[tuple[Trial, int, int]]
) -> str:
    """The text of ``CARD.md``.

    :param options: the training script's, by name.
    :param trained: ``steps``, ``seconds`` and ``loss`` of the training.
    :param results: trials with their counts of successes and strict successes.
    """
    rows = []
    for trial, successes, strict in results:
        count = len(trial.seeds)
        low, high = wilson(successes, count)
        seeds = f"{trial.seeds.start}-{trial.seeds.stop - 1}"
        share = f"{successes}/{count}, {100 * low:.1f}-{100 * high:.1f} %"
        rows.append(f"| {trial.name} | `{trial.options()}` | {trial.horizon} | {seeds} | {share} | {strict}/{count} |")
    sizes = ActConfig()
    parameters = sum(p.numel() for p in Act(sizes).parameters()) / 1e6
    pushes = ", ".join(f"{1000 * push:g}" for push in PUSHES_M)
    cvae = "on" if options["vae"] else "off"
    return f"""# aloha_transfer_cube

An ACT (action chunking transformer, Zhao et al. 2023) for gym-aloha's bimanual cube transfer in MuJoCo: the right arm picks the
cube up and hands it to the left arm. It sees `state` (14 joints, cube position and quaternion; no images) and answers with
{sizes.chunk_size} joint targets, two seconds at 50 Hz.

## What it achieves

Measured with the exported graph, up to 400 steps an episode. Success is the task's maximum reward, with its Wilson 95 % interval;
strict means that the left gripper alone held the cube for 15 steps. Horizon is the number of actions executed before the policy is
asked again. None of these seeds is in the training set.

| condition | environment options | horizon | seeds | success | strict |
|---|---|---|---|---|---|
{chr(10).join(rows)}

## How it was trained

- Behaviour cloning of the scripted expert in `examples/training/aloha_expert.py`: {data.episodes} successful (strict) episodes
  of {data.attempts} tried, seeds from {FIRST_SEED} on, {len(data.states)} states.
- Executed actions carry Ornstein-Uhlenbeck noise (deviation {options["noise"]} rad, correlation 0.9), the clean ones are
  recorded; each part of the timing varies by up to {options["jitter"]} steps.
- The cube is turned by up to {options["yaw_deg"]:g} degrees and, by turns, pushed by {pushes} mm at a random
  step from 5 to 60, whereupon the expert plans anew.
- Network: {parameters:.2f} M parameters, hidden {sizes.dim_model}, feed-forward {sizes.dim_feedforward},
  {sizes.n_heads} heads, {sizes.n_encoder_layers} encoder layers, one decoder layer, post-norm, ReLU, no dropout; CVAE {cvae}.
- L1 loss, rows after the end of a plan masked; states and actions z-scored, deviations floored at {STD_FLOOR}.
- AdamW, learning rate {options["learning_rate"]:g} with 200 steps of warm-up and cosine decay, weight decay
  {options["weight_decay"]:g}, gradient clip 1, batch size {options["batch_size"]}, float32.
- {trained["steps"]:.0f} steps in {trained["seconds"]:.0f} s, CPU threads: {options["threads"]}, no GPU.
  Final L1 {trained["loss"]:.4f} in normalised units; noise and timing, which the state does not show, set its floor.

`weights.safetensors` holds the weights under LeRobot's ACT tensor names, for inputs and outputs normalised as in `policy.json`.

## How to make it again

    pip install 'actlink[train,sim,onnx]'
    python examples/training/act_aloha_transfer_cube.py --out results/training/aloha_transfer_cube

Seeds are fixed; other processors round differently, so the weights come out a little different. To measure it again:

    actlink eval --policy aloha_transfer_cube --env aloha_transfer_cube --episodes 50 --seed 1000 --out results/nominal
    actlink eval --policy aloha_transfer_cube --env 'aloha_transfer_cube?push_cube_m=0.02' --execution-horizon 25 \\
        --episodes 50 --seed 1000 --out results/pushed
    actlink eval --policy aloha_transfer_cube --env 'aloha_transfer_cube?yaw_deg=15' --execution-horizon 25 \\
        --episodes 50 --seed 1000 --out results/turned
"""
