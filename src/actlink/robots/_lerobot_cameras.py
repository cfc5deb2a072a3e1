"""LeRobot's cameras, each read on a thread of its own. Law: the newest picture is at hand at once, or an error names the camera.

A camera here is what LeRobot calls one: ``connect``, ``async_read(timeout_ms)`` and ``disconnect``; pictures are RGB uint8
``(height, width, 3)``. One that fails is closed and opened again until it gives pictures.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from actlink.errors import CameraError, ConfigError
from actlink.types import Array

log = logging.getLogger("actlink.robots.lerobot")

MAX_AGE_S = 0.5
"""An older picture is none; LeRobot's own limit."""
_TIMEOUT_MS = 200
_FIRST_S = 5.0
_AGAIN_S = 1.0
"""Between two attempts to open a camera that has failed."""


class Feed:
    """The newest picture of one camera."""

    def __init__(self, name: str, camera: Any, shape: tuple[int, ...]) -> None:
        """``shape``: ``(height, width, 3)`` that the robot has declared."""
        self.name = name
        self._camera = camera
        self._shape = shape
        self._lock = threading.Lock()
        self._frame: Array | None = None
        self._moment_s = 0.0
        self._problem = "no picture yet"
        self._first = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the camera and wait for its first picture; ``CameraError`` if there is none."""
        try:
            self._camera.connect()
        except Exception as error:  # drivers raise whatever they like
            raise CameraError(f"camera {self.name!r}: {_said(error)}", camera=self.name) from error
        self._thread = threading.Thread(target=self._run, name=f"actlink-camera-{self.name}", daemon=True)
        self._thread.start()
        if not self._first.wait(_FIRST_S):
            raise CameraError(f"camera {self.name!r}: no picture within {_FIRST_S:g} s ({self._problem})", camera=self.name)

    def latest(self) -> Array:
        """The newest picture, the caller's own; ``CameraError`` if there is none of the last ``MAX_AGE_S``."""
        with self._lock:
            frame, age_s, problem = self._frame, time.monotonic() - self._moment_s, self._problem
        if frame is None or age_s > MAX_AGE_S:
            age = "" if frame is None else f" for {age_s:.1f} s"
            raise CameraError(f"camera {self.name!r}: no picture{age}: {problem or 'it gives none'}", camera=self.name)
        return frame.copy()

    def close(self) -> None:
        """Twice is once."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10.0)
            self._thread = None
        with contextlib.suppress(Exception):  # it may never have been open
            self._camera.disconnect()

    def _run(self) -> None:
        failed_s: float | None = None
        while not self._ended.is_set():
            try:
                frame = self._camera.async_read(timeout_ms=_TIMEOUT_MS)
                if frame.shape != self._shape or frame.dtype != np.uint8:
                    raise ValueError(f"expected uint8 {self._shape}, got {frame.dtype} {frame.shape}")
            except Exception as error:
                now_s = time.monotonic()
                if failed_s is None:
                    log.warning("camera %r: %s", self.name, _said(error))
                    failed_s = now_s
                with self._lock:
                    self._problem = _said(error)
                if now_s - failed_s >= _AGAIN_S:
                    self._reopen()
                    failed_s = time.monotonic()
                self._ended.wait(0.02)
                continue
            failed_s = None
            with self._lock:
                self._frame, self._moment_s, self._problem = frame, time.monotonic(), ""
            self._first.set()

    def _reopen(self) -> None:
        with contextlib.suppress(Exception):
            self._camera.disconnect()
        try:
            self._camera.connect()
            log.info("camera %r: opened again", self.name)
        except Exception as error:
            with self._lock:
                self._problem = _said(error)


class VideoFile:
    """A video that plays over and over at its camera's rate: for trying a robot without its cameras.

    LeRobot's own OpenCV camera takes a file too, but neither with a size and a rate, which robots must name, nor at any pace.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._period_s = 1.0 / fps
        self._capture: Any = None
        self._due_s = 0.0

    def connect(self) -> None:
        import cv2

        self._capture = cv2.VideoCapture(str(self._path))
        if not self._capture.isOpened():
            raise ConfigError(f"{self._path}: OpenCV cannot read this file as a video")
        self._due_s = time.monotonic()

    def async_read(self, timeout_ms: float) -> Array:
        import cv2

        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s, time.monotonic() - 1.0) + self._period_s
        there, frame = self._capture.read()
        if not there:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            there, frame = self._capture.read()
        if not there:
            raise ConfigError(f"{self._path}: OpenCV reads no picture from this file")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]

    def disconnect(self) -> None:
        if self._capture is not None:
            self._capture.release()


def feeds(robot: Any, features: dict[str, Any]) -> dict[str, Feed]:
    """Take the cameras away from ``robot`` (and its arms), so that it reads its motors alone; one feed for each of them.

    ``features``: its ``observation_features``, taken before. Cameras whose key cannot be told stay where they are.
    """
    found: dict[str, Feed] = {}
    holders = [robot, *(getattr(robot, name) for name in ("left_arm", "right_arm") if hasattr(robot, name))]
    wanted = {key: tuple(shape) for key, shape in features.items() if isinstance(shape, tuple)}
    for key, shape in wanted.items():
        for holder, prefix in zip(holders, ("", "left_", "right_"), strict=False):
            camera = (getattr(holder, "cameras", None) or {}).get(key.removeprefix(prefix))
            if camera is not None and (not prefix or key.startswith(prefix) or key in holder.cameras):
                found[key] = Feed(key, _or_video(camera), shape)
                break
    if set(found) != set(wanted):
        return {}
    for holder in holders:
        cameras = getattr(holder, "cameras", None)
        if isinstance(cameras, dict):
            cameras.clear()
    return found


def _or_video(camera: Any) -> Any:
    path = getattr(camera, "index_or_path", None)
    if isinstance(path, str | Path) and Path(path).is_file():
        return VideoFile(Path(path), float(camera.fps))
    return camera


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
