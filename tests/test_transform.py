"""Transforms: what they do to values, what they do to fields, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink._resize import resize
from actlink.errors import ConfigError, SpecError
from actlink.spec import Field
from actlink.transform import Transform, join, parse

STATE = Field((3,), names=("a", "b", "c"))
PICTURE = Field((4, 6, 3), "uint8")
GIVEN = {"state": STATE, "images.cam": PICTURE, "images.first": Field((3, 4, 6), "uint8"), "prompt": Field((), "str")}
ACTION = Field((3,), names=("x", "y", "z"))


def apply(text: str, **changes: Any) -> dict[str, Any]:
    """What becomes of an observation of GIVEN, after seeing that fields and values agree."""
    random = np.random.default_rng(0)
    observation = {
        "state": np.array([1, 2, 3], np.float32),
        "images.cam": random.integers(0, 256, (4, 6, 3), np.uint8),
        "images.first": random.integers(0, 256, (3, 4, 6), np.uint8),
        "prompt": "go",
        **changes,
    }
    transform = parse(text)
    found = transform.bind(GIVEN, ACTION).observation(observation)
    for key, field in transform.fields(GIVEN).items():
        field.check(found[key], key)
    assert set(found) == set(transform.fields(GIVEN))
    return found


def test_rename() -> None:
    found = apply("[{rename: {images.cam: images.top}}]")
    assert "images.cam" not in found and found["images.top"].shape == (4, 6, 3)
    assert found["prompt"] == "go"


def test_select_by_name_and_by_index() -> None:
    for entries in ("[c, a]", "[2, 0]"):
        transform = parse(f"[{{select: {{state: {entries}}}}}]")
        assert apply(str(transform))["state"].tolist() == [3, 1]
        assert transform.fields(GIVEN)["state"].names == ("c", "a")


def test_reorder() -> None:
    assert apply("[{reorder: {state: [c, a, b]}}]")["state"].tolist() == [3, 1, 2]


def test_colours_change_places() -> None:
    picture = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    found = apply("[{reorder: {images.cam: bgr->rgb}}]", **{"images.cam": picture})["images.cam"]
    np.testing.assert_array_equal(found, picture[..., ::-1])


def test_transpose_both_ways() -> None:
    first = np.arange(72, dtype=np.uint8).reshape(3, 4, 6)
    found = apply("[{transpose: {images.first: chw->hwc}}]", **{"images.first": first})["images.first"]
    np.testing.assert_array_equal(found, first.transpose(1, 2, 0))
    back = apply("[{transpose: {images.cam: hwc->chw}}]", **{"images.cam": found})["images.cam"]
    np.testing.assert_array_equal(back, first)


def test_resize() -> None:
    assert apply("[{resize: {images.cam: [2, 3]}}]")["images.cam"].shape == (2, 3, 3)


def test_operations_follow_each_other_under_the_new_name() -> None:
    found = apply("- rename: {images.first: images.top}\n- transpose: {images.top: chw->hwc}\n- resize: {images.top: [8, 8]}")
    assert found["images.top"].shape == (8, 8, 3)


def test_one_mapping_may_hold_several_operations() -> None:
    found = apply("{rename: {images.cam: images.top}, resize: {images.top: [2, 2]}}")
    assert found["images.top"].shape == (2, 2, 3)


def test_a_value_that_is_absent_stays_absent() -> None:
    bound = parse("[{select: {state: [a]}}]").bind(GIVEN, ACTION)
    assert bound.observation({"prompt": "go"}) == {"prompt": "go"}


def test_values_are_not_changed_in_place() -> None:
    state = np.array([1, 2, 3], np.float32)
    apply("[{reorder: {state: [c, b, a]}}]", state=state)
    assert state.tolist() == [1, 2, 3]


def test_a_value_that_does_not_fit_is_named() -> None:
    bound = parse("[{select: {state: [c]}}]").bind(GIVEN, ACTION)
    with pytest.raises(SpecError, match=r"observation\['state'\]: cannot be transformed"):
        bound.observation({"state": np.zeros(2, np.float32)})
    bound = parse("[{resize: {images.cam: [2, 2]}}]").bind(GIVEN, ACTION)
    with pytest.raises(SpecError, match="expected a uint8 image"):
        bound.observation({"images.cam": np.zeros((4, 6, 3), np.float32)})


# Actions


def test_actions_are_selected_from_the_policys() -> None:
    transform = parse("[{actions: {select: [z, x]}}]")
    bound = transform.bind(GIVEN, ACTION)
    assert bound.actions(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 1], [6, 4]]
    assert transform.actions(ACTION).names == ("z", "x") and transform.actions(ACTION).shape == (2,)
    assert not bound.restorable
    assert bound.restore(np.array([9, 8]), np.array([1, 2, 3])).tolist() == [8, 2, 9]
    assert bound.restore(np.array([9, 8])).tolist() == [8, 0, 9]


def test_a_reorder_of_actions_can_be_undone() -> None:
    bound = parse("[{actions: {reorder: [z, x, y]}}]").bind(GIVEN, ACTION)
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    assert bound.restorable
    np.testing.assert_array_equal(bound.restore(bound.actions(rows)), rows)


def test_without_an_action_line_actions_pass() -> None:
    bound = Transform().bind(GIVEN, ACTION)
    rows = np.ones((2, 3))
    assert bound.actions(rows) is rows and bound.restore(rows) is rows and bound.restorable


# Before


def test_before_tells_what_may_come_in() -> None:
    lines = [
        "rename: {images.cam: images.top}",
        "transpose: {images.top: chw->hwc}",
        "resize: {images.top: [2, 2]}",
        "select: {pose: [0]}",
    ]
    transform = parse("\n".join(f"- {line}" for line in lines))
    wanted = {"images.top": Field((2, 2, 3), "uint8"), "pose": Field((1,), names=("q",)), "other": Field((5,))}
    before = transform.before(wanted)
    assert before["images.cam"].shape == (3, None, None)
    assert before["pose"].shape == (None,) and before["pose"].names is None
    assert before["other"] == wanted["other"]
    after = transform.fields(before)
    assert {key: field.shape for key, field in after.items()} == {key: field.shape for key, field in wanted.items()}


# Writing and reading


LINES = [
    "- rename: {images.cam: images.top}",
    "- select: {state: [c, a]}",
    "- select: {state: [2, 0]}",
    "- reorder: {state: [b, a, c]}",
    "- reorder: {images.cam: bgr->rgb}",
    "- transpose: {images.first: chw->hwc}",
    "- transpose: {images.cam: hwc->chw}",
    "- resize: {images.cam: [2, 3]}",
    "- actions: {select: [x]}",
    "- actions: {reorder: [y, x, z]}",
]


@pytest.mark.parametrize("line", LINES)
def test_a_transform_is_written_as_it_is_read(line: str) -> None:
    assert str(parse(line)) == line
    assert parse(line) == parse(str(parse(line)) + "\n")


@pytest.mark.parametrize("name", ["yes", "1", "a: b", "x, y", "{", "null", "3.5", "#", "é", 'a"b', "a b"])
def test_names_that_yaml_would_misread_are_quoted(name: str) -> None:
    given = {"state": Field((2,), names=(name, "other"))}
    transform = parse([{"select": {"state": [name]}}, {"rename": {"state": name}}])
    again = parse(str(transform))
    assert again == transform
    assert again.fields(given)[name].names == (name,)


def test_a_transform_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "transform.yaml").write_text("- rename: {a: b}\n")
    assert str(parse(str(tmp_path / "transform.yaml"))) == "- rename: {a: b}"
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert not parse(str(tmp_path / "empty.yaml"))


def test_transforms_join() -> None:
    both = join([parse("[{rename: {a: b}}]"), parse("[{actions: {select: [x]}}]")])
    assert str(both) == "- rename: {a: b}\n- actions: {select: [x]}"
    with pytest.raises(ConfigError, match="actions are selected or reordered twice"):
        join([both, both])


WRONG = {
    "a word": ("[3]", r"transform\[0\]: expected a mapping such as"),
    "a number": ("{resize: 3}", r"transform\[0\] resize: expected a mapping"),
    "unknown operation": ("[{rotate: {images.cam: 90}}]", "rotate of 'images.cam': no such operation; there are: rename, select"),
    "empty": ("[{}]", "expected a mapping"),
    "rename to a number": ("[{rename: {a: 3}}]", "rename of 'a': expected the policy's name for it, got 3"),
    "select nothing": ("[{select: {state: []}}]", "select of 'state': expected a list of names or indexes"),
    "select a truth": ("[{select: {state: [true]}}]", "expected a list of names or indexes"),
    "transpose how": ("[{transpose: {a: hw->wh}}]", "expected chw->hwc, hwc->chw or whc->hwc, got 'hw->wh'"),
    "resize to what": ("[{resize: {a: 240}}]", r"expected \[height, width\] in pixels, got 240"),
    "resize to nothing": ("[{resize: {a: [0, 3]}}]", r"expected \[height, width\]"),
    "resize to a hall": ("[{resize: {a: [1000000, 3]}}]", r"expected \[height, width\]"),
    "actions how": (
        "[{actions: {rename: [x]}}]",
        "actions of 'rename': expected unit, one of select and reorder, once, and rate, once",
    ),
    "actions twice": (
        "[{actions: {select: [x]}}, {actions: {select: [y]}}]",
        "expected unit, one of select and reorder, once, and rate, once",
    ),
    "text": ("nowhere.yaml", r"nowhere\.yaml: no such file"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_line_that_cannot_be_read_is_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_a_scalar_document_is_no_transform(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("rename")
    with pytest.raises(ConfigError, match="expected a list of operations, got a str"):
        parse(str(tmp_path / "t.yaml"))


MISFITS = {
    "no such key": ("[{select: {pose: [a]}}]", "no 'pose' in the observation; there is: state, images.cam"),
    "renamed away": ("[{rename: {state: pose}}, {select: {state: [a]}}]", "no 'state' in the observation"),
    "name taken": ("[{rename: {state: prompt}}]", "'prompt' is there already"),
    "no such entry": ("[{select: {state: [d]}}]", "transform select of 'state': no entry 'd'; there are: a, b, c"),
    "no such index": ("[{select: {state: [3]}}]", "expected an index below 3, got 3"),
    "below zero": ("[{select: {state: [-1]}}]", "expected an index below 3, got -1"),
    "reorder leaves out": ("[{reorder: {state: [a, b]}}]", "transform reorder of 'state': expected each of its 3 entries once"),
    "reorder repeats": ("[{reorder: {state: [a, b, b]}}]", "expected each of its 3 entries once"),
    "select from text": ("[{select: {prompt: [a]}}]", "it has no entries to choose from"),
    "transpose a state": (
        "[{transpose: {state: chw->hwc}}]",
        r"transform transpose of 'state': needs three axes, got float32 \(3\)",
    ),
    "resize a state": ("[{resize: {state: [2, 2]}}]", r"transform resize of 'state': needs a uint8 image"),
    "resize channels first": ("[{resize: {images.first: [2, 2]}}]", "has its channels first; transpose: chw->hwc before"),
    "colours of a state": ("[{reorder: {state: bgr->rgb}}]", "bgr->rgb needs an image"),
    "no such action": ("[{actions: {select: [w]}}]", "transform select of 'actions': no entry 'w'; there are: x, y, z"),
    "actions left out": ("[{actions: {reorder: [x]}}]", "expected each of its 3 entries once"),
}


@pytest.mark.parametrize(("text", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_line_that_does_not_fit_names_operation_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text).bind(GIVEN, ACTION)


def test_entries_without_names_are_chosen_by_index() -> None:
    given = {"state": Field((None,))}
    with pytest.raises(ConfigError, match="the names of its entries are not known here; choose by index, or give the giver's spec"):
        parse("[{select: {state: [a]}}]").bind(given, ACTION)
    bound = parse("[{select: {state: [4]}}]").bind(given, ACTION)
    assert bound.observation({"state": np.arange(5.0)})["state"].tolist() == [4]


# Resizing


@pytest.mark.parametrize("size", [(240, 320), (224, 224), (100, 640), (480, 100), (600, 800), (7, 1000), (1, 1)])
def test_a_resized_picture_is_pillows(size: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    expected = np.asarray(image.fromarray(picture).resize((size[1], size[0]), image.Resampling.BILINEAR))
    found = resize(picture, *size)
    assert found.dtype == np.uint8 and found.shape == (*size, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@settings(max_examples=50, deadline=None)
@given(*(st.integers(1, 40) for _ in range(4)), st.integers(0, 255))
def test_a_plain_picture_stays_plain(height: int, width: int, new_height: int, new_width: int, level: int) -> None:
    found = resize(np.full((height, width, 3), level, np.uint8), new_height, new_width)
    assert found.shape == (new_height, new_width, 3) and (found == level).all()


def test_the_same_size_is_the_same_picture() -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    assert resize(picture, 4, 5) is picture


@pytest.mark.parametrize("value", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_only_pictures_are_resized(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a uint8 image"):
        resize(value, 2, 2)
