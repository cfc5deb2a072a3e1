"""The fate of every packet. Law: pure; the same seed, numbers, moments and sizes give the same fates.

What is random about packet ``n`` of a stream follows from the seed, the stream and ``n`` alone, whatever happened to others and
whatever the conditions are; so an added fault moves no other packet's luck. What is not random is remembered: when the link is free
again, and the last arrival, which nothing overtakes that is not to be reordered.

Datagrams (IP packets, a dialect's frames) meet ``fate``. A byte stream never loses or reorders a byte; what a link does to one is
time, and ``arrival`` says how much, as TCP's retransmission would: a piece that is lost, or falls into a blackhole, is tried again
after 0.2 s, 0.6 s, 1.4 s, ... (Linux' shortest time-out, doubled), and everything behind it waits.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

from actlink.link.faults import Conditions, Direction, Weather

REORDER_S = 0.02
"""How long a reordered packet is held back."""
RETRANSMIT_S = 0.2
"""First time-out before a lost piece of a byte stream is sent again (Linux' TCP_RTO_MIN); doubled every time."""
ATTEMPTS = 12
"""Attempts after which a piece of a byte stream is through, whatever its luck: 0.2 s doubled so often is 13 minutes."""
SEGMENT_BYTES = 1448
"""Payload of a TCP segment on Ethernet: a longer piece of a byte stream is lost when any of its segments is."""

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Luck:
    """What is random about one packet: numbers evenly spread over 0 to 1, and two normal ones."""

    loss: float
    duplicate: float
    reorder: float
    jitter: float
    copy_jitter: float

    @classmethod
    def of(cls, seed: int, stream: str, n: int) -> Luck:
        draw = random.Random(f"{seed}/{stream}/{n}").random
        return cls(draw(), draw(), draw(), _normal(draw()), _normal(draw()))


class Schedule:
    """What one direction of a link does to the packets of one stream."""

    def __init__(self, weather: Weather, direction: Direction, stream: str = "") -> None:
        self._weather = weather
        self._direction: Direction = direction
        self._stream = f"{direction}/{stream}"
        self._free_s = -math.inf  # when the last packet has left for the wire
        self._last_s = -math.inf  # latest arrival that nothing overtakes

    def fate(self, n: int, now_s: float, size: int) -> tuple[float, ...]:
        """When packet ``n`` of ``size`` bytes, sent at ``now_s``, arrives: never, once, or twice."""
        state = self._weather.at(now_s, self._direction)
        if state.blackhole:
            return ()
        link, luck = state.conditions, Luck.of(self._weather.seed, self._stream, n)
        begins_s = max(now_s, self._free_s)
        if luck.loss < link.loss or begins_s - now_s > link.queue_ms / 1e3:
            return ()
        self._free_s = begins_s + _seconds(link, size)
        arrival_s = self._free_s + _delay_s(link, luck.jitter)
        if luck.reorder < link.reorder:
            arrival_s += REORDER_S
        else:
            arrival_s = self._last_s = max(arrival_s, self._last_s)
        if luck.duplicate < link.duplicate:
            return arrival_s, max(arrival_s, self._free_s + _delay_s(link, luck.copy_jitter))
        return (arrival_s,)

    def arrival(self, n: int, now_s: float, size: int) -> float:
        """When piece ``n`` of a byte stream, ``size`` bytes sent at ``now_s``, arrives in full: not before the one ahead."""
        luck = Luck.of(self._weather.seed, self._stream, n)
        sent_s = max(now_s, self._free_s)
        conditions = self._weather.at(sent_s, self._direction).conditions
        for attempt in range(ATTEMPTS):
            state = self._weather.at(sent_s, self._direction)
            conditions = state.conditions
            segments = math.ceil(size / SEGMENT_BYTES) or 1 if attempt == 0 else 1
            again = luck if attempt == 0 else Luck.of(self._weather.seed, f"{self._stream}/again/{attempt}", n)
            if not state.blackhole and again.loss >= 1 - (1 - conditions.loss) ** segments:
                break
            sent_s += RETRANSMIT_S * 2**attempt
        self._free_s = sent_s + _seconds(conditions, size)
        self._last_s = max(self._last_s, self._free_s + _delay_s(conditions, luck.jitter))
        return self._last_s

    def window_bytes(self, now_s: float) -> float:
        """How much of a byte stream may be on its way before its sender has to wait: what the link holds, and a little more."""
        link = self._weather.at(now_s, self._direction).conditions
        if link.bandwidth_mbit_s is None:
            return 8 * 2**20
        return max(64 * 2**10, link.bandwidth_mbit_s / 8e-6 * (link.delay_ms + 50) / 1e3)


def _seconds(link: Conditions, size: int) -> float:
    """How long ``size`` bytes take to be written to the wire."""
    return 0.0 if link.bandwidth_mbit_s is None else 8e-6 * size / link.bandwidth_mbit_s


def _delay_s(link: Conditions, jitter: float) -> float:
    return max(0.0, link.delay_ms + link.jitter_ms * jitter) / 1e3


def _normal(share: float) -> float:
    """The normal quantile of a number evenly spread over 0 to 1."""
    return _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
