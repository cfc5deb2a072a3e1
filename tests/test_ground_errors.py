"""The error tree: drawn once, a code for every class, and back from the code."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from actlink import errors
from actlink.errors import ActlinkError, ProtocolError, RefusedError, from_code


def tree(root: type[ActlinkError]) -> Iterator[type[ActlinkError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


CLASSES = list(tree(ActlinkError))
CONCRETE = [cls for cls in CLASSES if cls is not ProtocolError]


def test_the_drawing_is_the_tree() -> None:
    """Every line of the drawing in the docstring names a class with its code and its parent, and no class is left out."""
    drawn: dict[str, str] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([| +-]*)(\w+Error)\s+(\(abstract\)|\w+)", line)
        if not found:
            continue
        indent, name, code = found.groups()
        depth = len(indent) // 4
        parents[depth:] = [name]
        cls = getattr(errors, name)
        assert depth == 0 or cls.__bases__ == (getattr(errors, parents[depth - 1]),), name
        drawn[name] = code
        assert code == "(abstract)" or code == cls.code, name
    assert set(drawn) == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_an_error_crosses_the_wire_by_its_code(cls: type[ActlinkError]) -> None:
    back = from_code(cls.code, "camera 'top' is missing")
    assert type(back) is cls
    assert str(back) == "camera 'top' is missing"


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CONCRETE]
    assert len(codes) == len(set(codes))


def test_a_code_of_a_newer_peer_is_kept_in_the_message() -> None:
    back = from_code("too_hot", "94 C")
    assert type(back) is RefusedError
    assert str(back) == "too_hot: 94 C"


def test_a_protocol_error_says_whose_fault_it_is() -> None:
    with pytest.raises(TypeError, match="LocalProtocolError or RemoteProtocolError"):
        ProtocolError("bad")
    assert str(errors.LocalProtocolError("ours")) == "ours"
    assert str(errors.RemoteProtocolError("theirs")) == "theirs"


def test_what_counts_as_infrastructure() -> None:
    """The link and the server's state are infrastructure; a request that is wrong, and a policy that fails, are not."""
    infrastructure = {cls.__name__ for cls in CLASSES if cls.infrastructure}
    assert infrastructure >= {
        "LinkError",
        "ConnectError",
        "LinkTimeoutError",
        "LinkClosedError",
        "DrainingError",
        "OverloadedError",
    }
    assert not infrastructure & {"SpecError", "PolicyError", "ConfigError", "UnauthorizedError", "RemoteProtocolError"}
