"""A robot for the length of a run. Law: it connects in time or not at all, and however the run ends it holds and is released."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError, wait

from actlink.errors import ConnectError
from actlink.robot_client.config import RunConfig, robot_of
from actlink.robots._base import Robot

logger = logging.getLogger("actlink.run")

LOOK_S = 0.1
"""Between two looks whether a driver is back from connecting."""
SWITCH_S = 0.001
"""How long a busy thread may keep the interpreter from the control loop; Python's own is 0.005."""


@contextlib.contextmanager
def connected(robot: Robot, config: RunConfig) -> Iterator[None]:
    """``robot`` connected within ``start_timeout_s``; afterwards in hold (but for a dry run) and released.

    ``ConnectError`` names robot and option. What a driver raises while it connects goes on to the caller.
    """
    _connect(robot, config)
    try:
        yield
    finally:
        _leave(robot, config.dry_run)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The interpreter as a control loop needs it: threads take turns quickly, and the collector passes over what is there already.

    LeRobot and torch are 400,000 objects; walking through them takes longer than the watchdog waits.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, SWITCH_S))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before_s)


def _connect(robot: Robot, config: RunConfig) -> None:
    """On a thread of its own: nothing else ends a driver that hangs. One that comes back too late is closed at once."""
    outcome: Future[None] = Future()

    def connect() -> None:
        try:
            robot.connect()
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):
                outcome.set_exception(error)
            return
        try:
            outcome.set_result(None)
        except InvalidStateError:
            logger.warning("the robot is connected after all; nobody waits for it any more, so it is released")
            robot.close()

    looks = math.ceil(config.start_timeout_s / LOOK_S)  # again and again: Ctrl-C may have been told to another thread
    try:
        threading.Thread(target=connect, name="actlink-connect", daemon=True).start()
        for _ in range(looks):
            if wait([outcome], config.start_timeout_s / looks).done:
                break
    except BaseException:  # Ctrl-C
        if not outcome.cancel() and outcome.exception() is None:
            robot.close()
        raise
    if outcome.cancel():
        raise ConnectError(
            f"robot {robot_of(config.robot)[0]}: its driver does not come back from connecting within {config.start_timeout_s:g} s "
            "(--start-timeout-s); no action was sent"
        )
    outcome.result()


def _leave(robot: Robot, dry_run: bool) -> None:
    """The arm in hold, ports released; nothing that fails here hides why the run ended, and an impatient Ctrl-C skips nothing."""
    interrupted: KeyboardInterrupt | None = None
    for what, call in (("held", robot.hold), ("released", robot.close)):
        if what == "held" and dry_run:
            continue
        for _ in range(2):
            try:
                call()
            except KeyboardInterrupt as error:
                interrupted = error
                continue
            except Exception as error:
                logger.error("the robot could not be %s: %s", what, error)
            break
    if interrupted is not None:
        raise interrupted
