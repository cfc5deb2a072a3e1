"""A short soak of every wire at once; ``benchmarks/soak.py`` is the long one."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed: the soak of all wires is NOT TESTED")
pytest.importorskip("psutil", reason="psutil is not installed: the soak of all wires is NOT TESTED")

from soak_world import soak

REQUESTS = 6400


def test_nothing_is_lost_doubled_or_mixed_up_and_memory_stays() -> None:
    outcome = soak(REQUESTS)
    print(outcome)
    assert outcome.requests == REQUESTS and not outcome.problems(), outcome.problems()


def test_a_leak_is_seen() -> None:
    """Two thousand bytes a request; over the long soak's requests a hundred are enough."""
    (problem,) = soak(REQUESTS, leak_bytes=2000).problems()
    assert problem.startswith("memory grew")


def test_answers_that_go_astray_are_seen() -> None:
    outcome = soak(1280, mixing=True, names=("native+tcp", "lerobot", "act", "ilstudio"))
    print(outcome)
    assert outcome.faults["lost"] and outcome.faults["duplicated"] and outcome.faults["cross-talk"]
