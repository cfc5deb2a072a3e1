"""What a policy wants against what a giver (environment, robot) offers. Law: pure; a misfit comes with the line that repairs it.

Fixes are lines of a ``transform:``; all of them together, in order, leave nothing to repair but what no line can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from actlink import transform
from actlink._judging import patterns, superfluous, unit_of, wrong_unit
from actlink._naming import renames
from actlink._operations import Operation, Rename, Resize, Select, Transpose, Upright
from actlink._rate import Rate
from actlink._units import Unit, convertible
from actlink.spec import Field, Spec
from actlink.transform import Transform
from actlink.types import Array


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that does not fit."""

    where: str
    expected: str
    """What the policy wants (observation), or the environment takes (action)."""
    got: str
    fix: str | None = None
    """The line of a transform that repairs it; None where none can."""
    certain: bool = False
    """The names leave no doubt about the fix: it is applied without being asked for."""
    fatal: bool = True
    """False: it runs nevertheless, at the user's risk."""
    hint: str = ""
    """What to consider before the line is pasted."""

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, got {self.got}"


def compare(wanted: Spec, offered: Spec, seen: Mapping[str, Sequence[Array]] | None = None) -> list[Mismatch]:
    """Everything about ``offered`` (an environment's or robot's spec) that does not fit ``wanted`` (a policy's).

    Entries that are compared: keys, dtypes, shapes, channel order, names and their order, units; the action's kind, entries and
    control space; the rate. ``seen`` are values that the giver really gave (by its keys, a few of each): they tell which entry of a
    vector is one too many.
    """
    seen = seen or {}
    renamed = renames(wanted, offered)
    found: list[Mismatch] = []
    for key, field in wanted.observation.items():
        source = renamed.get(key, key)
        if source not in offered.observation:
            if field.required:
                there = ", ".join(offered.observation) or "nothing"
                found.append(Mismatch(f"observation {key!r}", _show(field), f"none of that name; there is: {there}"))
            continue
        if source != key:
            fix = str(Rename(source, key))
            found.append(Mismatch(f"observation {key!r}", f"the key {key!r}", f"the key {source!r}", fix))
        misfits = _compare_field(key, field, offered.observation[source], seen.get(source, ()))
        # What waits for a rename is no more certain than the rename.
        found += [replace(each, certain=each.certain and source == key) for each in misfits]
    found += _compare_action(wanted.action, offered.action)
    found += _compare_control(wanted, offered)
    return found


def judge(wanted: Spec, seen: Mapping[str, Sequence[Array]], hold: Array | None) -> list[Mismatch]:
    """What is strange about values that fit in form: ``seen`` are those the policy would see, in its own keys and entries.

    ``hold`` is the action that keeps the giver where it is, as the policy would have to give it: where it is far from anything that
    the policy was trained to do, and in another unit is not, the giver takes another unit.
    """
    found = []
    for key, field in wanted.observation.items():
        verdict = wrong_unit(field, seen.get(key, ()))
        if verdict is not None:
            given, meant, chosen = verdict
            lines = [str(Unit(key, pattern, given, meant)) for pattern in patterns(field.names, chosen)]
            expected, got = f"values as in training, in {meant}", f"values that look like {given}"
            found.append(Mismatch(f"observation {key!r}", expected, got, "\n".join(lines), hint=_EXAMINE))
    verdict = None if hold is None or wanted.control_type != "abs" else wrong_unit(wanted.action, [hold])
    if verdict is not None:
        given, meant, chosen = verdict
        lines = [str(Unit("actions", pattern, meant, given)) for pattern in patterns(wanted.action.names, chosen)]
        found.append(Mismatch("action", f"actions that look like {given}", f"{meant}", "\n".join(lines), hint=_EXAMINE))
    return found


_EXAMINE = "judged by the values of one start; make sure of the unit before anything moves"


def fixes(mismatches: list[Mismatch]) -> Transform:
    """The transform that all fixes make together."""
    return transform.join(transform.parse(each.fix) for each in mismatches if each.fix is not None)


def automatic(wanted: Spec, offered: Spec) -> Transform:
    """The part that needs no decision: named entries brought into the policy's order (action: into the environment's)."""
    return fixes([each for each in compare(wanted, offered) if each.certain])


