"""An image at another size. Law: pure numpy, and the same bits on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from actlink.types import Array


def resize(image: Array, height: int, width: int) -> Array:
    """uint8 ``(h, w, channels)`` as ``(height, width, channels)``: a triangle filter as wide as the reduction.

    The same picture as Pillow's ``BILINEAR`` within one level, and the same bits on every machine.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected a uint8 image (height, width, channels), got {image.dtype} {image.shape}")
    if image.shape[:2] == (height, width):
        return image
    # Smaller first: the second pass has less to do.
    found = image.astype(np.float32)
    for axis, size in sorted(((0, height), (1, width)), key=lambda pair: pair[1] / image.shape[pair[0]]):
        found = _resample(found, axis, size)
    return (found + 0.5).astype(np.uint8)


def _resample(values: Array, axis: int, size: int) -> Array:
    if values.shape[axis] == size:
        return values
    indexes, weights = _taps(values.shape[axis], size)
    shape = [1, 1, 1]
    shape[axis] = size
    total: Array = np.take(values, indexes[0], axis) * weights[0].reshape(shape)
    for index, weight in zip(indexes[1:], weights[1:], strict=True):
        total += np.take(values, index, axis) * weight.reshape(shape)
    return total


@lru_cache(maxsize=32)
def _taps(old: int, new: int) -> tuple[Array, Array]:
    """For each new place the old places that count, and how much: both ``(taps, new)``."""
    scale = old / new
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.floor(centre - reach).astype(np.int64)
    places = first + np.arange(int(np.ceil(2 * reach)) + 2)[:, None]
    weights = np.clip(1 - np.abs(places + 0.5 - centre) / reach, 0, None)
    weights[(places < 0) | (places >= old)] = 0
    weights /= weights.sum(0)
    return np.clip(places, 0, old - 1), weights.astype(np.float32)
