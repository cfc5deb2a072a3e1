"""The transform's ``rate``: chunks of one control rate for a giver of another. Law: pure; times are kept, row 0 stays row 0.

::

    - actions: {rate: 30->50}               # the policy's rows are 1/30 s apart, the giver's control steps 1/50 s
    - actions: {rate: 30->50 hold}          # each of the policy's actions until the next one

Row ``i`` of the policy's chunk is meant for the moment ``i / 30`` s after its observation, the giver's control step ``j`` for
``j / 50`` s. The chunk that the giver gets has one row for each of its steps up to the last row of the policy's, never beyond it:
``linear`` is on the straight line between the two rows around that moment, ``nearest`` the nearer of them, ``hold`` the earlier.
Choices (int64) are not mixed: there ``linear`` is ``nearest``. Steps of requests and chunks are the giver's throughout.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.types import Array

METHODS = ("linear", "nearest", "hold")
_NEAR = 1e-9  # rows; rounding of a quotient must not cost a row


@dataclass(frozen=True, slots=True)
class Rate:
    """From the policy's control rate to the giver's, both in Hz."""

    policy_hz: float
    giver_hz: float
    method: str = "linear"

    def horizon(self, rows: int) -> int:
        """Rows of the giver's chunk when the policy's has ``rows``."""
        return math.floor((rows - 1) * self.giver_hz / self.policy_hz + _NEAR) + 1

    def chunk(self, actions: Array) -> Array:
        """The policy's ``(rows, action_dim)`` at the giver's control steps."""
        return _sampled(actions, self.horizon(len(actions)), self.policy_hz / self.giver_hz, self.method)

    def prefix(self, actions: Array) -> Array:
        """The giver's committed actions ``(n, action_dim)`` at the policy's rows; the way back, by the same rule."""
        rows = math.floor((len(actions) - 1) * self.policy_hz / self.giver_hz + _NEAR) + 1 if len(actions) else 0
        return _sampled(actions, rows, self.giver_hz / self.policy_hz, self.method)

    def delay(self, steps: int) -> int:
        """How many of the policy's rows begin before ``steps`` of the giver's control steps have passed."""
        return math.ceil(steps * self.policy_hz / self.giver_hz - _NEAR)

    def step(self, step: int) -> int:
        """The policy's count of control steps when the giver's is ``step``."""
        return math.floor(step * self.policy_hz / self.giver_hz + _NEAR)

    def inner_steps(self, step: int) -> int:
        """How many of the giver's control steps begin within the policy's step ``step``; neither ever gains on the other."""
        ratio = self.giver_hz / self.policy_hz
        return math.ceil((step + 1) * ratio - _NEAR) - math.ceil(step * ratio - _NEAR)

    def __str__(self) -> str:
        method = "" if self.method == "linear" else f" {self.method}"
        return f"- actions: {{rate: {self.policy_hz:g}->{self.giver_hz:g}{method}}}"


def parse_rate(argument: Any, where: str) -> Rate:
    """``30->50``, and behind it linear (or nothing), nearest or hold."""
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"\s*{number}\s*->\s*{number}\s*(\w*)\s*", argument) if isinstance(argument, str) else None
    if found is None or (found[3] or "linear") not in METHODS or not float(found[1]) or not float(found[2]):
        raise ConfigError(
            f"{where}: expected the policy's rate and the giver's, such as 30->50, with linear, nearest or hold behind it; "
            f"got {argument!r}"
        )
    return Rate(float(found[1]), float(found[2]), found[3] or "linear")


def _sampled(actions: Array, rows: int, spacing: float, method: str) -> Array:
    """``rows`` rows of ``actions``, ``spacing`` of its own rows apart."""
    if not len(actions):
        return actions
    places = np.minimum(np.arange(rows) * spacing, len(actions) - 1)
    if method == "hold":
        places = np.floor(places + _NEAR)
    if method != "linear" or actions.dtype.kind != "f":
        nearest: Array = actions[np.floor(places + 0.5).astype(np.int64)]
        return nearest
    before = np.floor(places + _NEAR).astype(np.int64)
    after = np.minimum(before + 1, len(actions) - 1)
    part = np.clip(places - before, 0.0, 1.0).astype(actions.dtype)[:, None]
    mixed: Array = actions[before] * (1 - part) + actions[after] * part
    return mixed
