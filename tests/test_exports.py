"""The facade and the public names: everything in an ``__all__`` exists, and every public name of the facade says what it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import actlink

WRITTEN_IN_TORCH = ("_act_network", "_act_onednn", "_lerobot_export", "_torch_draws", "_torch_tracing")
NETWORKS = {f"actlink.policies.{name}": "torch" for name in WRITTEN_IN_TORCH}
"""Companions that are written in their framework: a family imports them when a policy is made or exported, nobody else does."""


def imported(name: str) -> ModuleType:
    if name in NETWORKS:
        pytest.importorskip(NETWORKS[name])
    return importlib.import_module(name)


def modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(actlink.__path__, "actlink."):
        if module.name != "actlink.__main__":
            yield module.name


@pytest.mark.parametrize("name", actlink.__all__)
def test_the_facade_gives_what_it_promises(name: str) -> None:
    value = getattr(actlink, name)
    assert value.__doc__, f"actlink.{name} has no docstring"


def test_the_facade_is_honest_about_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match=r"module 'actlink' has no attribute 'pickle_me'"):
        getattr(actlink, "pickle_me")  # noqa: B009 - mypy would refuse the plain form


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_imports_and_states_its_law(name: str) -> None:
    """Importing a module needs no optional package: adapters load their framework only when made."""
    module = imported(name)
    assert module.__doc__ and module.__doc__.strip(), f"{name}: no docstring"
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ names {public!r}, which is not there"


@pytest.mark.parametrize("module", sorted(modules()))
def test_public_class_names_are_words_of_the_field(module: str) -> None:
    own = (name for name, value in vars(imported(module)).items() if isinstance(value, type) and value.__module__ == module)
    banned = ("Manager", "Helper", "Utils", "Base")
    assert [name for name in own if not name.startswith("_") and any(word in name for word in banned)] == []
