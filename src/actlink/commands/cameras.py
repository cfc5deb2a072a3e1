"""List the cameras of this machine, and save a picture of each, to see which is which.

What is printed as the id goes into a robot's cameras as index_or_path. Exit code 1 if there is none, or one gave no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink.commands._options import Common
from actlink.errors import CameraError, ConfigError
from actlink.robots import _find_cameras
from actlink.robots._find_cameras import KINDS, Info

EXAMPLES = """\
  actlink cameras
  actlink cameras opencv --no-pictures
  actlink cameras /dev/video2 /dev/video4 --output-dir seen
"""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink cameras``."""

    which: Annotated[Positional[tuple[str, ...]], arg(metavar="KIND|CAMERA")] = ()
    """opencv or realsense for all of one kind; or cameras by device, index or file. Left out: all there are."""
    output_dir: Path = Path("outputs/captured_images")
    """Where the pictures go, as <type>_<id>.png."""
    pictures: bool = True
    """Save a picture of each."""
    record_time_s: float = 2.0
    """How long each camera is read; the last picture is kept."""
    warmup_s: float = 1.0
    """How long each camera is read before, until its exposure has settled."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)

    def __post_init__(self) -> None:
        if self.record_time_s < 0 or self.warmup_s < 0:
            raise ConfigError(f"expected times of at least 0 s, got {self.record_time_s:g} and {self.warmup_s:g}")


def run(options: Options) -> int:
    found = cameras(options.which)
    if not found:
        print("No cameras were detected." if not options.which else f"No {' or '.join(options.which)} cameras were detected.")
        return 1
    print("\n".join(_find_cameras.lines(found)))
    return 0 if not options.pictures else take(found, options)


def cameras(which: Sequence[str]) -> list[Info]:
    """What was asked for: kinds, and cameras by name."""
    if not which:
        return _find_cameras.find()
    return [info for each in which for info in (_find_cameras.find(each) if each in KINDS else [_find_cameras.given(each)])]


def take(found: Sequence[Info], options: Options) -> int:
    """A picture of each; 1 if one gave none."""
    failed = 0
    for info in found:
        try:
            frame, count = _find_cameras.picture(info, options.record_time_s, options.warmup_s)
        except CameraError as error:
            print(error)
            failed = 1
            continue
        path = _find_cameras.save(frame, info, options.output_dir)
        rate = f", {count / options.record_time_s:.0f} pictures/s" if options.record_time_s else ""
        print(f"{path}  {frame.shape[1]}x{frame.shape[0]}{rate}")
    return failed
