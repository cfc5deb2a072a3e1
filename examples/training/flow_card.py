"""``CARD.md`` of a bundled flow policy: what it is, what it achieves, how it was trained, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloha_trials import wilson
from flow_export import LARGE, STEPS
from flow_model import LATEST, Flow, parameters_of
from flow_training import Options
from flow_trials import HORIZON, Trial


@dataclass(frozen=True)
class About:
    """What a task's script knows and the rest does not."""

    name: str
    environment: str
    """As on the command line."""
    what: str
    """What the policy does, sees and answers, in sentences."""
    demonstrations: str
    """How the demonstrations were made, as list items."""
    script: str


def card(
    about: About, model: Flow, options: Options, trained: Mapping[str, float], results: Sequence[tuple[Trial, int]], rate_hz: float
) -> str:
    """The text of ``CARD.md``.

    :param trained: ``steps``, ``seconds`` and ``loss`` of the training. :param results: trials with their successes.
    """
    sizes = model.config
    rows = []
    for trial, successes in results:
        count = len(trial.seeds)
        low, high = wilson(successes, count)
        name = "receding" if trial.strategy == "receding" else f"realtime, `prefix_mode={trial.strategy}`"
        seeds = f"{trial.seeds.start}-{trial.seeds.stop - 1}"
        delay = f"{trial.delay} ({1000 * trial.delay / rate_hz:.0f} ms)"
        rows.append(f"| {name} | {delay} | {seeds} | {successes}/{count}, {100 * low:.1f}-{100 * high:.1f} % |")
    return f"""# {about.name}

{about.what}

It samples a chunk of {sizes.horizon} actions by flow matching in {STEPS} Euler steps and can continue a prefix in two ways (options
`prefix_mode=guided` and `prefix_mode=hard`; `docs/checkpoints.md` has their meaning). One set of weights serves all three.

## What it achieves

Success with its Wilson 95 % interval, measured with the exported graph. The answer to every question comes the given number of
control steps later, and the world goes on meanwhile; where there is no action the embodiment holds, at least until the first
answer. A question is asked every {HORIZON} steps. None of these seeds is in the training set.

| strategy | delay in steps | seeds | success |
|---|---|---|---|
{chr(10).join(rows)}

## How it was trained

{about.demonstrations}
- Network: {parameters_of(model) / 1e6:.2f} M parameters; {sizes.blocks} residual blocks of width {sizes.width} over the
  whole chunk, told of the state and of each row's flow time. It predicts the clean chunk.
- Flow times uniform up to {LATEST}; in half of the examples the first 1 to {sizes.most_delay} rows were given clean, with
  flow time 1.
- AdamW, learning rate {options.learning_rate:g} with 200 steps of warm-up and cosine decay, weight decay
  {options.weight_decay:g}, gradient clip 1, batch size {options.batch_size}, float32; the average of the weights (decay
  {options.average}) is what is bundled.
- {trained["steps"]:.0f} steps in {trained["seconds"]:.0f} s, CPU threads: {options.threads}, no GPU.
  Final loss {trained["loss"]:.4f}.

Weights of {LARGE} numbers and more are stored in half precision and computed with in single precision.

## How to make it again

    pip install 'actlink[train,sim,onnx]'
    python examples/training/{about.script}.py --out results/training/{about.name}

Seeds are fixed; other processors round differently, so the weights come out a little different. To measure it again, with answers
that come at once, with answers that are waited for, and without waiting:

    actlink eval --policy {about.name} --env {about.environment} --execution-horizon {HORIZON} \\
        --episodes 50 --seed 1000 --out results/at-once
    actlink eval --policy {about.name} --env {about.environment} --execution-horizon {HORIZON} \\
        --latency virtual --latency-ms 300 --episodes 50 --seed 1000 --out results/waited-for
    actlink eval --policy '{about.name}?prefix_mode=hard' --env {about.environment} --strategy realtime \\
        --execution-horizon {HORIZON} --latency virtual --latency-ms 300 --episodes 50 --seed 1000 --out results/realtime
"""
