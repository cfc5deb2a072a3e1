"""The conveyor drawn from the side, with numpy alone. Law: rectangles on a fixed canvas."""

from __future__ import annotations

import numpy as np

from actlink.types import Array

HEIGHT, WIDTH = 240, 480
LEFT_M, RIGHT_M, BOTTOM_M = -0.1, 1.3, -0.15
_SCALE = WIDTH / (RIGHT_M - LEFT_M)
_PAPER, _BELT, _MARK, _OBJECT, _BIN, _STEEL = (
    (238, 240, 242),
    (70, 74, 80),
    (120, 126, 134),
    (224, 122, 60),
    (62, 124, 177),
    (40, 44, 52),
)


def draw(x: float, z: float, half_gap: float, target: tuple[float, float], bin_x: float, travelled: float) -> Array:
    """uint8 (240, 480, 3): gripper at (``x``, ``z``), object standing at ``target``, belt moved by ``travelled``; metres."""
    picture = np.full((HEIGHT, WIDTH, 3), _PAPER, np.uint8)
    _box(picture, LEFT_M, 0.8, -0.05, 0.0, _BELT)
    for mark in np.arange(LEFT_M - 0.1, 0.8, 0.1):
        place = mark + travelled % 0.1
        _box(picture, max(place, LEFT_M), min(place + 0.02, 0.8), -0.02, -0.01, _MARK)
    _box(picture, bin_x - 0.06, bin_x - 0.05, -0.02, 0.08, _BIN)
    _box(picture, bin_x + 0.05, bin_x + 0.06, -0.02, 0.08, _BIN)
    _box(picture, bin_x - 0.06, bin_x + 0.06, -0.03, -0.02, _BIN)
    _box(picture, target[0] - 0.018, target[0] + 0.018, target[1], target[1] + 0.05, _OBJECT)
    for side in (-1, 1):
        inner = x + side * half_gap
        _box(picture, min(inner, inner + side * 0.01), max(inner, inner + side * 0.01), z, z + 0.08, _STEEL)
    _box(picture, x - 0.055, x + 0.055, z + 0.08, z + 0.095, _STEEL)
    _box(picture, x - 0.01, x + 0.01, z + 0.095, 0.6, _STEEL)
    return picture


def _box(picture: Array, left: float, right: float, low: float, high: float, colour: tuple[int, int, int]) -> None:
    columns = [round((side - LEFT_M) * _SCALE) for side in (left, right)]
    rows = [HEIGHT - round((side - BOTTOM_M) * _SCALE) for side in (high, low)]
    picture[max(rows[0], 0) : max(rows[1], 0), max(columns[0], 0) : max(columns[1], 0)] = colour
