"""The simulated servo bus, asked over its pseudo-terminal by a client written here from the packet layout alone."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actlink.clock import ManualClock
from actlink.testing.feetech_bus import FAULTS, FeetechBus

PRESENT, GOAL, TORQUE, LOCK, OFFSET, ID = 56, 42, 40, 55, 31, 5


class Client:
    """Packets by hand; shares no code with the bus."""

    def __init__(self, port: str) -> None:
        self._file = os.open(port, os.O_RDWR | os.O_NOCTTY)

    def close(self) -> None:
        os.close(self._file)

    def send(self, number: int, code: int, *parameters: int, spoil: int = 0) -> None:
        body = [number, len(parameters) + 2, code, *parameters]
        os.write(self._file, bytes([0xFF, 0xFF, *body, (255 - sum(body) % 256) ^ spoil]))

    def raw(self, content: bytes) -> None:
        os.write(self._file, content)

    def status(self, wait_s: float = 20.0) -> tuple[int, int, bytes] | None:
        """(servo, error, parameters) of one status packet; None if none comes."""
        head = self._exactly(4, wait_s)
        if head is None:
            return None
        assert head[:2] == b"\xff\xff"
        rest = self._exactly(head[3], wait_s)
        assert rest is not None
        assert (sum(head[2:]) + sum(rest[:-1]) + rest[-1]) % 256 == 255, "checksum"
        return head[2], rest[0], rest[1:-1]

    def ask(self, number: int, code: int, *parameters: int) -> tuple[int, int, bytes]:
        self.send(number, code, *parameters)
        found = self.status()
        assert found is not None
        return found

    def word(self, number: int, address: int) -> int:
        _, _, content = self.ask(number, 2, address, 2)
        return content[0] | content[1] << 8

    def quiet(self) -> bool:
        """Nothing more has been said: after this the next answer to a ping is the ping's."""
        return self.ask(1, 1) == (1, 0, b"")

    def _exactly(self, count: int, wait_s: float) -> bytes | None:
        found = b""
        while len(found) < count:
            ready, _, _ = select.select([self._file], [], [], wait_s)
            if not ready:
                assert not found
                return None
            found += os.read(self._file, count - len(found))
        return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(clock: ManualClock) -> Iterator[FeetechBus]:
    with FeetechBus.so101(clock) as made:
        yield made


@pytest.fixture
def client(bus: FeetechBus) -> Iterator[Client]:
    made = Client(bus.port)
    yield made
    made.close()


class TestPackets:
    def test_ping(self, client: Client) -> None:
        assert client.ask(3, 1) == (3, 0, b"")

    def test_ping_to_all(self, client: Client) -> None:
        client.send(254, 1)
        assert [client.status() for _ in range(6)] == [(number, 0, b"") for number in range(1, 7)]

    def test_model_number(self, client: Client) -> None:
        assert client.word(6, 3) == 777

    def test_write_is_answered_and_read_back(self, client: Client) -> None:
        assert client.ask(2, 3, 21, 16) == (2, 0, b"")
        assert client.ask(2, 2, 21, 1) == (2, 0, b"\x10")

    def test_sync_read_in_the_order_asked(self, client: Client) -> None:
        client.send(254, 0x82, PRESENT, 2, 4, 1)
        first, second = client.status(), client.status()
        assert first == (4, 0, bytes((2055 & 255, 2055 >> 8)))
        assert second is not None and second[0] == 1 and client.quiet()

    def test_sync_write_has_no_answer(self, bus: FeetechBus, client: Client) -> None:
        client.send(254, 0x83, GOAL, 2, 1, 0x00, 0x08, 2, 0x10, 0x07)
        assert client.quiet()
        assert bus.goals == [{1: 0x800, 2: 0x710}]
        assert client.word(2, GOAL) == 0x710

    def test_a_registered_write_waits_for_the_action(self, bus: FeetechBus, client: Client) -> None:
        before = client.word(1, GOAL)
        assert client.ask(1, 4, GOAL, 0x00, 0x08) == (1, 0, b"")
        assert client.word(1, GOAL) == before
        client.send(254, 5)
        assert client.word(1, GOAL) == 0x800

    def test_what_is_no_packet_is_passed_over(self, client: Client) -> None:
        client.raw(b"noise \xff\xff\xff")
        client.raw(b"\xff\x05\x00")
        client.send(3, 1, spoil=0x20)
        client.send(99, 1)
        assert client.quiet()

    def test_a_packet_in_pieces(self, client: Client) -> None:
        for byte in bytes((0xFF, 0xFF, 5, 2, 1, 255 - 8)):
            client.raw(bytes((byte,)))
        assert client.status() == (5, 0, b"")

    def test_beyond_the_table(self, client: Client) -> None:
        client.send(1, 2, 80, 200)
        client.send(1, 3, 86, 1, 2, 3)
        assert client.status() == (1, 0, b"")  # to the write; the read got none
        assert client.quiet()


