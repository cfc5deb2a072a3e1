"""openpi's own client against our server, and our client against openpi's server, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import connect
from actlink.errors import PolicyError
from actlink.policies._open import open_policy
from actlink.serving.server import Server, ServerConfig
from actlink.spec import Field, Spec
from actlink.types import Runtime
from venvs import python_with

pytestmark = pytest.mark.timeout(300)

OPENPI = ("openpi-client==0.1.2", "typing_extensions", "numpy<2")
HERE = Path(__file__).parent
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.lower().endswith("_proxy")}


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of an environment with openpi-client in it; made the first time (about 100 MB)."""
    return python_with("openpi", *OPENPI, python="3.11", free_gib=1)


def test_its_client_and_broker_get_what_the_native_wire_gives(python: str) -> None:
    policy = open_policy("aloha_transfer_cube", Runtime(deterministic=True))
    config = ServerConfig(deterministic=True)
    with Server({"aloha": policy}, ["openpi+ws://127.0.0.1:0", "native+ws://127.0.0.1:0"], config, tokens=["sesame"]) as server:
        port = server.addresses[0].rpartition(":")[2]
        command = [python, str(HERE / "run_client.py"), port, "sesame"]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        with connect(server.addresses[1], token="sesame") as native:
            expected = [native.infer_one(observed(step)).actions for step in range(21)]
    assert seen["metadata"] == ["actlink"]
    for reply, chunk in zip(seen["replies"], expected, strict=False):
        assert reply["dtype"] == "<f4"
        np.testing.assert_array_equal(np.float32(reply["actions"]), chunk)
        assert reply["server_timing"]["infer_ms"] > 0
    assert ["prev_total_ms" in reply["server_timing"] for reply in seen["replies"]] == [False, True, True]
    for step, action in enumerate(seen["steps"]):
        np.testing.assert_array_equal(np.float32(action), expected[step // 10 * 10][step % 10])
    wrong, after = seen["errors"]
    assert wrong.startswith("RuntimeError: Error in inference server:") and "expected shape (21,), got (3,)" in wrong
    assert after.startswith("ConnectionClosed") and "1011" in after


def observed(step: int) -> dict[str, Any]:
    """As ``run_client.observation`` makes it, under the native wire's names."""
    source = np.random.default_rng(step)
    picture = source.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return {"state": source.normal(size=21).astype(np.float32), "images.top": picture}


SPEC = Spec(
    {
        "state": Field((14,)),
        "images.high": Field((24, 32, 3), "uint8"),
        "images.low": Field((24, 32, 3), "uint8"),
        "prompt": Field((), "str"),
    },
    Field((16,)),
    action_horizon=10,
)


@pytest.fixture
def its_server(python: str) -> Iterator[str]:
    """Address of a server as openpi's authors wrote it."""
    command = [python, str(HERE / "run_server.py")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield f"openpi+ws://127.0.0.1:{int(process.stdout.readline())}?keys=nested&channels_first=true"
    finally:
        process.kill()
        process.communicate()


def asked(number: int, prompt: str = "go") -> dict[str, Any]:
    source = np.random.default_rng(number)
    high, low = source.integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return {"state": source.normal(size=14).astype(np.float32), "images.high": high, "images.low": low, "prompt": prompt}


def answer_to(given: dict[str, Any]) -> Any:
    row = np.concatenate([given["state"], [given["images.high"][0, 0, 0], given["images.low"][0, 0, 0]]])
    return np.stack([row + step for step in range(10)]).astype(np.float32)


def test_our_client_drives_its_server(its_server: str) -> None:
    with connect(its_server, spec=SPEC) as policy:
        for number in range(4):
            chunk = policy.infer_one(asked(number), step=number)
            np.testing.assert_array_equal(chunk.actions, answer_to(asked(number)))
            assert chunk.step == number and chunk.timing["infer_ms"] > 0
            policy.reset()
        for _ in range(2):
            with pytest.raises(PolicyError, match="the server says: ValueError: no such object on the table"):
                policy.infer_one(asked(5, "fail"))
            np.testing.assert_array_equal(policy.infer_one(asked(6)).actions, answer_to(asked(6)))


def test_eight_of_our_clients_at_once(its_server: str) -> None:
    def drive(client: int) -> int:
        with connect(its_server, spec=SPEC) as policy:
            for number in range(100 * client, 100 * client + 50):
                np.testing.assert_array_equal(policy.infer_one(asked(number)).actions, answer_to(asked(number)))
        return 50

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(drive, range(8))) == 400
