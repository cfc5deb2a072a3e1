"""JPEG: exact enough, from either package, and judged by its header before it is decoded."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlink.codecs import images
from actlink.codecs.images import Limits, decode_jpeg, encode_jpeg, jpeg_size
from actlink.errors import LocalProtocolError, MissingPackageError, RemoteProtocolError

pytest.importorskip("simplejpeg", reason="JPEG needs an extra: pip install 'actlink[images]'")
Image = pytest.importorskip("PIL.Image", reason="the fallback and the tests' own files need pillow")


@pytest.fixture(params=["simplejpeg", "PIL"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "PIL":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert images.backend() == request.param
    return str(request.param)


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture whose channels differ, so that a swap of channels or axes shows."""
    row, column = np.mgrid[0:height, 0:width]
    return np.stack([row * 255 // height, column * 255 // width, np.full_like(row, 40)], axis=2).astype(np.uint8)


def saved(image: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def test_pixels_come_back(backend: str) -> None:
    image = picture()
    encoded = encode_jpeg(image, 95)
    assert jpeg_size(encoded) == (48, 64, 3)
    decoded = decode_jpeg(encoded)
    assert decoded.dtype == np.uint8 and decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - image).mean() < 3
    assert len(encode_jpeg(image, 20)) < len(encoded)


def test_both_packages_read_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    theirs = encode_jpeg(image)
    first = decode_jpeg(theirs)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert np.abs(first.astype(int) - decode_jpeg(theirs)).max() <= 8
    assert np.abs(first.astype(int) - decode_jpeg(encode_jpeg(image))).max() <= 16


def test_any_layout_and_buffer(backend: str) -> None:
    image = picture()
    flipped = encode_jpeg(image[::-1, :, :])
    for buffer in (flipped, bytearray(flipped), memoryview(flipped), np.frombuffer(flipped, np.uint8).data):
        assert np.abs(decode_jpeg(buffer).astype(int) - image[::-1]).mean() < 3


def test_a_blank_picture_passes(backend: str) -> None:
    assert not decode_jpeg(encode_jpeg(np.zeros((1500, 2000, 3), np.uint8))).any()


@pytest.mark.parametrize(
    ("image", "quality", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), 90, "expected uint8"),
        (np.zeros((4, 4), np.uint8), 90, r"got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), 90, r"\(height, width, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), 90, r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), 0, "1 to 100"),
        (np.zeros((4, 4, 3), np.uint8), 101, "1 to 100"),
    ],
)
def test_what_cannot_be_encoded(image: np.ndarray, quality: int, says: str) -> None:
    with pytest.raises(LocalProtocolError, match=says):
        encode_jpeg(image, quality)


