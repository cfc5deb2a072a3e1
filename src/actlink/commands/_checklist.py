"""What has to be right before a robot runs: packages, port, motors, cameras, server, disk, device. Law: it moves nothing.

The robot is opened as ``run`` opens it (its motors hold where they are) and closed again; the server is asked for its spec and
for the way there, never for an action.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actlink import address as addresses
from actlink import options as grammar
from actlink.client import Credentials, RemotePolicy
from actlink.commands._show import spec_lines
from actlink.commands.ping import measure
from actlink.commands.ping import report as told_pings
from actlink.errors import ActlinkError, CameraError, ConfigError
from actlink.policies import _torch
from actlink.robot_client.config import RunConfig, robot_of
from actlink.robot_client.preparing import prepare
from actlink.robots._base import Robot
from actlink.robots._open import open_robot
from actlink.types import Runtime

FREE_GIB = 1.0
"""A recorded hour of three cameras' chunks and ticks is far below it."""
CAMERA_S = 5.0


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the list."""

    name: str
    state: Literal["ok", "FAIL", "skip"]
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What the list is about."""

    robot: tuple[str, ...]
    policy: str
    """Empty: no server is looked at."""
    device: str = "cpu"
    credentials: Credentials | None = None


def run(checked: Checked) -> int:
    """Print the list as it is walked; 1 if anything fails."""
    failed = 0
    for item in items(checked):
        print(f"{item.state:4}  {item.name:8}  " + item.text.replace("\n", "\n" + " " * 16), flush=True)
        failed += item.state == "FAIL"
    print("everything is as it should be" if not failed else f"{failed} of these must be put right before the robot runs")
    return min(failed, 1)


def items(checked: Checked) -> Iterator[Item]:
    """The list, in the order in which one thing needs another."""
    name, options = robot_of(checked.robot)
    robot: Robot | None = None
    try:
        robot = open_robot(name, options)
        yield Item("packages", "ok", f"robot {robot.spec.name or name}: {_counted(robot)}")
    except ActlinkError as error:
        yield Item("packages", "FAIL", str(error))
    ports = list(_ports(options))
    yield from (_asked("port", lambda path=path: _port(path)) for path in ports)  # type: ignore[misc]
    if robot is None:
        yield Item("motors", "skip", "there is no robot to open")
    else:
        yield from _opened(robot)
    yield from _server(checked, robot)
    yield _asked("disk", _disk)
    if checked.policy and not addresses.is_address(checked.policy):
        yield _asked("device", lambda: f"{_torch.device(Runtime(checked.device))} is there")
    else:
        yield Item("device", "skip", "policies are computed by the server; there: actlink check POLICY --device cuda")


def _asked(name: str, ask: Callable[[], str]) -> Item:
    try:
        return Item(name, "ok", ask())
    except (ActlinkError, OSError, ImportError) as error:
        return Item(name, "FAIL", str(error))


def _counted(robot: Robot) -> str:
    cameras = robot.spec.cameras
    return f"{robot.spec.action_dim} joints, {len(cameras)} camera{'' if len(cameras) == 1 else 's'}"


def _ports(options: Mapping[str, Any]) -> Iterator[str]:
    """Serial ports among a robot's options, also of each arm of several."""
    for key, value in options.items():
        if isinstance(value, str) and value.startswith(("{", "[")):
            value = grammar.convert(value, Any, key)
        if key.rpartition(".")[2] == "port" and isinstance(value, str) and value.startswith("/dev/"):
            yield value
        elif isinstance(value, Mapping):
            yield from _ports(value)


def _port(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        others = sorted(str(each) for pattern in ("ttyACM*", "ttyUSB*") for each in Path("/dev").glob(pattern))
        raise ConfigError(f"{path} is not there; serial ports here: {', '.join(others) or 'none'}") from None
    if not stat.S_ISCHR(mode):
        raise ConfigError(f"{path} is no serial port")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(
            f"{path} may not be read and written by this user; on most systems: sudo usermod -aG dialout $USER, then log in again"
        )
    return f"{path} can be read and written"


def _opened(robot: Robot) -> Iterator[Item]:
    """Motors and cameras; the arm is where it was when this ends."""
    try:
        robot.connect()
    except CameraError as error:
        yield Item("motors", "ok", "they answer")
        yield Item("cameras", "FAIL", str(error))
        return
    except ActlinkError as error:
        yield Item("motors", "FAIL", str(error))
        return
    try:
        start_s = time.monotonic()
        trouble: CameraError | None = None
        seen: Mapping[str, Any] | None = None
        while seen is None and time.monotonic() - start_s < CAMERA_S:
            try:
                seen = robot.observe()
            except CameraError as problem:
                trouble = problem
        whole = seen if seen is not None else trouble.observation if trouble is not None else {}
        yield Item("motors", "ok", _pose(robot, whole))
        for name in robot.spec.cameras:
            picture = whole.get(f"images.{name}")
            if picture is None:
                yield Item("cameras", "FAIL", str(trouble))
            else:
                height, width = np.shape(picture)[:2]
                dark = " (all black: is it covered?)" if not np.any(picture) else ""
                yield Item("cameras", "ok", f"{name}: {width}x{height}{dark}")
    except ActlinkError as problem:
        yield Item("motors", "FAIL", str(problem))
    finally:
        robot.close()


def _pose(robot: Robot, seen: Mapping[str, Any]) -> str:
    names, state = robot.spec.observation.get("state"), seen.get("state")
    if names is None or names.names is None or state is None:
        return "they answer"
    return "they answer: " + ", ".join(f"{name} {value:.1f}" for name, value in zip(names.names, state, strict=True))


def _server(checked: Checked, robot: Robot | None) -> Iterator[Item]:
    """The way to the policy, and whether it fits the robot."""
    if not checked.policy:
        yield Item("server", "skip", "none was named: actlink check ADDRESS --robot.type=...")
        return
    if robot is None:
        yield Item("server", "skip", "whether it fits cannot be told without the robot")
        return
    credentials = checked.credentials or Credentials()
    try:
        ready = prepare(RunConfig(checked.policy, checked.robot, credentials=credentials))
    except ActlinkError as error:
        yield Item("server", "FAIL", str(error))
        return
    try:
        text = f"{checked.policy} fits this robot, at {ready.rate_hz:g} Hz\n" + "\n".join(spec_lines(ready.policy.spec))
        if isinstance(ready.remote, RemotePolicy):
            text += _way(ready.remote)
    except ActlinkError as error:  # it went away while it was looked at
        yield Item("server", "FAIL", str(error))
        return
    finally:
        ready.policy.close()
    yield Item("server", "ok", text)


def _way(policy: RemotePolicy) -> str:
    try:
        return "\n" + told_pings(measure(policy, 5))
    except ConfigError as error:  # there are wires that cannot
        return f"\nround trip  {error}"


def _disk() -> str:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    if free_gib < FREE_GIB:
        raise ConfigError(f"{free_gib:.2f} GiB free in {Path.cwd()}; recordings and pictures want {FREE_GIB:g}")
    return f"{free_gib:.0f} GiB free in {Path.cwd()}"
