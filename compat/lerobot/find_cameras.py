"""LeRobot's list of cameras: ``python lerobot/find_cameras.py [opencv|realsense] --output-dir=outputs/captured_images``.

The actlink way: ``actlink cameras``.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from actlink.errors import ActlinkError
from actlink.robots import _find_cameras

logger = logging.getLogger("find_cameras")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="List cameras and save pictures of them.")
    parser.add_argument("camera_type", nargs="?", choices=_find_cameras.KINDS, help="only cameras of this type")
    parser.add_argument(
        "--output-dir", "--images-dir", type=Path, default=Path("outputs/captured_images"), help="where pictures go"
    )
    parser.add_argument("--record-time-s", type=float, default=2.0, help="how long each camera is read")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="how long each camera is read before")
    return parser


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s %(filename)s:%(lineno)d %(message)s")
    chosen = options().parse_args()
    kind = chosen.camera_type
    try:
        chosen.output_dir.mkdir(parents=True, exist_ok=True)
        logger.info("Saving images to %s", chosen.output_dir)
        found = _find_cameras.find(kind)
    except (ActlinkError, OSError) as error:
        logger.error("%s", error)
        return 1
    if not found:
        logger.warning("No %s cameras were detected.", kind) if kind else logger.warning(
            "No cameras (OpenCV or RealSense) were detected."
        )
        logger.warning("No cameras detected matching the criteria. Cannot save images.")
        return 0
    print("\n".join(_find_cameras.lines(found)))
    logger.info("Starting image capture for %s seconds from %d cameras.", chosen.record_time_s, len(found))
    for info in found:
        try:
            frame, _ = _find_cameras.picture(info, chosen.record_time_s, chosen.warmup_s)
            logger.info("Saved image: %s", _find_cameras.save(frame, info, chosen.output_dir))
        except ActlinkError as error:
            logger.error("Error reading from %s camera %s: %s", info["type"], info["id"], error)
    print(f"Image capture finished. Images saved to {chosen.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
