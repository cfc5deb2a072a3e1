"""A simulated Feetech servo bus on a pseudo-terminal: an arm for drivers where there is none. Law: packets as on the wire.

::

    with FeetechBus.so101() as bus:        # six STS3215, calibrated
        bus.write_calibration(path)        # LeRobot's calibration file for exactly these servos
        driver = Driver(port=bus.port)     # e.g. LeRobot's SO101 driver
        bus.fault(3, "silent")             # from now on servo 3 gives no answer

``python -m actlink.testing.feetech_bus --calibration FILE`` prints the port and goes on until it is interrupted.

Packets of protocol 0: ``FF FF id length instruction parameters checksum`` and, back, ``FF FF id length error parameters checksum``
(length: parameters + 2; checksum: complement of the sum from id on). A packet with a wrong checksum is not answered; to the
broadcast id 254 only ping and sync read are answered, servo by servo.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import tty
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from actlink.clock import Clock, MonotonicClock
from actlink.testing._feetech_servo import GOAL, Servo

__all__ = ["FAULTS", "FeetechBus", "Servo", "packet"]

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
BROADCAST = 254
OVERLOAD = 32
HEADER = b"\xff\xff"

Fault = Literal["silent", "checksum", "overload", "dead"]
FAULTS: tuple[Fault, ...] = ("silent", "checksum", "overload", "dead")
"""Gives no answer; answers with a wrong checksum; answers with the overload bit; neither answers nor moves."""

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""Of the SO arms, whose servos have the numbers 1 to 6 in this order."""


def packet(number: int, code: int, parameters: bytes = b"") -> bytes:
    """An instruction (``code``) or status (``code`` is its error byte) packet."""
    body = bytes((number, len(parameters) + 2, code)) + parameters
    return HEADER + body + bytes((~sum(body) & 0xFF,))


