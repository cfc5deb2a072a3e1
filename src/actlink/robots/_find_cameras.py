"""Cameras of this machine, and a picture of each. Law: looks, and leaves every camera as it was.

With LeRobot installed OpenCV's and RealSense cameras are found as LeRobot finds them; with OpenCV alone, its own. A camera is told
as LeRobot tells it: ``name``, ``type`` (OpenCV, RealSense), ``id``, ``default_stream_profile``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actlink.errors import CameraError, ConfigError, MissingPackageError
from actlink.types import Array

log = logging.getLogger("actlink.cameras")

KINDS = ("opencv", "realsense")
_MOST_INDEX = 10
"""Where there is no /dev to look into, these indices are tried."""

Info = Mapping[str, Any]


def find(kind: str | None = None) -> list[Info]:
    """Cameras of ``kind`` (None: of every kind). ``MissingPackageError`` if nothing here can look for them."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"cameras: expected {' or '.join(KINDS)}, got {kind!r}")
    _require_opencv()
    found: list[Info] = []
    for each, name, look in (("opencv", "OpenCV", _opencv), ("realsense", "RealSense", _realsense)):
        if kind in (None, each):
            log.info("Searching for %s cameras...", name)
            found += _looked(name, look)
    return found


def given(source: str) -> Info:
    """The camera or video file that somebody names: ``/dev/video2``, ``0``, ``clip.avi``."""
    _require_opencv()
    target: str | int = int(source) if source.isdigit() else source
    info = _described(target)
    if info is None:
        raise CameraError(f"camera {source!r}: OpenCV cannot open it", camera=source)
    return info


def lines(found: Sequence[Info]) -> Iterator[str]:
    """The list, laid out as LeRobot lays it out."""
    yield "\n--- Detected Cameras ---"
    for index, info in enumerate(found):
        yield f"Camera #{index}:"
        for key, value in info.items():
            if key == "default_stream_profile" and isinstance(value, Mapping):
                yield "  Default stream profile:"
                yield from (f"    {name.capitalize()}: {each}" for name, each in value.items())
            else:
                yield f"  {key.replace('_', ' ').capitalize()}: {value}"
        yield "-" * 20


def picture(info: Info, record_time_s: float, warmup_s: float) -> tuple[Array, int]:
    """The last picture ``(height, width, 3)`` RGB of ``record_time_s`` after ``warmup_s``, and how many there were."""
    read, close = _opened(info, warmup_s)
    try:
        frame, count, end_s = None, 0, time.monotonic() + record_time_s
        while frame is None or time.monotonic() < end_s:
            frame = read()
            count += 1
        return frame, count
    finally:
        close()


def save(frame: Array, info: Info, directory: Path) -> Path:
    """The picture as ``<type>_<id>.png`` in ``directory``."""
    import cv2

    directory.mkdir(parents=True, exist_ok=True)
    identifier = str(info["id"]).replace("/", "_").replace("\\", "_")
    path = directory / f"{str(info['type']).lower()}_{identifier}.png"
    if not cv2.imwrite(str(path), frame[..., ::-1]):
        raise ConfigError(f"{path}: the picture cannot be written")
    return path


def _require_opencv() -> None:
    if importlib.util.find_spec("cv2") is None:
        raise MissingPackageError(
            "looking for cameras needs OpenCV; install with: pip install 'actlink[lerobot]' (or opencv-python-headless alone)"
        )


def _looked(name: str, look: Callable[[], list[Info]]) -> list[Info]:
    try:
        found = look()
    except ImportError as error:
        log.warning("Skipping %s camera search: %s library not found or not importable.", name, error.name or name)
        return []
    except Exception as error:  # a driver that is there and does not work
        log.error("Error finding %s cameras: %s", name, error)
        return []
    log.info("Found %d %s cameras.", len(found), name)
    return found


def _opencv() -> list[Info]:
    if importlib.util.find_spec("lerobot") is not None:
        return list(importlib.import_module("lerobot.cameras.opencv").OpenCVCamera.find_cameras())
    linux = platform.system() == "Linux"
    targets: list[str | int] = sorted(map(str, Path("/dev").glob("video*"))) if linux else list(range(_MOST_INDEX))
    return [info for info in map(_described, targets) if info is not None]


def _realsense() -> list[Info]:
    importlib.import_module("pyrealsense2")  # LeRobot says only that something is wrong
    return list(importlib.import_module("lerobot.cameras.realsense").RealSenseCamera.find_cameras())


def _described(target: str | int) -> Info | None:
    import cv2

    capture = cv2.VideoCapture(target)
    try:
        if not capture.isOpened():
            return None
        code = int(capture.get(cv2.CAP_PROP_FOURCC))
        profile = {
            "format": capture.get(cv2.CAP_PROP_FORMAT),
            "fourcc": "".join(chr(code >> 8 * index & 0xFF) for index in range(4)),
            "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            "fps": capture.get(cv2.CAP_PROP_FPS),
        }
        name = f"OpenCV Camera @ {target}"
        return {
            "name": name, "type": "OpenCV", "id": target, "backend_api": capture.getBackendName(), "default_stream_profile": profile
        }  # fmt: skip
    finally:
        capture.release()


def _opened(info: Info, warmup_s: float) -> tuple[Callable[[], Array], Callable[[], None]]:
    """Read and close of the camera, once it has given pictures for ``warmup_s``."""
    name = str(info["id"])
    if info["type"] == "OpenCV":
        import cv2

        capture = cv2.VideoCapture(info["id"])

        def read() -> Array:
            there, frame = capture.read()
            if not there:
                raise CameraError(f"camera {name!r}: it gives no picture", camera=name)
            return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]

        close: Callable[[], None] = capture.release
    else:
        module = importlib.import_module("lerobot.cameras.realsense")
        camera = module.RealSenseCamera(module.RealSenseCameraConfig(serial_number_or_name=name))
        try:
            camera.connect()
        except Exception as error:  # the driver raises whatever it likes
            raise CameraError(f"camera {name!r}: {error}", camera=name) from error
        read, close = camera.read, camera.disconnect
    try:
        end_s = time.monotonic() + warmup_s
        while time.monotonic() < end_s:
            read()
    except BaseException:
        close()
        raise
    return read, close
