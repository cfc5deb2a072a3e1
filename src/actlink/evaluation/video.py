"""An episode as mp4. Law: frames go to the encoder one by one; whatever goes wrong costs the video, never the episode."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from actlink.environments._base import Environment

INSTALL = "pip install 'actlink[video]'"
FALLBACK_HZ = 30.0
"""Frames per second where the environment knows no time."""


class Video:
    """Records one episode into ``path``; the file appears when the episode is over.

    ``complain`` is told, once, why there will be no video.
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        self._path = path
        self._partial = path.with_suffix(".part.mp4")
        self._complain = complain
        self._writer: Generator[None, Any, None] | None = None
        self._failed = False

    def look(self, environment: Environment) -> None:
        """Append the scene as it is now."""
        if self._failed:
            return
        try:
            frame = np.ascontiguousarray(_even(environment.render()), dtype=np.uint8)
            if self._writer is None:
                self._writer = self._open(frame, environment.spec.rate_hz or FALLBACK_HZ)
            self._writer.send(frame)
        except Exception as error:
            self.discard()
            self._failed = True
            self._complain(f"no video of {self._path.stem}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")

    def finish(self) -> Path | None:
        """Close the file and put it in its place; None where there is none."""
        if self._writer is None:
            return None
        self._writer.close()
        self._writer = None
        try:
            self._partial.replace(self._path)
        except OSError as error:
            self._complain(f"no video of {self._path.stem}: {error.strerror}")
            return None
        return self._path

    def discard(self) -> None:
        """The episode does not count: leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _open(self, frame: Any, rate_hz: float) -> Generator[None, Any, None]:
        import imageio_ffmpeg

        self._path.parent.mkdir(parents=True, exist_ok=True)
        height, width = frame.shape[:2]
        writer: Generator[None, Any, None] = imageio_ffmpeg.write_frames(
            str(self._partial),
            (width, height),
            fps=Fraction(rate_hz).limit_denominator(1000),
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        return writer


def missing() -> str | None:
    """Why no video can be made here at all, with the line that installs what is missing."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return f"no videos: imageio-ffmpeg is not installed; install it with: {INSTALL}"
    return None


def _even(frame: Any) -> Any:
    """H.264 wants even sides; the last row and column are worth less than a resize."""
    if frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < 2:
        raise ValueError(f"render: expected (height, width, 3), got {frame.shape}")
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
