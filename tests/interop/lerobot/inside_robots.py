"""Run by LeRobot's own Python (test_lerobot_inside.py starts it): LeRobot's real SO101 driver on a simulated servo bus.

Everything from an action of a chunk to the packet that reaches a servo is the genuine article; only the motors are not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from actlink.errors import CameraError, ConfigError, ConnectError, LinkError, SimulationError
from actlink.robots import _lerobot_cameras
from actlink.robots import lerobot as adapter
from actlink.robots._base import Robot
from actlink.robots._lerobot_cameras import Feed
from actlink.robots._open import open_robot
from actlink.testing._feetech_servo import LOCK, TORQUE
from actlink.testing.feetech_bus import JOINTS, FeetechBus
from actlink.testing.robots import check_robot

HEIGHT, WIDTH, FPS = 48, 64, 30


def video(path: Path, frames: int, *, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """Frame ``i`` is grey ``4 * (i % 60)``; the upper half is red, so that colours cannot be taken for one another."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (width, height))
    for index in range(frames):
        frame = np.full((height, width, 3), 4 * (index % 60), np.uint8)
        frame[: height // 2] = (0, 0, 255)  # OpenCV writes blue, green, red
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeetechBus]:
    """The driver spins while it waits, in the process in which the bus is a thread: on a busy machine it has to wait longer."""
    patient(monkeypatch)
    with FeetechBus.so101() as made:
        yield made


def patient(monkeypatch: pytest.MonkeyPatch, wait_ms: float = 400.0) -> None:
    """Give a servo so long for its answer; LeRobot's driver gives 50 ms."""
    from lerobot.motors.feetech import feetech

    def wait(port: Any, length: int) -> None:
        port.packet_start_time = port.getCurrentTime()
        port.packet_timeout = port.tx_time_per_byte * (length + 3) + wait_ms

    monkeypatch.setattr(feetech, "patch_setPacketTimeout", wait)


@pytest.fixture
def options(bus: FeetechBus, tmp_path: Path) -> dict[str, Any]:
    bus.write_calibration(tmp_path / "calibration" / "my_arm.json")
    return {"port": bus.port, "id": "my_arm", "calibration_dir": str(tmp_path / "calibration")}


@pytest.fixture
def robot(options: dict[str, Any]) -> Iterator[Robot]:
    made = open_robot("so101_follower", options)
    made.connect()
    yield made
    made.close()


def cameras(**paths: Path) -> str:
    """As on LeRobot's command line."""
    each = (
        f"{name}: {{type: opencv, index_or_path: {path}, width: {WIDTH}, height: {HEIGHT}, fps: {FPS}, fourcc: MJPG}}"
        for name, path in paths.items()
    )
    return "{" + ", ".join(each) + "}"


def raw(bus: FeetechBus, number: int, degrees: float) -> int:
    """Feetech's 4096 steps a turn around the middle of the calibrated range, as LeRobot counts them."""
    servo = bus.servos[number]
    return int(degrees * 4095 / 360 + (servo.get(9) + servo.get(11)) / 2)


def until(condition: Any, what: str, hung_s: float = 60) -> None:
    end_s = time.monotonic() + hung_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)  # looks again; nothing is measured


