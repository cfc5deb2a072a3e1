"""Every policy family passes the shipped examiner; broken policies do not."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink import loading
from actlink.errors import PolicyError
from actlink.policies._base import Policy, answer
from actlink.policies._callable import AdoptedPolicy, CallablePolicy
from actlink.policies._open import MODELS, bundled, families_of, open_policy
from actlink.policies._wrappers import Described, OneByOne, Transformed
from actlink.spec import Field, Spec
from actlink.testing.policies import check_policy
from actlink.transform import parse
from actlink.types import ActionChunk, Request

TESTS = Path(__file__).parent.parent
COMPAT = TESTS.parent / "compat"
SHORT = "state=4&action=3&horizon=5&cameras=top:6x8"


def recording(folder: Path) -> Path:
    path = folder / "actions.npy"
    np.save(path, np.random.default_rng(0).standard_normal((40, 3)))
    return path


def lerobot_checkpoint(folder: Path) -> Policy:
    sys.path.insert(0, str(TESTS / "interop" / "lerobot"))
    return open_policy(f"lerobot:{importlib.import_module('tiny_checkpoints').make('act', folder)}")


def sb3_checkpoint(folder: Path) -> Policy:
    sys.path.insert(0, str(TESTS / "policies"))
    world = importlib.import_module("rl_world")
    tensors, _ = world.ppo_tensors(4, 16, 8, 3)
    return open_policy(str(world.sb3_zip(folder / "ppo.zip", world.box([-1] * 4, [1] * 4), world.discrete(3), tensors)))


def of(family: str) -> list[str]:
    """The bundled policies of a family."""
    return [name for name in bundled() if families_of(MODELS / name) == [family]]


EXAMPLES: dict[str, Callable[[Path], list[Policy]]] = {
    "act": lambda folder: [open_policy(str(COMPAT / "ckpt" / "act_sim_transfer_cube_scripted_zscore_example"))],
    "flow": lambda folder: [
        open_policy(f"{name}?prefix_mode={mode}") for name in of("flow") for mode in ("guided", "hard", "ignore")
    ],
    "lerobot": lambda folder: [lerobot_checkpoint(folder)],
    "onnx": lambda folder: [open_policy(name) for name in of("onnx")],
    "sb3": lambda folder: [sb3_checkpoint(folder)],
    "scripted": lambda folder: [
        open_policy(f"scripted:zero?{SHORT}"),
        open_policy("scripted:zero?discrete=4"),
        open_policy(f"scripted:constant?{SHORT}&value=0.5"),
        open_policy(f"scripted:replay?{SHORT}&file={recording(folder)}"),
        open_policy(f"scripted:slow?{SHORT}&delay_ms=0.01"),
        open_policy(f"scripted:echo?{SHORT}"),
    ],
    "vibe": lambda folder: [
        open_policy(str(COMPAT / "runs" / run / "checkpoints"), options={"preset": preset})
        for run, preset in (("cartpole", "cartpole_ppo"), ("pendulum", "pendulum_sac"))
    ],
}
"""Family -> what is examined. A new family needs a line here."""


@pytest.mark.parametrize("family", loading.names("policies"))
def test_every_family_conforms(family: str, tmp_path: Path) -> None:
    module = loading.load("policies", family)
    assert family in EXAMPLES, f"{family}: no example to examine; add one to EXAMPLES"
    if lacking := loading.missing(module):
        pytest.skip(f"{family} needs {', '.join(lacking)}: {loading.pip_line(module)}")
    policies = EXAMPLES[family](tmp_path)
    assert policies
    for policy in policies:
        check_policy(policy)
        policy.close()


SPEC = Spec({"state": Field((2,)), "prompt": Field((), "str")}, Field((2,)), action_horizon=3, max_batch_size=4)


class Sound(Policy):
    """A sound policy, with memory, to break one thing of."""

    def __init__(self, spec: Spec = replace(SPEC, stateful=True, accepts_prefix=True)) -> None:  # noqa: B008 - frozen
        self.spec = spec

    def infer(self, requests: Sequence[Request]) -> Any:
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Any:
        total = np.asarray(request.observation["state"]) + (0 if request.memory is None else request.memory)
        return answer(request, np.tile(total.astype(np.float32), (3, 1)), memory=total)


@pytest.mark.parametrize(
    "policy",
    [
        Sound(),
        Described(Sound(), Sound().spec),
        OneByOne(Sound()),
        Transformed(Sound(), parse("[{select: {state: [3, 0]}}, {actions: {reorder: [1, 0]}}]")),
        AdoptedPolicy(Sound()),
        CallablePolicy(lambda observation: np.tile(observation["state"], (3, 1)), SPEC),
        Sound(replace(SPEC, observation={**SPEC.observation, "images.top": Field((None, None, 3), "uint8")}, stateful=True)),
    ],
    ids=["sound", "described", "one by one", "transformed", "adopted", "callable", "free axes"],
)
def test_sound_policies_and_wrappers_conform(policy: Policy) -> None:
    check_policy(policy)


def test_a_policy_that_draws_random_numbers_can_be_examined() -> None:
    class Drawn(Sound):
        def one(self, request: Request) -> Any:
            return answer(request, np.random.default_rng().standard_normal((3, 2)).astype(np.float32))

    check_policy(Drawn(), repeatable=False)
    with pytest.raises(AssertionError):
        check_policy(Drawn())


def test_observations_of_the_users_own_are_used() -> None:
    seen = [{"state": np.full(2, i, np.float32), "prompt": "go"} for i in range(3)]
    check_policy(Sound(), observations=seen)
    with pytest.raises(AssertionError, match="at least three observations, got 1"):
        check_policy(Sound(), observations=seen[:1])


class Nan(Sound):
    def one(self, request: Request) -> Any:
        return answer(request, np.full((3, 2), np.nan, np.float32))


class TooFew(Sound):
    def infer(self, requests: Sequence[Request]) -> Any:
        return super().infer(requests)[:-1]


class OneForAll(Sound):
    def infer(self, requests: Sequence[Request]) -> Any:
        return super().infer(requests[:1])


class NotASequence(Sound):
    def infer(self, requests: Sequence[Request]) -> Any:
        return iter(super().infer(requests))


class BareArrays(Sound):
    def one(self, request: Request) -> Any:
        return np.zeros((3, 2), np.float32)


class Refusing(Sound):
    def one(self, request: Request) -> Any:
        return PolicyError("not today")


class WrongStep(Sound):
    def one(self, request: Request) -> Any:
        return ActionChunk(super().one(request).actions)


class WrongHorizon(Sound):
    def one(self, request: Request) -> Any:
        return replace(super().one(request), actions=np.zeros((4, 2), np.float32))


class WrongDtype(Sound):
    def one(self, request: Request) -> Any:
        return replace(super().one(request), actions=np.zeros((3, 2)))


class WrongChoice(Sound):
    def __init__(self) -> None:
        super().__init__(Spec({}, Field((1,), "int64", range=(0, 1))))

    def one(self, request: Request) -> Any:
        return answer(request, np.full((1, 1), 2))


class ListOfActions(Sound):
    def one(self, request: Request) -> Any:
        return replace(super().one(request), actions=[[0.0, 0.0]] * 3)


class InPlace(Sound):
    def one(self, request: Request) -> Any:
        np.asarray(request.observation["state"])[...] += 1
        return super().one(request)


class WritesAndTidiesUp(Sound):
    def one(self, request: Request) -> Any:
        state = np.asarray(request.observation["state"])
        state *= 2
        chunk = super().one(request)
        state /= 2
        return chunk


class DropsKeys(Sound):
    def one(self, request: Request) -> Any:
        chunk = super().one(request)
        request.observation.pop("prompt", None)  # type: ignore[attr-defined]
        return chunk


class SharedBuffer(Sound):
    buffer = np.zeros((3, 2), np.float32)

    def one(self, request: Request) -> Any:
        self.buffer[...] = np.asarray(request.observation["state"])
        return answer(request, self.buffer)


class Shuffled(Sound):
    def infer(self, requests: Sequence[Request]) -> Any:
        results = super().infer(requests)
        actions = [result.actions for result in results][::-1]
        return [replace(result, actions=rows) for result, rows in zip(results, actions, strict=True)]


class BatchAverage(Sound):
    def infer(self, requests: Sequence[Request]) -> Any:
        results = super().infer(requests)
        mean = np.mean([result.actions for result in results], 0)
        return [replace(result, actions=mean.copy()) for result in results]


class RemembersTheLast(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.last = np.zeros(2)

    def one(self, request: Request) -> Any:
        state = np.asarray(request.observation["state"])
        rows = np.tile((state + self.last).astype(np.float32), (3, 1))
        self.last = state.copy()
        return answer(request, rows)


class CountsItsEpisode(Sound):
    """Remembers by itself, but only from step 1 on."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = np.zeros(2)

    def one(self, request: Request) -> Any:
        state = np.asarray(request.observation["state"])
        self.sum = state if request.step == 0 else self.sum + state
        return answer(request, np.tile(self.sum.astype(np.float32), (3, 1)))


