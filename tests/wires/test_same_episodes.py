"""The same evaluation through every wire: the same episodes, with the same ends.

``ACTLINK_WIRE_EPISODES=20`` runs whole episodes, so many of them; otherwise it is one episode's beginning.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actlink.evaluation.harness import EvalConfig, evaluate
from actlink.policies._open import open_policy
from actlink.types import Runtime

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the bundled policy is NOT TESTED over foreign wires")
pytest.importorskip("gym_aloha", reason="gym-aloha is not installed: evaluation over foreign wires is NOT TESTED")
pytest.importorskip("grpc", reason="grpcio is not installed: the LeRobot wire is NOT TESTED beside the others")

from wires_world import STEPWISE, WHOLE_CHUNKS, Wires

EPISODES = int(os.environ.get("ACTLINK_WIRE_EPISODES", "0"))
POLICY = "aloha_transfer_cube"
AS_NATIVE: dict[str, dict[str, Any]] = {
    "act": {"strategy": "ensemble", "k": 0.01},
    "vibe": {"execution_horizon": 1},
}
"""What the native wire's client does to execute as the server of a stepwise wire does."""


@pytest.fixture(scope="module")
def wires() -> Iterator[Wires]:
    with Wires({"aloha": open_policy(POLICY, Runtime(deterministic=True))}) as made:
        yield made


@pytest.fixture(scope="module")
def native(wires: Wires, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Strategy options -> what the native wire's episodes come to; each is run once."""
    known: dict[str, Any] = {}

    def run(**options: Any) -> Any:
        key = str(sorted(options.items()))
        if key not in known:
            known[key] = outcomes(wires.url("native+tcp"), tmp_path_factory.mktemp("native"), **options)
        return known[key]

    return run


def outcomes(url: str, out: Path, **options: Any) -> list[tuple[Any, ...]]:
    """For each episode what can be told of it; the return and the metrics would show the first action that differs."""
    size: dict[str, Any] = {"episodes": EPISODES, "workers": 2} if EPISODES else {"episodes": 1, "max_steps": 60}
    config = EvalConfig(url, POLICY, like=POLICY, seed=1000, out=out / "run", **size, **options)
    results = evaluate(config, console=Console(file=io.StringIO()))
    assert results.complete and not any(episode.error for episode in results.episodes)
    return [(e.seed, e.success, e.length, e.steps, e.return_, e.starved, dict(e.metrics)) for e in results.episodes]


@pytest.mark.timeout(3600 if EPISODES else 300)
@pytest.mark.parametrize("name", [name for name in WHOLE_CHUNKS if name != "native+tcp"])
def test_whole_chunks(wires: Wires, native: Any, tmp_path: Path, name: str) -> None:
    assert outcomes(wires.url(name), tmp_path) == native()


@pytest.mark.timeout(3600 if EPISODES else 300)
@pytest.mark.parametrize("name", STEPWISE)
def test_one_action_for_each_observation(wires: Wires, native: Any, tmp_path: Path, name: str) -> None:
    """The server executes the chunks; the client asks at every step and does what it is told."""
    expected = native(**AS_NATIVE[name])
    assert outcomes(wires.url(name), tmp_path, execution_horizon=1) == expected


@pytest.mark.skipif(not EPISODES, reason="the beginning of an episode has no success")
def test_the_episodes_are_worth_comparing(native: Any) -> None:
    assert sum(bool(outcome[1]) for outcome in native()) > EPISODES / 2
