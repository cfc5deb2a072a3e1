"""Success against delay: every execution strategy with the same flow policy, on two tasks, in simulated time.

    python benchmarks/success_against_delay.py [--workers 2] [--document docs/execution.md]

Delays of 0 to 500 ms with a jitter of a tenth, drawn from the episode's seed; the same episodes in every cell, of seeds that no
training saw; a question every 25 control steps (ensemble: every 10), at 50 Hz. Synchronous is ``receding``, which stands still for
each answer. What is finished is kept in ``results/success_against_delay``: the same command goes on. It takes about half an hour of
one core, and needs the extras ``onnx``, ``sim`` and ``plot``. With ``--document`` tables and figures go to where that document has
the marks ``BEGIN`` and ``END``.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from actlink import loading, options
from actlink.clock import MonotonicClock
from actlink.controller import Controller
from actlink.environments._open import open_environment
from actlink.evaluation import tuning
from actlink.evaluation.comparison import Difference, difference
from actlink.evaluation.harness import EvalConfig
from actlink.evaluation.latency import Delayed, VirtualClock, delays_of
from actlink.evaluation.plan import Trial
from actlink.evaluation.results import Totals
from actlink.evaluation.rollout import run_episode
from actlink.evaluation.tune import Outcome, Setting, TuneConfig, cell_config, tune
from actlink.policies._open import open_policy
from actlink.ticks import Recorder
from actlink.types import Runtime

OUT = Path("results") / "success_against_delay"
BEGIN, END = "<!-- success against delay -->", "<!-- end of success against delay -->"
PLAIN = "policy.prefix_mode=ignore"
SYNCHRONOUS, GUIDED, HARD = "synchronous", "real-time, guided", "real-time, hard prefix"
STRATEGIES = (
    f"{SYNCHRONOUS}=receding?execution_horizon=25&{PLAIN}",
    f"naive=naive?execution_horizon=25&{PLAIN}",
    *(
        f"{name}=asynchronous?actions_per_chunk=50&chunk_size_threshold=0.5&aggregate_fn_name={name}&{PLAIN}"
        for name in ("weighted_average", "latest_only", "average", "conservative")
    ),
    f"ensemble=ensemble?execution_horizon=10&{PLAIN}",
    f"real-time, joined=realtime?execution_horizon=25&{PLAIN}",
    f"{GUIDED}=realtime?execution_horizon=25&policy.prefix_mode=guided",
    f"{HARD}=realtime?execution_horizon=25&policy.prefix_mode=hard",
)
TASKS = {
    name: TuneConfig(
        policy, name, STRATEGIES, actions_per_chunk=(50,), chunk_size_threshold=(0.5,), episodes=episodes, seed=1000, out=OUT / name
    )
    for name, policy, episodes in (("conveyor", "conveyor_flow", 100), ("aloha_transfer_cube", "aloha_transfer_cube_flow", 50))
}
SENSITIVE_MS, SENSITIVE = 500.0, 0.3
"""A task is sensitive to delay if the synchronous strategy loses this much of its success from no delay to that one."""
GOAL_MS, GOAL = 300.0, 0.95
"""At that delay real-time chunking is to keep this share of its success without delay."""
ENTRIES = f"The entry whose jump (p99) at {GOAL_MS:g} ms is largest beside its own largest step inside a chunk (50 episodes):"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--task", choices=TASKS, help="this one only")
    parser.add_argument("--episodes", type=int, help="per cell, instead of 100 and 50")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--document", type=Path, help="Markdown file to put tables and figures into")
    given = parser.parse_args()
    found: dict[str, list[Outcome]] = {}
    by_entry: dict[str, str] = {}
    for name, config in TASKS.items():
        if given.task not in (None, name):
            continue
        sweep = replace(config, workers=given.workers, out=given.out / name, episodes=given.episodes or config.episodes)
        found[name] = list(tune(sweep, console=Console(stderr=True), quiet=Console(quiet=True)))
        tuning.write(found[name], sweep.out)
        by_entry[name] = markdown(entry_by_entry(sweep, found[name]))
        print(f"\n{name}\n\n{tables(found[name])}\n{by_entry[name]}\n" + "\n".join(findings(found[name])))
    if given.document is not None:
        write_document(found, by_entry, given.document)
    return 0


def findings(outcomes: Sequence[Outcome]) -> list[str]:
    """What the sweep was made to find out, in words."""
    rate = {key: success(each.run.results.totals) for key, each in by_cell(outcomes).items()}
    before, after = rate[SYNCHRONOUS, 0.0], rate[SYNCHRONOUS, SENSITIVE_MS]
    kind = "sensitive" if before - after >= SENSITIVE else "not sensitive"
    fall = f"from {before:.0%} without delay to {after:.0%} at {SENSITIVE_MS:g} ms"
    said = [f"The task is {kind} to delay: synchronous success goes {fall}."]
    for label in (GUIDED, HARD):
        kept = rate[label, GOAL_MS] / rate[label, 0.0] if rate[label, 0.0] else 0.0
        sums = by_cell(outcomes)[label, GOAL_MS].run.results.totals
        jump, inside = sums.seam_p99 or 0.0, sums.inside_max or 0.0
        compared = "no larger than" if jump <= inside else "larger than"
        said.append(
            f"{label[0].upper()}{label[1:]} keeps {kept:.0%} of its success without delay at {GOAL_MS:g} ms (goal: {GOAL:.0%}). "
            f"Its jump between chunks there (p99) is {jump:.3g}, {compared} the largest step inside a chunk, {inside:.3g}."
        )
    said += [alike([each for each in outcomes if each.cell.delay_ms == delay_ms], delay_ms) for delay_ms in delays(outcomes)]
    return said


def alike(there: Sequence[Outcome], delay_ms: float) -> str:
    """Which strategies are, and which are not, told apart from the best at this delay."""
    best = max(there, key=lambda each: success(each.run.results.totals))
    shown = {each.cell.setting.label: is_below(difference(each.run, best.run)) for each in there if each is not best}
    worse = [label for label, below in shown.items() if below]
    if not worse:
        return f"At {delay_ms:g} ms no strategy's success is told apart from another's."
    same = [label for label, below in shown.items() if not below]
    beside = f", and beside it, not told apart, {'; '.join(same)}" if same else ""
    return f"At {delay_ms:g} ms the best is {best.cell.setting.label}{beside}. Shown to be worse: {'; '.join(worse)}."


def is_below(found: Difference) -> bool:
    return found.success_interval is not None and found.success_interval[1] < 0


def tables(outcomes: Sequence[Outcome]) -> str:
    """Success, paired differences to the synchronous strategy, and how the arm moved at ``GOAL_MS``."""
    at = by_cell(outcomes)
    plain = matrix(outcomes, lambda each: f"{success(each.run.results.totals):.0%}")
    paired = matrix(outcomes, lambda each: against(each, at[SYNCHRONOUS, each.cell.delay_ms]))
    moved = [
        ["", "starved", "jump p99", "largest step inside", "jerk", "time to finish (s)", "Mbit/s, raw"],
        *([label, *motion(at[label, GOAL_MS].run.results.totals)] for label in labels(outcomes)),
    ]
    return (
        f"Success:\n\n{markdown(plain)}\nSuccess minus that of the synchronous strategy at the same delay, paired, with its 95 % "
        f"interval:\n\n{markdown(paired)}\nMotion at {GOAL_MS:g} ms:\n\n{markdown(moved)}"
    )


def entry_by_entry(config: TuneConfig, outcomes: Sequence[Outcome], episodes: int = 50) -> list[list[str]]:
    """Of every real-time setting at ``GOAL_MS``: the entry whose jump (p99) is largest beside its own largest step."""
    found = [["", "entry", "jump p99", "largest step inside", "ratio"]]
    for label in labels(outcomes):
        if label.startswith("real-time"):
            cell = by_cell(outcomes)[label, GOAL_MS].cell
            names, jumps, inside = entries(cell_config(config, cell), episodes)
            worst = int(np.argmax(jumps / inside))
            ratio = jumps[worst] / inside[worst]
            found.append([label, names[worst], f"{jumps[worst]:.3g}", f"{inside[worst]:.3g}", f"{ratio:.2f}"])
    return found


def entries(config: EvalConfig, episodes: int) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """Names of the action's entries, and of each the jump between chunks (p99) and the largest step inside one."""
    policy = open_policy(config.policy, Runtime("cpu", 1, True), options.parse_pairs(config.policy_options, "policy options"))
    environment, task = open_environment(config.env, policy.spec, {})
    module = loading.load("execution", config.strategy)
    given = options.parse_pairs(config.strategy_options, "strategy options")
    strategy = module.Strategy(options.build(module.Config, given, "strategy"), policy.spec)
    asker, recorder, clock = Delayed(policy, ticking := VirtualClock(), delays_of(config.delay, None)), Recorder(), MonotonicClock()
    controller = Controller(asker, strategy, ticking, rate_hz=environment.spec.rate_hz, log=recorder)
    jumps: list[np.ndarray] = []
    inside: list[np.ndarray] = []
    for episode in range(episodes):
        asker.seed = config.seed + episode
        run_episode(environment, controller, Trial(task, episode, config.seed + episode), clock)
        begun = list(itertools.dropwhile(lambda tick: tick.held, recorder.ticks))
        for one, other in itertools.pairwise(begun):
            if not (one.held and other.held):
                apart = one.held or other.held or one.basis != other.basis
                (jumps if apart else inside).append(np.abs(other.action.astype(float) - one.action))
    names = policy.spec.action.names or [str(i) for i in range(policy.spec.action_dim or 0)]
    return names, np.quantile(jumps, 0.99, axis=0, method="inverted_cdf"), np.max(inside, axis=0)


