"""Range and step limits of one embodiment, as arrays. Law: pure; what comes out is inside, to the last bit of a float32.

An arm that is found outside its range is the one exception: it is brought back one step at a time, not in a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.spec import Field
from actlink.types import Array

RESUME_SHARE = 0.02
"""Of the range: a step on the way from a measured pose to the plan, where no step limit is configured."""


class Limits:
    """How far an action may go, and how it is brought inside."""

    def __init__(
        self,
        action: Field,
        rate_hz: float,
        control_type: str = "abs",
        *,
        lower: Sequence[float] | None = None,
        upper: Sequence[float] | None = None,
        max_step: Sequence[float] | None = None,
        max_rate: Sequence[float] | None = None,
        resume_step: Sequence[float] | None = None,
        max_acceleration: Sequence[float] | None = None,
    ) -> None:
        """Each limit has one value per entry, or one for all; ``ConfigError`` where it has not, or cannot be held."""
        self.shape = tuple(n for n in action.shape if n is not None)
        if len(self.shape) != 1:
            raise ConfigError(f"limits: expected an action of known length, got shape {action.shape}")
        self._discrete = action.dtype != "float32"
        self._dtype: Any = np.int64 if self._discrete else np.float32
        self.kinds = "iu" if self._discrete else "fiu"
        """Kinds of numpy dtypes that an action may have."""
        self.positions = control_type == "abs" and not self._discrete
        """Whether actions are positions; a step is then the way from one to the next, else the action itself."""
        steps = [self._each("max_step", max_step), self._each("max_rate", max_rate, 1 / rate_hz)]
        known = [each for each in steps if each is not None]
        if known and (self._discrete or control_type not in ("abs", "delta")):
            what = "discrete actions" if self._discrete else f"{control_type} actions, which do not say where they lead"
            raise ConfigError(f"max_step and max_rate cannot be held for {what}")
        self.acceleration = self._each("max_acceleration", max_acceleration, 1 / rate_hz**2)
        """float64 ``(action_dim,)``: how far a step may differ from the one before; None where that is not configured."""
        if self.acceleration is not None and not self.positions:
            raise ConfigError(f"max_acceleration cannot be held for {'discrete' if self._discrete else control_type} actions")
        low, high = action.range or (-np.inf, np.inf)
        self.lower, self.upper = self._bound("lower", lower, low), self._bound("upper", upper, high)
        if not (self.lower <= self.upper).all():
            raise ConfigError(f"limits: expected lower <= upper, got {self.lower.tolist()} and {self.upper.tolist()}")
        self.step: Array | None = np.minimum.reduce(known) if known else None
        """float64 ``(action_dim,)``, or None where none is configured."""
        given = self._each("resume_step", resume_step)
        share = RESUME_SHARE * (self.upper.astype(np.float64) - self.lower)
        told = [each for each in (given, self.step) if each is not None]
        self.resume: Array = np.minimum.reduce(told) if told else share
        """The same for the way from a measured pose to the plan: infinite where neither options nor range tell."""

    def apply(
        self, planned: Array, reference: Array | None, step: Array | None, clamp: bool, name: str
    ) -> tuple[Array | None, list[str]]:
        """``planned`` inside range and within ``step`` of ``reference`` (zero where None), or None if that needs a change that is
        not allowed; with the reasons ``position`` and ``name``."""
        wanted = planned.astype(self._dtype)
        action: Array = np.clip(wanted, self.lower, self.upper).astype(self._dtype)
        notes = ["position"] if (action != wanted).any() else []
        if step is not None and (reference is not None or not self.positions):
            near = self._near(action, np.zeros_like(action) if reference is None else reference, step)
            if (near != action).any():
                action = near
                notes.append(name)
        allowed = not notes or (clamp and not self._discrete)  # the nearest of discrete actions is another action
        return (action if allowed else None), notes

    def inside(self, action: Array, reference: Array, step: Array | None = None) -> Array:
        """A command that may take its time: one that began outside its range goes no further out. ``step``: as in ``apply``."""
        low, high = np.minimum(self.lower, reference), np.maximum(self.upper, reference)
        inside = np.clip(action, low, high).astype(np.float32)
        return inside if step is None else self._near(inside, reference, step)

    @staticmethod
    def _near(action: Array, reference: Array, step: Array) -> Array:
        """``action`` within ``step`` of ``reference``, to the last bit of a float32."""
        centre = reference.astype(np.float64)
        near: Array = np.clip(action, centre - step, centre + step).astype(np.float32)
        over = np.abs(near - centre) > step
        return np.where(over, np.nextafter(near, centre.astype(np.float32)), near) if over.any() else near

    def _each(self, name: str, given: Sequence[float] | None, scale: float = 1.0) -> Array | None:
        if given is None:
            return None
        if len(given) not in (1, *self.shape):
            raise ConfigError(f"{name}: expected 1 value or {self.shape[0]}, got {len(given)}")
        return np.broadcast_to(np.asarray(given, np.float64) * scale, self.shape)

    def _bound(self, name: str, given: Sequence[float] | None, default: float) -> Array:
        """As float32 values inside the given ones, so that rounding never leads outside."""
        each = self._each(name, given)
        exact = np.full(self.shape, default, np.float64) if each is None else each
        if np.isnan(exact).any():
            raise ConfigError(f"{name}: expected numbers, got {exact.tolist()}")
        with np.errstate(over="ignore"):
            rounded = exact.astype(np.float32)
        outside = rounded < exact if name == "lower" else rounded > exact
        inward = np.nextafter(rounded, np.float32(np.inf if name == "lower" else -np.inf))
        return np.where(outside, inward, rounded)
