"""What the user wrote for a policy, as a policy. Law: network addresses are the client's business; everything else is found here.

``<name>[?option=value&...]``, where the name is a directory or file, a bundled policy, ``family:source``, or a third party's
``file.py:Class``, ``module:Class``, ``file.py:source`` (a family outside this package: a module with ``Config`` and ``load``).
The option ``transform`` is understood by every policy; ``giver`` names the spec that the transform starts from. ``policy_type``
names the family of a path that several recognise, or none.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from actlink import documents, loading, transform
from actlink import options as grammar
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._callable import as_policy
from actlink.policies._hardware import is_out_of_memory, out_of_memory
from actlink.policies._recognise import families_of, family_of
from actlink.policies._wrappers import Described, OneByOne, Transformed
from actlink.types import Runtime

MODELS = Path(__file__).parent.parent / "models"
"""Bundled policies: one folder each."""


def open_policy(reference: str, runtime: Runtime | None = None, options: Mapping[str, Any] | None = None) -> Policy:
    """The policy that ``reference`` names, with its options from there and from ``options`` (which win).

    ``ConfigError`` says what was looked for and what there is; ``MissingPackageError`` names the pip line.
    """
    runtime = runtime or Runtime()
    name, written = grammar.split(reference)
    chosen: dict[str, Any] = {**written, **(options or {})}
    wrapping: dict[str, Any] = {key: chosen.pop(key) for key in ("transform", "giver") if key in chosen}
    try:
        policy, title = _find(_of_type(name, chosen), chosen, runtime)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, runtime.device, f"loading {name}") from error
        raise
    policy = _told(policy, {"device": runtime.device})
    if not policy.spec.name:
        policy = Described(policy, replace(policy.spec, name=title))
    if runtime.deterministic:
        policy = OneByOne(policy)
    try:
        return _transformed(policy, wrapping) if wrapping else policy
    except BaseException:  # nobody will have it: whatever it holds must be free for the next
        policy.close()
        raise


def bundled() -> list[str]:
    """Names of the policies that come with this package."""
    return sorted(path.name for path in MODELS.iterdir() if path.is_dir() and path.name[0] not in "._")


def _of_type(name: str, chosen: dict[str, Any]) -> str:
    """``name`` with the family that the option ``policy_type`` states."""
    family = chosen.pop("policy_type", None)
    if family is None:
        return name
    if family not in loading.names("policies"):
        raise ConfigError(f"policy_type: no policy family {family!r}; there are: {', '.join(loading.names('policies'))}")
    if name in bundled() and not Path(name).exists():
        return f"{family}:{MODELS / name}"
    return name if name.startswith(f"{family}:") else f"{family}:{name}"


def _find(name: str, chosen: dict[str, Any], runtime: Runtime) -> tuple[Policy, str]:
    """The policy, and a name for it should it have none of its own."""
    family, separator, source = name.partition(":")
    if separator and family in loading.names("policies"):
        return _load(loading.load("policies", family), source, chosen, runtime, family), Path(source).name or family
    path = Path(name).expanduser()
    here = path.exists()
    if name in bundled():
        if here and families_of(path):
            raise ConfigError(f"{name!r} is a bundled policy and also a checkpoint here; write ./{name} or {MODELS / name}")
        return _from_path(MODELS / name, chosen, runtime), name
    if here:
        return _from_path(path, chosen, runtime), path.resolve().name
    match = re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):(.+)", name)
    if match is None:
        raise ConfigError(
            f"no policy {name!r}: no such file or directory here, and not one of the bundled {', '.join(bundled()) or '(none)'}; "
            f"other forms: <family>:<source> (families: {', '.join(loading.names('policies'))}), file.py:Class, module:Class, "
            "dialect+transport://host:port"
        )
    return _from_third_party(name, match[1], match[2], chosen, runtime), match[2]


def _from_path(path: Path, chosen: Mapping[str, Any], runtime: Runtime) -> Policy:
    family = family_of(path)
    return _load(loading.load("policies", family), str(path), chosen, runtime, family)


def _load(family: ModuleType, source: str, chosen: Mapping[str, Any], runtime: Runtime, where: str) -> Policy:
    loading.require(family)
    policy = as_policy(family.load(source, grammar.build(family.Config, chosen, where), runtime), f"{where}:{source}")
    own = policy.facts.get("family", where)  # a family of several kinds names the one it found
    return _told(policy, {}, family=where if own == where else f"{where} ({own})")


def _told(policy: Policy, facts: Mapping[str, str], **certain: str) -> Policy:
    """The policy, knowing also ``facts`` where it says nothing itself, and what is ``certain``."""
    with contextlib.suppress(AttributeError):  # a user's class may have made it something else; then it speaks for itself
        policy.facts = MappingProxyType({**facts, **policy.facts, **certain})
    return policy


def _from_third_party(name: str, place: str, rest: str, chosen: dict[str, Any], runtime: Runtime) -> Policy:
    module = loading.third_party(place, name)
    if not hasattr(module, rest) and hasattr(module, "load") and hasattr(module, "Config"):
        return _load(module, rest, chosen, runtime, place)
    return as_policy(_made(loading.resolve(name), name, chosen, runtime), name)


def _made(thing: Any, name: str, chosen: Mapping[str, Any], runtime: Runtime) -> Any:
    """A class (or function without ``spec``: a factory) called with the options; an object as it is."""
    if not inspect.isclass(thing) and (isinstance(thing, Policy) or hasattr(thing, "spec") or not callable(thing)):
        if chosen:
            raise ConfigError(f"{name}: it is an object, not a class, and takes no options; got {', '.join(chosen)}")
        return thing
    signature = inspect.signature(thing)
    arguments = {key.replace("-", "_"): grammar.convert(value, Any, name) for key, value in chosen.items()}
    if "runtime" in signature.parameters:
        arguments.setdefault("runtime", runtime)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}; it is called as {thing.__name__}{signature}") from error
    return thing(**arguments)


def _transformed(policy: Policy, wrapping: Mapping[str, Any]) -> Policy:
    if "transform" not in wrapping:
        raise ConfigError("option 'giver' goes with the option 'transform': it is what the transform starts from")
    giver = wrapping.get("giver")
    given = None if giver is None else documents.read_spec(giver, "giver").observation
    return Transformed(policy, transform.parse(wrapping["transform"]), given)
