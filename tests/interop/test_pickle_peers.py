"""Pickles between us and the numpys that the peers' authors pin: theirs read by us, ours read by their own unpickler."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actlink.codecs.safe_pickle import Record, decode, encode
from venvs import interpreter

CODECS = Path(__file__).parent.parent / "codecs"
PINS = (("3.8", "1.24.4"), ("3.10", "1.26.0"), ("3.12", "2.2.6"))
"""ACT's environment, IL-Studio's requirements, LeRobot from 0.5 on."""

READ = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
import golden_pickle_values as golden
golden.stand_ins()
value = pickle.loads(sys.stdin.buffer.read())
assert value["image"].flags.c_contiguous and value["image"].dtype == "uint8"
print(golden.described(value))
"""


@pytest.fixture(scope="module", params=PINS, ids=lambda pin: f"python{pin[0]}-numpy{pin[1]}")
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with that Python and that numpy."""
    version, numpy = request.param
    python = interpreter(version)
    if python is None or shutil.which("uv") is None:
        pytest.skip(f"no Python {version} or no uv on this machine: numpy {numpy} as a peer is NOT TESTED")
    place = tmp_path_factory.mktemp("peer")
    subprocess.run(["uv", "venv", "--quiet", "--python", python, str(place)], check=True, capture_output=True)
    found = str(place / "bin" / "python")
    made = subprocess.run(
        ["uv", "pip", "install", "--quiet", "--python", found, f"numpy=={numpy}"], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"numpy {numpy} cannot be installed here, so it is NOT TESTED: {made.stderr.decode()[-200:]}")
    return found


def described(value: object) -> str:
    sys.path.insert(0, str(CODECS))
    try:
        import golden_pickle_values as golden
    finally:
        sys.path.remove(str(CODECS))
    return str(golden.described(value))


def test_what_it_writes_is_read_bit_for_bit(peer: str) -> None:
    done = subprocess.run([peer, str(CODECS / "golden_pickle_values.py")], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 600
    for line in lines:
        value = decode(base64.b64decode(line["data"]))
        assert hashlib.sha256(described(value).encode()).hexdigest() == line["digest"], (line["case"], line["protocol"])


def test_what_we_write_it_reads_bit_for_bit(peer: str) -> None:
    lane = np.empty(1, object)
    lane[0] = {"ctrl_space": "joint", "ctrl_type": "abs", "action": np.arange(14, dtype="f4"), "gripper_continuous": False}
    value = {
        "chunk": [lane] * 3,
        "image": np.arange(160 * 160 * 3, dtype="u4").astype("u1").reshape(160, 160, 3),
        "record": Record("benchmark.base", "MetaAction", state={"ctrl_space": "ee", "action": np.zeros(7)}),
        **{
            kind: (np.arange(6) % 2).astype(kind).reshape(2, 3)
            for kind in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
        },
    }
    done = subprocess.run([peer, "-c", READ, str(CODECS)], input=b"".join(encode(value)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.decode().strip() == described(value)
