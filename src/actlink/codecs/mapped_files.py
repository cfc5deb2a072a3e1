"""Files as views on their bytes. Law: mapped, never copied; what is not looked at is not read."""

from __future__ import annotations

import mmap
from pathlib import Path

from actlink.errors import ConfigError


def mapped(path: Path) -> memoryview:
    """The bytes of a file, read-only, as long as anything refers to them; ``ConfigError`` if there are none to be had."""
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError:
        raise ConfigError(f"{path}: an empty file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
