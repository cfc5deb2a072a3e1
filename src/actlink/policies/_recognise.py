"""Which family a directory or file belongs to. Law: names of files decide, nothing is loaded, and no family spoils it for others.

A family says in ``LOOKS_FOR`` which files it knows its checkpoints by; that is what a person reads when nothing is recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actlink import loading
from actlink.errors import ConfigError

_SHOWN = 12
"""Entries of a directory that an error lists."""


def families_of(path: Path) -> list[str]:
    """Families that recognise ``path``."""
    return _look(path)[0]


def family_of(path: Path) -> str:
    """The family that recognises ``path``; ``ConfigError`` says what each looked for and what is there."""
    found, silent = _look(path)
    if len(found) == 1:
        return found[0]
    problem = f"several policy families recognise it: {', '.join(found)}" if found else "no policy family recognises it"
    chosen = found or list(looks_for())
    lines = [f"{path}: {problem}", "  looked for"]
    lines += [f"    {name}: {phrase}" for name, phrase in looks_for().items() if name in chosen]
    lines += [f"    {name}: could not look ({reason})" for name, reason in silent.items()]
    lines += [f"  there is: {there(path)}", f"  say which: --policy-type <family>, or <family>:{path}"]
    raise ConfigError("\n".join(lines))


def looks_for() -> dict[str, str]:
    """Family -> the files it knows its checkpoints by, for every family that lives in files and can be imported."""
    found = {}
    for name in loading.names("policies"):
        try:
            module = loading.load("policies", name)
        except Exception:  # whatever is wrong with it: it is told where it is asked for
            continue
        if hasattr(module, "recognises"):
            found[name] = str(getattr(module, "LOOKS_FOR", "files of its own"))
    return found


def there(path: Path) -> str:
    """What a person finds at ``path``: names of a directory's entries, or what kind of file it is."""
    if not path.is_dir():
        return f"one file, {path.name} ({path.stat().st_size} bytes)" if path.is_file() else "nothing that can be read"
    try:
        entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir())
    except OSError as error:
        return f"a directory that cannot be read ({error.strerror})"
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more or "an empty directory"


def _look(path: Path) -> tuple[list[str], dict[str, str]]:
    """Families that recognise ``path``, and those that could not look, with the reason."""
    found, silent = [], {}
    for name, answer in _answers(path):
        if answer is True:
            found.append(name)
        elif isinstance(answer, str):
            silent[name] = answer
    return found, silent


def _answers(path: Path) -> Iterator[tuple[str, bool | str]]:
    for name in loading.names("policies"):
        try:
            recognises = getattr(loading.load("policies", name), "recognises", None)
            yield name, recognises is not None and bool(recognises(path))
        except Exception as error:  # a family without its packages, or a directory it may not read
            yield name, f"{type(error).__name__}: {error}"