class TestFromActionToServo:
    def test_the_contract(self, options: dict[str, Any]) -> None:
        check_robot(open_robot("so101_follower", options), reach=1.0)

    def test_the_spec_before_connecting(self, options: dict[str, Any]) -> None:
        spec = open_robot("so101_follower", options).spec
        assert spec.observation["state"].names == spec.action.names == tuple(f"{name}.pos" for name in JOINTS)
        assert spec.action.range is not None
        assert spec.action.range == pytest.approx((-2047.5 * 360 / 4095, 2047.5 * 360 / 4095))

    def test_a_chunk_arrives_as_packets(self, bus: FeetechBus, robot: Robot) -> None:
        robot.observe()  # its answer comes after what was sent before
        start = len(bus.goals)
        chunk = np.array([[3.0 * step, -2.0 * step, step, 4.0, -1.5 * step, 50.0 + step] for step in range(8)], np.float32)
        for action in chunk:
            assert np.array_equal(robot.act(action), action)
        until(lambda: len(bus.goals) == start + 8, "every action is one packet")
        for action, goals in zip(chunk, bus.goals[start:], strict=True):
            for number in range(1, 6):
                assert goals[number] == raw(bus, number, float(action[number - 1]))
            low, high = bus.servos[6].get(9), bus.servos[6].get(11)
            assert goals[6] == int(float(action[5]) / 100 * (high - low) + low)

    def test_where_the_servos_are_is_what_is_seen(self, bus: FeetechBus, robot: Robot) -> None:
        target = np.array([10, -20, 15, 5, 30, 80], np.float32)
        robot.act(target)
        until(lambda: np.abs(robot.observe()["state"] - target).max() < 0.2, "it gets there")
        bus.push(1, 100)
        assert robot.observe()["state"][0] == pytest.approx(10 + 100 * 360 / 4095, abs=10)

    def test_a_joint_goes_no_further_than_it_was_calibrated(self, bus: FeetechBus, robot: Robot) -> None:
        sent = robot.act(np.array([175, 0, 0, 0, 0, 120], np.float32))
        assert sent[0] == pytest.approx((3390 - 740) / 2 * 360 / 4095) and sent[5] == 100
        robot.observe()
        assert bus.goals[-1][1] in (3389, 3390)

    def test_max_relative_target_is_lerobots_own(self, options: dict[str, Any]) -> None:
        robot = open_robot("so101_follower", {**options, "max_relative_target": "5.0"})
        robot.connect()
        sent = robot.act(np.array([40, 0, 0, 0, 0, 50], np.float32))
        assert sent[0] == pytest.approx(5.0, abs=0.2)
        robot.close()

    def test_hold_is_the_measured_pose(self, bus: FeetechBus, robot: Robot) -> None:
        robot.act(np.array([60, 0, 0, 0, 0, 50], np.float32))
        until(lambda: robot.observe()["state"][0] > 3, "it is on its way")
        seen = robot.observe()["state"][0]
        robot.hold()
        robot.observe()  # its answer comes after what was sent before
        goal = bus.goals[-1][1]
        assert raw(bus, 1, float(seen)) - 2 <= goal <= raw(bus, 1, 60.0)
        until(lambda: abs(bus.positions()[1] - goal) < 2, "it rests there")
        assert bus.goals[-1][1] == goal
        assert all(servo.torque for servo in bus.servos.values())

    def test_connecting_moves_nothing(self, bus: FeetechBus, options: dict[str, Any]) -> None:
        bus.push(2, 300)
        before = bus.positions()
        robot = open_robot("so101_follower", options)
        robot.connect()
        robot.observe()
        after = bus.positions()
        assert all(abs(after[number] - before[number]) <= 1 for number in before)
        robot.close()

    @pytest.mark.parametrize(("written", "torque"), [({}, True), ({"disable_torque_on_disconnect": "true"}, False)])
    def test_after_closing(self, bus: FeetechBus, options: dict[str, Any], written: dict[str, str], torque: bool) -> None:
        robot = open_robot("so101_follower", {**options, **written})
        robot.connect()
        robot.close()
        assert all(servo.torque is torque for servo in bus.servos.values())
        assert all(bool(servo.read(LOCK, 1) == b"\x01") is torque for servo in bus.servos.values())
        again = open_robot("so101_follower", options)
        again.connect()
        again.close()

    def test_stop_from_another_thread(self, bus: FeetechBus, robot: Robot) -> None:
        """LeRobot's port refuses two at a time; here they take turns."""
        ended, errors = threading.Event(), []

        def work() -> None:
            try:
                while not ended.is_set():
                    robot.observe()
                    robot.act(np.zeros(6, np.float32))
            except Exception as error:  # pragma: no cover - what the test is about
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(20):
            robot.stop()
        ended.set()
        thread.join(30)
        assert errors == []


