"""JPEG to pixels and back. Law: no I/O; size and kind are read from the file's header by our own reader before it is decoded.

simplejpeg does the work where it is installed, Pillow otherwise. Only baseline and extended sequential JPEG with one interleaved
scan is read: each further scan of a progressive file costs the decoder a pass over the whole image for a few bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from actlink.errors import LocalProtocolError, MissingPackageError, RemoteProtocolError
from actlink.types import Array

Buffer: TypeAlias = "bytes | bytearray | memoryview"

EXTRA = "images"
CHANNELS = 3
MAX_SEGMENTS = 256
"""Segments before the picture data; cameras write about ten."""

_START, _SCAN, _END = 0xD8, 0xDA, 0xD9
_SEQUENTIAL = (0xC0, 0xC1)
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may claim before it is decoded."""

    max_pixels: int = 4_000_000
    max_ratio: float = 200.0
    """Decoded bytes over encoded bytes. A blank 4:2:0 picture with the standard tables reaches 192."""


LIMITS = Limits()


def encode_jpeg(image: Array, quality: int = 90) -> bytes:
    """``image`` uint8 ``(height, width, 3)`` RGB as a baseline JPEG, 4:2:0 as cameras and video data sets have it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != CHANNELS or not image.size:
        raise LocalProtocolError(f"jpeg: expected uint8 (height, width, {CHANNELS}), got {image.dtype} {image.shape}")
    if not 1 <= quality <= 100:
        raise LocalProtocolError(f"jpeg: expected a quality from 1 to 100, got {quality}")
    if backend() == "simplejpeg":
        import simplejpeg

        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "420"))
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    return encoded.getvalue()


def decode_jpeg(buffer: Buffer, limits: Limits = LIMITS) -> Array:
    """Pixels of a JPEG: uint8 ``(height, width, 3)`` RGB. ``RemoteProtocolError`` if it is none, is damaged or over a limit."""
    data = memoryview(buffer).cast("B")
    height, width, channels = jpeg_size(data)
    if channels != CHANNELS:
        raise RemoteProtocolError(f"jpeg: expected {CHANNELS} colour components, got {channels}")
    if height * width > limits.max_pixels:
        raise RemoteProtocolError(f"jpeg: expected at most {limits.max_pixels} pixels, got {width}x{height}")
    if height * width * CHANNELS > limits.max_ratio * data.nbytes:
        raise RemoteProtocolError(
            f"jpeg: {width}x{height} from {data.nbytes} bytes is more than {limits.max_ratio:g}:1; send such an image raw"
        )
    pixels = _decode(data)
    if pixels.shape != (height, width, CHANNELS):
        raise RemoteProtocolError(f"jpeg: its header says {width}x{height}, it holds {pixels.shape}")
    return pixels


def jpeg_size(buffer: Buffer) -> tuple[int, int, int]:
    """Height, width and number of colour components, read from the header; ``RemoteProtocolError`` if it is not one we read."""
    data = memoryview(buffer).cast("B")
    if data.nbytes < 4 or data[0] != 0xFF or data[1] != _START:
        raise RemoteProtocolError("jpeg: expected a file that begins with FF D8")
    position, size = 2, None
    for _ in range(MAX_SEGMENTS):
        marker, body, position = _segment(data, position)
        if marker in _SEQUENTIAL:
            if size is not None:
                raise RemoteProtocolError("jpeg: expected one frame header, got two")
            size = _frame(body)
        elif marker in _OTHER_FRAMES:
            raise RemoteProtocolError(f"jpeg: expected a baseline file, got one of kind SOF{marker - 0xC0} (progressive or rarer)")
        elif marker == _SCAN:
            if size is None or not body or body[0] != size[2]:
                raise RemoteProtocolError("jpeg: expected a frame header, then one scan with all colour components")
            return size
    raise RemoteProtocolError(f"jpeg: expected picture data within {MAX_SEGMENTS} segments")


def backend() -> str:
    """The package that does the work: ``simplejpeg`` or ``PIL``; ``MissingPackageError`` without either."""
    for name in ("simplejpeg", "PIL"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            return name
    raise MissingPackageError(f"JPEG needs simplejpeg or Pillow; install with: pip install 'actlink[{EXTRA}]'")


def _segment(data: memoryview, position: int) -> tuple[int, memoryview, int]:
    """Marker and body of the segment at ``position``, and where the next begins."""
    if position + 4 > data.nbytes or data[position] != 0xFF:
        raise RemoteProtocolError(f"jpeg: expected a segment at byte {position} of {data.nbytes}")
    marker = data[position + 1]
    if marker in _WITHOUT_LENGTH or marker in (0x00, 0xFF, _START, _END):
        raise RemoteProtocolError(f"jpeg: expected a segment at byte {position}, got marker {marker:#04x}")
    end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if end < position + 4 or end > data.nbytes:
        raise RemoteProtocolError(f"jpeg: the segment at byte {position} ends outside the file")
    return marker, data[position + 4 : end], end


def _frame(body: memoryview) -> tuple[int, int, int]:
    """Height, width and components from the body of a frame header."""
    if body.nbytes < 6 or body[0] != 8 or body.nbytes != 6 + 3 * body[5]:
        raise RemoteProtocolError("jpeg: expected a frame header with 8 bits per sample")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if not height or not width or not body[5]:
        raise RemoteProtocolError(f"jpeg: expected a size, got {width}x{height} with {body[5]} components")
    return height, width, body[5]


def _decode(data: memoryview) -> Array:
    if backend() == "simplejpeg":
        import simplejpeg

        try:
            pixels: Array = simplejpeg.decode_jpeg(data, "RGB", strict=True)
        except ValueError as error:
            raise RemoteProtocolError(f"jpeg: {error}") from None
        return pixels
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RemoteProtocolError(f"jpeg: {error}") from None
