"""What a link is like, and when it is worse. Law: pure; a time of the schedule is seconds since the link was opened.

A fault is written as a person would say it::

    blackhole from 3 s for 2 s          nothing passes
    blackhole up from 3 s for 2 s       nothing passes towards the server
    reset at 8 s                        every connection is reset
    reset from 8 s for 2 s              ... and new ones are, for two seconds
    loss 0.2 from 10 s for 5 s          any of the conditions, for a while
    delay 300 ms from 5 s for 1 s
    blackhole from 3 s for 0.05 s every 0.1 s until 13 s
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

from actlink.errors import ConfigError

Direction = Literal["up", "down"]
"""``up``: from client to server, and from the near to the far namespace; ``down``: the way back."""

BLACKHOLE, RESET = "blackhole", "reset"

_UNITS = {"delay": "ms", "jitter": "ms", "bandwidth": "mbit/s", "queue": "ms"}
"""Conditions that are written with a unit."""

_FAULT = re.compile(
    r"(?P<what>[a-z]+)(?:\s+(?P<value>[0-9.eE+-]+)(?:\s*(?P<unit>ms|s|mbit/s))?)?(?:\s+(?P<direction>up|down|both))?"
    r"\s+(?:at|from)\s+(?P<from>[0-9.]+)\s*s?(?:\s+for\s+(?P<for>[0-9.]+)\s*s?)?"
    r"(?:\s+every\s+(?P<every>[0-9.]+)\s*s?)?(?:\s+until\s+(?P<until>[0-9.]+)\s*s?)?"
)
_GRAMMAR = "'blackhole from 3 s for 2 s', 'reset at 8 s', 'loss 0.2 up from 10 s for 5 s [every 20 s [until 90 s]]'"


@dataclass(frozen=True)
class Conditions:
    """What a link does to packets."""

    delay_ms: float = 0.0
    """One way."""
    jitter_ms: float = 0.0
    """Standard deviation of the delay: normally distributed, cut off at none at all. Alone it lets no packet overtake another."""
    loss: float = 0.0
    """Share of packets that are lost (0 to 1). On a byte stream: that are sent again, while everything behind them waits."""
    duplicate: float = 0.0
    """Share of packets that arrive twice. A byte stream has no such thing."""
    reorder: float = 0.0
    """Share of packets that are held back and overtaken. A byte stream has no such thing."""
    bandwidth_mbit_s: float | None = None
    """Bits per second in millions, each way; None = no limit."""
    queue_ms: float = 500.0
    """Packets that would wait longer than this for a limited bandwidth are lost; a byte stream's sender is slowed down instead."""

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "queue_ms"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name}: expected at least 0 ms, got {value}")
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if self.bandwidth_mbit_s is not None and not self.bandwidth_mbit_s > 0:
            raise ConfigError(f"bandwidth_mbit_s: expected more than 0, got {self.bandwidth_mbit_s}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for a while."""

    what: str
    """``blackhole``, ``reset``, or the name of a condition."""
    from_s: float
    for_s: float = 0.0
    value: float = 0.0
    """Of the condition, in its own unit."""
    direction: Literal["up", "down", "both"] = "both"
    every_s: float | None = None
    until_s: float = math.inf

    def active(self, now_s: float, direction: Direction | None = None) -> bool:
        """Whether it holds at ``now_s`` (in ``direction``; None: in either)."""
        if now_s < self.from_s or now_s >= self.until_s or (direction is not None and self.direction not in ("both", direction)):
            return False
        passed_s = now_s - self.from_s
        return (passed_s if self.every_s is None else passed_s % self.every_s) < self.for_s

    def begins(self, after_s: float) -> float:
        """The first moment after ``after_s`` at which it begins; infinity if it does not."""
        if after_s < self.from_s:
            moment_s = self.from_s
        elif self.every_s is None:
            return math.inf
        else:
            times = math.floor((after_s - self.from_s) / self.every_s) + 1
            if self.from_s + self.every_s * times <= after_s:  # the division was rounded down
                times += 1
            moment_s = self.from_s + self.every_s * times
        return moment_s if moment_s < self.until_s else math.inf


@dataclass(frozen=True)
class LinkConfig(Conditions):
    """A link: its conditions, what goes wrong and when, and the seed that decides about single packets."""

    faults: tuple[str, ...] = ()
    """Faults, as 'blackhole from 3 s for 2 s' or 'reset at 8 s'; seconds since the link was opened."""
    seed: int = 0
    """Which packets are lost, doubled and held back, and how long each takes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, got {self.seed}")
        list(self.parsed())

    def parsed(self) -> Iterator[Fault]:
        """The faults; ``ConfigError`` names one that cannot be read."""
        return map(parse_fault, self.faults)


@dataclass(frozen=True, slots=True)
class State:
    """What holds at a moment, in one direction."""

    conditions: Conditions
    blackhole: bool = False
    reset: bool = False


class Weather:
    """Conditions and faults over time."""

    def __init__(self, config: LinkConfig) -> None:
        self.seed = config.seed
        self._base = Conditions(**{each.name: getattr(config, each.name) for each in fields(Conditions)})
        self._faults = tuple(config.parsed())

    def at(self, now_s: float, direction: Direction) -> State:
        """What holds at ``now_s``; of two faults of one condition the later in the list wins."""
        found = [fault for fault in self._faults if fault.active(now_s, direction)]
        changed = {_field(fault.what): fault.value for fault in found if fault.what not in (BLACKHOLE, RESET)}
        kinds = {fault.what for fault in found}
        conditions = replace(self._base, **changed) if changed else self._base
        return State(conditions, BLACKHOLE in kinds, RESET in kinds)

    def next_reset(self, after_s: float) -> float:
        """When connections are reset next; infinity: never."""
        return min((fault.begins(after_s) for fault in self._faults if fault.what == RESET), default=math.inf)

    def has(self, *names: str) -> list[str]:
        """Those of the conditions ``names`` that are ever anything but 0."""
        ever = {_field(fault.what) for fault in self._faults if fault.value and fault.what not in (BLACKHOLE, RESET)}
        return [name for name in names if getattr(self._base, name) or name in ever]


def parse_fault(text: str) -> Fault:
    """``"blackhole from 3 s for 2 s"`` as a ``Fault``; ``ConfigError`` says what was expected."""
    found = _FAULT.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"fault {text!r}: expected something like {_GRAMMAR}")
    what, value, unit = found["what"], found["value"], found["unit"]
    try:
        numbers = {key: float(found[key]) for key in ("from", "for", "every", "until") if found[key] is not None}
        amount = float(value) if value is not None else 0.0
    except ValueError:
        raise ConfigError(f"fault {text!r}: a number cannot be read; expected something like {_GRAMMAR}") from None
    if what in (BLACKHOLE, RESET):
        if value is not None:
            raise ConfigError(f"fault {text!r}: {what} takes no value")
        if what == RESET and found["direction"] in ("up", "down"):
            raise ConfigError(f"fault {text!r}: a reset has no direction")
    else:
        amount = _checked(text, what, amount, unit, given=value is not None)
    if what != RESET and not numbers.get("for"):
        raise ConfigError(f"fault {text!r}: expected how long it lasts, as in 'from 3 s for 2 s'")
    if "every" in numbers and not numbers["every"] > numbers.get("for", 0.0):
        raise ConfigError(f"fault {text!r}: expected 'every' to be longer than 'for'")
    direction: Literal["up", "down", "both"] = found["direction"] or "both"  # type: ignore[assignment]
    every_s, until_s = numbers.get("every"), numbers.get("until", math.inf)
    return Fault(what, numbers["from"], numbers.get("for", 0.0), amount, direction, every_s, until_s)


def _checked(text: str, what: str, amount: float, unit: str | None, *, given: bool) -> float:
    """The value of a condition in the unit of its field."""
    known = [_spoken(each.name) for each in fields(Conditions)]
    if what not in known:
        raise ConfigError(f"fault {text!r}: {what!r} is none of {', '.join([BLACKHOLE, RESET, *known])}")
    if not given:
        raise ConfigError(f"fault {text!r}: expected the {what} as a number, as in '{what} 0.2 from 3 s for 2 s'")
    if unit == "s" and _UNITS.get(what) == "ms":
        unit, amount = "ms", 1e3 * amount
    if unit is not None and unit != _UNITS.get(what):
        raise ConfigError(f"fault {text!r}: {what} is in {_UNITS.get(what, 'shares from 0 to 1')}, not in {unit}")
    try:
        Conditions(**{_field(what): amount})
    except ConfigError as error:
        raise ConfigError(f"fault {text!r}: {error}") from None
    return amount


def _spoken(name: str) -> str:
    """``delay_ms`` as ``delay``."""
    return name.removesuffix("_ms").removesuffix("_mbit_s")


def _field(what: str) -> str:
    """``delay`` as ``delay_ms``."""
    return next(each.name for each in fields(Conditions) if _spoken(each.name) == what)


def spoken(names: Iterable[str]) -> str:
    """Names of conditions for a message."""
    return " and ".join(_spoken(name) for name in names)
