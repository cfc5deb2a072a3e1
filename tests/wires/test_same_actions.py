"""The wire does not matter: one process at every address, and the same observations get the native wire's very actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from actlink import loading
from actlink.client import RemotePolicy
from actlink.policies._base import Policy, Result, answer
from actlink.policies._open import open_policy
from actlink.spec import Field, Spec
from actlink.types import Array, Request, Runtime

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the bundled policy is NOT TESTED over foreign wires")
pytest.importorskip("grpc", reason="grpcio is not installed: the LeRobot wire is NOT TESTED beside the others")

from wires_world import LISTEN, STEPWISE, WHOLE_CHUNKS, Wires

STEPS = 12


@pytest.fixture(scope="module")
def aloha() -> Iterator[Wires]:
    with Wires({"aloha": open_policy("aloha_transfer_cube", Runtime(deterministic=True))}) as wires:
        yield wires


@pytest.fixture(scope="module")
def episode(aloha: Wires) -> list[dict[str, Any]]:
    """A path of observations through the states that the policy knows."""
    random = np.random.default_rng(7)
    start, drift = random.normal(size=(2, *aloha.spec.observation["state"].shape))
    return [{"state": (0.3 * start + 0.01 * step * drift).astype(np.float32)} for step in range(STEPS)]


def chunks(policy: RemotePolicy, observations: Sequence[dict[str, Any]]) -> list[Array]:
    return [policy.infer_one(observation, step=step).actions for step, observation in enumerate(observations)]


def executed(spec: Spec, strategy: str, options: dict[str, Any], given: Sequence[Array]) -> list[Array]:
    """The actions that ``strategy`` makes of a chunk for every step, in the client."""
    from actlink.types import ActionChunk

    module = loading.load("execution", strategy)
    made = module.Strategy(module.Config(**options), spec)
    found = []
    for step, actions in enumerate(given):
        assert made.replan(step) is not None
        made.add(ActionChunk(actions, step), step)
        found.append(made.action(step))
    return found


def test_every_wire_is_here() -> None:
    assert {url.partition("+")[0] for url in LISTEN.values()} == set(loading.names("dialects"))


@pytest.mark.parametrize("name", [name for name in WHOLE_CHUNKS if name != "native+tcp"])
def test_whole_chunks_are_the_native_wires_bit_for_bit(aloha: Wires, episode: list[dict[str, Any]], name: str) -> None:
    expected = chunks(aloha.connect("native+tcp"), episode)
    found = chunks(aloha.connect(name), episode)
    assert all(actions.shape == (100, 14) and actions.dtype == np.float32 for actions in found)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize(
    ("name", "strategy", "options"),
    [("act", "ensemble", {"k": 0.01}), ("vibe", "receding", {"execution_horizon": 1})],
)
def test_single_actions_are_what_the_client_would_execute(
    aloha: Wires, episode: list[dict[str, Any]], name: str, strategy: str, options: dict[str, Any]
) -> None:
    assert name in STEPWISE
    expected = executed(aloha.spec, strategy, options, chunks(aloha.connect("native+tcp"), episode))
    found = chunks(aloha.connect(name), episode)
    assert all(actions.shape == (1, 14) for actions in found)
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_a_new_episode_forgets_the_ensemble(aloha: Wires, episode: list[dict[str, Any]]) -> None:
    policy = aloha.connect("act")
    first = chunks(policy, episode)
    policy.reset()
    np.testing.assert_array_equal(chunks(policy, episode), first)


class Sums(Policy):
    """Its action says what came: sums of each image's rows and columns, the state, the length of the prompt. Exact in float32."""

    spec = Spec(
        {
            "state": Field((3,), names=("a", "b", "c")),
            "images.top": Field((24, 32, 3), "uint8"),
            "images.wrist": Field((24, 32, 3), "uint8"),
        },
        Field((9,)),
        action_horizon=2,
    )

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        return [answer(request, self._sums(request)) for request in requests]

    def _sums(self, request: Request) -> Array:
        values = [np.asarray(request.observation["state"])]
        for name in ("images.top", "images.wrist"):
            image = np.asarray(request.observation[name]).astype(np.int64)
            weighted = image * np.arange(1, image[..., 0].size + 1).reshape(24, 32, 1)
            values.append(weighted.sum(axis=(0, 1)) % 65521)
        return np.tile(np.concatenate(values).astype(np.float32), (2, 1))


@pytest.fixture(scope="module")
def sums() -> Iterator[Wires]:
    with Wires({"sums": Sums()}) as wires:
        yield wires


@pytest.mark.parametrize("name", LISTEN)
def test_images_and_state_arrive_as_they_left(sums: Wires, name: str) -> None:
    """Every pixel in its place, cameras and channels in order; the ensemble is told to forget between the steps."""
    random = np.random.default_rng(3)
    policy = sums.connect(name)
    for step in range(3):
        observation = {
            "state": random.normal(size=3).astype(np.float32),
            "images.top": random.integers(0, 256, (24, 32, 3), np.uint8),
            "images.wrist": random.integers(0, 256, (24, 32, 3), np.uint8),
        }
        expected = Sums()._sums(Request(observation))
        found = policy.infer_one(observation, step=step if name not in STEPWISE else 0).actions
        np.testing.assert_array_equal(found, expected[: len(found)])
        policy.reset()
