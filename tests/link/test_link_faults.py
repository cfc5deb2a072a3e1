"""Faults as a person writes them, and what holds when."""

from __future__ import annotations

import math

import pytest

from actlink.errors import ConfigError
from actlink.link.faults import Conditions, Fault, LinkConfig, Weather, parse_fault

READ = {
    "blackhole from 3 s for 2 s": Fault("blackhole", 3.0, 2.0),
    "blackhole from 3 for 2": Fault("blackhole", 3.0, 2.0),
    "blackhole up from 3 s for 2 s": Fault("blackhole", 3.0, 2.0, direction="up"),
    "reset at 8 s": Fault("reset", 8.0),
    "reset at 8 s every 10 s": Fault("reset", 8.0, every_s=10.0),
    "reset from 8s for 0.5s": Fault("reset", 8.0, 0.5),
    "loss 0.2 down from 10 s for 5 s": Fault("loss", 10.0, 5.0, 0.2, "down"),
    "delay 300 ms from 5 s for 1 s": Fault("delay", 5.0, 1.0, 300.0),
    "delay 0.3 s from 5 s for 1 s": Fault("delay", 5.0, 1.0, 300.0),
    "bandwidth 1.5 mbit/s from 0 s for 9 s": Fault("bandwidth", 0.0, 9.0, 1.5),
    "blackhole from 3 s for 0.05 s every 0.1 s until 13 s": Fault("blackhole", 3.0, 0.05, every_s=0.1, until_s=13.0),
}


@pytest.mark.parametrize(("text", "fault"), READ.items(), ids=READ.keys())
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


REFUSED = {
    "": "expected something like",
    "blackhole": "expected something like",
    "blackhole from soon for 2 s": "expected something like",
    "blackhole from 1.2.3 s for 2 s": "a number cannot be read",
    "blackhole from 3 s": "how long it lasts",
    "blackhole from 3 s for 0 s": "how long it lasts",
    "blackhole 0.5 from 3 s for 2 s": "takes no value",
    "reset up at 3 s": "no direction",
    "loss from 3 s for 2 s": "as a number",
    "loss 1.5 from 3 s for 2 s": "from 0 to 1",
    "loss 5 ms from 3 s for 2 s": "not in ms",
    "delay -1 ms from 3 s for 2 s": "at least 0 ms",
    "delay nan ms from 3 s for 2 s": "expected something like",
    "bandwidth 0 from 3 s for 2 s": "more than 0",
    "rain 1 from 3 s for 2 s": "none of blackhole, reset, delay",
    "blackhole from 3 s for 2 s every 2 s": "longer than 'for'",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=REFUSED.keys())
def test_what_is_no_fault_is_refused_with_an_example(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        LinkConfig(faults=(text,))


@pytest.mark.parametrize(
    "wrong", [{"delay_ms": -1.0}, {"loss": 1.1}, {"jitter_ms": math.inf}, {"bandwidth_mbit_s": 0.0}, {"duplicate": math.nan}]
)
def test_impossible_conditions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LinkConfig(**wrong)  # type: ignore[arg-type]


def test_a_fault_holds_in_its_time_and_direction() -> None:
    weather = Weather(LinkConfig(delay_ms=5.0, faults=("blackhole up from 3 s for 2 s", "delay 50 ms from 4 s for 2 s")))
    assert [weather.at(now_s, "up").blackhole for now_s in (2.999, 3.0, 4.999, 5.0)] == [False, True, True, False]
    assert not weather.at(4.0, "down").blackhole
    assert [weather.at(now_s, "down").conditions.delay_ms for now_s in (3.9, 4.0, 6.0)] == [5.0, 50.0, 5.0]


def test_a_fault_comes_back() -> None:
    weather = Weather(LinkConfig(faults=("blackhole from 1 s for 0.25 s every 0.5 s until 2 s",)))
    on = [i / 100 for i in range(300) if weather.at(i / 100, "down").blackhole]
    assert on == [i / 100 for i in [*range(100, 125), *range(150, 175)]]


def test_resets_are_moments() -> None:
    weather = Weather(LinkConfig(faults=("reset at 8 s", "reset at 1 s every 0.1 s until 1.45 s")))
    moments, now_s = [], -1.0
    while (now_s := weather.next_reset(now_s)) < math.inf:
        moments.append(round(now_s, 6))
    assert moments == [1.0, 1.1, 1.2, 1.3, 1.4, 8.0]
    assert weather.at(1.0, "up").conditions == Conditions()
