"""S1, S1b: nothing that is read runs anything. An audit hook in a child watches; gadgets are proven live on Python's unpickler."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pickle_gadgets import DEAD, GADGETS
from pickle_world import child

from actlink.codecs.safe_pickle import Name, PickleDecodeError, Record, decode

MUTANTS = int(os.environ.get("ACTLINK_MUTANTS", "250000"))
"""How many mutants S1 reads; a million in `make test-interop`, and ACTLINK_MUTANTS raises it before a release."""
SEED = int(os.environ.get("ACTLINK_SEED", "1"))
HARMLESS = {"builtins.id"}
"""What the decoder itself raises: it asks for the identity of shared values."""


def check_watch(report: dict[str, Any]) -> None:
    assert set(report["events"]) <= HARMLESS, report["events"]
    assert {"os.system", "pickle.find_class"} <= set(report["control"]), "the hook sees nothing, so it proves nothing"


@pytest.mark.timeout(3600)
def test_mutants_run_nothing_and_raise_nothing_foreign(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        halves = [
            pool.submit(child, "pickle_watch.py", "mutants", str(2 * SEED + half), str(MUTANTS // 2), timeout_s=3600)
            for half in (0, 1)
        ]
    reports = [half.result() for half in halves]
    counts = {key: sum(report["results"].get(key, 0) for report in reports) for key in ("value", "refused", "foreign")}
    with capsys.disabled():
        print(f"\nS1: {sum(counts.values())} mutants, seed {SEED}: {counts['refused']} refused, {counts['value']} values,", end=" ")
        print(f"{counts['foreign']} foreign exceptions, {sum(bool(set(r['events']) - HARMLESS) for r in reports)} forbidden events")
    for report in reports:
        check_watch(report)
        assert report["foreign"] == {}, "the keys are the messages in base64: add them to the corpus"
    assert counts["foreign"] == 0
    assert min(counts["value"], counts["refused"]) > MUTANTS // 50, "the mutants reach only one side of the decoder"


def test_gadgets_are_inert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    live = child("pickle_jail.py", folder=tmp_path)
    report = child("pickle_watch.py", "gadgets", folder=tmp_path)
    proven = [gadget for gadget in GADGETS if not live[gadget].startswith("-")]
    inert = [gadget for gadget, result in report["results"].items() if result in ("value", "refused")]
    absent = [gadget for gadget in GADGETS if live[gadget].startswith("-")]
    with capsys.disabled():
        print(
            f"\nS1b: {len(inert)} of {len(report['results'])} gadgets inert; {len(proven)} proven live on Python's unpickler here,",
            end=" ",
        )
        print(f"{len(DEAD)} without an audit event to prove it by, {len(absent)} that need what is not here")
    check_watch(report)
    assert inert == [*GADGETS, *DEAD]
    assert len(proven) >= 120
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("gadget", [*GADGETS, *DEAD])
def test_a_gadget_is_refused_or_inert_data(gadget: str) -> None:
    """What comes out holds plain values, names and records only, whatever the gadget is called."""
    try:
        value = decode({**GADGETS, **DEAD}[gadget])
    except PickleDecodeError as error:
        assert 0 <= error.offset <= len({**GADGETS, **DEAD}[gadget])
        return
    waiting = [value]
    while waiting:
        node = waiting.pop()
        assert type(node).__module__ in ("builtins", "numpy", "numpy.dtypes") or type(node) in (Name, Record), type(node)
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, (list, tuple)):
            waiting += node
        elif isinstance(node, Record):
            waiting += [node.args, node.state]