def _compare_field(key: str, wanted: Field, offered: Field, seen: Sequence[Array] = ()) -> Iterator[Mismatch]:
    where = f"observation {key!r}"
    if not _castable(wanted, offered):
        yield Mismatch(where, _show(wanted), _show(offered))
        return
    unit = unit_of(wanted, offered.unit)
    if unit and offered.unit and unit != offered.unit:
        fix = str(Unit(key, "*", offered.unit, unit)) if _vector_of(wanted, offered, unit) else None
        yield Mismatch(where, f"the unit {unit}", offered.unit, fix, hint="" if wanted.unit else _CONCLUDED)
    if wanted.is_image and offered.is_image:
        yield from _compare_image(key, wanted, offered)
        return
    if wanted.names and offered.names and wanted.names != offered.names:
        yield _names_mismatch(where, wanted.names, offered.names, key)
        return
    if not _fits(wanted.shape, offered.shape):
        yield _length_mismatch(where, key, wanted, offered, seen)


def _length_mismatch(where: str, key: str, wanted: Field, offered: Field, seen: Sequence[Array]) -> Mismatch:
    """A vector of another length; which entries are too many is known by name or judged by their values, else the last."""
    size, given = (field.shape[0] if len(field.shape) == 1 else None for field in (wanted, offered))
    if size is None or given is None or given < size:
        short = "" if size is None or given is None else f"; {size - given} entr{'y' if size - given == 1 else 'ies'} too few"
        return Mismatch(where, _show(wanted), f"{_show(offered)}{short}")
    kept = superfluous(wanted, given, seen)
    entries = kept if offered.names is None else tuple(offered.names[index] for index in kept)
    left_out = [index for index in range(given) if index not in kept]
    named = ", ".join(str(index) if offered.names is None else offered.names[index] for index in left_out)
    hint = f"leaves out {named}; make sure that the policy was trained with the others, in this order"
    return Mismatch(where, _show(wanted), _show(offered), str(Select(key, entries)), hint=hint)


def _vector_of(wanted: Field, offered: Field, unit: str | None) -> bool:
    return wanted.dtype == offered.dtype == "float32" and bool(wanted.shape) and convertible(offered.unit, unit)


_CONCLUDED = "concluded from how far the values reached in training"


def _compare_image(key: str, wanted: Field, offered: Field) -> Iterator[Mismatch]:
    where = f"observation {key!r}"
    first = _channels_first(wanted)
    if first != _channels_first(offered):
        operation: Operation = Transpose(key, to_last=not first)
        yield Mismatch(where, "channels first" if first else "channels last", _show(offered), str(operation))
        offered = operation.field(offered)
    if _fits(wanted.shape, offered.shape):
        return
    if first:
        # Sizes are changed with channels last: there, resize, and back again.
        there, back = Transpose(key, to_last=True), Transpose(key, to_last=False)
        yield from _resize(key, there.field(wanted), there.field(offered), (str(there), str(back)))
    else:
        yield from _resize(key, wanted, offered, ("", ""))


def _resize(key: str, wanted: Field, offered: Field, around: tuple[str, str]) -> Iterator[Mismatch]:
    height, width, channels = wanted.shape
    where = f"observation {key!r}"
    if channels != offered.shape[2]:
        yield Mismatch(where, f"{channels} channels", f"{offered.shape[2]}")
        return
    if _exchanged(wanted, offered):
        yield _exchange(key, wanted, offered, around)
        return
    height, width = (height or offered.shape[0]), (width or offered.shape[1])
    if height is None or width is None:
        yield Mismatch(where, _show(wanted), _show(offered))
        return
    fix = "\n".join(line for line in (around[0], str(Resize(key, height, width)), around[1]) if line)
    yield Mismatch(where, f"{height}x{width} pixels", "x".join("any" if n is None else str(n) for n in offered.shape[:2]), fix)


def _exchanged(wanted: Field, offered: Field) -> bool:
    """Whether one picture is upright and the other lies, in the same proportion."""
    sides = (*wanted.shape[:2], *offered.shape[:2])
    height, width, tall, wide = (side or 0 for side in sides)
    return all(sides) and height != width and height * tall == width * wide


