"""Every robot that the installed LeRobot registers: SO100 and SO101 followers, pairs of arms, Koch, ..., with its cameras.

Options are LeRobot's own, under their names::

    --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=my_arm
    --robot.cameras="{front: {type: opencv, index_or_path: /dev/video2, width: 640, height: 480, fps: 30, fourcc: MJPG}}"

LeRobot's driver talks to the motors; three things are done otherwise here. Nothing asks at the terminal: an arm that is not
calibrated is an error that names the command. Cameras are read in the background. And at the end the torque stays on, unless
``disable_torque_on_disconnect`` is written among the options.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, final

import numpy as np

from actlink import options as grammar
from actlink.errors import CameraError, ConfigError, ConnectError, LinkError, SimulationError
from actlink.robots import _base
from actlink.robots._lerobot_cameras import feeds
from actlink.robots._lerobot_ranges import ranges
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

REQUIRES = ("lerobot.robots",)
EXTRA = "lerobot"
RATE_HZ = 30.0
"""LeRobot's own; ``actlink run --fps`` chooses another."""

log = logging.getLogger("actlink.robots.lerobot")

_KEPT = "disable_torque_on_disconnect"
_TEXTS = frozenset({"id", "port"})
_TRIES = 3


def make(kind: str, options: Mapping[str, Any], wanted: Spec | None = None) -> _base.Robot:
    """The robot that LeRobot registers as ``kind`` (``lerobot``: as the option ``type``). ``ConfigError`` lists what there is."""
    tree = _tree(options)
    if kind == "lerobot":
        kind = str(tree.pop("type", ""))
    configs = importlib.import_module("lerobot.robots.config")
    _register()
    known = configs.RobotConfig.get_known_choices()
    if kind not in known:
        raise ConfigError(f"no robot {kind!r}; LeRobot's are: {', '.join(sorted(known))}")
    try:
        config = importlib.import_module("draccus").decode(configs.RobotConfig, {"type": kind, **tree})
    except Exception as error:  # draccus has errors of its own, LeRobot's configurations raise ValueError
        raise ConfigError(f"robot {kind}: {_said(error)}") from error
    if _KEPT not in _keys(tree):
        _keep_torque(config)
    try:
        driver = importlib.import_module("lerobot.robots.utils").make_robot_from_config(config)
    except ImportError as error:
        raise ConfigError(f"robot {kind} needs a package that is not installed: {_said(error)}") from error
    except Exception as error:
        raise ConfigError(f"robot {kind}: {_said(error)}") from error
    return Robot(driver, kind)


