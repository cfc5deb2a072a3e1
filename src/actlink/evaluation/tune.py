"""Which strategy, with which options, at which delay. Law: every cell is an evaluation of its own, with the seeds of all others.

The cells lie in ``<out>/cells``, each a directory that ``actlink report`` reads and ``actlink eval`` would go on with; a sweep that
was stopped goes on with the same options.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actlink import loading, options
from actlink.clock import Clock
from actlink.errors import ConfigError, StoppedError
from actlink.evaluation.comparison import Run, load
from actlink.evaluation.harness import EvalConfig, evaluate, options_given
from actlink.evaluation.latency import LatencyConfig
from actlink.evaluation.results import FILE, Results
from actlink.evaluation.subject import Subject

if TYPE_CHECKING:
    from rich.console import Console

OF_THE_POLICY = "policy."
"""Options of an entry of ``strategies`` that begin so are the policy's."""


@dataclass(frozen=True)
class TuneConfig(Subject):
    """What ``actlink tune`` does."""

    strategies: tuple[str, ...] = ("receding", "asynchronous", "realtime")
    """Each: NAME, NAME?option=value, or LABEL=NAME?option=value&policy.option=value; what an entry says is not swept in it."""
    actions_per_chunk: tuple[int, ...] = (20, 30, 50, 100)
    """Swept in asynchronous; in receding it is the execution horizon."""
    chunk_size_threshold: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Swept in asynchronous; the others that plan ahead get the same period, execution_horizon = actions_per_chunk x (1 - this)."""
    delays_ms: tuple[float, ...] = (0.0, 50.0, 100.0, 200.0, 300.0, 500.0)
    """Delays in simulated time, from question to answer."""
    jitter: float = 0.1
    """Standard deviation of a delay as a share of it."""
    episodes: int = 50
    """Number of episodes per cell."""
    seed: int = 0
    """Seed of the first episode of every cell; the others follow by one."""
    rate_hz: float | None = None
    """Control steps per second; None: the environment's."""
    out: Path = field(default_factory=lambda: Path("results") / "tune")
    """Directory for the cells, table, figures and recommendation. Part of this sweep in it is kept."""

    def __post_init__(self) -> None:
        for name in ("strategies", "actions_per_chunk", "chunk_size_threshold", "delays_ms"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: expected at least one, got none")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter: expected a share from 0 to 1, got {self.jitter}")
        for value in self.actions_per_chunk:
            if value < 1:
                raise ConfigError(f"actions_per_chunk: expected at least 1, got {value}")
        for share in self.chunk_size_threshold:
            if not 0 <= share < 1:
                raise ConfigError(f"chunk_size_threshold: expected a share from 0 to below 1, got {share}")
        if self.credentials.token_fd is not None:
            raise ConfigError("token_fd: can be read once, and every cell asks for the token; give a file (--token-file)")


@dataclass(frozen=True, slots=True)
class Setting:
    """A strategy with its options."""

    label: str
    """What the person called it, or the strategy's name."""
    strategy: str
    options: tuple[tuple[str, str], ...] = ()
    policy_options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        own = ", ".join(f"{key} {value}" for key, value in self.options)
        return f"{self.label} ({own})" if own else self.label


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting at a delay."""

    setting: Setting
    delay_ms: float

    @property
    def name(self) -> str:
        """Of its directory."""
        words = [self.setting.label, *(f"{key}={value}" for key, value in self.setting.options), f"{self.delay_ms:g}ms"]
        return re.sub(r"[^A-Za-z0-9._=-]+", "-", "_".join(words))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell and what was found."""

    cell: Cell
    run: Run


def settings_of(config: TuneConfig) -> tuple[Setting, ...]:
    """Every setting of the sweep, once; ``ConfigError`` says which entry of ``strategies`` is wrong."""
    found = [setting for text in config.strategies for setting in _swept(_parse(text), config)]
    unique = tuple(dict.fromkeys(found))
    names = [Cell(setting, 0.0).name for setting in unique]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"strategies: two settings would be {name.removesuffix('_0ms')!r}; give them labels, as LABEL=NAME?..."
            )
    return unique


def cells_of(config: TuneConfig) -> tuple[Cell, ...]:
    """Every cell, delay by delay."""
    return tuple(Cell(setting, delay_ms) for delay_ms in config.delays_ms for setting in settings_of(config))