def _exchange(key: str, wanted: Field, offered: Field, around: tuple[str, str]) -> Mismatch:
    """Width and height have changed places."""
    (height, width), (tall, wide) = wanted.shape[:2], offered.shape[:2]
    assert height is not None and width is not None
    lines = [around[0], str(Upright(key))]
    lines += [str(Resize(key, height, width))] if (tall, wide) != (width, height) else []
    hint = f"the giver's rows are taken for columns; if its camera really stands upright: {Resize(key, height, width)}"
    where = f"observation {key!r}"
    return Mismatch(
        where, f"{height}x{width} pixels", f"{tall}x{wide}: height and width exchanged", _lines(*lines, around[1]), hint=hint
    )


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _names_mismatch(where: str, wanted: tuple[str, ...], offered: tuple[str, ...], key: str) -> Mismatch:
    absent = [name for name in wanted if name not in offered]
    if absent:
        return Mismatch(where, f"entries {', '.join(absent)}", f"only {', '.join(offered)}")
    operation = Select(key, wanted, reorder=len(wanted) == len(offered))
    expected = f"the {len(wanted)} entries {_some(wanted)}"
    return Mismatch(where, expected, f"{len(offered)}: {_some(offered)}", str(operation), certain=True)


def _compare_action(wanted: Field, offered: Field) -> Iterator[Mismatch]:
    where = "action"
    if wanted.dtype != offered.dtype:
        kind = {"int64": "a discrete action (int64)", "float32": "a continuous action (float32)"}
        yield Mismatch(where, kind.get(offered.dtype, offered.dtype), kind.get(wanted.dtype, wanted.dtype))
        return
    if wanted.unit and offered.unit and wanted.unit != offered.unit:
        fix = str(Unit("actions", "*", wanted.unit, offered.unit)) if _vector_of(wanted, offered, wanted.unit) else None
        yield Mismatch(where, f"the unit {offered.unit}", wanted.unit, fix)
    if wanted.range and offered.range and not (offered.range[0] <= wanted.range[0] <= wanted.range[1] <= offered.range[1]):
        discrete = wanted.dtype == "int64"
        expected, got = (f"{'choices' if discrete else 'values'} {low:g}..{high:g}" for low, high in (offered.range, wanted.range))
        yield Mismatch(where, expected, got, fatal=discrete)
    if wanted.names and offered.names and wanted.names != offered.names:
        yield _action_names_mismatch(wanted.names, offered.names)
    elif not _fits(offered.shape, wanted.shape):
        yield Mismatch(where, f"{offered.shape[0]} entries", f"{wanted.shape[0]}")


def _action_names_mismatch(policy: tuple[str, ...], environment: tuple[str, ...]) -> Mismatch:
    absent = [name for name in environment if name not in policy]
    if absent:
        return Mismatch("action", f"entries {', '.join(absent)}", f"only {', '.join(policy)}")
    same = len(policy) == len(environment)
    line = str(Transform((), Select("actions", environment, reorder=same)))
    # Entries that the environment does not take are dropped only on the user's word.
    return Mismatch("action", f"the entries {_some(environment)}", _some(policy), line, certain=same)


def _compare_control(wanted: Spec, offered: Spec) -> Iterator[Mismatch]:
    if (wanted.control_space, wanted.control_type) != (offered.control_space, offered.control_type):
        yield Mismatch(
            "action", f"{offered.control_space} {offered.control_type} control", f"{wanted.control_space} {wanted.control_type}"
        )
    if wanted.rate_hz and offered.rate_hz and abs(wanted.rate_hz - offered.rate_hz) > 0.01 * wanted.rate_hz:
        fix = str(Rate(wanted.rate_hz, offered.rate_hz))
        yield Mismatch("rate", f"{wanted.rate_hz:g} Hz", f"{offered.rate_hz:g} Hz", fix, fatal=False)


def _castable(wanted: Field, offered: Field) -> bool:
    """Whether ``Spec.check`` takes it: integers become floats, but pictures do not, and floats never become integers."""
    if wanted.dtype == offered.dtype:
        return True
    numbers = {"float32": ("int64", "uint8", "bool"), "int64": ("uint8", "bool")}
    return offered.dtype in numbers.get(wanted.dtype, ()) and not offered.is_image


def _fits(wanted: tuple[int | None, ...], offered: tuple[int | None, ...]) -> bool:
    return len(wanted) == len(offered) and all(w is None or o is None or w == o for w, o in zip(wanted, offered, strict=True))


def _channels_first(field: Field) -> bool:
    return field.shape[0] in (1, 3, 4) and field.shape[2] not in (1, 3, 4)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names if len(names) <= 6 else (*names[:3], "...", *names[-2:]))


def _show(field: Field) -> str:
    return f"{field.dtype} ({', '.join('any' if n is None else str(n) for n in field.shape)})"
