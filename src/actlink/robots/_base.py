"""The contract of a robot.

A robot file defines ``Config`` (frozen dataclass; its fields are the robot's options) and a final class ``Robot``, made as
``Robot(config)``.
There is no default hold: only the embodiment knows how it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from actlink.spec import Spec
from actlink.types import Array, Observation


class Robot(ABC):
    """A world that does not wait."""

    spec: Spec
    """What it offers (observation) and takes (action, with range), and the rate it wants; known before ``connect``."""

    limits: tuple[Array, Array] | None = None
    """Smallest and largest value of every entry of the action, float32 ``(action_dim,)`` each; None: the action's range."""

    @abstractmethod
    def connect(self) -> None:
        """Open ports and cameras; nothing moves. ``SimulationError`` or ``LinkError`` says which device failed.

        ``actlink run`` calls it on a thread of its own, and waits for ``start_timeout_s``.
        """

    @abstractmethod
    def observe(self) -> Observation:
        """The newest observation; returns within one control step.

        ``CameraError`` names the camera that has no new picture and brings along everything else; ``LinkError`` the device that
        does not answer.
        """

    @abstractmethod
    def act(self, action: Array) -> Array:
        """Command ``action`` ``(action_dim,)``; returns what was really sent after the driver's own limits."""

    @abstractmethod
    def hold(self) -> None:
        """Stay at the measured pose with torque on."""

    @abstractmethod
    def stop(self) -> None:
        """Come to rest as fast as is safe, keep torque on; may be called from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Release ports and cameras; the arm stays in hold."""
