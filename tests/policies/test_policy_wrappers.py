"""Policies around a policy: one thing changes, the rest passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actlink.errors import ConfigError, PolicyError, SpecError
from actlink.policies._base import Policy, Result, answer
from actlink.policies._wrappers import Described, OneByOne, Transformed
from actlink.spec import Field, Spec
from actlink.transform import parse
from actlink.types import Request

SPEC = Spec(
    {"state": Field((2,), names=("b", "a")), "images.top": Field((2, 3, 3), "uint8")},
    Field((3,), names=("x", "y", "z")),
    action_horizon=2,
    accepts_prefix=True,
    max_batch_size=8,
    stateful=True,
    name="inner",
)
GIVEN = {
    "pose": Field((3,), names=("a", "b", "c")),
    "images.cam": Field((3, 4, 6), "uint8"),
    "images.spare": Field((9, 9, 3), "uint8"),
}
LINES = parse(
    "- rename: {pose: state, images.cam: images.top}\n- select: {state: [b, a]}\n- transpose: {images.top: chw->hwc}\n"
    "- resize: {images.top: [2, 3]}\n- actions: {reorder: [z, x, y]}"
)


class Recorder(Policy):
    """Answers 1, 2, 3 and keeps what it was asked and told."""

    def __init__(self, spec: Spec = SPEC) -> None:
        self.spec = spec
        self.asked: list[list[Request]] = []
        self.told: list[str] = []

    def infer(self, requests: Sequence[Request]) -> list[Result]:
        self.asked.append(list(requests))
        refused = PolicyError("not this one")
        rows = np.tile(np.array([1, 2, 3], np.float32), (2, 1))
        return [refused if request.session == "bad" else answer(request, rows, memory=request.step) for request in requests]

    def forget(self, session: str) -> None:
        self.told.append(f"forget {session}")

    def close(self) -> None:
        self.told.append("close")


def observation() -> dict[str, Any]:
    return {"pose": np.array([1, 2, 3], np.float32), "images.cam": np.full((3, 4, 6), 7, np.uint8)}


@pytest.mark.parametrize(
    "wrap",
    [lambda p: Described(p, p.spec), OneByOne, lambda p: Transformed(p, LINES, GIVEN)],
    ids=["described", "alone", "transformed"],
)
def test_the_end_of_a_session_and_of_the_policy_pass(wrap: Any) -> None:
    inner = Recorder()
    policy = wrap(inner)
    policy.forget("s")
    policy.close()
    assert inner.told == ["forget s", "close"]
    assert policy.spec.stateful and policy.spec.name == "inner"


def test_described_changes_the_spec_alone() -> None:
    inner = Recorder()
    policy = Described(inner, replace(SPEC, name="outer"))
    request = Request({"state": np.zeros(2)})
    assert policy.infer([request])[0].step == 0
    assert inner.asked == [[request]] and policy.spec.name == "outer" and inner.spec.name == "inner"


def test_one_by_one_asks_for_each_request_alone() -> None:
    inner = Recorder()
    policy = OneByOne(inner)
    results = policy.infer([Request({}, step=i, session="bad" if i == 1 else "s") for i in range(3)])
    assert [len(asked) for asked in inner.asked] == [1, 1, 1]
    assert isinstance(results[1], PolicyError) and [results[0].step, results[2].step] == [0, 2]
    assert policy.spec == replace(SPEC, max_batch_size=1)


def test_a_transformed_policy_wants_what_the_giver_offers() -> None:
    policy = Transformed(Recorder(), LINES, GIVEN)
    assert dict(policy.spec.observation) == {key: GIVEN[key] for key in ("pose", "images.cam")}, "and nothing it has no use for"
    assert policy.spec.action.names == ("z", "x", "y")
    assert policy.spec.accepts_prefix


def test_a_transformed_policy_gets_what_it_wants() -> None:
    inner = Recorder()
    policy = Transformed(inner, LINES, GIVEN)
    prefix = np.array([[3, 1, 2]], np.float32)
    (chunk,) = policy.infer([Request(policy.spec.check(observation()), step=5, prefix=prefix, memory="m", session="s")])
    asked = inner.asked[0][0]
    assert asked.observation["state"].tolist() == [2, 1]
    assert asked.observation["images.top"].shape == (2, 3, 3)
    assert asked.prefix.tolist() == [[1, 2, 3]], "planned actions arrive in the policy's own order"
    assert (asked.step, asked.memory, asked.session) == (5, "m", "s")
    assert chunk.actions.tolist() == [[3, 1, 2]] * 2 and chunk.memory == 5


def test_one_requests_error_stays_its_own() -> None:
    policy = Transformed(Recorder(), LINES, GIVEN)
    good, bad = policy.infer([Request(observation()), Request(observation(), session="bad")])
    assert good.actions.shape == (2, 3) and isinstance(bad, PolicyError)


def test_actions_that_the_giver_does_not_take_end_the_use_of_prefixes() -> None:
    inner = Recorder()
    policy = Transformed(inner, parse("[{actions: {select: [y]}}]"), SPEC.observation)
    assert not policy.spec.accepts_prefix and policy.spec.action.shape == (1,)
    plain = {"state": np.zeros(2, np.float32), "images.top": np.zeros((2, 3, 3), np.uint8)}
    (chunk,) = policy.infer([Request(plain, prefix=np.zeros((1, 1), np.float32))])
    assert inner.asked[0][0].prefix is None and chunk.actions.tolist() == [[2], [2]]


def test_what_does_not_fit_after_the_transform_is_refused_before_the_policy_sees_it() -> None:
    inner = Recorder()
    policy = Transformed(inner, LINES, {**GIVEN, "images.cam": Field((None, None, None), "uint8")})
    with pytest.raises(SpecError, match=r"transformed observation\['images.top'\]: expected shape \(2, 3, 3\), got \(2, 3, 4\)"):
        policy.infer([Request({**observation(), "images.cam": np.zeros((4, 4, 6), np.uint8)})])
    assert inner.asked == []


def test_without_the_givers_spec_names_are_unknown() -> None:
    with pytest.raises(ConfigError, match="the names of its entries are not known here"):
        Transformed(Recorder(), LINES)
    policy = Transformed(Recorder(), parse("- rename: {pose: state}\n- select: {state: [1, 0]}"))
    assert policy.spec.observation["pose"].shape == (None,)
