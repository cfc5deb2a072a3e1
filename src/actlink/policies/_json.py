"""JSON objects that came with a checkpoint. Law: bounded, plain values; ``ConfigError`` names the file and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actlink.errors import ConfigError

MOST_BYTES = 4 * 1024 * 1024
"""Of a file that describes a checkpoint; statistics of a dataset stay far below."""


def read(path: Path) -> dict[str, Any]:
    """The object in the file ``path``, of at most ``MOST_BYTES``."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: expected a JSON file of at most {MOST_BYTES} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse(text, path)


def parse(text: bytes, path: Path) -> dict[str, Any]:
    """The object in ``text``, which was read from ``path``."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content