class SecretlyStateful(Sound):
    def __init__(self) -> None:
        super().__init__(SPEC)


class ChangesThePrefix(Sound):
    def one(self, request: Request) -> Any:
        if request.prefix is not None:
            request.prefix[...] = 0
        return super().one(request)


class WithoutSpec(Sound):
    def __init__(self) -> None:
        pass


class AnyAction(Sound):
    def __init__(self) -> None:
        super().__init__(replace(SPEC, action=Field((None,))))


BROKEN: dict[type[Policy], str] = {
    Nan: "expected finite numbers, got NaN or infinity",
    TooFew: "expected one result for each of 1 requests, got 0",
    OneForAll: "expected one result for each of 2 requests, got 1",
    NotASequence: "expected a sequence of results, got a list_iterator",
    BareArrays: "expected an ActionChunk for a valid observation, got array",
    Refusing: "expected an ActionChunk for a valid observation, got PolicyError('not today')",
    WrongStep: "chunk (step, episode, session): expected the request's (0, 1, 'session 0'), got (0, 0, '')",
    WrongHorizon: "expected shape (action_horizon, action_dim) = (3, 2), got (4, 2)",
    WrongDtype: "actions: expected float32, got float64",
    WrongChoice: "expected choices 0..1, got 2..2",
    ListOfActions: "actions: expected an array, got a list",
    InPlace: "infer changed observation['state'] of its request",
    WritesAndTidiesUp: "infer cannot take read-only arrays",
    DropsKeys: "infer changed the keys of an observation",
    SharedBuffer: "infer wrote into the actions of an earlier answer",
    Shuffled: "request 0 of a batch of 3: differs by",
    BatchAverage: "request 0 of a batch of 3: differs by",
    RemembersTheLast: "what a policy remembers of an episode goes into ActionChunk.memory",
    CountsItsEpisode: "another answer than when no other session asked in between",
    SecretlyStateful: "expected spec.stateful to say so",
    ChangesThePrefix: "infer changed the prefix of its request",
    WithoutSpec: "policy.spec: expected a Spec, got a NoneType",
    AnyAction: "policy.spec.action: expected its number of entries, got any",
}


@pytest.mark.parametrize(("broken", "message"), BROKEN.items(), ids=[each.__name__ for each in BROKEN])
def test_a_broken_policy_is_rejected_for_what_it_does(broken: type[Policy], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_policy(broken())


def test_two_answers_in_one_array_are_rejected() -> None:
    class Constant(Sound):
        rows = np.zeros((3, 2), np.float32)

        def one(self, request: Request) -> Any:
            return answer(request, self.rows)

    with pytest.raises(AssertionError, match="two answers share one array"):
        check_policy(Constant())