def header(height: int, width: int, components: int = 3, kind: int = 0xC0, precision: int = 8) -> bytes:
    """A file up to its picture data, of which there is none."""
    frame = struct.pack(">BHHB", precision, height, width, components) + bytes(3 * components)
    scan = bytes([components]) + bytes(2 * components + 3)
    return b"\xff\xd8" + segment(kind, frame) + segment(0xDA, scan)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def bombs() -> dict[str, tuple[bytes, str]]:
    image = picture()
    good = saved(image)
    scan = good.index(b"\xff\xda")
    return {
        "empty": (b"", "begins with FF D8"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "begins with FF D8"),
        "only the start": (b"\xff\xd8\xff\xd9\0\0", "marker 0xd9"),
        "start twice": (b"\xff\xd8\xff\xd8" + good[2:], "marker 0xd8"),
        "restart marker in front": (b"\xff\xd8\xff\xd0\xff\xd0" + good[2:], "marker 0xd0"),
        "65535 x 65535": (header(65535, 65535) + bytes(2**20), "at most 4000000 pixels"),
        "2001 x 2000": (header(2001, 2000) + bytes(2**20), "2000x2001"),
        "ratio": (header(2000, 2000) + bytes(1000), "more than 200:1"),
        "no height": (header(0, 640), "expected a size"),
        "no width": (header(480, 0), "expected a size"),
        "no components": (header(480, 640, 0), "expected a size"),
        "grey": (saved(image[:, :, 0]), "3 colour components, got 1"),
        "cmyk": (header(48, 64, 4) + bytes(4096), "got 4"),
        "12 bits": (header(48, 64, precision=12), "8 bits per sample"),
        "progressive": (saved(image, progressive=True), "SOF2"),
        "arithmetic": (header(48, 64, kind=0xC9), "SOF9"),
        "lossless": (header(48, 64, kind=0xC3), "SOF3"),
        "component by component": (good[:scan] + segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + good[scan:], "one scan"),
        "scan without a frame": (b"\xff\xd8" + segment(0xDA, b"\3" + bytes(9)) + bytes(100), "a frame header, then one scan"),
        "empty scan header": (header(48, 64)[:-14] + segment(0xDA, b""), "one scan"),
        "two frames": (b"\xff\xd8" + 2 * segment(0xC0, header(48, 64)[6:21]) + bytes(99), "got two"),
        "frame too short": (b"\xff\xd8" + segment(0xC0, b"\x08\0"), "8 bits per sample"),
        "frame of another length": (b"\xff\xd8" + segment(0xC0, header(48, 64)[6:20]), "8 bits per sample"),
        "segment outside": (b"\xff\xd8\xff\xe0\xff\xff" + bytes(10), "ends outside"),
        "segment of length 1": (b"\xff\xd8\xff\xe0\0\1" + bytes(10), "ends outside"),
        "no marker": (b"\xff\xd8\x00\xe0\0\4" + bytes(10), "expected a segment at byte 2"),
        "cut off": (good[:30], "expected a segment|ends outside"),
        "endless comments": (b"\xff\xd8" + segment(0xFE, b"") * 250_000, "within 256 segments"),
        "truncated picture": (good[: len(good) - 200], "jpeg: "),
        "no picture": (header(48, 64) + bytes(200), "jpeg: "),
        "mutilated tables": (good.replace(b"\xff\xdb", b"\xff\xee"), "jpeg: "),
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_and_misfits_are_refused(name: str, backend: str) -> None:
    data, says = bombs()[name]
    started = time.perf_counter()
    with pytest.raises(RemoteProtocolError, match=says):
        decode_jpeg(data)
    assert time.perf_counter() - started < 60  # decoding a bomb takes minutes


@pytest.mark.parametrize("name", ["65535 x 65535", "2001 x 2000", "ratio", "progressive", "endless comments"])
def test_bombs_allocate_nothing(name: str, backend: str) -> None:
    data, _ = bombs()[name]
    peaks = []
    for _ in range(3):  # the interpreter's own tables grow now and then
        tracemalloc.start()
        with pytest.raises(RemoteProtocolError):
            decode_jpeg(data)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 2**18


def test_a_decoder_that_disagrees_with_the_header_is_not_believed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "jpeg_size", lambda data: (48, 65, 3))
    with pytest.raises(RemoteProtocolError, match="its header says 65x48"):
        decode_jpeg(encode_jpeg(picture()))


def test_limits_are_the_callers_choice() -> None:
    encoded = encode_jpeg(picture())
    with pytest.raises(RemoteProtocolError, match="at most 3000 pixels"):
        decode_jpeg(encoded, Limits(max_pixels=3000))
    with pytest.raises(RemoteProtocolError, match="more than 2:1"):
        decode_jpeg(encoded, Limits(max_ratio=2.0))


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 10_000))
def test_mutated_files_are_decoded_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(encode_jpeg(picture()))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(RemoteProtocolError):
        decode_jpeg(data[: cut or None])


def test_without_either_package_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for call in (images.backend, lambda: encode_jpeg(picture())):
        with pytest.raises(MissingPackageError, match=r"pip install 'actlink\[images\]'"):
            call()
