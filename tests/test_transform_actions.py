"""The transform's units and rates: numbers keep their meaning, times are kept, and the way back is the way there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink._rate import Rate
from actlink.environments._base import Environment
from actlink.environments._wrappers import Transformed as TransformedEnvironment
from actlink.errors import ConfigError, SimulationError
from actlink.policies._base import Policy, Result, answer
from actlink.policies._wrappers import Transformed
from actlink.spec import Field, Spec
from actlink.transform import Transform, join, parse
from actlink.types import Array, Observation, Request, Step

NAMES = ("left_hip", "left_knee", "right_hip")
STATE = Field((3,), names=NAMES, unit="deg", range=(-180.0, 180.0), typical=((-90.0, 90.0), (0.0, 180.0), (-90.0, 0.0)))


def degrees(*values: float) -> Array:
    return np.array(values, np.float32)


# Units


def test_all_entries_of_a_value() -> None:
    change = parse("- unit: {state.*: deg->rad}")
    bound = change.bind({"state": STATE}, Field((1,)))
    found = bound.observation({"state": degrees(180, 90, -90)})["state"]
    np.testing.assert_allclose(found, [math.pi, math.pi / 2, -math.pi / 2], rtol=1e-6)  # type: ignore[arg-type]
    assert found.dtype == np.float32  # type: ignore[union-attr]
    field = change.fields({"state": STATE})["state"]
    assert field.unit == "rad" and field.range == pytest.approx((-math.pi, math.pi))
    assert field.typical is not None and field.typical[1] == pytest.approx((0.0, math.pi))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unit: {state: deg->rad}", [math.pi, math.pi, math.pi]),
        ("unit: {state.left_*: deg->rad}", [math.pi, math.pi, 180.0]),
        ("unit: {state.right_hip: deg->rad}", [180.0, 180.0, math.pi]),
        ("unit: {state.1: deg->rad}", [180.0, math.pi, 180.0]),
    ],
)
def test_some_entries(line: str, expected: list[float]) -> None:
    change = parse(f"- {line}")
    given = {"state": Field((3,), names=NAMES)}
    found = change.bind(given, Field((1,))).observation({"state": degrees(180, 180, 180)})["state"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # type: ignore[arg-type]
    assert parse(str(change)) == change


def test_a_vector_of_two_units_has_none() -> None:
    field = parse("- unit: {state.left_*: deg->rad}").fields({"state": STATE})["state"]
    assert field.unit is None and field.range is None
    assert field.typical is not None and field.typical[0] == pytest.approx((-math.pi / 2, math.pi / 2))
    assert field.typical[2] == (-90.0, 0.0)


def test_what_the_giver_must_offer_is_in_its_unit() -> None:
    wanted = {"state": Field((3,), names=NAMES, unit="rad", range=(-math.pi, math.pi))}
    (before,) = parse("- unit: {state.*: deg->rad}").before(wanted).values()
    assert before.unit == "deg" and before.range == pytest.approx((-180.0, 180.0))
    assert parse("- unit: {state.left_*: deg->rad}").before({"state": Field((3,), range=(0, 1))})["state"] == Field((3,))
    (partly,) = parse("- unit: {state.left_*: deg->rad}").before({"state": Field((3,), names=NAMES)}).values()
    assert partly == Field((3,), names=NAMES)


def test_a_selection_takes_what_was_typical_along() -> None:
    field = parse("- select: {state: [right_hip, left_hip]}").fields({"state": STATE})["state"]
    assert field.typical == ((-90.0, 0.0), (-90.0, 90.0))


WRONG = {
    "no such unit": ("- unit: {state.*: deg->furlong}", "expected two units of one quantity (rad, deg; m, cm, mm"),
    "other quantity": ("- unit: {state.*: deg->m}", "unit deg->m: expected two units of one quantity"),
    "no arrow": ("- unit: {state.*: rad}", "expected a change such as deg->rad, got 'rad'"),
    "actions without arrow": ("- actions: {unit: {a: 3}}", "expected a change such as deg->rad, got 3"),
    "rate without numbers": ("- actions: {rate: slow->fast}", "expected the policy's rate and the giver's, such as 30->50"),
    "rate of nothing": ("- actions: {rate: 0->50}", "expected the policy's rate"),
    "unknown method": ("- actions: {rate: 30->50 cubic}", "with linear, nearest or hold behind it"),
    "rate twice": ("[{actions: {rate: 30->50}}, {actions: {rate: 30->50}}]", "and rate, once"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_is_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(text)
    assert message in str(found.value)


UNFIT = {
    "is in another unit": ("- unit: {state.*: rad->deg}", STATE, "expected rad, and it is in deg"),
    "no such entry": ("- unit: {state.arm_*: deg->rad}", STATE, "no entry 'arm_*'; there are: left_hip, left_knee, right_hip"),
    "no such index": ("- unit: {state.7: deg->rad}", Field((3,)), "no entry '7'; it has 3"),
    "names unknown": ("- unit: {state.left_*: deg->rad}", Field((3,)), "the names of its entries are not known here"),
    "a picture": ("- unit: {state.*: deg->rad}", Field((3, 3, 3), "uint8"), "needs a vector of float32"),
}


@pytest.mark.parametrize(("text", "field", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_be_applied_is_explained(text: str, field: Field, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(text).bind({"state": field}, Field((1,)))
    assert message in str(found.value)


def test_actions_flow_the_other_way_and_a_prefix_comes_back() -> None:
    change = parse("- actions: {unit: {left_*: rad->deg}}\n- actions: {select: [right_hip, left_hip]}")
    policy = Field((3,), names=NAMES)
    bound = change.bind({}, policy)
    action = np.array([math.pi, 1.0, 0.5], np.float32)
    np.testing.assert_allclose(bound.actions(action), [0.5, 180.0], rtol=1e-6)
    np.testing.assert_allclose(bound.restore(bound.actions(action), action), action, rtol=1e-6)
    assert parse(str(change)) == change
    whole = parse("- actions: {unit: rad->deg}")
    assert whole.actions(Field((3,), unit="rad", range=(-math.pi, math.pi))).unit == "deg"
    bound = whole.bind({}, policy)
    np.testing.assert_allclose(bound.prefix(bound.chunk(action[None])), action[None], rtol=1e-6)


def test_several_changes_of_units_together() -> None:
    change = parse("- actions: {unit: {left_hip: rad->deg, right_hip: m->mm}}")
    np.testing.assert_allclose(change.bind({}, Field((3,), names=NAMES)).actions(degrees(math.pi, 1, 1)), [180, 1, 1000], rtol=1e-6)


# Rates


def test_times_are_kept_and_nothing_is_invented_beyond_the_last_row() -> None:
    """Rows at 30 Hz that say their own time: at 50 Hz each row still says its time."""
    rate = Rate(30.0, 50.0)
    rows = np.arange(10, dtype=np.float32)[:, None] / 30
    found = rate.chunk(rows)
    assert len(found) == rate.horizon(10) == 16
    np.testing.assert_allclose(found[:, 0], np.arange(16) / 50, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("linear", [0, 0.6, 1.2, 1.8, 2.4, 3.0]), ("nearest", [0, 1, 1, 2, 2, 3]), ("hold", [0, 0, 1, 1, 2, 3])],
)
def test_each_method(method: str, expected: list[float]) -> None:
    rows = np.arange(4, dtype=np.float32)[:, None]
    np.testing.assert_allclose(Rate(30.0, 50.0, method).chunk(rows)[:, 0], expected, rtol=1e-5)


def test_fewer_steps_than_rows_skip() -> None:
    rows = np.arange(10, dtype=np.float32)[:, None]
    assert Rate(50.0, 25.0).chunk(rows)[:, 0].tolist() == [0, 2, 4, 6, 8]


def test_choices_are_never_mixed() -> None:
    rows = np.array([[0], [3]], np.int64)
    found = Rate(10.0, 30.0).chunk(rows)
    assert found.dtype == np.int64 and found[:, 0].tolist() == [0, 0, 3, 3]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 60), st.integers(0, 40))
def test_whatever_the_rates_nothing_is_early_late_or_lost(policy: int, giver: int, rows: int, delay: int) -> None:
    rate = Rate(float(policy), float(giver))
    chunk = rate.chunk(np.arange(rows, dtype=np.float64)[:, None])
    assert len(chunk) == rate.horizon(rows) and (len(chunk) - 1) / giver <= (rows - 1) / policy + 1e-9 < len(chunk) / giver + 1e-6
    np.testing.assert_allclose(chunk[:, 0] / policy, np.arange(len(chunk)) / giver, atol=1e-6)
    assert (rate.delay(delay) - 1) / policy < delay / giver + 1e-9 and rate.delay(delay) / policy >= delay / giver - 1e-9
    total = sum(rate.inner_steps(step) for step in range(rows))
    assert total == math.ceil(rows * giver / policy - 1e-9), "the giver's steps are those of its own time"
    assert rate.inner_steps(0) >= 1, "the first action runs at once"


class Recorder(Policy):
    """Rows that count; keeps what it was asked."""

    def __init__(self) -> None:
        self.spec = Spec({"state": Field((1,))}, Field((1,)), action_horizon=4, rate_hz=30.0, accepts_prefix=True)
        self.asked: list[Request] = []

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        self.asked += requests
        return [answer(request, np.arange(4, dtype=np.float32)[:, None]) for request in requests]


def test_a_policy_behind_a_rate_speaks_of_the_givers_steps_and_hears_of_its_own() -> None:
    inner = Recorder()
    policy = Transformed(inner, parse("- actions: {rate: 30->60}"))
    assert (policy.spec.rate_hz, policy.spec.action_horizon, policy.spec.accepts_prefix) == (60.0, 7, True)
    prefix = np.arange(5, dtype=np.float32)[:, None] / 2
    request = Request({"state": np.zeros(1, np.float32)}, step=21, episode=2, prefix=prefix, inference_delay=3)
    (chunk,) = policy.infer([request])
    assert chunk.step == 21 and chunk.episode == 2 and chunk.actions[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]  # type: ignore[union-attr]
    (asked,) = inner.asked
    assert asked.step == 10 and asked.inference_delay == 2
    assert asked.prefix is not None and asked.prefix[:, 0].tolist() == [0, 1, 2]
    policy.infer([Request({"state": np.zeros(1, np.float32)}, prefix=np.zeros((0, 1), np.float32))])
    assert inner.asked[1].prefix is not None and len(inner.asked[1].prefix) == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 9))
def test_a_policy_behind_a_rate_is_never_told_of_more_delay_than_prefix(policy_hz: int, giver_hz: int, rows: int) -> None:
    inner = Recorder()
    policy = Transformed(inner, parse(f"- actions: {{rate: {policy_hz}->{giver_hz}}}"))
    state = {"state": np.zeros(1, np.float32)}
    policy.infer([Request(state, prefix=np.zeros((rows, 1), np.float32), inference_delay=delay) for delay in range(rows + 1)])
    assert all(asked.prefix is not None and asked.inference_delay <= len(asked.prefix) for asked in inner.asked)


def test_a_policy_behind_a_change_of_units_keeps_its_rate() -> None:
    policy = Transformed(Recorder(), parse("[{unit: {state.*: deg->rad}}, {actions: {unit: rad->deg}}]"))
    (chunk,) = policy.infer([Request({"state": degrees(180)}, step=3)])
    assert policy.spec.rate_hz == 30.0 and chunk.step == 3  # type: ignore[union-attr]
    assert chunk.actions[3, 0] == pytest.approx(math.degrees(3), rel=1e-6)  # type: ignore[union-attr]


class World(Environment):
    """Ends after ``last`` steps; each is worth 1 and shows how many there were."""

    def __init__(self, last: int = 99) -> None:
        self.spec = Spec({"state": Field((1,))}, Field((1,), unit="deg"), rate_hz=50.0)
        self.taken: list[float] = []
        self.last = last

    def tasks(self) -> tuple[str, ...]:
        return ("",)

    def reset(self, task: str, seed: int) -> Observation:
        self.taken = []
        return {"state": np.zeros(1, np.float32)}

    def step(self, action: Array) -> Step:
        self.taken.append(float(action[0]))
        over = len(self.taken) >= self.last
        return Step({"state": np.array([len(self.taken)], np.float32)}, 1.0, False, over, False)

    def hold_action(self, last: Array | None) -> Array:
        return np.array([90.0], np.float32) if last is None else last

    def render(self) -> Array:
        raise SimulationError("nothing to see")


def stepped(environment: Environment, count: int) -> list[Step]:
    return [environment.step(np.array([index], np.float32)) for index in range(count)]


def test_a_faster_world_holds_each_action_and_adds_up_its_rewards() -> None:
    inner = World()
    environment = TransformedEnvironment(inner, parse("- actions: {rate: 20->50}"))
    assert environment.spec.rate_hz == 20.0
    environment.reset("", 0)
    steps = stepped(environment, 4)
    assert inner.taken == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert [step.reward for step in steps] == [3.0, 2.0, 3.0, 2.0]
    assert steps[-1].observation["state"] == [10.0]
    environment.reset("", 0)
    assert [step.reward for step in stepped(environment, 2)] == [3.0, 2.0], "each episode begins at its own step 0"


def test_a_slower_world_skips_actions_and_does_not_move_meanwhile() -> None:
    inner = World()
    environment = TransformedEnvironment(inner, parse("- actions: {rate: 100->50}"))
    environment.reset("", 0)
    steps = stepped(environment, 4)
    assert inner.taken == [0.0, 2.0] and [step.reward for step in steps] == [1.0, 0.0, 1.0, 0.0]


def test_an_end_within_a_step_ends_it() -> None:
    inner = World(last=2)
    environment = TransformedEnvironment(inner, parse("- actions: {rate: 10->50}"))
    environment.reset("", 0)
    assert stepped(environment, 1)[0].terminated and len(inner.taken) == 2


def test_a_worlds_rate_is_its_own() -> None:
    with pytest.raises(ConfigError, match="the environment's control rate is 50 Hz, the transform says 60"):
        TransformedEnvironment(World(), parse("- actions: {rate: 30->60}"))
    environment = TransformedEnvironment(World(), parse("- actions: {rate: 100->50}"))
    environment._steps = 1
    with pytest.raises(SimulationError, match="step called before reset"):
        environment.step(degrees(0))


def test_a_world_in_degrees_is_driven_and_held_in_radians() -> None:
    inner = World()
    wanted = Spec({"state": Field((1,))}, Field((1,), unit="rad"))
    environment = TransformedEnvironment(inner, parse("- actions: {unit: rad->deg}"), wanted)
    environment.reset("", 0)
    environment.step(np.array([math.pi], np.float32))
    assert inner.taken == [pytest.approx(180.0)]
    assert environment.hold_action(None) == pytest.approx(math.pi / 2)
    with pytest.raises(ConfigError, match="the policy's actions are not known here"):
        TransformedEnvironment(inner, parse("- actions: {unit: rad->deg}"))


def test_joined_transforms() -> None:
    both = join([parse("- unit: {state.*: deg->rad}"), parse("- actions: {rate: 30->50, unit: rad->deg}")])
    assert str(both) == "- unit: {state.*: deg->rad}\n- actions: {unit: rad->deg}\n- actions: {rate: 30->50}"
    assert parse(str(both)) == both and bool(Transform(rate=Rate(1.0, 2.0)))
    with pytest.raises(ConfigError, match="the rate is changed twice"):
        join([both, both])


def test_pictures_whose_width_came_first() -> None:
    change: Any = parse("- transpose: {images.top: whc->hwc}")
    picture = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    bound = change.bind({"images.top": Field((4, 2, 3), "uint8")}, Field((1,)))
    assert (bound.observation({"images.top": picture})["images.top"] == picture.transpose(1, 0, 2)).all()
    assert change.before({"images.top": Field((2, 4, 3), "uint8")})["images.top"].shape == (4, 2, 3)
    assert parse(str(change)) == change
    with pytest.raises(ConfigError, match="needs three axes"):
        parse("- transpose: {state: whc->hwc}").bind({"state": Field((3,))}, Field((1,)))
