"""Images at another size as torch's ``interpolate(mode="bilinear", align_corners=False)`` makes them of bytes. Law: pure numpy.

Two neighbours along each axis, no filter when shrinking, aspect not kept; weights of 16 bits, columns first, bytes in between: as
torch's kernel for uint8 (``aten/src/ATen/native/cpu/UpSampleKernel.cpp``), and with it bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from actlink.types import Array


def resize(image: Array, height: int, width: int) -> Array:
    """uint8 ``(h, w, channels)`` as ``(height, width, channels)``; the same array where it is so already."""
    if image.shape[1] != width:
        image = _along(image, 1, width)
    if image.shape[0] != height:
        image = _along(image, 0, height)
    return image


def _along(image: Array, axis: int, size: int) -> Array:
    first, second, low, high, shift = _taps(image.shape[axis], size)
    shape = (1, size, 1) if axis else (size, 1, 1)
    total: Array = np.take(image, first, axis) * low.reshape(shape)
    total += np.take(image, second, axis) * high.reshape(shape)
    total += 1 << (shift - 1)
    total >>= shift
    return total.astype(np.uint8)


@lru_cache(maxsize=64)
def _taps(old: int, new: int) -> tuple[Array, Array, Array, Array, int]:
    """Places of the two neighbours, their weights as integers, and how many bits the weights have."""
    place = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    first = np.minimum(np.floor(place).astype(np.int64), old - 1)
    second = np.minimum(first + 1, old - 1)
    high = np.clip(place - first, 0, 1)
    low = 1 - high
    low[first == second] = 1.0
    high[first == second] = 0.0
    shift = _precision(float(max(low.max(), high.max())))
    scale = 1 << shift
    return first, second, np.floor(low * scale + 0.5).astype(np.int32), np.floor(high * scale + 0.5).astype(np.int32), shift


def _precision(largest: float) -> int:
    """Bits such that the largest weight still fits into 16."""
    for bits in range(22):
        if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15:
            return bits
    return 22
