"""A robot of one's own: joints on a Feetech servo bus, spoken to directly.

    actlink run --robot.type=examples/my_robot.py:MyRobot --robot.port=/dev/ttyACM0 --policy ws://gpu-box:8000
    actlink check ws://gpu-box:8000 --robot.type=examples/my_robot.py:MyRobot --robot.port=/dev/ttyACM0

A robot's file has a ``Config``, whose fields are its options, and a class with six methods. Without hardware:
``python -m actlink.testing.feetech_bus`` prints the port of a simulated bus.
"""

import os
import select
import termios
import threading
import tty
from dataclasses import dataclass

import numpy as np

from actlink.errors import ConnectError, LinkError, SimulationError
from actlink.robots._base import Robot
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

MIDDLE, STEPS_PER_RAD = 2048, 4096 / (2 * np.pi)
READ, WRITE, SYNC_READ, SYNC_WRITE, ALL = 2, 3, 0x82, 0x83, 254
TORQUE, GOAL, PRESENT = 40, 42, 56


@dataclass(frozen=True)
class Config:
    """Options of the robot."""

    port: str = "/dev/ttyACM0"
    """Serial port of the servo bus."""
    joints: tuple[str, ...] = ("base", "elbow")
    """Names of the joints; their servos have the numbers 1, 2, ..."""
    limit_rad: float = 1.2
    """Each joint stays within this angle from its middle."""
    answer_s: float = 0.05
    """A servo that is silent for so long gives no answer."""


class MyRobot(Robot):
    """The action is the joints' target angles. The bus is used by one thread at a time, because ``stop`` may come from any."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._numbers = range(1, len(config.joints) + 1)
        self._lock = threading.RLock()
        self._file = -1
        angles = Field((len(config.joints),), names=config.joints, unit="rad", range=(-config.limit_rad, config.limit_rad))
        self.spec = Spec(observation={"state": angles}, action=angles, rate_hz=50.0, name="my_robot")

    def connect(self) -> None:
        """Opens the port and switches the torque on where the joints are: nothing moves."""
        try:
            self._file = os.open(self._config.port, os.O_RDWR | os.O_NOCTTY)
        except OSError as error:
            raise ConnectError(f"my_robot: port {self._config.port}: {error.strerror}") from error
        tty.setraw(self._file)  # a real port also wants its speed set: termios, 1 000 000 baud
        try:
            self.hold()
            self._send(ALL, WRITE, bytes((TORQUE, 1)))
        except LinkError:
            self.close()
            raise

    def observe(self) -> Observation:
        return {"state": self._angles()}

    def act(self, action: Array) -> Array:
        if np.shape(action) != self.spec.action.shape or not np.isfinite(action).all():
            raise SimulationError(f"my_robot: expected {len(self._numbers)} finite angles, got {action!r}")
        sent = np.clip(action, -self._config.limit_rad, self._config.limit_rad).astype(np.float32)
        self._go(sent)
        return sent  # what the motors were really told

    def hold(self) -> None:
        with self._lock:
            self._go(self._angles())

    def stop(self) -> None:
        self.hold()  # a position servo rests nowhere faster than where it is

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)  # the torque stays on: the arm holds
                self._file = -1

    def _go(self, angles: Array) -> None:
        steps = np.round(angles * STEPS_PER_RAD).astype(int) + MIDDLE
        each = b"".join(bytes((number, step & 255, step >> 8)) for number, step in zip(self._numbers, steps.tolist(), strict=True))
        with self._lock:
            self._send(ALL, SYNC_WRITE, bytes((GOAL, 2)) + each)

    def _angles(self) -> Array:
        with self._lock:
            self._check()
            termios.tcflush(self._file, termios.TCIFLUSH)  # what an earlier answer left behind
            self._send(ALL, SYNC_READ, bytes((PRESENT, 2, *self._numbers)))
            steps = [int.from_bytes(self._answer(number), "little") for number in self._numbers]
        return ((np.array(steps) - MIDDLE) / STEPS_PER_RAD).astype(np.float32)

    def _send(self, number: int, instruction: int, parameters: bytes) -> None:
        self._check()
        body = bytes((number, len(parameters) + 2, instruction)) + parameters
        try:
            os.write(self._file, b"\xff\xff" + body + bytes((~sum(body) & 255,)))
        except OSError as error:
            raise LinkError(f"my_robot: port {self._config.port}: {error.strerror}") from error

    def _check(self) -> None:
        if self._file < 0:
            raise SimulationError("my_robot: not connected")

    def _answer(self, number: int) -> bytes:
        """Two bytes of a servo: FF FF, number, length 4, error, the bytes, checksum."""
        packet = b""
        while len(packet) < 8:
            ready, _, _ = select.select([self._file], [], [], self._config.answer_s)
            if not ready:
                raise LinkError(f"my_robot: servo {number} gives no answer")
            packet += os.read(self._file, 8 - len(packet))
        if packet[2] != number or sum(packet[2:]) & 255 != 255:
            raise LinkError(f"my_robot: servo {number}: expected its answer, got {packet.hex(' ')}")
        return packet[5:7]
