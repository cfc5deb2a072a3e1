"""What the user wrote for a robot, as a robot. Law: the folder is the registry; what it does not have, LeRobot may.

``<file>``, a third party's ``file.py:Class`` / ``module:Class``, or the name under which an installed LeRobot registers a robot
(``so101_follower``). Options follow as ``?option=value&...``, or as a mapping that may be nested, as LeRobot's are.
A robot file has ``Config`` and ``Robot``, or, where its options are not its own to declare, ``make(kind, options, wanted)``. A
class that takes ``wanted`` is given the policy's spec: from it a simulated robot learns which cameras to render.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from actlink import loading
from actlink import options as grammar
from actlink.errors import ConfigError
from actlink.robots._base import Robot
from actlink.spec import Spec

LEROBOT = "lerobot"
"""The file that makes every robot an installed LeRobot registers."""


def open_robot(reference: str, options: Mapping[str, Any] | None = None, wanted: Spec | None = None) -> Robot:
    """The robot that ``reference`` names, not connected yet.

    ``options`` win over those in the reference; ``wanted`` is the policy's spec. ``ConfigError`` lists what there is.
    """
    name, written = grammar.split(reference)
    chosen: dict[str, Any] = {**written, **(options or {})}
    if name in loading.names("robots"):
        return _made(loading.load("robots", name), "Robot", name, chosen, wanted)
    if loading.is_reference(name):
        place, _, attribute = name.rpartition(":")
        loading.resolve(name)  # says what there is if this is not
        return _made(loading.third_party(place, name), attribute, name, chosen, wanted)
    lerobot = loading.load("robots", LEROBOT)
    if not loading.missing(lerobot):
        return _made(lerobot, "Robot", name, chosen, wanted)
    raise ConfigError(
        f"no robot {name!r}; there are: {', '.join(loading.names('robots'))}, file.py:Class, module:Class and, once it is there "
        f"({loading.pip_line(lerobot)}), every robot that LeRobot registers"
    )


def _made(module: ModuleType, attribute: str, name: str, chosen: Mapping[str, Any], wanted: Spec | None) -> Robot:
    loading.require(module)
    make = getattr(module, "make", None)
    if make is not None:
        robot = make(name, chosen, wanted)
    else:
        cls = getattr(module, attribute)
        if not hasattr(module, "Config"):
            raise ConfigError(f"{name}: its module has no 'Config' (a frozen dataclass of the robot's options, may be empty)")
        config = grammar.build(module.Config, chosen, name)
        takes_wanted = inspect.isclass(cls) and "wanted" in inspect.signature(cls).parameters
        robot = cls(config, wanted=wanted) if takes_wanted else cls(config)
    if not isinstance(robot, Robot):
        raise ConfigError(f"{name}: expected an actlink.robots._base.Robot, got a {type(robot).__name__}")
    return robot
