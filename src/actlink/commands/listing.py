"""What there is: policies, environments, dialects, robots, transports.

Each with one line about it and, where packages are missing, the exact pip line that installs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink import loading
from actlink.commands._options import Common
from actlink.commands._show import table
from actlink.policies._open import MODELS, bundled
from actlink.policies._recognise import looks_for

EXAMPLES = """\
  actlink list
  actlink list environments
"""

FOLDERS = ("policies", "environments", "dialects", "robots", "transports")

_WRITTEN = {
    "policies": "policy families (family:source; a directory or file is recognised)",
    "environments": "environments (name, name_task or name:task)",
    "dialects": "dialects (dialect+transport://host:port)",
    "robots": "robots",
    "transports": "transports",
}


@dataclass(frozen=True)
class Options:
    """Options of ``actlink list``."""

    what: Annotated[
        Positional[Literal["all", "policies", "environments", "dialects", "robots", "transports"]],
        arg(metavar="all|policies|environments|dialects|robots|transports"),
    ] = "all"
    """Which of them."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    for folder in FOLDERS if options.what == "all" else (options.what,):
        if folder == "policies":
            print("bundled policies (by name)")
            print(table([(f"  {name}", description(name)) for name in bundled()]) or "  none")
            print()
        print(_WRITTEN[folder])
        print("\n".join(adapters(folder)) or "  none yet")
        print()
    return 0


def description(name: str) -> str:
    """What a bundled policy says of itself in its ``policy.json``, or in its family's own file of that kind."""
    try:
        (described,) = (MODELS / name).glob("*.json")
        return str(json.loads(described.read_text(encoding="utf-8")).get("description", ""))
    except (OSError, ValueError):
        return "(its description cannot be read)"


def adapters(folder: str) -> Iterator[str]:
    """One line per adapter, and a second one where something is missing."""
    found = [loading.describe(folder, name) for name in loading.names(folder)]
    width = max((len(adapter.name) for adapter in found), default=0)
    sought = looks_for() if folder == "policies" else {}
    for adapter in found:
        yield f"  {adapter.name:{width}}  {adapter.summary}"
        if adapter.name in sought:
            yield f"  {'':{width}}  recognises {sought[adapter.name]}"
        if adapter.missing:
            yield f"  {'':{width}}  missing {', '.join(adapter.missing)}: {adapter.install}"
