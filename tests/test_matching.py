"""What a policy wants against what an environment offers: every misfit is found, and what a line can repair is repaired."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink import matching
from actlink.spec import Field, Spec
from actlink.transform import Transform

JOINTS = ("waist", "shoulder", "elbow", "wrist")


def spec(
    state: Field | None = Field((4,), names=JOINTS),  # noqa: B008 - frozen
    action: Field = Field((4,), names=JOINTS),  # noqa: B008 - frozen
    **given: Any,
) -> Spec:
    observation = {} if state is None else {"state": state}
    images = {key: value for key, value in given.items() if isinstance(value, Field)}
    rest = {key: value for key, value in given.items() if key not in images}
    return Spec({**observation, **{f"images.{name}": field for name, field in images.items()}}, action, **rest)


def picture(height: int | None = 480, width: int | None = 640, first: bool = False) -> Field:
    return Field((3, height, width) if first else (height, width, 3), "uint8")


def lines(wanted: Spec, offered: Spec) -> list[str | None]:
    return [mismatch.fix for mismatch in matching.compare(wanted, offered)]


def repaired(wanted: Spec, offered: Spec, transform: Transform) -> tuple[Spec, Spec]:
    """Both specs as they are behind the transform: the environment's observation, the policy's action."""
    observation = transform.fields(offered.observation)
    rate_hz = offered.rate_hz if transform.rate is None else transform.rate.policy_hz
    return replace(wanted, action=transform.actions(wanted.action)), replace(offered, observation=observation, rate_hz=rate_hz)


def test_what_fits_has_no_mismatch() -> None:
    assert matching.compare(spec(top=picture()), spec(top=picture(), side=picture())) == []


REPAIRABLE: dict[str, tuple[Spec, Spec, list[str]]] = {
    "camera of another name": (
        spec(top=picture()),
        spec(cam_high=picture()),
        ["- rename: {images.cam_high: images.top}"],
    ),
    "likelier of two cameras": (
        spec(wrist=picture()),
        spec(top=picture(), left_wrist=picture()),
        ["- rename: {images.left_wrist: images.wrist}"],
    ),
    "two cameras of other names": (
        spec(wrist=picture(), front=picture()),
        spec(cam_front=picture(), cam_wrist=picture()),
        ["- rename: {images.cam_wrist: images.wrist}", "- rename: {images.cam_front: images.front}"],
    ),
    "one clear camera beside a doubtful one": (
        spec(top=picture(), wrist=picture()),
        spec(left_wrist=picture(), right_wrist=picture(), overhead_top=picture()),
        ["- rename: {images.overhead_top: images.top}"],
    ),
    "a likely name of another size": (
        spec(top=picture(48, 48), side=picture(24, 24)),
        spec(cam_top=picture(24, 24), cam_side=picture(48, 48)),
        [
            "- rename: {images.cam_top: images.top}",
            "- resize: {images.top: [48, 48]}",
            "- rename: {images.cam_side: images.side}",
            "- resize: {images.side: [24, 24]}",
        ],
    ),
    "size": (spec(top=picture(240, 320)), spec(top=picture()), ["- resize: {images.top: [240, 320]}"]),
    "only the height": (spec(top=picture(240, None)), spec(top=picture()), ["- resize: {images.top: [240, 640]}"]),
    "channels first": (spec(top=picture()), spec(top=picture(first=True)), ["- transpose: {images.top: chw->hwc}"]),
    "channels last": (spec(top=picture(first=True)), spec(top=picture()), ["- transpose: {images.top: hwc->chw}"]),
    "everything about a camera": (
        spec(top=picture(240, 320)),
        spec(cam_high=picture(first=True)),
        [
            "- rename: {images.cam_high: images.top}",
            "- transpose: {images.top: chw->hwc}",
            "- resize: {images.top: [240, 320]}",
        ],
    ),
    "size with channels first on both sides": (
        spec(top=picture(240, 320, first=True)),
        spec(top=picture(first=True)),
        ["- transpose: {images.top: chw->hwc}\n- resize: {images.top: [240, 320]}\n- transpose: {images.top: hwc->chw}"],
    ),
    "size and channels first": (
        spec(top=picture(240, 320, first=True)),
        spec(top=picture()),
        [
            "- transpose: {images.top: hwc->chw}",
            "- transpose: {images.top: chw->hwc}\n- resize: {images.top: [240, 320]}\n- transpose: {images.top: hwc->chw}",
        ],
    ),
    "state of another name": (
        spec(),
        Spec({"agent_pos": Field((4,))}, Field((4,))),
        ["- rename: {agent_pos: state}"],
    ),
    "state of another name and order": (
        spec(Field((2,), names=("elbow", "waist"))),
        Spec({"agent_pos": Field((4,), names=JOINTS)}, Field((4,), names=JOINTS)),
        ["- rename: {agent_pos: state}", "- select: {state: [elbow, waist]}"],
    ),
    "some entries of the state": (
        spec(Field((2,), names=("wrist", "waist"))),
        spec(),
        ["- select: {state: [wrist, waist]}"],
    ),
    "order of the state": (
        spec(Field((4,), names=JOINTS[::-1])),
        spec(),
        ["- reorder: {state: [wrist, elbow, shoulder, waist]}"],
    ),
    "order of the action": (
        spec(action=Field((4,), names=JOINTS[::-1])),
        spec(),
        ["- actions: {reorder: [waist, shoulder, elbow, wrist]}"],
    ),
    "state longer by one": (spec(Field((3,))), spec(Field((4,))), ["- select: {state: [0, 1, 2]}"]),
    "state longer by one, with names": (spec(Field((3,))), spec(), ["- select: {state: [waist, shoulder, elbow]}"]),
    "unit of the state": (
        spec(Field((4,), names=JOINTS, unit="rad")),
        spec(Field((4,), names=JOINTS, unit="deg")),
        ["- unit: {state.*: deg->rad}"],
    ),
    "unit of the action": (
        spec(action=Field((4,), unit="rad")),
        spec(action=Field((4,), unit="deg")),
        ["- actions: {unit: rad->deg}"],
    ),
    "degrees by their size": (
        spec(Field((4,), typical=((-90.0, 90.0),) * 4)),
        spec(Field((4,), unit="rad")),
        ["- unit: {state.*: rad->deg}"],
    ),
    "radians by their size": (spec(Field((4,), range=(-3.1, 3.1))), spec(Field((4,), unit="deg")), ["- unit: {state.*: deg->rad}"]),
    "rate": (spec(rate_hz=50.0), spec(rate_hz=30.0), ["- actions: {rate: 50->30}"]),
    "height and width exchanged": (
        spec(top=picture(240, 320)),
        spec(top=picture(320, 240)),
        ["- transpose: {images.top: whc->hwc}"],
    ),
    "height and width exchanged, another size": (
        spec(top=picture(240, 320)),
        spec(top=picture(640, 480)),
        ["- transpose: {images.top: whc->hwc}\n- resize: {images.top: [240, 320]}"],
    ),
    "height and width exchanged, channels first": (
        spec(top=picture(240, 320, first=True)),
        spec(top=picture(320, 240, first=True)),
        ["- transpose: {images.top: chw->hwc}\n- transpose: {images.top: whc->hwc}\n- transpose: {images.top: hwc->chw}"],
    ),
    "cameras as ALOHA's datasets call them": (
        spec(cam_high=picture(), cam_left_wrist=picture()),
        spec(top=picture(None, None), left_wrist=picture(None, None), right_wrist=picture(None, None)),
        ["- rename: {images.top: images.cam_high}", "- rename: {images.left_wrist: images.cam_left_wrist}"],
    ),
    "more actions than the environment takes": (
        spec(),
        spec(action=Field((2,), names=("wrist", "waist"))),
        ["- actions: {select: [wrist, waist]}"],
    ),
}


@pytest.mark.parametrize(("wanted", "offered", "expected"), REPAIRABLE.values(), ids=REPAIRABLE.keys())
def test_each_fix_is_the_line_and_all_together_leave_nothing(wanted: Spec, offered: Spec, expected: list[str]) -> None:
    mismatches = matching.compare(wanted, offered)
    assert [mismatch.fix for mismatch in mismatches if mismatch.fix] == expected
    transform = matching.fixes(mismatches)
    transform.bind(offered.observation, wanted.action)
    left = matching.compare(*repaired(wanted, offered, transform))
    assert [mismatch.where for mismatch in left] == [mismatch.where for mismatch in mismatches if not mismatch.fix]


FOR_THE_USER: dict[str, tuple[Spec, Spec, str, bool]] = {
    "no such camera": (
        spec(top=picture()),
        spec(),
        "observation 'images.top': expected uint8 (480, 640, 3), got none of that name",
        True,
    ),
    "two equally likely cameras": (
        spec(top=picture()),
        spec(left=picture(), right=picture()),
        "got none of that name; there is: st",
        True,
    ),
    "no prompt": (
        Spec({"prompt": Field((), "str")}, Field((4,))),
        Spec({}, Field((4,))),
        "observation 'prompt': expected str (), got none of that name; there is: nothing",
        True,
    ),
    "floats for a picture": (
        spec(top=picture()),
        spec(top=Field((480, 640, 3))),
        "observation 'images.top': expected uint8 (480, 640, 3), got float32 (480, 640, 3)",
        True,
    ),
    "a picture for floats": (
        spec(top=Field((480, 640, 3))),
        spec(top=picture()),
        "expected float32 (480, 640, 3), got uint8 (480, 640, 3)",
        True,
    ),
    "grey picture": (spec(top=picture()), spec(top=Field((480, 640, 1), "uint8")), "expected 3 channels, got 1", True),
    "shorter state": (
        spec(Field((4,))),
        spec(Field((3,))),
        "observation 'state': expected float32 (4), got float32 (3); 1 entry too few",
        True,
    ),
    "matrices of other sizes": (
        spec(Field((2, 2))),
        spec(Field((3, 2))),
        "observation 'state': expected float32 (2, 2), got float32 (3, 2)",
        True,
    ),
    "units of other quantities": (
        spec(Field((4,), unit="rad")),
        spec(Field((4,), unit="m")),
        "observation 'state': expected the unit rad, got m",
        True,
    ),
    "entries that are not there": (
        spec(Field((2,), names=("waist", "gripper"))),
        spec(),
        "observation 'state': expected entries gripper, got only waist, shoulder, elbow, wrist",
        True,
    ),
    "actions that are not there": (
        spec(action=Field((1,), names=("waist",))),
        spec(),
        "action: expected entries shoulder, elbow, wrist, got only waist",
        True,
    ),
    "actions without names": (spec(action=Field((2,))), spec(action=Field((4,))), "action: expected 4 entries, got 2", True),
    "numbers for a choice": (
        spec(action=Field((1,))),
        spec(action=Field((1,), "int64", range=(0, 1))),
        "action: expected a discrete action (int64), got a continuous action (float32)",
        True,
    ),
    "too many choices": (
        spec(action=Field((1,), "int64", range=(0, 3))),
        spec(action=Field((1,), "int64", range=(0, 1))),
        "action: expected choices 0..1, got choices 0..3",
        True,
    ),
    "too much torque": (
        spec(action=Field((1,), range=(-2, 2))),
        spec(action=Field((1,), range=(-1, 1))),
        "action: expected values -1..1, got values -2..2",
        False,
    ),
    "control space": (
        spec(control_space="ee", control_type="delta"),
        spec(),
        "action: expected joint abs control, got ee delta",
        True,
    ),
}


@pytest.mark.parametrize(("wanted", "offered", "text", "fatal"), FOR_THE_USER.values(), ids=FOR_THE_USER.keys())
def test_what_no_line_repairs_is_said_once(wanted: Spec, offered: Spec, text: str, fatal: bool) -> None:
    (mismatch,) = matching.compare(wanted, offered)
    assert text in str(mismatch)
    assert mismatch.fix is None and not mismatch.certain and mismatch.fatal is fatal


def test_what_is_optional_or_free_or_castable_is_no_mismatch() -> None:
    wanted = Spec({"state": Field((1,)), "depth.top": Field((4, 4), required=False), "pose": Field((None,))}, Field((1,), "int64"))
    offered = Spec({"state": Field((1,), "int64"), "pose": Field((7,))}, Field((1,), "int64", range=(0, 3)))
    assert matching.compare(wanted, offered) == []
    assert matching.compare(spec(rate_hz=50.0), spec()) == matching.compare(spec(rate_hz=50.0), spec(rate_hz=50.1)) == []


def test_long_lists_of_names_are_shortened() -> None:
    names = tuple(f"joint_{i}" for i in range(14))
    (mismatch,) = matching.compare(spec(Field((14,), names=names[::-1])), spec(Field((14,), names=names)))
    assert "joint_0, joint_1, joint_2, ..., joint_12, joint_13" in str(mismatch)


def test_only_names_are_certain() -> None:
    """Entries are brought into order by name without asking; nothing else is."""
    wanted = spec(Field((2,), names=("elbow", "waist")), Field((4,), names=JOINTS[::-1]), top=picture(240, 320))
    offered = spec(cam=picture())
    assert str(matching.automatic(wanted, offered)) == (
        "- select: {state: [elbow, waist]}\n- actions: {reorder: [waist, shoulder, elbow, wrist]}"
    )
    assert not matching.automatic(spec(), spec(action=Field((1,), names=("waist",)))), "dropping actions is the user's decision"


def test_what_is_certain_waits_for_a_rename() -> None:
    """An entry can be chosen only where the value has the policy's name."""
    wanted = spec(Field((2,), names=("elbow", "waist")))
    offered = Spec({"agent_pos": Field((4,), names=JOINTS)}, Field((4,), names=JOINTS))
    transform = matching.automatic(wanted, offered)
    transform.bind(offered.observation, wanted.action)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Spec, Spec]:
    """A policy's spec, and an environment's that has all of it, but in its own names, order, layout and size."""
    wanted_observation, offered_observation = {}, {}
    names = draw(st.permutations(JOINTS))
    chosen = names[: draw(st.integers(1, 4))]
    key = draw(st.sampled_from(["state", "observation.state", "agent_pos"]))
    wanted_observation["state"] = Field((len(chosen),), names=tuple(chosen))
    offered_observation[key] = Field((4,), names=JOINTS)
    for camera in draw(st.lists(st.sampled_from(["top", "wrist", "side"]), unique=True)):
        sizes = st.sampled_from([24, 48, 100])
        wanted_observation[f"images.{camera}"] = picture(draw(sizes), draw(sizes), draw(st.booleans()))
        prefix = draw(st.sampled_from(["", "cam_"]))
        offered_observation[f"images.{prefix}{camera}"] = picture(draw(sizes), draw(sizes), draw(st.booleans()))
    policy_actions = draw(st.permutations(JOINTS))
    taken = draw(st.permutations(policy_actions))[: draw(st.integers(1, 4))]
    return (
        Spec(wanted_observation, Field((4,), names=tuple(policy_actions))),
        Spec(offered_observation, Field((len(taken),), names=tuple(taken))),
    )


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_deliberately_wrong_pairs_fit_after_their_fixes(pair: tuple[Spec, Spec]) -> None:
    wanted, offered = pair
    transform = matching.fixes(matching.compare(wanted, offered))
    assert matching.compare(*repaired(wanted, offered, transform)) == []
    bound = transform.bind(offered.observation, wanted.action)
    wanted.check(bound.observation(offered.zeros()))
    names = np.array(wanted.action.names)
    assert tuple(bound.actions(names)) == offered.action.names, "each action reaches the joint of its name"
