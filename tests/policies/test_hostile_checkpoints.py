"""Checkpoints from people who mean harm: refused or inert, nothing run, nothing written, memory bounded. A child opens each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_checkpoints import CHECKPOINTS, INERT

HERE = Path(__file__).parent
MIB = 2**20
REASONS = {
    "gadget_as_the_whole_value": "expected a state dict, got an object of class 'os.system'",
    "gadget_as_a_space": "expected a space of gymnasium, got os.system",
    "gadget_as_a_policy_pth": "got a dict with the keys 'w'",
    "gadget_as_vecnormalize": "expected a saved VecNormalize, got os.system",
    "deflated_bomb": "would unpack to 400000000 bytes",
    "deflated_bomb_with_a_lying_size": "does not unpack to the 64 bytes",
    "lying_shape": "reaches to element",
    "shape_repeated_without_end": "more bytes than the limit",
    "lying_count": "1073741824 elements of f4 announced, 24 bytes there",
    "storages_that_overlap": "overlaps",
    "path_that_climbs": "leads out of it",
    "storage_key_that_climbs": "not in the archive",
    "path_that_climbs_in_an_sb3_zip": "leads out of it",
    "lying_npy_leaf": "needs 1099511627776 bytes, 24 are left",
    "object_npy_leaf": "expected numbers or booleans, got dtype '|O'",
    "json_bomb": "not JSON",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")


def child(name: str, folder: Path) -> Any:
    inside = folder / "inside"
    inside.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_checkpoints.py"), name, str(inside)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_each_is_either_inert_or_has_its_reason() -> None:
    assert set(CHECKPOINTS) == set(REASONS) | INERT and len(CHECKPOINTS) >= 10


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_nothing_is_run_and_memory_stays_bounded(name: str, tmp_path: Path) -> None:
    report = child(name, tmp_path)
    assert report["events"] == []
    assert report["left"] == ["inside"], "something was written beside the checkpoint"
    assert report["peak"] < 64 * MIB, f"memory rose by {report['peak'] / MIB:.0f} MiB"
    if name in REASONS:
        assert report["outcome"].startswith("refused: ") and REASONS[name] in report["outcome"], report["outcome"]


def test_the_watch_sees_what_pythons_unpickler_does(tmp_path: Path) -> None:
    """The positive control: the same gadget under the same hook."""
    assert "os.system" in child("control", tmp_path)["events"]
