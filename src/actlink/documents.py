"""YAML written by the operator: in a file, or in place. Law: plain values only, and the error names where it stood.

``spec.yaml``, ``{state: 14, ...}`` and ``- rename: {a: b}`` are all one option's value: what begins with a bracket or a dash, holds
a colon and a blank, or has several lines, is the document itself; everything else is the path of a file that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actlink.errors import ConfigError
from actlink.spec import Spec


def read(text: str, where: str) -> Any:
    """The plain value of the YAML in ``text``, or in the file that ``text`` names. ``ConfigError`` where there is none."""
    import yaml

    if not _is_inline(text):
        path = Path(text).expanduser()
        where = f"{where}: {path}"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{where}: no such file (YAML in place begins with '[', '{{' or '- ')") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read: {error}") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


def read_spec(text: str, where: str) -> Spec:
    """The ``Spec`` written in ``text`` or in the file it names, in the layout of ``Spec.to_dict``; absent keys are defaults."""
    plain = read(text, where)
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: expected a mapping with 'observation' and 'action', got a {type(plain).__name__}")
    return Spec.from_dict(plain, where)


def _is_inline(text: str) -> bool:
    text = text.strip()
    return text.startswith(("[", "{", "- ")) or ": " in text or "\n" in text
