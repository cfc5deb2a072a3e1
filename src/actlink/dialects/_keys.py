"""A peer's names for what a spec names, on wires whose peers agree on no names. Law: pure; a name fits one way or not at all.

In this order: the spec's own key; the same without ``observation/`` (or ``observation.``) before it; with ``.`` for ``/``; a
camera's name alone; ``image`` where there is one camera. Whatever else needs a ``rename`` in the policy's ``transform``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actlink.errors import RemoteProtocolError
from actlink.spec import Spec

IMAGES = "images."


class Keys:
    """The names that one spec answers to."""

    def __init__(self, spec: Spec) -> None:
        self._known = frozenset(spec.observation)
        self._only_camera = next(iter(spec.cameras)) if len(spec.cameras) == 1 else None

    def of(self, key: str) -> str:
        """The spec's name for a peer's ``key``; ``key`` itself where the spec has none."""
        if key in self._known:
            return key
        plain = key[len("observation.") :] if key.startswith(("observation/", "observation.")) else key
        plain = plain.replace("/", ".")
        for found in (plain, IMAGES + plain):
            if found in self._known:
                return found
        if plain == "image" and self._only_camera is not None:
            return IMAGES + self._only_camera
        return key

    def renamed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``given`` under the spec's names; ``RemoteProtocolError`` if two of its keys mean the same."""
        found = {self.of(key): value for key, value in given.items()}
        if len(found) != len(given):
            names = [self.of(key) for key in given]
            twice = [key for key in given if names.count(self.of(key)) > 1]
            raise RemoteProtocolError(f"observation: these keys mean the same here, send one of them: {', '.join(twice)}"[:1000])
        return found