def matrix(outcomes: Sequence[Outcome], cell: Callable[[Outcome], str]) -> list[list[str]]:
    at = by_cell(outcomes)
    head = ["", *(f"{delay_ms:g} ms" for delay_ms in delays(outcomes))]
    return [head, *([label, *(cell(at[label, delay_ms]) for delay_ms in delays(outcomes))] for label in labels(outcomes))]


def against(one: Outcome, reference: Outcome) -> str:
    found = difference(one.run, reference.run)
    if one is reference or found.success is None or found.success_interval is None:
        return "-"
    low, high = (100 * each for each in found.success_interval)
    return f"{100 * found.success:+.0f} [{low:+.0f}, {high:+.0f}]"


def motion(sums: Totals) -> list[str]:
    numbers = (sums.seam_p99, sums.inside_max, sums.jerk_mean, sums.finish_mean_s, sums.mbit_s)
    return [f"{sums.starved / sums.control_steps:.0%}", *("-" if value is None else f"{value:.3g}" for value in numbers)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *cells = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]) + "\n"


def by_cell(outcomes: Sequence[Outcome]) -> dict[tuple[str, float], Outcome]:
    return {(each.cell.setting.label, each.cell.delay_ms): each for each in outcomes}


def labels(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(each.cell.setting.label for each in outcomes))


