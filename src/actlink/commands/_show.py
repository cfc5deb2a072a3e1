"""How specs and numbers are shown to people. Law: text only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from actlink.evaluation.intervals import quantile
from actlink.spec import Field, Spec

_FULL_NAMES = 6
"""More names than this are shortened to the first, an ellipsis and the last."""


def spec_lines(spec: Spec, known: Mapping[str, str] | None = None) -> Iterator[str]:
    """A policy's or environment's contract, one line per input, output and fact; ``known`` are a policy's ``facts``."""
    known = dict(known or {})
    yield f"  name    {spec.name or '(none)'}"
    if "family" in known:
        yield f"  family  {known.pop('family')}"
    if "parameters" in known:
        yield f"  params  {known.pop('parameters')}"
    for index, (key, field) in enumerate(spec.observation.items()):
        yield f"  {'takes' if index == 0 else '':8}{key}: {field_text(field)}"
    yield f"  gives   {field_text(spec.action)}, {spec.action_horizon} per chunk"
    yield f"  rate    {f'{spec.rate_hz:g} Hz' if spec.rate_hz else 'none stated'}, control {spec.control_space} {spec.control_type}"
    facts = [f"batches of up to {spec.max_batch_size}"]
    facts += ["remembers between requests"] if spec.stateful else []
    facts += ["uses a prefix"] if spec.accepts_prefix else []
    yield f"  how     {', '.join(facts)}"
    if "normalisation" in known:
        yield f"  scales  normalisation from {known.pop('normalisation')}"
    for key, value in known.items():
        yield f"  {key:7} {value}"
    yield f"  digest  {spec.digest or '(none)'}"


def field_text(field: Field) -> str:
    """``float32 (14), rad [waist, shoulder, ... gripper]``."""
    if field.dtype == "str":
        kind = "text"
    else:
        kind = f"{field.dtype} ({' x '.join('any' if n is None else str(n) for n in field.shape)})"
    parts = [kind]
    if field.unit:
        parts.append(field.unit)
    if field.range is not None:
        parts.append(f"{field.range[0]:g} to {field.range[1]:g}")
    names = f" [{_short(field.names)}]" if field.names else ""
    return f"{', '.join(parts)}{names}{'' if field.required else ' (optional)'}"


def _short(names: Sequence[str]) -> str:
    if len(names) <= _FULL_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _FULL_NAMES - 2])}, ... {names[-1]}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all do not exceed; NaN of nothing."""
    return quantile(values, percent / 100) if values else math.nan


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell; the last is not padded."""
    lines = [head, *rows] if head else list(rows)
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
