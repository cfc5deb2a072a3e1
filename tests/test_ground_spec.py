"""The contract: what is cast, what is refused, and that every refusal says where, what was expected and what came."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actlink.errors import ConfigError, SpecError
from actlink.spec import Field, Spec, digest_of, digest_of_json

STATE = Field((3,), names=("x", "y", "z"), unit="m")
IMAGE = Field((None, None, 3), "uint8")
BUTTON = Field((1,), "int64", range=(0, 2))
SPEC = Spec(
    {"state": STATE, "images.top": IMAGE, "images.wrist": Field((4, 5, 3), "uint8", required=False), "prompt": Field((), "str")},
    Field((2,), names=("left", "right"), range=(-1.0, 1.0)),
    action_horizon=8,
    rate_hz=50.0,
    accepts_prefix=True,
    max_batch_size=4,
    stateful=True,
    control_space="ee",
    control_type="delta",
    name="toy",
    digest="sha256:0123456789abcdef",
)


def valid() -> dict[str, Any]:
    return {"state": np.ones(3, np.float32), "images.top": np.zeros((6, 7, 3), np.uint8), "prompt": "lift the cube"}


# One field: what is cast.


@pytest.mark.parametrize(
    ("field", "value", "dtype"),
    [
        (STATE, np.ones(3, np.float32), "float32"),
        (STATE, np.ones(3, np.float64), "float32"),
        (STATE, np.ones(3, np.float16), "float32"),
        (STATE, np.ones(3, np.int8), "float32"),
        (STATE, np.ones(3, bool), "float32"),
        (STATE, [1, 2.5, 3], "float32"),
        (STATE, np.ones(6, ">f4")[::2], "float32"),
        (IMAGE, np.zeros((2, 2, 3), np.uint8), "uint8"),
        (IMAGE, np.full((2, 2, 3), 255, np.int64), "uint8"),
        (IMAGE, np.zeros((0, 2, 3), np.int64), "uint8"),
        (BUTTON, np.array([2], np.int32), "int64"),
        (BUTTON, np.array([True]), "int64"),
        (BUTTON, [0], "int64"),
        (Field((0,), "int64", range=(0, 1)), np.zeros(0, np.int64), "int64"),
        (Field((), "bool"), True, "bool"),
        (Field((2,), "bool"), np.array([True, False]), "bool"),
        (Field((), "float32"), 3, "float32"),
    ],
)
def test_values_that_fit_are_cast(field: Field, value: Any, dtype: str) -> None:
    checked = field.check(value, "value")
    assert isinstance(checked, np.ndarray)
    assert checked.dtype == dtype
    assert checked.tolist() == np.asarray(value).tolist()


def test_a_value_that_fits_already_is_not_copied() -> None:
    """Observations are views on the received bytes; checking them must not cost a copy."""
    for field, value in ((STATE, np.ones(3, np.float32)), (IMAGE, np.zeros((2, 2, 3), np.uint8)), (BUTTON, np.array([1]))):
        assert field.check(value, "value") is value


def test_strings() -> None:
    assert Field((), "str").check("lift", "prompt") == "lift"


# One field: what is refused.


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (STATE, np.ones(4), "here: expected shape (3,), got (4,) (expected entries: x, y, z)"),
        (STATE, np.ones((1, 3)), "here: expected shape (3,), got (1, 3)"),
        (STATE, 1.0, "here: expected shape (3,), got ()"),
        (STATE, "three", "here: expected float32 (3,), got a str"),
        (STATE, b"abc", "here: expected float32 (3,), got a bytes"),
        (STATE, None, "here: expected float32 (3,), got a NoneType"),
        (STATE, {"x": 1}, "here: expected float32 (3,), got object ()"),
        (STATE, [1, None, 3], "here: expected float32 (3,), got object (3,)"),
        (STATE, [[1], [2, 3]], "here: expected float32 (3,), got a list"),
        (STATE, np.array(["a", "b", "c"]), "here: expected float32 (3,), got <U1 (3,)"),
        (STATE, np.ones(3, complex), "here: expected float32 (3,), got complex128 (3,)"),
        (STATE, np.zeros(3, "M8[s]"), "here: expected float32 (3,), got datetime64[s] (3,)"),
        (STATE, [1, float("nan"), 3], "here[1]: expected finite float32 values, got nan"),
        (STATE, np.array([1, 2, -np.inf], np.float32), "here[2]: expected finite float32 values, got -inf"),
        (STATE, [0.0, 1e300, 0.0], "here[1]: expected finite float32 values, got 1e+300"),
        (STATE, [np.inf, -np.inf, 0.0], "here[0]: expected finite float32 values, got inf"),
        (
            IMAGE,
            np.zeros((2, 2, 3), np.float32),
            "here: expected uint8 (any, any, 3), got float32 (2, 2, 3) (scale to 0..255 and cast",
        ),
        (IMAGE, np.zeros((2, 2, 3), bool), "here: expected uint8 (any, any, 3), got bool (2, 2, 3)"),
        (IMAGE, np.zeros((3, 2, 2), np.uint8), "here: expected shape (any, any, 3), got (3, 2, 2)"),
        (IMAGE, np.full((1, 1, 3), 256), "here: expected values 0..255, got 256..256 in int64"),
        (IMAGE, np.full((1, 1, 3), -1), "here: expected values 0..255, got -1..-1 in int64"),
        (Field((2,), "uint8"), np.zeros(2), "here: expected uint8 (2,), got float64 (2,)"),
        (BUTTON, [3], "here: expected integers 0..2, got 3..3"),
        (BUTTON, [-1], "here: expected integers 0..2, got -1..-1"),
        (BUTTON, [1.0], "here: expected int64 (1,), got float64 (1,)"),
        (Field((), "bool"), 1, "here: expected bool (), got int64 ()"),
        (Field((), "str"), 7, "here: expected a string, got a int"),
        (Field((), "str"), np.array("x"), "here: expected a string, got <U1 ()"),
    ],
)
def test_values_that_do_not_fit_are_refused(field: Field, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        field.check(value, "here")


@given(
    hnp.arrays(
        hnp.floating_dtypes(sizes=(16, 32, 64)) | hnp.integer_dtypes() | hnp.boolean_dtypes() | hnp.complex_number_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    )
)
def test_any_array_is_cast_or_refused_and_what_passes_is_finite(value: npt.NDArray[Any]) -> None:
    for field in (STATE, IMAGE, BUTTON, Field((None,)), Field((), "bool")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                checked = field.check(value, "value")
            except SpecError:
                continue
        assert isinstance(checked, np.ndarray)
        assert checked.dtype == field.dtype
        assert np.isfinite(checked).all()
        assert checked.shape == value.shape


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_plain_value_is_cast_or_refused(value: Any) -> None:
    for field in (STATE, IMAGE, BUTTON, Field((), "str"), Field((None,)), Field((), "bool")):
        try:
            field.check(value, "value")
        except SpecError as error:
            assert str(error).startswith("value")


# One field: itself.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float64"}, "field dtype: expected one of float32, int64, uint8, bool, str, got 'float64'"),
        ({"shape": (3,), "names": ("a", "b")}, "expected one name for each of (3,) entries, got 2"),
        ({"shape": (), "names": ("a",)}, "expected one name for each of () entries, got 1"),
        ({"shape": (None,), "names": ("a",)}, "expected one name for each of (None,) entries, got 1"),
        ({"shape": (2, -1)}, "field shape: expected lengths of 0 or more, or None for any, got (2, -1)"),
        ({"shape": (2,), "typical": ((0.0, 1.0),)}, "field typical: expected a pair for each of (2,) entries, got 1"),
        ({"shape": (), "typical": ((0.0, 1.0),)}, "field typical: expected a pair for each of () entries, got 1"),
        ({"shape": (1,), "typical": ((1.0, 0.0),)}, "field typical: expected (low, high) for each entry, got ((1.0, 0.0),)"),
        ({"range": (1.0,)}, "field range: expected (low, high), got (1.0,)"),
        ({"range": (2.0, 1.0)}, "field range: expected (low, high), got (2.0, 1.0)"),
        ({"range": (0.0, float("nan"))}, "field range: expected (low, high), got (0.0, nan)"),
    ],
)
def test_a_field_that_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Field(**arguments)


def test_zeros_fit() -> None:
    for field in (STATE, IMAGE, BUTTON, Field((), "str"), Field((2, None), "bool")):
        field.check(field.zeros(), "zeros")


def test_zeros_respect_the_range() -> None:
    """Zero is outside of what some fields mean; the nearest value that is inside is taken."""
    assert Field((1,), "int64", range=(3, 5)).check(Field((1,), "int64", range=(3, 5)).zeros(), "zeros")


def test_what_is_an_image() -> None:
    assert IMAGE.is_image
    assert not STATE.is_image
    assert not Field((3,), "uint8").is_image


# The whole spec.


def test_an_observation_is_reduced_to_what_the_spec_names() -> None:
    observation = {**valid(), "surprise": np.zeros(1)}
    checked = SPEC.check(observation)
    assert list(checked) == ["state", "images.top", "prompt"]
    assert SPEC.unknown(observation) == {"surprise"}
    assert SPEC.unknown(valid()) == frozenset()


def test_an_optional_key_is_checked_where_it_is_given() -> None:
    assert "images.wrist" in SPEC.check({**valid(), "images.wrist": np.zeros((4, 5, 3), np.uint8)})
    with pytest.raises(SpecError, match=re.escape("observation['images.wrist']: expected shape (4, 5, 3), got (1, 5, 3)")):
        SPEC.check({**valid(), "images.wrist": np.zeros((1, 5, 3), np.uint8)})


def test_a_missing_key_is_named_with_what_was_given() -> None:
    observation = valid()
    del observation["images.top"]
    with pytest.raises(
        SpecError, match=re.escape("request['images.top']: missing; expected uint8 (any, any, 3), got the keys: state, prompt")
    ):
        SPEC.check(observation, "request")
    with pytest.raises(SpecError, match="got the keys: nothing"):
        SPEC.check({})


def test_zeros_of_a_spec_are_a_valid_observation() -> None:
    assert set(SPEC.check(SPEC.zeros())) == set(SPEC.observation)


@pytest.mark.parametrize("horizon", [1, 8, 100])
def test_any_horizon_of_actions_is_accepted(horizon: int) -> None:
    assert SPEC.check_actions(np.zeros((horizon, 2))).dtype == np.float32


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((0, 2)), "actions: expected at least one action, got none"),
        (np.zeros(2), "actions: expected shape (any, 2), got (2,)"),
        (np.zeros((3, 5)), "actions: expected shape (any, 2), got (3, 5)"),
        ([[0.0, float("nan")]], "actions[0, 1]: expected finite float32 values, got nan"),
        ("left", "actions: expected float32 (any, 2), got a str"),
        (None, "actions: expected float32 (any, 2), got a NoneType"),
    ],
)
def test_actions_that_do_not_fit(actions: Any, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        SPEC.check_actions(actions)


def test_a_discrete_action_has_a_range() -> None:
    discrete = Spec(action=BUTTON)
    assert discrete.check_actions([[0], [2]]).dtype == np.int64
    with pytest.raises(SpecError, match=r"expected integers 0\.\.2, got 0\.\.3"):
        discrete.check_actions([[0], [3]])


def test_what_a_spec_says_of_itself() -> None:
    assert SPEC.action_dim == 2
    assert list(SPEC.cameras) == ["top", "wrist"]
    assert Spec(action=Field((None,))).action_dim is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"action": Field(())},
        {"action": Field((2, 2))},
        {"action": Field((2,)), "action_horizon": 0},
        {"action": Field((2,)), "max_batch_size": 0},
    ],
)
def test_a_spec_that_makes_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="spec"):
        Spec(**arguments)


# Plain values: for JSON, YAML and the wire.


def test_a_spec_survives_json() -> None:
    plain = json.loads(json.dumps(SPEC.to_dict()))
    assert Spec.from_dict(plain) == SPEC
    assert Spec.from_dict(plain).to_dict() == SPEC.to_dict()


def test_what_was_typical_in_training_travels_where_it_is_known() -> None:
    known = Spec({"state": Field((2,), typical=((-1.0, 1.0), (0.0, 0.5)))}, Field((1,)))
    plain = json.loads(json.dumps(known.to_dict()))
    assert plain["observation"]["state"]["typical"] == [[-1.0, 1.0], [0.0, 0.5]] and "typical" not in plain["action"]
    assert Spec.from_dict(plain) == known


def test_little_is_enough() -> None:
    assert Spec.from_dict({"action": {"shape": [2]}}) == Spec.from_dict({"action": {"shape": 2}}) == Spec(action=Field((2,)))


WRONG: dict[str, tuple[Any, str]] = {
    "unknown key": ({"action": {"shape": [2]}, "speed": 1}, "spec: unknown key 'speed'; known keys: accepts_prefix, action"),
    "unknown key of a field": ({"action": {"shape": [2], "size": 1}}, "spec.action: unknown key 'size'"),
    "no action": ({"observation": {}}, "spec: expected a mapping 'observation' and a field 'action', got keys ['observation']"),
    "observation is a list": ({"action": {"shape": [2]}, "observation": []}, "expected a mapping 'observation'"),
    "field is a number": ({"action": 3}, "spec.action: expected a mapping with shape and dtype, got a int"),
    "shape is a map": ({"action": {"shape": {"x": 3}}}, "spec.action.shape: expected tuple[int | None, ...], got {'x': 3}"),
    "shape has words": ({"action": {"shape": ["a"]}}, "spec.action.shape: expected tuple[int | None, ...], got ['a']"),
    "shape has a truth": ({"action": {"shape": [True]}}, "spec.action.shape: expected tuple[int | None, ...], got [True]"),
    "shape is negative": ({"action": {"shape": [-1]}}, "spec.action: field shape: expected lengths of 0 or more"),
    "dtype": ({"action": {"shape": [2], "dtype": "float16"}}, "spec.action: field dtype"),
    "dtype is a list": ({"action": {"shape": [2], "dtype": ["float32"]}}, "spec.action.dtype: expected str, got ['float32']"),
    "names are one word": ({"action": {"shape": [2], "names": "ab"}}, "spec.action: field names: expected one name for each"),
    "range of one": ({"action": {"shape": [2], "range": [1]}}, "spec.action.range: expected tuple[float, float] | None, got [1]"),
    "range upside down": (
        {"action": {"shape": [2], "range": [1, 0]}},
        "spec.action: field range: expected (low, high), got (1.0, 0.0)",
    ),
    "required is a word": ({"action": {"shape": [2], "required": "perhaps"}}, "spec.action.required: expected bool, got 'perhaps'"),
    "unit is a list": ({"action": {"shape": [2], "unit": []}}, "spec.action.unit: expected str | None, got []"),
    "horizon is a word": ({"action": {"shape": [2]}, "action_horizon": "x"}, "spec.action_horizon: expected int, got 'x'"),
    "rate is a word": ({"action": {"shape": [2]}, "rate_hz": "fast"}, "spec.rate_hz: expected float | None, got 'fast'"),
    "rate is no rate": ({"action": {"shape": [2]}, "rate_hz": 0}, "spec: rate_hz must be above 0, got 0"),
    "name is a list": ({"action": {"shape": [2]}, "name": ["x"]}, "spec.name: expected str, got ['x']"),
    "observation's field": (
        {"action": {"shape": [2]}, "observation": {"state": {"dtype": "int8"}}},
        "spec.observation['state']: field dtype",
    ),
}


@pytest.mark.parametrize(("plain", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_plain_spec_says_which_key(plain: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Spec.from_dict(plain)


def test_unknown_keys_of_a_newer_peer() -> None:
    plain = {**SPEC.to_dict(), "colour": "red", "action": {**SPEC.to_dict()["action"], "torque": 1}}
    assert Spec.from_dict(plain, ignore_unknown=True) == SPEC
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        Spec.from_dict(plain)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["shape", "dtype", "names", "range", "unit", "x"]), inner, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_a_hostile_field_is_a_config_error_or_a_field_that_works(plain: Any) -> None:
    """A spec arrives over the wire: whatever it holds, only our error may come out, then or later."""
    try:
        spec = Spec.from_dict({"action": {"shape": [1]}, "observation": {"state": plain}})
    except ConfigError:
        return
    with contextlib.suppress(SpecError):
        spec.check({"state": 1.0})


# Digests.


def test_a_digest_depends_on_every_part_and_on_where_parts_end() -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", digest_of(b"weights"))
    assert digest_of(b"ab", b"c") == digest_of(b"ab", b"c")
    assert len({digest_of(b"ab", b"c"), digest_of(b"a", b"bc"), digest_of(b"abc"), digest_of(b"c", b"ab")}) == 4


def test_a_digest_of_plain_values_ignores_the_order_of_keys() -> None:
    assert digest_of_json({"a": 1, "b": [2]}) == digest_of_json({"b": [2], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2})