class TestRegisters:
    def test_eprom_under_the_lock_is_lost_with_the_power(self, bus: FeetechBus, client: Client) -> None:
        client.ask(1, 3, OFFSET, 50, 0)
        assert client.word(1, OFFSET) == 50
        bus.servos[1].power_cycle()
        assert client.word(1, OFFSET) == 35
        client.ask(1, 3, LOCK, 0)
        client.ask(1, 3, OFFSET, 50, 0)
        bus.servos[1].power_cycle()
        assert client.word(1, OFFSET) == 50

    def test_the_homing_offset_moves_the_zero(self, client: Client) -> None:
        """Present = encoder - offset; negative ones are sign (bit 11) and magnitude."""
        before = client.word(3, PRESENT)
        client.ask(3, 3, OFFSET, 10, 0x08)
        assert client.word(3, OFFSET) == 0x80A
        assert client.word(3, PRESENT) == before + 260 + 10

    def test_a_position_below_zero_is_sign_and_magnitude(self, bus: FeetechBus, client: Client) -> None:
        bus.push(5, -3000)
        assert client.word(5, PRESENT) == 0x8000 | (3000 - 2048 + 0)

    def test_measured_values_cannot_be_written(self, client: Client) -> None:
        before = client.word(1, PRESENT)
        client.ask(1, 3, PRESENT, 0, 0)
        assert client.word(1, PRESENT) == before

    def test_another_number(self, bus: FeetechBus, client: Client) -> None:
        client.send(6, 3, ID, 9)
        assert client.ask(9, 1) == (9, 0, b"")
        assert sorted(bus.servos) == [1, 2, 3, 4, 5, 9]


class TestMotion:
    def test_without_torque_it_stays(self, bus: FeetechBus, client: Client, clock: ManualClock) -> None:
        before = bus.positions()
        client.send(254, 0x83, GOAL, 2, 1, 0x00, 0x09)
        assert client.quiet()
        clock.advance(5.0)
        assert bus.positions() == before

    def test_it_goes_to_its_goal_and_no_faster_than_it_can(self, bus: FeetechBus, client: Client, clock: ManualClock) -> None:
        client.ask(1, 3, TORQUE, 1)
        start = client.word(1, PRESENT)
        goal = start + 1000
        client.ask(1, 3, GOAL, goal & 255, goal >> 8)
        clock.advance(0.1)
        assert client.word(1, PRESENT) == start + 340
        clock.advance(0.1)
        assert client.word(1, PRESENT) == start + 680
        clock.advance(1.0)
        assert client.word(1, PRESENT) == goal

    def test_it_stops_at_its_limits(self, bus: FeetechBus, client: Client, clock: ManualClock) -> None:
        client.ask(2, 3, TORQUE, 1)
        client.ask(2, 3, GOAL, 4000 & 255, 4000 >> 8)
        clock.advance(10.0)
        assert bus.positions()[2] == 3240

    def test_torque_on_holds_where_it_is(self, bus: FeetechBus, client: Client, clock: ManualClock) -> None:
        bus.push(4, 200)
        client.ask(4, 3, TORQUE, 1)
        clock.advance(1.0)
        assert bus.positions()[4] == pytest.approx(2055 + 200)

    def test_velocity_mode(self, bus: FeetechBus, client: Client, clock: ManualClock) -> None:
        client.ask(5, 3, 33, 1)
        client.ask(5, 3, TORQUE, 1)
        client.ask(5, 3, 46, 100, 0x80)
        before = bus.positions()[5]
        clock.advance(2.0)
        assert bus.positions()[5] == before - 200


class TestFaults:
    def test_silent_for_two_answers(self, bus: FeetechBus, client: Client) -> None:
        bus.fault(2, "silent", times=2)
        client.send(2, 1)
        client.send(2, 1)
        assert client.quiet()
        assert client.ask(2, 1) == (2, 0, b"")

    def test_one_of_many_is_missing_from_a_sync_read(self, bus: FeetechBus, client: Client) -> None:
        bus.fault(2, "dead")
        client.send(254, 0x82, PRESENT, 2, 1, 2, 3)
        assert [each and each[0] for each in (client.status(), client.status())] == [1, 3]
        assert client.quiet()

    def test_a_wrong_checksum(self, bus: FeetechBus, client: Client) -> None:
        bus.fault(3, "checksum", times=1)
        client.send(3, 1)
        with pytest.raises(AssertionError, match="checksum"):
            client.status()
        assert client.ask(3, 1) == (3, 0, b"")

    @pytest.mark.parametrize("kind", ["dead", "overload"])
    def test_it_does_not_move(self, bus: FeetechBus, client: Client, clock: ManualClock, kind: str) -> None:
        client.ask(1, 3, TORQUE, 1)
        before = bus.positions()[1]
        bus.fault(1, kind)  # type: ignore[arg-type]
        client.send(254, 0x83, GOAL, 2, 1, 0x00, 0x09)
        assert client.ask(2, 1) == (2, 0, b"")
        clock.advance(1.0)
        assert bus.positions()[1] == before
        if kind == "overload":
            assert client.ask(1, 1) == (1, 32, b"")
        bus.heal()
        assert client.ask(1, 1) == (1, 0, b"")

    def test_unknown_ones(self, bus: FeetechBus) -> None:
        with pytest.raises(ValueError, match="expected one of the servos"):
            bus.fault(7, "silent")
        assert "dead" in FAULTS

    def test_the_plug(self, bus: FeetechBus, client: Client) -> None:
        bus.close()
        bus.close()
        with pytest.raises(OSError, match="Input/output error"):
            client.send(1, 1)


def test_the_calibration_file_is_lerobots(bus: FeetechBus, tmp_path: Path) -> None:
    bus.write_calibration(tmp_path / "arms" / "mine.json")
    known = json.loads((tmp_path / "arms" / "mine.json").read_text())
    assert known["gripper"] == {"id": 6, "drive_mode": 0, "homing_offset": -1310, "range_min": 2030, "range_max": 3480}
    assert list(known) == ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actlink.testing.feetech_bus", "--calibration", str(tmp_path / "arm.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        client = Client(process.stdout.readline().split()[1])
        assert client.ask(6, 1) == (6, 0, b"")
        client.close()
        process.terminate()
    assert (tmp_path / "arm.json").exists()
