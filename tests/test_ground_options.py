"""Options as text to frozen dataclasses: one grammar, and every mistake is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from actlink.errors import ConfigError
from actlink.options import build, convert, parse_pairs, split


@dataclass(frozen=True)
class Config:
    """One of each."""

    count: int = 1
    rate_hz: float = 50.0
    on: bool = False
    name: str = ""
    mode: Literal["fast", "slow", 3] = "fast"
    window: tuple[int, int] = (10, 50)
    cameras: tuple[str, ...] = ()
    limit: float | None = None
    where: Path | None = None
    scale: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None
    derived: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: expected 0 or more, got {self.count}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("aloha", ("aloha", {})),
        ("aloha?a=1&b=x%20y&c=", ("aloha", {"a": "1", "b": "x y", "c": ""})),
        ("", ("", {})),
        ("a?b?c=1", ("a", {"b?c": "1"})),
    ],
)
def test_a_name_with_options(text: str, parts: tuple[str, dict[str, str]]) -> None:
    assert split(text) == parts


def test_pairs() -> None:
    assert parse_pairs(["a=1", "b=x=y", "c="], "policy options") == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("pair", ["a", "=1", ""])
def test_what_is_not_a_pair(pair: str) -> None:
    with pytest.raises(ConfigError, match="policy options: expected option=value"):
        parse_pairs([pair], "policy options")


@pytest.mark.parametrize(
    ("option", "given", "value"),
    [
        ("count", "3", 3),
        ("count", 3, 3),
        ("rate-hz", "30", 30.0),
        ("rate_hz", "1e-3", 0.001),
        ("rate_hz", 1, 1.0),
        ("on", "true", True),
        ("on", False, False),
        ("name", "007", "007"),
        ("name", 7, "7"),
        ("name", "true", "true"),
        ("mode", "slow", "slow"),
        ("mode", "3", 3),
        ("window", "[1, 2]", (1, 2)),
        ("window", "1, 2", (1, 2)),
        ("window", [1, 2], (1, 2)),
        ("cameras", "top,wrist", ("top", "wrist")),
        ("cameras", [], ()),
        ("cameras", "top", ("top",)),
        ("cameras", 5, ("5",)),
        ("limit", "null", None),
        ("limit", None, None),
        ("limit", "2", 2.0),
        ("where", "~/x", Path("~/x")),
        ("where", Path("x"), Path("x")),
        ("scale", "{a: 1}", {"a": 1.0}),
        ("scale", {"a": 2}, {"a": 2.0}),
        ("anything", "[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_values(option: str, given: Any, value: Any) -> None:
    built = build(Config, {option: given}, "here")
    found = getattr(built, option.replace("-", "_"))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        ("count", "three", "int"),
        ("count", "1.5", "int"),
        ("count", "true", "int"),
        ("rate_hz", "fast", "float"),
        ("rate_hz", True, "float"),
        ("on", "1", "bool"),
        ("on", "maybe", "bool"),
        ("name", [1], "str"),
        ("mode", "medium", "Literal['fast', 'slow', 3]"),
        ("window", "1", "tuple[int, int]"),
        ("window", "1,2,3", "tuple"),
        ("window", "a,b", "tuple"),
        ("limit", "high", "float"),
        ("scale", "5", "Mapping[str, float]"),
        ("scale", "{a: b}", "Mapping"),
        ("where", "[1]", "Path | None"),
        ("count", "[unclosed", "int"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(option: str, given: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Config, {option: given}, "aloha")
    assert str(caught.value).startswith(f"aloha: option {option!r}: expected ")
    assert expected in str(caught.value)
    assert repr(given) in str(caught.value)


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"aloha: unknown option 'speed'; known options: count, rate_hz, on, name, mode"):
        build(Config, {"speed": "1"}, "aloha")


def test_a_field_that_is_not_an_option() -> None:
    with pytest.raises(ConfigError, match="unknown option 'derived'"):
        build(Config, {"derived": "1"}, "aloha")


def test_where_there_are_no_options() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    with pytest.raises(ConfigError, match="known options: none"):
        build(Nothing, {"a": "1"}, "zero")


def test_what_the_dataclass_itself_refuses_says_where() -> None:
    with pytest.raises(ConfigError, match="aloha: count: expected 0 or more, got -1"):
        build(Config, {"count": "-1"}, "aloha")


def test_nothing_given_is_the_defaults() -> None:
    assert build(Config, {}, "here") == Config()


def test_a_missing_required_option_is_a_config_error() -> None:
    @dataclass(frozen=True)
    class Needs:
        path: str

    with pytest.raises(ConfigError, match=r"here: .*path"):
        build(Needs, {}, "here")


def test_a_type_without_a_name_is_shown_readably() -> None:
    with pytest.raises(ConfigError, match=r"x: expected int \| None, got 'a'"):
        convert("a", int | None, "x")


def test_a_lone_value_where_two_are_needed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected tuple\[int, int\], got 3"):
        build(Config, {"window": 3}, "here")