@final
class Robot(_base.Robot):
    """One of LeRobot's drivers. Every access to its bus is under one lock, so that ``stop`` may come from any thread."""

    def __init__(self, driver: Any, kind: str) -> None:
        self._driver = driver
        self._kind = kind
        self._lock = threading.RLock()
        self._connected = False
        arms = (driver, getattr(driver, "left_arm", None))
        self._tries = 1 if any(hasattr(getattr(arm, "config", None), "num_read_retries") for arm in arms) else 2
        features = dict(driver.observation_features)
        self._state = [key for key, value in features.items() if not isinstance(value, tuple)]
        self._images = {key: tuple(value) for key, value in features.items() if isinstance(value, tuple)}
        self._actions = [key for key, value in driver.action_features.items() if not isinstance(value, tuple)]
        odd = [key for key, shape in self._images.items() if len(shape) != 3 or shape[2] != 3]
        if odd:
            raise ConfigError(f"robot {kind}: {', '.join(odd)}: only colour pictures are taken; leave depth out (use_depth: false)")
        self._lower, self._upper = ranges(driver, self._actions)
        self._feeds = feeds(driver, features)
        self._sent = np.zeros(len(self._actions), np.float32)
        self.limits = (self._lower, self._upper) if len(self._lower) else None
        whole = (float(self._lower.min()), float(self._upper.max())) if len(self._lower) else None
        observation = {"state": Field((len(self._state),), names=tuple(self._state))} if self._state else {}
        observation |= {f"images.{key}": Field(shape, "uint8") for key, shape in self._images.items()}
        action = Field((len(self._actions),), names=tuple(self._actions), range=whole)
        self.spec = Spec(observation, action, rate_hz=RATE_HZ, name=kind)

    def connect(self) -> None:
        with self._lock:
            calibrated = self._open()
            if not calibrated:
                self._release()
                raise SimulationError(
                    f"robot {self._kind}: the calibration in its motors is not the one in {self._driver.calibration_fpath}; "
                    f"run lerobot-calibrate --robot.type={self._kind} with this robot's port and id, and give the id to actlink too"
                )
            self._connected = True
        try:
            self.hold()
            for feed in self._feeds.values():
                feed.open()
        except BaseException:
            self.close()
            raise

    def observe(self) -> Observation:
        raw = self._read()
        seen: dict[str, Any] = {}
        if self._state:
            seen["state"] = np.array([raw[key] for key in self._state], np.float32)
        failed: list[CameraError] = []
        for key in self._images:
            try:
                seen[f"images.{key}"] = self._feeds[key].latest() if key in self._feeds else np.array(raw[key])
            except CameraError as error:
                failed.append(error)
        if failed:
            text = f"robot {self._kind}: {'; '.join(str(error) for error in failed)}"
            raise CameraError(text, camera=failed[0].camera, observation=seen)
        return seen

    def act(self, action: Array) -> Array:
        if np.shape(action) != (len(self._actions),) or not np.isfinite(action).all():
            raise SimulationError(f"robot {self._kind}: action: expected {len(self._actions)} finite numbers, got {action!r}")
        wanted = np.asarray(action, np.float32)
        if len(self._lower):
            wanted = np.clip(wanted, self._lower, self._upper)
        return self._send(wanted)

    def hold(self) -> None:
        """Joints are sent to where they are measured to be; what is a velocity is sent zero."""
        with self._lock:
            raw = self._read(times=_TRIES)
            pose = [float(raw.get(key, last)) for key, last in zip(self._actions, self._sent, strict=True)]
            self._send(np.array([0.0 if key.endswith(".vel") else value for key, value in zip(self._actions, pose, strict=True)]))

    def stop(self) -> None:
        """The servos' own speed profile is the fastest rest there is: what they are told is to be where they are."""
        self.hold()

    def close(self) -> None:
        for feed in self._feeds.values():
            feed.close()
        with self._lock:
            if self._connected:
                self._connected = False
                self._release()

    def _open(self) -> bool:
        """Whether it is calibrated, its ports open; a packet lost among the hundred of a start is no reason to give up."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                self._driver.connect(calibrate=False)
                return bool(self._driver.is_calibrated)
            except Exception as error:
                self._release()
                if not left or not isinstance(error, ConnectionError):
                    raise ConnectError(f"robot {self._kind}: {_said(error)}") from error
                log.warning("robot %s: %s; trying again", self._kind, _said(error))
        raise AssertionError("unreachable")

    def _read(self, times: int = 1) -> dict[str, Any]:
        """What the driver reads; some of LeRobot's versions do not ask again for an answer that was lost."""
        tries = self._tries * times
        with self._lock:
            self._check("observe")
            for left in range(tries - 1, -1, -1):
                try:
                    return dict(self._driver.get_observation())
                except Exception as error:
                    if not left:
                        raise LinkError(f"robot {self._kind}: cannot read its motors: {_said(error)}") from error
        raise AssertionError("unreachable")

    def _send(self, action: Array) -> Array:
        with self._lock:
            self._check("act")
            try:
                sent = self._driver.send_action({key: float(value) for key, value in zip(self._actions, action, strict=True)})
            except Exception as error:
                raise LinkError(f"robot {self._kind}: cannot command its motors: {_said(error)}") from error
            self._sent = np.array([sent.get(key, value) for key, value in zip(self._actions, action, strict=True)], np.float32)
            return self._sent.copy()

    def _check(self, what: str) -> None:
        if not self._connected:
            raise SimulationError(f"robot {self._kind}: {what} called while not connected")

    def _release(self) -> None:
        """Close the ports, whatever state they are in; the torque stays as the configuration says."""
        try:
            self._driver.disconnect()
        except Exception as error:
            log.warning("robot %s: while disconnecting: %s", self._kind, _said(error))
            for holder in (self._driver, getattr(self._driver, "left_arm", None), getattr(self._driver, "right_arm", None)):
                handler: Any = getattr(getattr(holder, "bus", None), "port_handler", None)
                if getattr(handler, "is_open", False):
                    handler.closePort()


def kinds() -> list[str]:
    """Names under which LeRobot registers robots."""
    _register()
    return sorted(importlib.import_module("lerobot.robots.config").RobotConfig.get_known_choices())


def _register() -> None:
    """LeRobot registers robots and cameras as their packages are imported; those that cannot be imported here are passed over."""
    for name in ("lerobot.robots", "lerobot.cameras"):
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            if module.ispkg:
                try:
                    importlib.import_module(f"{name}.{module.name}")
                except Exception as error:  # some check for their driver as they are imported
                    log.debug("%s.%s: %s", name, module.name, _said(error))
    tools = importlib.import_module("lerobot.utils.import_utils")
    register = getattr(tools, "register_third_party_plugins", None) or getattr(tools, "register_third_party_devices", None)
    if register is not None:
        register()


def _tree(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as written (``cameras.front.fps``, or YAML text for a whole branch) as nested mappings."""
    tree: dict[str, Any] = {}
    for key, given in options.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"robot: option {key!r}: {part!r} has a value already")
        branch[last] = given if last in _TEXTS else grammar.convert(given, Any, f"robot: option {key!r}")
    return tree


def _keys(tree: Mapping[str, Any]) -> set[str]:
    return set(tree) | {key for branch in tree.values() if isinstance(branch, Mapping) for key in branch}


def _keep_torque(config: Any) -> None:
    """The arm, or each arm of several, keeps its torque when the port is closed."""
    if hasattr(config, _KEPT):
        setattr(config, _KEPT, False)
    for part in list(vars(config).values()):
        if is_dataclass(part):
            _keep_torque(part)


def _said(error: BaseException) -> str:
    """What went wrong in one line, with what it was raised from where that says more."""
    cause = error.__cause__
    text = " ".join(str(error).split())[:500] or type(error).__name__
    return text if cause is None or str(cause) in str(error) else f"{text} ({' '.join(str(cause).split())[:300]})"