class FeetechBus:
    """Servos on one line. All methods may be called from any thread while a driver talks to them."""

    def __init__(self, servos: Sequence[Servo], clock: Clock | None = None) -> None:
        """``clock``: what the servos move by; default: the machine's."""
        self.servos = {servo.number: servo for servo in servos}
        self.goals: list[dict[int, int]] = []
        """Every Goal_Position that was written, by servo: what reached the motors, in raw steps."""
        self.packets = 0
        """Instruction packets that were understood."""
        self._clock = clock or MonotonicClock()
        self._now_s = self._clock.now()
        self._faults: dict[int, tuple[Fault, int | None]] = {}
        self._waiting: dict[int, tuple[int, bytes]] = {}
        self._lock = threading.RLock()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        """What a driver opens."""
        self._wake_out, self._wake_in = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="feetech-bus", daemon=True)
        self._thread.start()

    @classmethod
    def so101(cls, clock: Clock | None = None) -> FeetechBus:
        """Six servos as a calibrated SO100 or SO101 arm has them, each in the middle of its range, each range another."""
        ranges = ((740, 3390, 35), (820, 3240, -120), (880, 3100, 260), (900, 3210, -8), (0, 4095, 1024), (2030, 3480, -1310))
        middles = [
            Servo(i, actual=(low + high) / 2 + off, offset=off, low=low, high=high) for i, (low, high, off) in enumerate(ranges, 1)
        ]
        return cls(middles, clock)

    def __enter__(self) -> FeetechBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug: the port is gone. Twice is once."""
        with self._lock:
            if self._slave < 0:
                return
            os.write(self._wake_in, b".")
        self._thread.join()
        with self._lock:
            for descriptor in (self._master, self._slave, self._wake_in, self._wake_out):
                os.close(descriptor)
            self._slave = -1

    def fault(self, number: int, kind: Fault, times: int | None = None) -> None:
        """From now on servo ``number`` has this fault, for its next ``times`` answers; None: until ``heal``."""
        if number not in self.servos or kind not in FAULTS:
            raise ValueError(f"fault: expected one of the servos {list(self.servos)} and of {FAULTS}, got {number} and {kind!r}")
        with self._lock:
            self._pass_time()
            self._faults[number] = (kind, times)

    def heal(self, number: int | None = None) -> None:
        """Servo ``number``, or every one, is well again."""
        with self._lock:
            self._pass_time()
            for each in self.servos if number is None else (number,):
                self._faults.pop(each, None)

    def positions(self) -> dict[int, float]:
        """Where each servo stands now, as Present_Position counts."""
        with self._lock:
            self._pass_time()
            return {number: servo.present for number, servo in self.servos.items()}

    def push(self, number: int, steps: float) -> None:
        """Somebody moves the joint by hand, torque or not."""
        with self._lock:
            self._pass_time()
            self.servos[number].actual += steps

    def write_calibration(self, path: Path, joints: Sequence[str] = JOINTS) -> None:
        """LeRobot's calibration file for these servos, named ``joints`` in the order of their numbers."""
        known = {}
        for name, (number, servo) in zip(joints, sorted(self.servos.items()), strict=True):
            low, high, offset = servo.get(9), servo.get(11), servo.get(31)
            known[name] = {"id": number, "drive_mode": 0, "homing_offset": offset, "range_min": low, "range_max": high}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=4))

    def _serve(self) -> None:
        received = bytearray()
        while True:
            ready, _, _ = select.select([self._master, self._wake_out], [], [])
            if self._wake_out in ready:
                return
            received += os.read(self._master, 4096)
            answer = self._answers(received)
            while answer:
                answer = answer[os.write(self._master, answer) :]

    def _answers(self, received: bytearray) -> bytes:
        """Take whole packets off ``received``; the bytes that go back."""
        found = b""
        while len(received) >= 6:
            start = received.find(HEADER)
            if start != 0:
                del received[: start if start > 0 else len(received) - 1]  # a header may have begun
                continue
            number, length = received[2], received[3]
            if number == 0xFF or not 2 <= length <= 250:
                del received[0]
                continue
            if len(received) < length + 4:
                break
            body, checksum = bytes(received[2 : length + 3]), received[length + 3]
            del received[: length + 4]
            if ~sum(body) & 0xFF == checksum:
                with self._lock:
                    self._pass_time()
                    self.packets += 1
                    found += self._instruction(number, body[2], body[3:])
        return found

    def _instruction(self, number: int, code: int, parameters: bytes) -> bytes:
        if code == SYNC_READ and len(parameters) >= 2:
            return b"".join(self._answer(each, lambda servo: servo.read(parameters[0], parameters[1])) for each in parameters[2:])
        if code == SYNC_WRITE and len(parameters) >= 2:
            self._sync_write(parameters[0], parameters[1], parameters[2:])
            return b""
        if code == ACTION:
            waiting, self._waiting = self._waiting, {}
            for each, (address, content) in waiting.items():
                self._write(each, address, content)
            return b"" if number == BROADCAST else self._answer(number, lambda _: b"")
        if code == PING:
            asked = sorted(self.servos) if number == BROADCAST else [number]
            return b"".join(self._answer(each, lambda _: b"") for each in asked)
        if number == BROADCAST:
            if code == WRITE and parameters:
                for each in list(self.servos):
                    self._write(each, parameters[0], parameters[1:])
            return b""
        if code == READ and len(parameters) == 2:
            return self._answer(number, lambda servo: servo.read(parameters[0], parameters[1]))
        if code in (WRITE, REG_WRITE) and parameters and number in self.servos:
            if code == WRITE:
                self._write(number, parameters[0], parameters[1:])
            elif not self._is(number, "dead"):
                self._waiting[number] = (parameters[0], parameters[1:])
            servo = self.servos.get(number)  # it may have got another number
            return self._answer(number, lambda _: b"") if servo is None or servo.answers_writes else b""
        return b""

    def _sync_write(self, address: int, length: int, rest: bytes) -> None:
        for index in range(0, len(rest) - length, length + 1):
            self._write(rest[index], address, rest[index + 1 : index + 1 + length])
        if address == GOAL and length == 2:
            numbers = [rest[index] for index in range(0, len(rest) - length, length + 1)]
            self.goals.append({each: self.servos[each].goal for each in numbers if each in self.servos})

    def _write(self, number: int, address: int, content: bytes) -> None:
        servo = self.servos.get(number)
        if servo is None or self._is(number, "dead"):
            return
        servo.write(address, content)
        if servo.number != number:
            self.servos[servo.number] = self.servos.pop(number)

    def _answer(self, number: int, ask: Callable[[Servo], bytes | None]) -> bytes:
        """The status packet of servo ``number``, with its fault; nothing where it has none to give."""
        servo = self.servos.get(number)
        kind = self._take_fault(number)
        if servo is None or kind in ("silent", "dead"):
            return b""
        content = ask(servo)
        if content is None:
            return b""
        status = packet(number, OVERLOAD if kind == "overload" else 0, content)
        return status if kind != "checksum" else status[:-1] + bytes((status[-1] ^ 0x55,))

    def _is(self, number: int, kind: Fault) -> bool:
        return self._faults.get(number, ("", 0))[0] == kind

    def _take_fault(self, number: int) -> Fault | None:
        kind, times = self._faults.get(number, (None, None))
        if kind is not None and times is not None:
            if times > 1:
                self._faults[number] = (kind, times - 1)
            else:
                del self._faults[number]
        return kind

    def _pass_time(self) -> None:
        now_s = self._clock.now()
        for number, servo in self.servos.items():
            servo.move(0.0 if self._is(number, "dead") or self._is(number, "overload") else now_s - self._now_s)
        self._now_s = now_s


def main() -> None:
    """The bus as a program of its own."""
    import argparse

    parser = argparse.ArgumentParser(description="A simulated SO101 arm on a pseudo-terminal.")
    parser.add_argument("--calibration", type=Path, help="write LeRobot's calibration file for it here")
    chosen = parser.parse_args()
    with FeetechBus.so101() as bus, contextlib.suppress(KeyboardInterrupt):
        if chosen.calibration is not None:
            bus.write_calibration(chosen.calibration)
        print(f"port {bus.port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
