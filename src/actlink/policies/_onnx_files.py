"""A directory with ``policy.json`` and ``model.onnx``, read and judged. Law: nothing is run here, and nothing outside is read."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.policies import _json
from actlink.policies._onnx_protobuf import refuse_external_data
from actlink.spec import Field, Spec, digest_of
from actlink.types import Array

FORMAT = 1
POLICY_FILE = "policy.json"
MODEL_FILE = "model.onnx"
MOST_HISTORY = 1000
"""Observations that a graph may want: what is remembered is held in memory for each session."""


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """How one graph input is made from one value of the observation."""

    name: str
    key: str
    select: tuple[str, ...] | None = None
    """Named entries of the value that the graph wants, in its order; None = all."""
    scale: float = 1.0
    mean: Array | None = None
    """float32, per entry, or per channel of an image: ``(value * scale - mean) / std``."""
    std: Array | None = None
    layout: str = "hwc"
    """What the graph wants of an image: ``hwc`` or ``chw``."""
    history: int = 1
    """Observations that the graph wants, this one last; above 1 its input is ``(batch, history, ...)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """The graph output that holds the actions; ``value * std + mean`` where given."""

    name: str
    mean: Array | None = None
    std: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything the directory says."""

    where: str
    spec: Spec
    inputs: tuple[Input, ...]
    output: Output
    model: bytes
    described: str = POLICY_FILE
    """Name of the file that describes the policy."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What that file says beyond spec, inputs and output, for the family that knows these keys."""


def read(directory: Path, described: str = POLICY_FILE, graph: str = MODEL_FILE, more: frozenset[str] = frozenset()) -> Checkpoint:
    """The checkpoint in ``directory``; ``ConfigError`` names the file, what was expected and what is there.

    ``described`` and ``graph`` are the names of its two files, ``more`` the keys that a family adds to the first.
    """
    path = directory / described
    text = _read_bytes(path, f"a directory of this family holds {described} and {graph}")
    plain = _json.parse(text, path)
    known = more | {"format", "name", "description", "spec", "model", "inputs", "output"}
    only(plain, known, str(path))
    if plain.get("format") != FORMAT:
        raise ConfigError(f"{path}: 'format': expected {FORMAT}, got {plain.get('format')!r}")
    spec = Spec.from_dict(_mapping(plain, "spec", str(path)), f"{path}: spec")
    model_path = _inside(directory, plain.get("model", graph), path)
    model = _read_bytes(model_path, f"'model' of {path} names it")
    refuse_external_data(model, str(model_path))
    spec = replace(spec, name=str(plain.get("name") or spec.name), digest=digest_of(text, model))
    inputs = tuple(
        _input(name, value, spec, f"{path}: inputs[{name!r}]") for name, value in _mapping(plain, "inputs", str(path)).items()
    )
    if not inputs:
        raise ConfigError(f"{path}: 'inputs': expected at least one graph input, got none")
    output = _output(_mapping(plain, "output", str(path)), spec, f"{path}: output")
    extra = {key: plain[key] for key in more & plain.keys()}
    return Checkpoint(str(model_path), spec, inputs, output, model, described, extra)


def _read_bytes(path: Path, why: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {why}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _inside(directory: Path, name: object, path: Path) -> Path:
    model = directory / str(name)
    if not isinstance(name, str) or not model.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(f"{path}: 'model': expected the name of a file in this directory, got {name!r}")
    return model


def only(plain: Mapping[str, Any], known: Set[str], where: str) -> None:
    """Refuse a key that is not ``known``."""
    unknown = sorted(set(plain) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")


def _mapping(plain: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = plain.get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key!r}: expected an object, got {'nothing' if value is None else repr(value)}")
    return value


def _input(name: str, plain: Any, spec: Spec, where: str) -> Input:
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: expected an object with 'key', got {plain!r}")
    only(plain, {"key", "select", "mean", "std", "scale", "layout", "history"}, where)
    key = plain.get("key")
    if not isinstance(key, str) or key not in spec.observation:
        raise ConfigError(f"{where}: 'key': expected one of the spec's: {', '.join(spec.observation)}; got {key!r}")
    field = spec.observation[key]
    if field.dtype == "str" or not field.required:
        raise ConfigError(f"{where}: a graph is fed by required numbers, and {key!r} is {'text' if field.required else 'optional'}")
    select = _selected(plain["select"], field, where) if plain.get("select") is not None else None
    width = len(select) if select is not None else (field.shape[-1] if field.shape else None)
    scale, layout, history = plain.get("scale", 1.0), plain.get("layout", "hwc"), plain.get("history", 1)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not np.isfinite(scale) or scale == 0:
        raise ConfigError(f"{where}: 'scale': expected a finite number other than 0, got {scale!r}")
    if layout not in ("hwc", "chw") or (layout == "chw" and not field.is_image):
        raise ConfigError(f"{where}: 'layout': expected hwc, or chw for an image, got {layout!r}")
    if isinstance(history, bool) or not isinstance(history, int) or not 1 <= history <= MOST_HISTORY:
        raise ConfigError(f"{where}: 'history': expected a number of observations, 1 to {MOST_HISTORY}, got {history!r}")
    mean, std = _statistics(plain, width, where)
    return Input(name, key, select, float(scale), mean, std, layout, history)


def _selected(names: Any, field: Field, where: str) -> tuple[str, ...]:
    if field.names is None:
        raise ConfigError(f"{where}: 'select' goes by name, and the spec names no entries of this value")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: 'select': expected a list of names, got {names!r}")
    absent = [name for name in names if name not in field.names]
    if absent:
        raise ConfigError(f"{where}: 'select': the spec has no entry {absent[0]!r}; it has: {', '.join(field.names)}")
    return tuple(names)


def _output(plain: dict[str, Any], spec: Spec, where: str) -> Output:
    only(plain, {"name", "mean", "std"}, where)
    name = plain.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: 'name': expected the name of a graph output, got {name!r}")
    mean, std = _statistics(plain, spec.action_dim, where)
    if spec.action.dtype != "float32" and (mean is not None or std is not None):
        raise ConfigError(f"{where}: a {spec.action.dtype} action has no mean and std")
    return Output(name, mean, std)


def _statistics(plain: Mapping[str, Any], width: int | None, where: str) -> tuple[Array | None, Array | None]:
    found: list[Array | None] = []
    for key in ("mean", "std"):
        value = plain.get(key)
        if value is None:
            found.append(None)
            continue
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: {key!r}: expected a list of numbers, got {value!r}") from None
        if array.ndim != 1 or (width is not None and len(array) != width):
            raise ConfigError(f"{where}: {key!r}: expected {width or 'a list of'} numbers, got shape {array.shape}")
        if not np.isfinite(array).all() or (key == "std" and not (array > 0).all()):
            raise ConfigError(f"{where}: {key!r}: expected finite numbers{' above 0' if key == 'std' else ''}, got {value}")
        found.append(array)
    return found[0], found[1]