class TestFaultsOfTheBus:
    @pytest.mark.parametrize("kind", ["silent", "checksum"])
    def test_a_lost_answer_is_asked_for_again(self, bus: FeetechBus, robot: Robot, kind: Any) -> None:
        bus.fault(3, kind, times=1)
        assert robot.observe()["state"].shape == (6,)

    @pytest.mark.parametrize("kind", ["silent", "checksum", "dead"])
    def test_a_servo_that_stays_away(self, bus: FeetechBus, robot: Robot, kind: Any) -> None:
        bus.fault(3, kind)
        with pytest.raises(LinkError, match="robot so101_follower: cannot read its motors: Failed to sync read 'Present_Position'"):
            robot.observe()
        bus.heal()
        assert robot.observe()["state"].shape == (6,)

    def test_hold_tries_again(self, bus: FeetechBus, robot: Robot) -> None:
        """LeRobot's driver asks three times (0.4.4: once, and is asked twice), and hold has it ask three times."""
        asks = 2 if version("lerobot").startswith("0.4.") else 3
        bus.fault(5, "silent", times=3 * asks - 1)
        robot.hold()
        assert all(servo.torque for servo in bus.servos.values())

    def test_an_overloaded_joint_stays_and_the_others_move(self, bus: FeetechBus, robot: Robot) -> None:
        bus.fault(1, "overload")
        robot.act(np.array([30, 10, 0, 0, 0, 50], np.float32))
        until(lambda: abs(robot.observe()["state"][1] - 10) < 0.3, "the second joint gets there")
        assert abs(robot.observe()["state"][0]) < 1

    def test_the_cable(self, bus: FeetechBus, robot: Robot) -> None:
        bus.close()
        with pytest.raises(LinkError, match="cannot read its motors"):
            robot.observe()
        with pytest.raises(LinkError):
            robot.hold()
        robot.close()

    def test_no_such_port(self, options: dict[str, Any]) -> None:
        robot = open_robot("so101_follower", {**options, "port": "/dev/ttyNOTHING"})
        with pytest.raises(ConnectError, match=r"Could not connect on port '/dev/ttyNOTHING'"):
            robot.connect()

    def test_a_servo_that_is_missing_from_the_start(self, bus: FeetechBus, options: dict[str, Any]) -> None:
        bus.fault(4, "dead")
        robot = open_robot("so101_follower", options)
        with pytest.raises(ConnectError, match=r"Missing motor IDs: - 4"):
            robot.connect()
        bus.heal()
        robot.connect()  # the port was released
        robot.close()

    def test_an_arm_that_is_not_calibrated(self, bus: FeetechBus, options: dict[str, Any]) -> None:
        bus.servos[2].set(31, 77)
        robot = open_robot("so101_follower", options)
        with pytest.raises(
            SimulationError, match=r"not the one in .*my_arm\.json; run lerobot-calibrate --robot.type=so101_follower"
        ):
            robot.connect()
        assert bus.servos[2].get(31) == 77

    def test_no_calibration_at_all(self, options: dict[str, Any]) -> None:
        robot = open_robot("so101_follower", {**options, "id": "another_arm"})
        with pytest.raises(SimulationError, match=r"another_arm\.json; run lerobot-calibrate"):
            robot.connect()


