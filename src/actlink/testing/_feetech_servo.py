"""One simulated STS3215 servo: its registers and how it moves. Law: no I/O; time comes in as an argument.

Registers are the STS/SMS series' (addresses 0..86, two-byte values little-endian, negative ones as sign and magnitude). 0..39 are
EPROM: a value written while Lock is 1 holds until the power goes. The encoder has 4096 steps a turn; Present_Position is the
encoder's minus Homing_Offset, and Goal_Position is meant likewise, kept within Min and Max_Position_Limit.
"""

from __future__ import annotations

STEPS = 4096
MODEL_NUMBER = 777
FASTEST = 3400.0
"""Steps per second at no load: 50 turns a minute."""

ID, LEVEL, LOW, HIGH, MAX_TORQUE, OFFSET, MODE = 5, 8, 9, 11, 16, 31, 33
TORQUE, GOAL, GOAL_VELOCITY, TORQUE_LIMIT, LOCK = 40, 42, 46, 48, 55
PRESENT, PRESENT_VELOCITY, PRESENT_LOAD, VOLTAGE, TEMPERATURE, STATUS, MOVING = 56, 58, 60, 62, 63, 65, 66
SIZE = 87

_EPROM = range(40)
_READ_ONLY = frozenset({*range(5), *range(PRESENT, 80)})
_SIGNED = {OFFSET: 11, GOAL: 15, GOAL_VELOCITY: 15, PRESENT: 15, PRESENT_VELOCITY: 15, PRESENT_LOAD: 10}
"""Address -> the bit that is the sign."""
_POSITION_MODE, _VELOCITY_MODE = 0, 1


class Servo:
    """``actual``: where the encoder stands, in steps; moves as time passes while the torque is on."""

    def __init__(self, number: int, *, actual: float = 2048.0, offset: int = 0, low: int = 0, high: int = STEPS - 1) -> None:
        self._memory = bytearray(SIZE)
        self._memory[0:3] = bytes((3, 10, 0))  # firmware 3.10
        self.set(3, MODEL_NUMBER)
        for address, value in ((ID, number), (LEVEL, 1), (21, 32), (22, 32), (VOLTAGE, 74), (TEMPERATURE, 35)):
            self._memory[address] = value
        for address, value in ((LOW, low), (HIGH, high), (MAX_TORQUE, 1000), (OFFSET, offset), (TORQUE_LIMIT, 1000)):
            self.set(address, value)
        self._memory[LOCK] = 1
        self._stored = bytes(self._memory)
        self.actual = float(actual)
        self.blocked = False
        """Something holds the joint: it pushes and does not move."""
        self.set(GOAL, round(self.present))

    @property
    def number(self) -> int:
        return self._memory[ID]

    @property
    def present(self) -> float:
        """Present_Position before it is rounded."""
        return self.actual - self.get(OFFSET)

    @property
    def goal(self) -> int:
        return self.get(GOAL)

    @property
    def torque(self) -> bool:
        return bool(self._memory[TORQUE])

    @property
    def answers_writes(self) -> bool:
        return self._memory[LEVEL] != 0

    def get(self, address: int) -> int:
        """The two-byte value at ``address``, its sign understood."""
        raw = self._memory[address] | self._memory[address + 1] << 8
        bit = _SIGNED.get(address)
        if bit is None or not raw >> bit & 1:
            return raw
        return -(raw & ~(1 << bit))

    def set(self, address: int, value: int) -> None:
        """Put ``value`` at ``address`` whoever may write there."""
        bit = _SIGNED.get(address)
        raw = value if value >= 0 or bit is None else -value | 1 << bit
        self._memory[address : address + 2] = bytes((raw & 0xFF, raw >> 8 & 0xFF))

    def read(self, address: int, count: int) -> bytes | None:
        """``count`` bytes from ``address``; None beyond the table."""
        if address + count > SIZE:
            return None
        self._measure()
        return bytes(self._memory[address : address + count])

    def write(self, address: int, content: bytes) -> bool:
        """What an instruction writes; False beyond the table. Read-only registers stay as they are."""
        if address + len(content) > SIZE:
            return False
        had_torque = self.torque
        for index, byte in enumerate(content, address):
            if index in _READ_ONLY:
                continue
            self._memory[index] = byte
            if index in _EPROM and not self._memory[LOCK]:
                self._stored = self._stored[:index] + bytes((byte,)) + self._stored[index + 1 :]
        if self.torque and not had_torque and not address <= GOAL < address + len(content):
            self.set(GOAL, round(self.present))  # it stays where it is
        return True

    def power_cycle(self) -> None:
        """The power goes and comes back: what was written under the lock is lost, the torque is off."""
        self._memory[: len(_EPROM)] = self._stored[: len(_EPROM)]
        self._memory[TORQUE], self._memory[LOCK] = 0, 1
        self.set(GOAL, round(self.present))

    def move(self, seconds: float) -> None:
        """Time passes."""
        before = self.actual
        if self.torque and not self.blocked:
            if self._memory[MODE] == _POSITION_MODE:
                way = self._target() - self.actual
                most = FASTEST * seconds
                self.actual += max(-most, min(most, way))
            elif self._memory[MODE] == _VELOCITY_MODE:
                self.actual += max(-FASTEST, min(FASTEST, self.get(GOAL_VELOCITY))) * seconds
        speed = (self.actual - before) / seconds if seconds > 0 else 0.0
        self.set(PRESENT_VELOCITY, round(speed))
        self._memory[MOVING] = int(abs(speed) > 1)

    def _target(self) -> float:
        low, high = self.get(LOW), self.get(HIGH)
        goal = self.goal if low == high == 0 else max(low, min(high, self.goal))
        return float(goal + self.get(OFFSET))

    def _measure(self) -> None:
        self.set(PRESENT, round(self.present))
        pushing = self._target() - self.actual if self.torque and self._memory[MODE] == _POSITION_MODE else 0.0
        self.set(PRESENT_LOAD, max(-1000, min(1000, round(pushing))))
