"""Numbers that cannot be what the policy was trained on: which unit they are in, and which entry is one too many."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink import matching
from actlink._judging import bounds, patterns, superfluous, unit_of, wrong_unit
from actlink.spec import Field, Spec
from actlink.transform import parse
from actlink.types import Array

NAMES = ("base", "elbow", "gripper")
ARM = Field((3,), names=NAMES, typical=((-1.5, 1.5), (0.5, 2.0), (0.0, 1.0)))


def values(*numbers: float) -> list[Array]:
    return [np.array(numbers, np.float32)]


def told(field: Field, seen: list[Array]) -> list[str | None]:
    wanted = Spec({"state": field}, Field((1,)))
    return [mismatch.fix for mismatch in matching.judge(wanted, {"state": seen}, None)]


def test_what_is_usual_or_a_little_beyond_is_not_remarked_upon() -> None:
    assert told(ARM, values(0.1, 1.0, 0.5)) == told(ARM, values(2.2, 0.1, 1.4)) == []


def test_degrees_for_radians() -> None:
    assert told(ARM, values(-60, 90, 40)) == ["- unit: {state.*: deg->rad}"]


def test_only_the_entries_that_need_it() -> None:
    """Degrees beside a gripper that is a share: converted as well it would fit by chance only if it were small."""
    field = Field((3,), names=NAMES, typical=((-1.5, 1.5), (0.5, 2.0), (0.5, 1.0)))
    assert told(field, values(-60, 90, 0.8)) == ["- unit: {state.base: deg->rad}\n- unit: {state.elbow: deg->rad}"]
    nameless = Field((3,), typical=field.typical)
    assert told(nameless, values(-60, 90, 0.8)) == ["- unit: {state.0: deg->rad}\n- unit: {state.1: deg->rad}"]


def test_radians_for_degrees_and_lengths() -> None:
    field = Field((2,), typical=((60.0, 120.0), (-120.0, -60.0)))
    assert told(field, values(1.5, -1.5)) == ["- unit: {state.*: rad->deg}"]
    assert told(Field((1,), typical=((0.3, 0.5),)), values(400)) == ["- unit: {state.*: mm->m}"]


def test_a_stated_unit_limits_what_is_concluded() -> None:
    assert told(Field((1,), unit="m", typical=((1.4, 1.7),)), values(90)) == []
    assert told(Field((1,), typical=((1.4, 1.7),)), values(90)) == ["- unit: {state.*: deg->rad}"]


def test_what_fits_in_no_unit_is_left_alone() -> None:
    assert told(ARM, values(1e6, 90, 0.5)) == []


def test_a_pose_that_training_never_saw_is_no_other_unit() -> None:
    assert told(Field((1,), typical=((-0.5, 0.5),)), values(2.5)) == []
    assert told(Field((1,), typical=((-0.5, 0.5),)), values(25)) == ["- unit: {state.*: deg->rad}"]


def test_nothing_is_said_without_statistics_values_or_equal_lengths() -> None:
    assert told(Field((3,)), values(60, 90, 1)) == []
    assert told(ARM, []) == told(ARM, values(60, 90)) == []
    assert bounds(Field((2, 2), range=(0, 1))) is None and bounds(Field((2,), "int64", range=(0, 1))) is None
    assert bounds(Field((None,), range=(0, 1))) is None


def test_a_range_stands_in_for_statistics() -> None:
    assert told(Field((2,), range=(-3.0, 3.0)), values(45, -90)) == ["- unit: {state.*: deg->rad}"]


def test_entries_that_never_moved_have_some_room() -> None:
    assert told(Field((1,), typical=((1.0, 1.0),)), values(1.04)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.2, 2)), min_size=1, max_size=8), st.data())
def test_training_values_are_never_suspected(joints: list[tuple[float, float]], data: st.DataObject) -> None:
    field = Field((len(joints),), typical=tuple((low, low + width) for low, width in joints))
    seen = [np.array([data.draw(st.floats(low, low + width)) for low, width in joints], np.float32)]
    assert wrong_unit(field, seen) is None


def test_the_action_that_holds_tells_the_unit_of_actions() -> None:
    wanted = Spec({}, Field((3,), names=NAMES, typical=ARM.typical))
    (mismatch,) = matching.judge(wanted, {}, values(-60, 90, 40)[0])
    assert mismatch.where == "action" and mismatch.fix == "- actions: {unit: rad->deg}"
    relative = Spec({}, wanted.action, control_type="delta")
    assert matching.judge(relative, {}, values(-60, 90, 40)[0]) == []


def test_the_unit_that_bounds_allow() -> None:
    assert unit_of(Field((1,), range=(-90, 90)), "rad") == "deg"
    assert unit_of(Field((1,), range=(-3, 3)), "deg") == "rad"
    assert unit_of(Field((1,), range=(-9, 9)), "deg") is None, "between the two nothing is concluded"
    assert unit_of(Field((1,), range=(0, 0)), "deg") is None
    assert unit_of(Field((1,), range=(-3, 3)), "m") is None and unit_of(Field((1,)), "deg") is None
    assert unit_of(Field((1,), unit="m", range=(-3, 3)), "deg") == "m"


def test_one_entry_too_many_is_the_one_without_which_the_others_fit() -> None:
    field = Field((2,), typical=((0.9, 1.1), (4.9, 5.1)))
    assert superfluous(field, 3, values(9, 1, 5)) == (1, 2)
    assert superfluous(field, 3, values(1, 9, 5)) == (0, 2)
    assert superfluous(field, 3, values(1, 5, 9)) == (0, 1)
    assert superfluous(field, 3, values(57.3, 7, 286.5)) == (0, 2), "the others may be in degrees"
    assert superfluous(field, 3, values(1, 1, 1)) == (0, 1), "where nothing tells, the last"
    assert superfluous(field, 3, []) == superfluous(field, 4, values(9, 9, 1, 5)) == superfluous(Field((2,)), 3, []) == (0, 1)


def test_how_entries_are_written() -> None:
    assert list(patterns(NAMES, np.array([True] * 3))) == ["*"]
    assert list(patterns(NAMES, np.array([True, False, True]))) == ["base", "gripper"]


def test_the_line_makes_the_values_usual() -> None:
    (fix,) = told(ARM, values(-60, 90, 40))
    bound = parse(fix or "").bind({"state": Field((3,), names=NAMES)}, Field((1,)))
    assert told(ARM, [np.asarray(bound.observation({"state": values(-60, 90, 40)[0]})["state"])]) == []
    assert math.isclose(float(np.asarray(bound.observation({"state": values(180, 0, 0)[0]})["state"])[0]), math.pi, rel_tol=1e-6)
