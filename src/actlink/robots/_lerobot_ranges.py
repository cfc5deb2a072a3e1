"""How far each joint of one of LeRobot's robots goes, in the units of its actions. Law: from the calibration, never a guess.

LeRobot counts a motor's position in degrees around the middle of its calibrated range, or as -100..100 or 0..100 of that range.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actlink.types import Array

_DEGREES = 360.0


def ranges(driver: Any, actions: list[str]) -> tuple[Array, Array]:
    """``(lower, upper)`` float32 ``(action_dim,)``; both empty where one joint's cannot be told (no calibration, no such bus)."""
    found = [_range(driver, name) for name in actions]
    known = [each for each in found if each is not None]
    if len(known) != len(found):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    return np.array([low for low, _ in known], np.float32), np.array([high for _, high in known], np.float32)


def _range(driver: Any, action: str) -> tuple[float, float] | None:
    for holder, prefix in (
        (driver, ""),
        (getattr(driver, "left_arm", None), "left_"),
        (getattr(driver, "right_arm", None), "right_"),
    ):
        bus: Any = getattr(holder, "bus", None)
        name = action.removeprefix(prefix).removesuffix(".pos")
        motors = getattr(bus, "motors", None) or {}
        if not action.startswith(prefix) or not action.endswith(".pos") or name not in motors:
            continue
        mode = str(getattr(motors[name].norm_mode, "name", motors[name].norm_mode))
        if mode == "RANGE_0_100":
            return 0.0, 100.0
        if mode == "RANGE_M100_100":
            return -100.0, 100.0
        calibration = (getattr(bus, "calibration", None) or {}).get(name)
        if mode != "DEGREES" or calibration is None:
            return None
        resolution = bus.model_resolution_table[motors[name].model] - 1
        half = (calibration.range_max - calibration.range_min) / 2 * _DEGREES / resolution
        return -half, half
    return None
