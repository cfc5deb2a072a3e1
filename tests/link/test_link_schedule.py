"""The fate of packets: from the seed and their number alone, and in the shares that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlink.link.faults import LinkConfig, Weather
from actlink.link.schedule import REORDER_S, Schedule

PACKETS = 4000
shares = st.floats(0.0, 1.0)
links = st.builds(
    LinkConfig,
    delay_ms=st.floats(0.0, 500.0),
    jitter_ms=st.floats(0.0, 200.0),
    loss=shares,
    duplicate=shares,
    reorder=shares,
    bandwidth_mbit_s=st.none() | st.floats(0.1, 1000.0),
    faults=st.sampled_from([(), ("blackhole from 0.2 s for 0.3 s",), ("loss 0.5 from 0 s for 0.1 s every 0.2 s",)]),
    seed=st.integers(0, 2**40),
)
traffic = st.lists(st.tuples(st.floats(0.0, 0.05), st.integers(0, 65536)), max_size=40)


def sent(traffic: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """(moment, size) of each packet."""
    now_s, found = 0.0, []
    for wait_s, size in traffic:
        now_s += wait_s
        found.append((now_s, size))
    return found


@given(links, traffic)
def test_packets_arrive_after_they_were_sent_and_the_same_every_time(link: LinkConfig, traffic: list[tuple[float, int]]) -> None:
    one, other = (Schedule(Weather(link), "up") for _ in range(2))
    packets = sent(traffic)
    fates = [one.fate(n, *packet) for n, packet in enumerate(packets)]
    assert fates == [other.fate(n, *packet) for n, packet in enumerate(packets)]
    for (now_s, _), arrivals in zip(packets, fates, strict=True):
        assert len(arrivals) <= 2
        assert all(arrival_s >= now_s for arrival_s in arrivals)


@given(links, traffic)
def test_nothing_overtakes_where_nothing_is_reordered(link: LinkConfig, traffic: list[tuple[float, int]]) -> None:
    schedule = Schedule(Weather(LinkConfig(**{**vars(link), "reorder": 0.0})), "down")
    first = [arrivals[0] for n, packet in enumerate(sent(traffic)) if (arrivals := schedule.fate(n, *packet))]
    assert first == sorted(first)


@given(links, traffic)
def test_a_byte_stream_arrives_in_order_and_never_early(link: LinkConfig, traffic: list[tuple[float, int]]) -> None:
    one, other = (Schedule(Weather(link), "up", "1") for _ in range(2))
    packets = sent(traffic)
    arrivals = [one.arrival(n, *packet) for n, packet in enumerate(packets)]
    assert arrivals == sorted(arrivals) == [other.arrival(n, *packet) for n, packet in enumerate(packets)]
    assert all(arrival_s >= now_s for arrival_s, (now_s, _) in zip(arrivals, packets, strict=True))
    assert all(
        not one._weather.at(now_s, "up").blackhole or arrival_s >= 0.5
        for arrival_s, (now_s, _) in zip(arrivals, packets, strict=True)
    )


def fates(**link: Any) -> list[tuple[float, ...]]:
    schedule = Schedule(Weather(LinkConfig(**link)), "up")
    return [schedule.fate(n, n / 100, 100) for n in range(PACKETS)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
def test_shares_are_what_was_asked_for(share: float) -> None:
    tolerance = 5 * (share * (1 - share) / PACKETS) ** 0.5  # five standard deviations
    lost = sum(not each for each in fates(loss=share))
    doubled = sum(len(each) == 2 for each in fates(duplicate=share))
    held = sum(each[0] > n / 100 for n, each in enumerate(fates(reorder=share)))
    for count in (lost, doubled, held):
        assert abs(count / PACKETS - share) <= tolerance


def test_delay_and_jitter_are_what_was_asked_for() -> None:
    delays = [
        each[0] - n / 100 for n, each in enumerate(fates(delay_ms=200.0, jitter_ms=1.0))
    ]  # a jitter too small to queue behind
    mean = sum(delays) / PACKETS
    deviation = (sum((delay - mean) ** 2 for delay in delays) / PACKETS) ** 0.5
    assert mean == pytest.approx(0.2, abs=1e-4) and deviation == pytest.approx(1e-3, rel=0.1)


def test_a_reordered_packet_is_overtaken() -> None:
    schedule = Schedule(Weather(LinkConfig(reorder=0.3)), "up")
    arrivals = [schedule.fate(n, n * REORDER_S / 10, 100)[0] for n in range(100)]
    assert arrivals != sorted(arrivals)


def test_bandwidth_is_a_queue_with_an_end() -> None:
    schedule = Schedule(Weather(LinkConfig(bandwidth_mbit_s=1.0, queue_ms=50.0)), "up")
    found = [schedule.fate(n, 0.0, 1250) for n in range(20)]  # 10 ms each
    assert [round(each[0], 6) for each in found if each] == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert found[6:] == [()] * 14


def test_the_seed_and_the_direction_choose_the_packets() -> None:
    assert fates(loss=0.5, seed=1) != fates(loss=0.5, seed=2)
    ways = [Schedule(Weather(LinkConfig(loss=0.5)), direction) for direction in ("up", "down")]
    assert len({tuple(bool(way.fate(n, 0.0, 1)) for n in range(100)) for way in ways}) == 2


def test_another_fault_moves_nobody_elses_luck() -> None:
    calm, foul = fates(loss=0.1), fates(loss=0.1, faults=("blackhole from 5 s for 2 s",))
    assert calm[:500] == foul[:500] and calm[700:] == foul[700:]
    assert not any(foul[500:700]) and any(calm[500:700])


def test_a_stream_waits_for_what_is_sent_again() -> None:
    schedule = Schedule(Weather(LinkConfig(delay_ms=10.0, faults=("blackhole from 1 s for 2 s",))), "up")
    assert schedule.arrival(0, 0.5, 100) == pytest.approx(0.51)
    # tried at 1.0, 1.2, 1.6, 2.4 s in vain, then at 4.0 s
    assert schedule.arrival(1, 1.0, 100) == pytest.approx(4.01)
    assert schedule.arrival(2, 3.5, 100) == pytest.approx(4.01), "what came later waits behind it"
    assert schedule.arrival(3, 5.0, 100) == pytest.approx(5.01)


def test_a_stream_loses_long_pieces_more_often() -> None:
    def stalls(size: int) -> int:
        schedule = Schedule(Weather(LinkConfig(loss=0.01)), "up")
        return sum(schedule.arrival(n, 100.0 * n, size) > 100.0 * n for n in range(1000))

    assert 1 <= stalls(100) <= 30 and 300 <= stalls(64 * 1024) <= 430  # 1 - 0.99 ** 46 = 37 %
