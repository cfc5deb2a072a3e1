"""S3 and S4: messages made to exhaust their receiver do not. Memory is measured in a child each, work is counted in lines run."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from pickle_bombs import BOMBS, SIZE, SIZES, crowding, int_keys
from pickle_world import child

from actlink.codecs.safe_pickle import PickleDecodeError, decode

MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")


@pytest.mark.timeout(600)
def test_no_bomb_raises_memory_by_more_than_16_mib(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:  # each in a process of its own, whose memory is its own
        found = pool.map(lambda bomb: child("pickle_bombs.py", bomb, str(SIZES.get(bomb, SIZE)), "decode"), BOMBS)
        reports = dict(zip(BOMBS, found, strict=True))
    worst = max(reports, key=lambda bomb: int(reports[bomb]["peak"]))
    slowest = max(reports, key=lambda bomb: float(reports[bomb]["seconds"]))
    with capsys.disabled():
        print(f"\nS3: {len(reports)} bombs; highest {reports[worst]['peak'] / MIB:.1f} MiB ({worst}),", end=" ")
        print(f"longest {reports[slowest]['seconds'] * 1000:.0f} ms ({slowest})")
    assert len(reports) >= 25
    assert {bomb: report for bomb, report in reports.items() if report["peak"] > 16 * MIB} == {}
    noise = MIB  # what the allocator takes at a time
    assert {bomb: report for bomb, report in reports.items() if report["peak"] > report["bytes"] + 8 * MIB + noise} == {}
    read = {bomb for bomb, report in reports.items() if not report["outcome"].startswith("refused")}
    assert read == {"ndarray called for 2 GiB", "a little of everything"}, "an inert record, and what stays just below every limit"


def test_the_measurement_sees_what_python_spends() -> None:
    """The negative control: nine bytes make Python's unpickler allocate hundreds of MiB."""
    report = child("pickle_bombs.py", "LONG_BINPUT of 50 million", "1", "loads")
    assert report["peak"] > 200 * MIB and report["outcome"] == "value: NoneType"


def test_work_grows_with_the_message_and_not_faster(capsys: pytest.CaptureFixture[str]) -> None:
    work = child("pickle_bombs.py", "work", "1500")
    growth = {bomb: double / once for bomb, (once, double) in work.items()}
    worst = max(growth, key=lambda bomb: growth[bomb])
    with capsys.disabled():
        print(f"\nS4: {len(work)} bombs, each and twice as large; most work {max(map(max, work.values()))} lines,", end=" ")
        print(f"largest growth {growth[worst]:.2f} ({worst})")
    assert len([bomb for bomb in growth if growth[bomb] > 1.5]) >= 15, "the bombs do not grow: this test would see nothing"
    assert {bomb: factor for bomb, factor in growth.items() if factor > 2.1} == {}


def test_int_keys_that_collide_are_refused() -> None:
    """20 000 multiples of 2**61 - 1 keep Python's unpickler busy for seconds; smaller ints are their own hashes."""
    with pytest.raises(PickleDecodeError, match="dict keys are str or int below 2"):
        decode(int_keys([index * (2**61 - 1) for index in range(20_000)]))
    assert len(decode(int_keys(crowding(20_000)))) == 20_000
