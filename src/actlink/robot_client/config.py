"""Options of the robot loop, under the names that LeRobot's robot client has for them. Law: pure; judged before anything moves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from actlink import loading
from actlink import options as grammar
from actlink.credentials import Credentials
from actlink.errors import ConfigError
from actlink.execution._base import Strategy
from actlink.safety import Config as SafetyConfig
from actlink.spec import Spec

logger = logging.getLogger("actlink.run")

DOCUMENTED = {"fps": (10.0, 60.0), "actions_per_chunk": (10, 100), "chunk_size_threshold": (0.0, 1.0)}
"""Ranges that LeRobot's guide to asynchronous inference names; outside them one is on one's own."""
DEFAULT_FPS = 30.0
OF_STRATEGIES = ("actions_per_chunk", "chunk_size_threshold", "aggregate_fn_name", "execution_horizon")


@dataclass(frozen=True)
class RunConfig:
    """What ``actlink run`` does."""

    policy: str
    """Address of a server, in any dialect; or a local policy, as for 'actlink eval'."""
    robot: tuple[str, ...]
    """The robot: a name, then its options as option=value. --robot.type=NAME --robot.OPTION=VALUE means the same."""
    task: str = ""
    """Instruction for policies that take one (prompt)."""
    fps: float | None = None
    """Control steps per second; None: the policy's rate, else the robot's, else 30. Usual are 10 to 60."""
    actions_per_chunk: int | None = None
    """Asynchronous: actions used of each chunk; None: 50. Usual are 10 to 100."""
    chunk_size_threshold: float | None = None
    """Asynchronous: a chunk is asked for when this share of one, or less, is left; None: 0.5."""
    aggregate_fn_name: str | None = None
    """Asynchronous: weighted_average (None), latest_only, average, conservative, or module:function(old, new)."""
    strategy: str = "asynchronous"
    """How chunks become actions: asynchronous, realtime, receding, ensemble (see docs/execution.md)."""
    execution_horizon: int | None = None
    """Receding, ensemble, realtime: steps before the next replan."""
    strategy_options: tuple[str, ...] = ()
    """Any option of the strategy, as option=value."""
    debug_visualize_queue_size: bool = False
    """Show the queue of actions in the terminal while it runs, and draw it into a PNG at the end."""
    plot: bool = False
    """Draw the run at the end: chunks, executed action, starvation, delay."""
    out: Path | None = None
    """Directory for the recording (run.jsonl) and pictures; None: runs/<robot>-<time> if a picture is wanted, else none."""
    dry_run: bool = False
    """Observe and infer, and never act: the loop sends no command at all (connecting may: LeRobot's arms are told to hold)."""
    duration_s: float | None = None
    """Seconds to run; None: until Ctrl-C."""
    transform: str | None = None
    """YAML file (or YAML in place) that turns the robot's values into the policy's. Pictures of another size need none."""
    spec: Path | None = None
    """YAML file with the policy's spec, for servers whose wire announces none; without it the robot's is taken."""
    like: str | None = None
    """The same, from a local policy that has that spec."""
    policy_options: tuple[str, ...] = ()
    """Options of a local policy, as option=value."""
    jpeg: bool = True
    """Send pictures as JPEG where the wire (native) and its server take them; lossy."""
    timeout_s: float = 5.0
    """Seconds to wait for one chunk before it counts as lost."""
    start_timeout_s: float = 60.0
    """Seconds for the robot to connect, and for the first chunk, which a model may need for compiling; nothing moves before."""
    camera_failures: int = 30
    """Observations that may fail in a row before the run ends; each costs its control step's question, no more."""
    credentials: OmitArgPrefixes[Credentials] = field(default_factory=Credentials)
    """What the server asks for, and how to know it."""
    safety: OmitArgPrefixes[SafetyConfig] = field(default_factory=SafetyConfig)
    """What may reach the robot."""

    def __post_init__(self) -> None:
        for name in ("fps", "duration_s", "timeout_s", "start_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name}: expected more than 0, got {value}")
        if self.camera_failures < 0:
            raise ConfigError(f"camera_failures: expected at least 0, got {self.camera_failures}")
        strategy_config(self)
        robot_of(self.robot)

    def warn_of_ranges(self) -> None:
        """A line for every option outside the range that LeRobot's guide names."""
        for name, (low, high) in DOCUMENTED.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                logger.warning("%s is %g; the usual range is %g to %g", name, value, low, high)


def robot_of(given: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Name and options out of ``("simulated", "env=x")`` or ``("type=simulated", "env=x")``; dotted options are nested.

    ``ConfigError`` if there is no name, or two.
    """
    names = [word for word in given if "=" not in word.partition("?")[0]]
    options: dict[str, Any] = dict(grammar.parse_pairs([word for word in given if word not in names], "--robot"))
    if "type" in options:
        names.append(str(options.pop("type")))
    if len(names) != 1:
        raise ConfigError(
            f"--robot: expected one name (--robot simulated, --robot.type=simulated), got {', '.join(names) or 'none'}"
        )
    return names[0], _nested(options)


def strategy_of(name: str) -> Any:
    """The strategy's module; ``ConfigError`` for one that is not there or that a robot must not run."""
    module = loading.load("execution", name)
    if not module.Strategy.honest:
        raise ConfigError(
            f"strategy {name!r} plays actions at steps they were not meant for: it is for comparison in evaluations, not for robots"
        )
    return module


def strategy_config(config: RunConfig) -> Any:
    """The strategy's own options; ``ConfigError`` names one that it has not, or that is wrong."""
    module = strategy_of(config.strategy)
    known = {each.name for each in fields(module.Config)}
    chosen: dict[str, Any] = {name: getattr(config, name) for name in OF_STRATEGIES if name in known}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen |= grammar.parse_pairs(config.strategy_options, "--strategy-options")
    return grammar.build(module.Config, chosen, f"strategy {config.strategy!r}")


def make_strategy(config: RunConfig, spec: Spec) -> Strategy:
    """The strategy for this policy; ``ConfigError`` where the two do not go together."""
    made = strategy_config(config)
    for name in OF_STRATEGIES:
        if getattr(config, name) is not None and not hasattr(made, name):
            logger.warning("%s is no option of the %s strategy and does nothing", name, config.strategy)
    strategy: Strategy = strategy_of(config.strategy).Strategy(made, spec)
    return strategy


def rows_used(config: RunConfig, spec: Spec) -> int:
    """How many rows of a chunk can run."""
    limit = config.actions_per_chunk or 50
    return min(spec.action_horizon, limit) if config.strategy == "asynchronous" else spec.action_horizon


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"cameras.top.width": "640"}`` as ``{"cameras": {"top": {"width": "640"}}}``; values stay text."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--robot.{name}: {part} has a value already")
        place[last] = value
    return found
