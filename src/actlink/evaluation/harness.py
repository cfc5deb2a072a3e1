"""An evaluation from options to results. Law: what is finished is on the disk, and the same options go on where it stopped."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actlink import loading, options, transform
from actlink.client import ClientConfig, given_spec
from actlink.clock import Clock, MonotonicClock
from actlink.errors import ConfigError, StoppedError
from actlink.evaluation.crew import Crew, Facts, Note
from actlink.evaluation.journal import Journal, read
from actlink.evaluation.latency import LatencyConfig, Trace, read_trace
from actlink.evaluation.plan import Plan
from actlink.evaluation.progress import Progress
from actlink.evaluation.results import Results
from actlink.evaluation.subject import Subject
from actlink.evaluation.worker import Setup
from actlink.types import Runtime

if TYPE_CHECKING:
    from rich.console import Console

STRATEGY_OPTIONS = ("execution_horizon", "actions_per_chunk", "chunk_size_threshold", "aggregate_fn_name", "k", "weights")
"""Options of strategies that the evaluation has under their own names; ``strategy_options`` takes any."""
RECONNECT_S = 5.0
"""How long a client itself tries to reach a server again before the episode counts as lost."""


@dataclass(frozen=True)
class EvalConfig(Subject):
    """What ``actlink eval`` does."""

    episodes: int = 10
    """Number of episodes."""
    seed: int = 0
    """Seed of the first episode; the others follow by one."""
    out: Path | None = None
    """Directory for journal, results and videos; None: results/<env>-<time>. Part of this evaluation in it is kept."""
    strategy: str = "receding"
    """How chunks become actions: receding, ensemble, asynchronous, realtime, naive (see docs/execution.md)."""
    strategy_options: tuple[str, ...] = ()
    """Any option of the strategy, as option=value: delay_window=20 warmup_chunks=1."""
    execution_horizon: int | None = None
    """Steps before the next replan; None: receding the whole chunk, ensemble 1, realtime and naive half the chunk."""
    actions_per_chunk: int | None = None
    """Asynchronous: actions used of each chunk; None: 50."""
    chunk_size_threshold: float | None = None
    """Asynchronous: a chunk is asked for when this share of one, or less, is left; None: 0.5."""
    aggregate_fn_name: str | None = None
    """Asynchronous: weighted_average (None), latest_only, average, conservative, or module:function(old, new)."""
    k: float = 0.01
    """Ensemble: decay of the weights exp(-k * i)."""
    weights: Literal["oldest", "newest"] = "oldest"
    """Ensemble: which chunk weighs most for a positive k."""
    deterministic: bool = False
    """A local policy runs each request alone with one intra-op thread (a server is told when it is started)."""
    timeout_s: float = 60.0
    """Seconds to wait for one chunk; a server that takes longer has failed, and the episode is run again."""
    server_timeout_s: float = 60.0
    """Seconds without any sign of the server after which the evaluation stops (exit code 3) and says how to go on."""
    video_every: int = 0
    """Record every n-th episode as mp4; 0: none."""
    delay: LatencyConfig = field(default_factory=LatencyConfig)
    """Whether time passes while the policy computes, and how much."""

    def __post_init__(self) -> None:
        for name in ("episodes", "workers", "execution_horizon", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        for name in ("seed", "video_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("timeout_s", "server_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0 seconds, got {getattr(self, name)}")
        if self.deterministic and self.remote:
            raise ConfigError("deterministic: only the server can promise that; start it with 'actlink serve --deterministic'")


def evaluate(config: EvalConfig, *, console: Console | None = None, clock: Clock | None = None) -> Results:
    """Run the evaluation, or what is left of it, and write ``results.json`` beside the journal.

    Progress goes to ``console`` (default: stderr). ``ConfigError``: the options are wrong, policy and environment do not fit, or
    ``out`` holds another evaluation. ``StoppedError`` (exit code 1, 130 after Ctrl-C) and its ``ServerAwayError`` (3): everything
    finished is kept and ``resume`` is the command that goes on. Other errors of the tree: the server said no.

    It starts processes, so a script calls it under ``if __name__ == "__main__":``.
    """
    clock = clock or MonotonicClock()
    console = console or _stderr()
    out = config.out or default_out(config)
    config = replace(config, out=out)
    setup = _setup(config, out)
    try:
        with Crew(setup, config.workers, clock, server_timeout_s=config.server_timeout_s, video_every=config.video_every) as crew:
            for note in crew.start():
                console.print(note.message, markup=False, highlight=False, soft_wrap=True)
            plan = Plan((crew.facts.task,), config.episodes, config.seed)
            with Journal(out, _header(config, plan, crew.facts, setup.trace)) as journal:
                return _work(config, plan, crew, journal, console, clock)
    except KeyboardInterrupt:
        raise _stopped(StoppedError("interrupted", exit_code=130), config, out) from None
    except StoppedError as error:
        raise _stopped(error, config, out) from error


def default_out(config: EvalConfig) -> Path:
    """``results/<env>-<time>``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.env.partition("?")[0]).name)
    return Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def command(config: EvalConfig) -> str:
    """The command line that runs this evaluation, or goes on with it."""
    words = ["actlink", "eval"]
    defaults = {**_flat(EvalConfig("", "")), "policy": MISSING, "env": MISSING}
    for name, value in _flat(config).items():
        if value == defaults[name]:
            continue
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, tuple):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def _flat(config: EvalConfig) -> dict[str, Any]:
    """Option -> value, as on the command line, where those of ``delay`` and ``credentials`` have no prefix."""
    nested = "delay", "credentials"
    given = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in nested}
    return {**given, **asdict(config.delay), **asdict(config.credentials)}


