"""The light half: importing the client loads numpy and msgpack, and no framework; in a fresh interpreter each time."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = (
    *("torch", "jax", "onnxruntime", "lerobot", "mujoco", "gymnasium", "dm_control"),
    *("grpc", "zmq", "picows", "psutil"),
    *("PIL", "cv2", "simplejpeg", "imageio", "matplotlib"),
    *("tyro", "rich"),
)
"""What only adapters, the server and the command line may load."""

LIGHT = (
    "actlink",
    "actlink.client",
    "actlink.controller",
    "actlink.environments._base",
    "actlink.robots._base",
    "actlink.execution._base",
)

MOST_MODULES = 400
"""A limit against the grossly wrong: modules take the time of an import, and their number is the same on every machine."""


def loaded_by(code: str) -> tuple[set[str], int]:
    """Heavy top-level modules loaded after running ``code`` in a fresh interpreter, and how many there are beyond numpy's."""
    program = f"""
        import sys
        import numpy
        before = len(sys.modules)
        {code}
        print(len(sys.modules) - before, *(name for name in {HEAVY!r} if name in sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True)
    count, *heavy = done.stdout.split()
    return set(heavy), int(count)


def test_the_light_half_loads_no_framework() -> None:
    heavy, count = loaded_by("; ".join(f"import {name}" for name in LIGHT))
    print(f"import of the light half: {count} modules beyond numpy's")
    assert heavy == set()
    assert 50 < count < MOST_MODULES


@pytest.mark.parametrize("code", ["from actlink import connect, RemotePolicy", "from actlink.client import connect"])
def test_connect_alone_is_light(code: str) -> None:
    assert loaded_by(code)[0] == set()


def test_the_client_does_not_load_the_server_nor_the_other_way_round() -> None:
    assert loaded_by("import actlink.client; assert 'actlink.serving' not in sys.modules")[0] == set()
    assert loaded_by("import actlink.serving.server; assert 'actlink.client' not in sys.modules")[0] <= {"psutil", "picows"}


def test_this_test_can_fail() -> None:
    """A heavy import is seen: the command line loads tyro."""
    assert "tyro" in loaded_by("import tyro")[0]
    with pytest.raises(AssertionError):
        assert loaded_by("import tyro")[0] == set()
