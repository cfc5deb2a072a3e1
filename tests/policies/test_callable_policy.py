"""What a user has, taken for a policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actlink import Field, Request, Spec
from actlink.errors import ConfigError
from actlink.policies._callable import CallablePolicy, as_policy

SPEC = Spec({"state": Field((2,))}, Field((2,)), action_horizon=1, max_batch_size=4)


def test_a_function_answers_each_observation() -> None:
    policy = CallablePolicy(lambda observation: np.stack([observation["state"]] * 3), SPEC)
    results = policy.infer([Request({"state": np.full(2, i, np.float32)}, step=i, session=str(i)) for i in (4, 5)])
    assert [(chunk.step, chunk.session) for chunk in results] == [(4, "4"), (5, "5")]
    assert results[1].actions.tolist() == [[5, 5]] * 3


def test_one_action_is_a_chunk_of_one() -> None:
    policy = CallablePolicy(lambda observation: [1.0, 2.0], SPEC)
    assert policy.infer([Request({})])[0].actions.shape == (1, 2)


def test_what_the_function_raises_reaches_the_caller() -> None:
    def broken(observation: Any) -> Any:
        raise ZeroDivisionError("by design")

    with pytest.raises(ZeroDivisionError):
        CallablePolicy(broken, SPEC).infer([Request({})])


class Duck:
    def __init__(self) -> None:
        self.spec = SPEC
        self.told: list[str] = []

    def infer(self, requests: Any) -> Any:
        return [CallablePolicy(lambda observation: observation["state"], SPEC).infer([one])[0] for one in requests]

    def forget(self, session: str) -> None:
        self.told.append(f"forget {session}")

    def close(self) -> None:
        self.told.append("close")


def test_an_object_with_spec_and_infer_is_adopted() -> None:
    duck = Duck()
    policy = as_policy(duck, "here")
    assert policy.infer([Request({"state": np.ones(2)})])[0].actions.tolist() == [[1, 1]]
    policy.forget("s")
    policy.close()
    assert duck.told == ["forget s", "close"]


def test_adopting_needs_no_more_than_spec_and_infer() -> None:
    class Bare:
        spec = SPEC

        def infer(self, requests: Any) -> Any:
            return []

    policy = as_policy(Bare(), "here")
    policy.forget("s")
    policy.close()
    assert policy.spec is SPEC


def test_a_callable_with_spec_is_a_policy() -> None:
    def drive(observation: Any) -> Any:
        return observation["state"]

    drive.spec = SPEC  # type: ignore[attr-defined]
    assert isinstance(as_policy(drive, "here"), CallablePolicy)


@pytest.mark.parametrize(
    "thing", [3, "zero", None, lambda observation: 0, type("T", (), {"spec": {"action": 1}, "infer": print})()]
)
def test_anything_else_is_refused_with_what_it_lacks(thing: Any) -> None:
    with pytest.raises(ConfigError, match=r"here: expected an actlink.Policy, an object with 'spec' and 'infer', or a callable"):
        as_policy(thing, "here")


def test_a_policy_without_spec_is_told_to_set_it() -> None:
    from actlink.policies._base import Policy

    class Forgetful(Policy):
        def infer(self, requests: Any) -> Any:
            return []

    with pytest.raises(ConfigError, match=r"set self.spec"):
        as_policy(Forgetful(), "here")


def test_a_number_is_no_function() -> None:
    with pytest.raises(ConfigError, match="expected a function from observation to actions, got a int"):
        CallablePolicy(3, SPEC)  # type: ignore[arg-type]