def _work(config: EvalConfig, plan: Plan, crew: Crew, journal: Journal, console: Console, clock: Clock) -> Results:
    """Everything that is left of ``plan``, into the journal; then the results, also of a run that was stopped."""
    left = plan.left([episode.trial for episode in journal.finished])
    try:
        with Progress(console, len(plan.trials), journal.finished, clock) as progress:
            for event in crew.work(left):
                if isinstance(event, Note):
                    progress.note(event.message)
                else:
                    result = replace(event, workers=crew.size)
                    journal.append(result)
                    progress.episode(result)
    except (StoppedError, KeyboardInterrupt):
        with contextlib.suppress(StoppedError):  # why it stopped is the news
            _results(config, plan, journal).write(journal.path.parent)
        raise
    results = _results(config, plan, journal)
    results.write(journal.path.parent)
    return results


def _results(config: EvalConfig, plan: Plan, journal: Journal) -> Results:
    found = {episode.trial: episode for episode in journal.finished}
    episodes = tuple(found[trial] for trial in plan.trials if trial in found)
    return Results(journal.header, episodes, len(episodes) == len(plan.trials), options_given(config), journal.path.parent)


def options_given(config: EvalConfig) -> dict[str, Any]:
    """The options as a results file has them."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in _flat(config).items()}


def _setup(config: EvalConfig, out: Path) -> Setup:
    """What workers are told; ``ConfigError`` for what can be seen to be wrong before one is started."""
    return Setup(
        policy=config.policy,
        environment=config.env,
        seed=config.seed,
        strategy=config.strategy,
        strategy_options=_strategy_options(config),
        policy_options=_policy_options(config),
        environment_options=_environment_options(config),
        runtime=Runtime(config.device, 1 if config.deterministic else None, config.deterministic, config.dtype),
        client=ClientConfig(timeout_s=config.timeout_s, reconnect_s=min(RECONNECT_S, config.server_timeout_s)),
        spec=given_spec(config.spec, config.like),
        token=config.credentials.token(),
        credentials=config.credentials.without_token(),
        max_steps=config.max_steps,
        videos=out / "videos" if config.video_every else None,
        latency=config.delay,
        trace=read_trace(config.delay.latency_trace) if config.delay.latency_trace is not None else None,
    )


def _policy_options(config: EvalConfig) -> dict[str, str]:
    found = options.parse_pairs(config.policy_options, "policy options")
    return found if config.policy_type is None else {**found, "policy_type": config.policy_type}


def _environment_options(config: EvalConfig) -> dict[str, str]:
    found = options.parse_pairs(config.env_options, "environment options")
    if config.transform is not None:
        if "transform" in found:
            raise ConfigError("transform: given twice, as an option of its own and among the environment's")
        found["transform"] = config.transform
    return found


def _strategy_options(config: EvalConfig) -> dict[str, Any]:
    """Those of the options that the strategy has; ``ConfigError`` if one was given that it does not have."""
    strategy = loading.load("execution", config.strategy).Config
    known = [each.name for each in fields(strategy)]
    defaults = {each.name: each.default for each in fields(EvalConfig)}
    given: dict[str, Any] = {name: getattr(config, name) for name in STRATEGY_OPTIONS}
    given = {name: value for name, value in given.items() if value != defaults[name]}
    pairs = options.parse_pairs(config.strategy_options, "strategy options")
    if twice := sorted(given.keys() & pairs.keys()):
        raise ConfigError(f"{twice[0]}: given twice, as an option of its own and among the strategy's")
    given |= pairs
    for name in given:
        if name not in known:
            raise ConfigError(f"{name}: the {config.strategy} strategy has no such option; it has: {', '.join(known)}")
    options.build(strategy, given, f"strategy {config.strategy!r}")
    return given


def _header(config: EvalConfig, plan: Plan, facts: Facts, trace: Trace | None) -> dict[str, Any]:
    """What makes two evaluations the same one: not where the policy runs, nor how many workers there are."""
    policy: dict[str, Any] = dict(facts.policy)
    if not policy["digest"]:
        policy["reference"] = config.policy  # nothing better tells it apart
    policy["options"] = options.parse_pairs(config.policy_options, "policy options")
    environment = _environment_options(config)
    if "transform" in environment:  # what it says, not the name of a file
        environment["transform"] = str(transform.parse(environment["transform"]))
    return {
        "plan": plan.to_dict(),
        "policy": policy,
        "strategy": dict(facts.strategy),
        "environment": {"name": config.env, "options": environment, "max_steps": config.max_steps},
        **config.delay.header(trace),
    }


def _stopped(error: StoppedError, config: EvalConfig, out: Path) -> StoppedError:
    """The same error with what the operator wants to know: what is kept, and how to go on."""
    try:
        finished = f"{len(read(out)[1])} of {config.episodes} episodes are kept in {out}"
    except ConfigError:
        finished = "no episode was finished"
    resume = command(config)
    return type(error)(f"{error}\n{finished}; to go on:\n  {resume}", resume=resume, exit_code=error.exit_code)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)