def cell_config(config: TuneConfig, cell: Cell) -> EvalConfig:
    """The evaluation that a cell is."""
    policy = {**options.parse_pairs(config.policy_options, "policy options"), **dict(cell.setting.policy_options)}
    same = {each.name: getattr(config, each.name) for each in fields(Subject)}
    return EvalConfig(
        **{**same, "policy_options": _pairs(policy)},
        episodes=config.episodes,
        seed=config.seed,
        out=config.out / "cells" / cell.name,
        strategy=cell.setting.strategy,
        strategy_options=_pairs(dict(cell.setting.options)),
        deterministic=not config.remote,
        delay=LatencyConfig("virtual", cell.delay_ms, cell.delay_ms * config.jitter, rate_hz=config.rate_hz),
    )


def tune(config: TuneConfig, *, console: Console, quiet: Console, clock: Clock | None = None) -> Iterator[Outcome]:
    """Run every cell, or what is left of it, and yield it when it is finished.

    ``console`` is told of each cell, ``quiet`` of its episodes.

    ``StoppedError``: everything finished is kept, and the same call goes on.
    """
    cells = [(cell, cell_config(config, cell)) for cell in cells_of(config)]  # what is wrong with one is said before the first runs
    policy: Mapping[str, Any] | None = None
    for number, (cell, given) in enumerate(cells, 1):
        try:
            results = _finished(given, policy) or evaluate(given, console=quiet, clock=clock)
            policy = results.header["policy"]
        except StoppedError as error:
            reason = str(error).splitlines()[0]
            message = f"{reason}\n{number - 1} of {len(cells)} cells are finished in {config.out}; the same command goes on"
            raise type(error)(message, exit_code=error.exit_code) from error
        sums = results.totals
        line = f"[{number}/{len(cells)}] {cell.delay_ms:g} ms, {cell.setting}: {sums.success or f'mean return {sums.mean_return}'}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        yield Outcome(cell, Run(cell.name, results))


def _finished(given: EvalConfig, policy: Mapping[str, Any] | None) -> Results | None:
    """Results of a cell that needs no worker to be sure of: all there, of these very options and of the first cell's policy."""
    assert given.out is not None
    if policy is None or not (given.out / FILE).exists():
        return None
    found = load(given.out)
    same_policy = all(found.header["policy"][key] == policy[key] for key in ("name", "digest"))
    same_options = dict(found.config) == json.loads(json.dumps(options_given(given)))
    return found if found.complete and same_policy and same_options else None


def _parse(text: str) -> Setting:
    found = re.fullmatch(r"(?:([^=?]+)=)?([A-Za-z_]\w*)(\?.*)?", text)
    if found is None:
        raise ConfigError(f"strategies: expected NAME, NAME?option=value or LABEL=NAME?option=value, got {text!r}")
    label, name = found[1] or found[2], found[2]
    _, given = options.split(name + (found[3] or ""))
    own = {key: value for key, value in given.items() if not key.startswith(OF_THE_POLICY)}
    policy = {key.removeprefix(OF_THE_POLICY): value for key, value in given.items() if key.startswith(OF_THE_POLICY)}
    options.build(loading.load("execution", name).Config, own, f"strategies: {text!r}")
    return Setting(label, name, tuple(own.items()), tuple(policy.items()))


def _swept(entry: Setting, config: TuneConfig) -> Iterator[Setting]:
    """``entry`` with every value of the options that it leaves open."""
    known = {each.name for each in fields(loading.load("execution", entry.strategy).Config)}
    said = {key for key, _ in entry.options}
    for n in config.actions_per_chunk:
        for share in config.chunk_size_threshold:
            for more in _open(entry.strategy, known, n, share):
                values = tuple((key, f"{value:g}") for key, value in more.items() if key not in said)
                yield Setting(entry.label, entry.strategy, entry.options + values, entry.policy_options)


def _open(strategy: str, known: set[str], n: int, share: float) -> Iterator[Mapping[str, float]]:
    """The swept options of a strategy that has ``known`` ones."""
    if {"actions_per_chunk", "chunk_size_threshold"} <= known:
        yield {"actions_per_chunk": n, "chunk_size_threshold": share}
    elif strategy == "receding":
        yield {"execution_horizon": n}
    elif "execution_horizon" in known:
        yield {"execution_horizon": max(1, round(n * (1 - share)))}
    else:
        yield {}


def _pairs(given: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in given.items())


def sequence(outcomes: Sequence[Outcome]) -> tuple[tuple[Setting, ...], tuple[float, ...]]:
    """The settings and the delays of ``outcomes``, each once, in their order."""
    return tuple(dict.fromkeys(o.cell.setting for o in outcomes)), tuple(dict.fromkeys(o.cell.delay_ms for o in outcomes))
