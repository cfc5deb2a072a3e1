"""The ACT server's command lines, and the client that its document prints, run with libzmq and stock pickle."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from compat_world import COMPAT, run, started

from actlink.policies._open import open_policy
from actlink.serving.server import Server

pytest.importorskip("zmq", reason="pyzmq: the documented ACT client NOT RUN")

CLIENT = """
import zmq
import pickle
import numpy as np

# 连接到服务器
context = zmq.Context()
socket = context.socket(zmq.REQ)
socket.connect("tcp://localhost:5555")

# 1. 重置模型状态（开始新的episode时）
socket.send(pickle.dumps('RESET'))
response = pickle.loads(socket.recv())
print(response)  # {'status': 'OK'}

# 2. 发送推理请求
# qpos: base_pos(3) + base_vel(6) + joint_pos(7) + gripper(1) = 17维
base_pos = np.array([...], dtype=np.float32)      # shape: (3,)
base_vel = np.array([...], dtype=np.float32)      # shape: (6,)
joint_pos = np.array([...], dtype=np.float32)     # shape: (7,)
gripper = np.array([...], dtype=np.float32)       # shape: (1,)
qpos = np.concatenate([base_pos, base_vel, joint_pos, gripper])  # shape: (17,)

images = {
    'rgb_main': np.array(...),   # shape: (480, 640, 3), dtype: uint8
    'rgb_left': np.array(...),   # shape: (480, 640, 3), dtype: uint8
    'rgb_under': np.array(...)   # shape: (480, 640, 3), dtype: uint8
}

data = {'qpos': qpos, 'images': images}
socket.send(pickle.dumps(data))
response = pickle.loads(socket.recv())

if response['status'] == 'OK':
    action = response['action']  # shape: (8,)
    print(f"Action: {action}")
else:
    print(f"Error: {response['message']}")

# 清理
socket.close()
context.term()
"""


def filled(port: str) -> str:
    """The document's client with a number where it has dots, of the shape that stands beside them, and a port that is free."""
    code = re.sub(r"np\.array\(\[\.\.\.\], dtype=np\.float32\)( +# shape: (\(\d+,\)))", r"np.ones(\2, np.float32)\1", CLIENT)
    code = re.sub(r"np\.array\(\.\.\.\)(,? +# shape: (\([\d, ]+\)))", r"np.zeros(\2, np.uint8)\1", code)
    assert "..." not in code
    return code.replace("5555", port)


def test_documented_client() -> None:
    cameras = ",".join(f"{name}:480x640" for name in ("rgb_main", "rgb_left", "rgb_under"))
    policy = open_policy(f"scripted:echo?state=17&action=16&horizon=20&cameras={cameras}")
    with Server({"echo": policy}, ["act+zmq://127.0.0.1:0"]) as server:
        port = server.addresses[0].rpartition(":")[2]
        first, *rest = run(["python", "-c", filled(port)]).splitlines()
        assert first == "{'status': 'OK'}"
        assert "".join(rest).split() == ["Action:", "[1."] + ["1."] * 14 + ["1.]"]
        wrong = filled(port).replace("np.ones((7,), np.float32)", "np.ones((8,), np.float32)")
        assert run(["python", "-c", wrong]).splitlines()[1] == "Error: Expected qpos dim 17, but got 18."
        missing = filled(port).replace("'rgb_left'", "'rgb_right'")
        assert run(["python", "-c", missing]).splitlines()[1].startswith("Error: Missing key in data: 'rgb_left'")


def edited(place: Path, **constants: str) -> Path:
    """The server's files with other values at the top of inference_server.py."""
    for name in ("inference_server.py", "constants.py", "opening.py"):
        shutil.copy(COMPAT / name, place / name)
    path = place / "inference_server.py"
    code = path.read_text(encoding="utf-8")
    for name, value in constants.items():
        code, count = re.subn(rf"^({name}(: .+)?) = \S+", rf"\1 = {value}", code, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(code, encoding="utf-8")
    return place


def test_server_and_test_client(tmp_path: Path) -> None:
    """The constants at the top are honoured when edited; output comes line by line; SIGTERM ends it cleanly."""
    place = edited(tmp_path, PORT='"0"', CKPT_DIR=repr(str(COMPAT / "ckpt")))
    with started(["python", "inference_server.py"], cwd=place) as program:
        assert program.until("link-local").startswith("⚠ 0.0.0.0 is open to other machines")
        line = program.until("ACT inference server listening on port ")
        assert "astrobench_dual_arm" in line
        port = re.findall(r"port (\d+)", line)[0]
        assert port != "0"
        said = run(["python", "test_zmq_client.py", "--port", port]).replace(port, "5555")
        assert program.stop(signal.SIGTERM) == 0
        assert program.lines[-1] == "ACT inference server stopped"
    said = re.sub(r"Action: \[.*?\]", "Action: [...]", said, flags=re.DOTALL)
    assert said == (
        "Connected to ACT inference server on port 5555\n"
        "\n--- Test 1: RESET ---\nResponse: {'status': 'OK'}\n"
        "\n--- Test 2: Inference ---\nSending qpos shape: (17,)\nSending images: ['rgb_main', 'rgb_left', 'rgb_under']\n"
        "Response status: OK\nAction shape: (16,)\nAction: [...]\n"
        "\n--- Test 3: RESET again ---\nResponse: {'status': 'OK'}\n"
        "\n✓ All tests completed!\n"
    )


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ({"TASK_NAME": "'juggling'"}, "no task 'juggling' in constants.py; there are: astrobench_dual_arm"),
        ({"CKPT_DIR": "'./nothing'"}, "no policy './nothing'"),
        ({"CKPT_DIR": "'cartpole_ppo'"}, "the checkpoint has the cameras (none)"),
    ],
)
def test_wrong_constants_are_named(tmp_path: Path, constants: dict[str, str], says: str) -> None:
    place = edited(tmp_path, **{"PORT": '"0"', "CKPT_DIR": repr(str(COMPAT / "ckpt")), **constants})
    assert says in run(["python", "inference_server.py"], cwd=place, expect=1)


def test_the_test_client_is_no_test_of_ours() -> None:
    assert not re.search(r"^\s*(def|class) [tT]est", (COMPAT / "test_zmq_client.py").read_text(encoding="utf-8"), re.MULTILINE)