def delays(outcomes: Sequence[Outcome]) -> list[float]:
    return list(dict.fromkeys(each.cell.delay_ms for each in outcomes))


def success(sums: Totals) -> float:
    return sums.success.rate if sums.success is not None else 0.0


def write_document(found: dict[str, list[Outcome]], by_entry: dict[str, str], document: Path) -> None:
    """Figures beside ``document``; tables and findings between its two marks, which must be there."""
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"{document}: expected the marks {BEGIN} and {END}")
    parts = []
    for name, outcomes in found.items():
        drawn = [replace(each, cell=replace(each.cell, setting=bare(each.cell.setting))) for each in outcomes]
        figure = tuning.figure(drawn, document.parent / "figures" / f"success_against_delay_{name}.svg", title=name)
        picture = f"![figures of merit against delay]({figure.relative_to(document.parent).as_posix()})"
        episodes = f"{len(outcomes[0].run.results.episodes)} episodes per cell, the same in all."
        said = "\n".join(f"- {sentence}" for sentence in findings(outcomes))
        parts.append(f"### On {name}\n\n{picture}\n\n{episodes}\n\n{said}\n\n{tables(outcomes)}\n{ENTRIES}\n\n{by_entry[name]}")
    marked = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    body = "\n".join(parts)
    document.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{body}\n{END}", text), encoding="utf-8")


def bare(setting: Setting) -> Setting:
    """By its label alone: the options stand in the text."""
    return replace(setting, options=())


if __name__ == "__main__":
    sys.exit(main())