class TestCameras:
    def test_videos_in_place_of_cameras(self, options: dict[str, Any], tmp_path: Path) -> None:
        paths = {"front": video(tmp_path / "a.avi", 60), "wrist": video(tmp_path / "b.avi", 5)}
        robot = open_robot("so101_follower", {**options, "cameras": cameras(**paths)})
        assert robot.spec.cameras["wrist"].shape == (HEIGHT, WIDTH, 3)
        check_robot(robot, reach=1.0)
        robot = open_robot("so101_follower", {**options, "cameras": cameras(**paths)})
        robot.connect()
        seen = robot.observe()
        red = np.asarray(seen["images.front"])[5, 5]
        assert red[0] > 200 and red[2] < 60
        greys = set()
        until(lambda: greys.add(int(np.asarray(robot.observe()["images.wrist"])[-1, 0, 0])) or len(greys) >= 3, "it plays on")
        robot.close()

    def test_a_camera_that_is_not_there(self, bus: FeetechBus, options: dict[str, Any], tmp_path: Path) -> None:
        robot = open_robot(
            "so101_follower", {**options, "cameras": cameras(front=video(tmp_path / "a.avi", 9), wrist=Path("/dev/video97"))}
        )
        with pytest.raises(CameraError, match="camera 'wrist': Failed to open") as found:
            robot.connect()
        assert found.value.camera == "wrist"
        assert all(servo.torque for servo in bus.servos.values())
        with pytest.raises(SimulationError, match="not connected"):
            robot.observe()

    def test_pictures_of_another_size(self, options: dict[str, Any], tmp_path: Path) -> None:
        path = video(tmp_path / "a.avi", 9, height=32, width=32)
        robot = open_robot("so101_follower", {**options, "cameras": cameras(front=path)})
        with pytest.raises(
            CameraError, match=r"camera 'front': no picture within 5 s \(expected uint8 \(48, 64, 3\), got uint8 \(32, 32, 3\)"
        ):
            robot.connect()

    def test_one_fails_and_the_others_go_on(self, options: dict[str, Any], tmp_path: Path) -> None:
        paths = {"front": video(tmp_path / "a.avi", 60), "wrist": video(tmp_path / "b.avi", 60)}
        robot = open_robot("so101_follower", {**options, "cameras": cameras(**paths)})
        robot.connect()
        video_of = robot._feeds["wrist"]._camera  # type: ignore[attr-defined]
        video_of._capture.release()  # as when its plug is pulled: it reads nothing from now on

        def failed() -> CameraError | None:
            try:
                robot.observe()
            except CameraError as error:
                return error
            return None

        until(failed, "the picture gets too old")
        error = failed()
        assert error is None or (error.camera == "wrist" and "camera 'wrist'" in str(error))
        assert error is None or set(error.observation) == {"state", "images.front"}
        robot.act(np.zeros(6, np.float32))
        until(lambda: failed() is None, "it is opened again by itself")
        robot.close()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # how that thread ends is LeRobot's affair
    def test_lerobots_own_opencv_camera(self, tmp_path: Path) -> None:
        """It reads a file as fast as it can and its thread dies at the end; then it is opened again."""
        from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

        path = video(tmp_path / "a.avi", 3000)
        feed = Feed("file", OpenCVCamera(OpenCVCameraConfig(index_or_path=path, warmup_s=0)), (HEIGHT, WIDTH, 3))
        feed.open()
        assert feed.latest().shape == (HEIGHT, WIDTH, 3)

        def ended() -> bool:
            try:
                feed.latest()
            except CameraError as error:
                return "camera 'file'" in str(error)
            return False

        until(ended, "the end of the file is a failure")
        if not version("lerobot").startswith("0.4."):  # whose camera asks the file for the size that it found in it
            until(lambda: not ended(), "opened again")
        feed.close()

    def test_observing_waits_for_no_camera(self, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A camera of one picture a second: whoever observes gets the last one, or the error, and never the wait."""
        monkeypatch.setattr(_lerobot_cameras, "MAX_AGE_S", 1e9)
        path = video(tmp_path / "a.avi", 60)
        slow = cameras(front=path).replace(f"fps: {FPS}", "fps: 1")
        robot = open_robot("so101_follower", {**options, "cameras": slow})
        robot.connect()
        start_s = time.monotonic()
        for _ in range(20):
            robot.observe()
        assert time.monotonic() - start_s < 15  # twenty pictures would take twenty seconds
        robot.close()


class TestNames:
    def test_every_robot_it_registers(self) -> None:
        known = adapter.kinds()
        assert {"so100_follower", "so101_follower", "koch_follower"} <= set(known)
        with pytest.raises(ConfigError, match=r"no robot 'so102_follower'; LeRobot's are: .*so101_follower"):
            open_robot("so102_follower")

    def test_lerobot_and_a_type(self, options: dict[str, Any]) -> None:
        assert open_robot("lerobot", {**options, "type": "so100_follower"}).spec.name == "so100_follower"

    def test_an_option_it_does_not_have(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"robot so101_follower: .*colour"):
            open_robot("so101_follower", {**options, "colour": "red"})

    def test_a_camera_without_a_size(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="Specifying 'width' is required"):
            open_robot("so101_follower", {**options, "cameras": "{front: {type: opencv, index_or_path: 0, fps: 30}}"})

    def test_options_one_by_one(self, options: dict[str, Any], tmp_path: Path) -> None:
        path = video(tmp_path / "a.avi", 9)
        each = {"type": "opencv", "index_or_path": str(path), "width": "64", "height": "48", "fps": "30"}
        robot = open_robot("so101_follower", {**options, **{f"cameras.front.{key}": value for key, value in each.items()}})
        assert list(robot.spec.cameras) == ["front"]

    def test_two_arms(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        patient(monkeypatch)
        with FeetechBus.so101() as left, FeetechBus.so101() as right:
            for side, bus in (("left", left), ("right", right)):
                bus.write_calibration(tmp_path / f"pair_{side}.json")
            options = {
                "id": "pair",
                "calibration_dir": str(tmp_path),
                "left_arm_config": f"{{port: {left.port}, cameras: {cameras(wrist=video(tmp_path / 'l.avi', 30))}}}",
                "right_arm_config": {"port": right.port},
            }
            robot = open_robot("bi_so_follower", options)
            assert robot.spec.action.names is not None
            assert robot.spec.action.names[0] == "left_shoulder_pan.pos" and len(robot.spec.action.names) == 12
            assert list(robot.spec.cameras) == ["left_wrist"]
            robot.connect()
            target = np.array([5, 0, 0, 0, 0, 50, -7, 0, 0, 0, 0, 50], np.float32)
            robot.act(target)
            until(lambda: np.abs(robot.observe()["state"] - target).max() < 0.3, "both arrive")
            assert right.goals[-1][1] == raw(right, 1, -7.0)
            robot.close()
            assert left.servos[1].read(TORQUE, 1) == b"\x01"
