"""IL-Studio's command lines, and the clients that its documents print, run as they stand there."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from compat_world import COMPAT, run, started

from actlink import loading
from actlink.policies._open import open_policy
from actlink.serving.server import Server
from documented import checkpoints

# Verbatim, but for blanks at the ends of lines, and for the port, which need not be free here.

CLIENT = """
from policy_client_example import PolicyClient
from benchmark.base import MetaObs
import numpy as np

# 创建客户端
client = PolicyClient('localhost', 5000)
client.connect()

# 创建观察数据
meta_obs = MetaObs(
    state=np.random.randn(14),
    image=np.random.randint(0, 255, (1, 3, 480, 640), dtype=np.uint8),
    raw_lang="Pick up the red cube",
    timestep=0
)

# 发送请求并获取动作
mact_list = client.send_meta_obs(meta_obs)
print(f"Received {len(mact_list)} actions")

# 断开连接
client.disconnect()
"""

CUSTOM_CLIENT = """
import socket
import pickle
import struct
from benchmark.base import MetaObs, MetaAction

class CustomPolicyClient:
    def __init__(self, host, port):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.connect((host, port))

    def get_actions(self, obs_data):
        # 创建MetaObs
        meta_obs = MetaObs(
            state=obs_data['state'],
            image=obs_data['image'],
            raw_lang=obs_data['instruction']
        )

        # 发送数据
        data_bytes = pickle.dumps(meta_obs)
        length_bytes = struct.pack('>I', len(data_bytes))
        self.socket.sendall(length_bytes + data_bytes)

        # 接收响应
        length_bytes = self.socket.recv(4)
        data_length = struct.unpack('>I', length_bytes)[0]
        data_bytes = self.socket.recv(data_length)
        mact_list = pickle.loads(data_bytes)

        return mact_list

    def close(self):
        self.socket.close()
"""

USES_IT = """
import numpy as np
client = CustomPolicyClient('localhost', 5000)
for batch in ((), (1,)):
    observation = {
        'state': np.arange(14, dtype=np.float32).reshape(*batch, 14),
        'image': np.zeros((*batch, 1, 3, 480, 640), np.uint8),
        'instruction': 'Pick up the red cube',
    }
    actions = client.get_actions(observation)
    print(len(actions), type(actions[0]).__name__, actions[0].shape, list(actions[0][0]), actions[0][0]['action'].tolist())
client.close()
"""

REMOTE_CLIENT = """
from eval_remote import RemotePolicyClient

# 创建自定义客户端
client = RemotePolicyClient('localhost', 5000, chunk_size=64)

# 发送观察并获取动作
mobs = MetaObs(state=state, image=image, raw_lang=instruction)
action = client.select_action(mobs, timestep=0)

# 清理
client.reset()
"""


@pytest.fixture
def scripted() -> Iterator[str]:
    """The port of a server for the documents' shapes: a state of 14 and one camera."""
    policy = open_policy("scripted:echo?state=14&action=14&horizon=64&cameras=top:480x640")
    with Server({"echo": policy}, ["ilstudio+tcp://127.0.0.1:0"]) as server:
        yield server.addresses[0].rpartition(":")[2]


@pytest.fixture
def compat(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of compat/ as a program there would."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(COMPAT))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(COMPAT)):
            del sys.modules[name]


def python(code: str, port: str) -> str:
    return run(["python", "-c", code.replace("5000", port)])


class TestDocumentedClients:
    def test_policy_client(self, scripted: str) -> None:
        assert python(CLIENT, scripted) == "Received 64 actions\n"

    def test_custom_client_with_stock_pickle(self, scripted: str) -> None:
        said = python(CUSTOM_CLIENT + USES_IT, scripted).splitlines()
        keys = ["ctrl_space", "ctrl_type", "action", "gripper_continuous"]
        assert said == [f"64 ndarray (1,) {keys} {[float(i) for i in range(14)]}"] * 2

    def test_remote_policy_client(self, scripted: str) -> None:
        before = "import numpy as np\nfrom benchmark.base import MetaObs\nstate = np.arange(14.0)\ninstruction = 'Pick'\n"
        before += "image = np.zeros((1, 3, 480, 640), np.uint8)\n"
        after = "print(type(action).__name__, action.action.shape, action['ctrl_space'], len(action), len(client.action_queue))"
        assert python(before + REMOTE_CLIENT + after, scripted) == "MetaAction (14,) joint 14 0\n"

    def test_a_wrong_shape_is_refused(self, scripted: str) -> None:
        assert python(CLIENT.replace("randn(14)", "randn(15)"), scripted) == "Received 0 actions\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``compat/`` with a model that this interpreter can serve."""
    copy = tmp_path_factory.mktemp("ilstudio") / "compat"
    shutil.copytree(COMPAT, copy, ignore=shutil.ignore_patterns("__pycache__", "results", "outputs", "*.log"))
    checkpoints(copy)
    return copy


class TestServerProgram:
    def test_start_serve_and_stop(self, place: Path) -> None:
        with started(["python", "start_policy_server.py", "--host", "127.0.0.1", "-p", "0"], cwd=place) as program:
            port = program.until("🚀 Policy Server started on 127.0.0.1:").rpartition(":")[2]
            program.until("   Ctrl+C to stop the server")
            program.until("   Waiting for connections...")
            said = run(["python", "policy_client_example.py", "--port", port, "--num_requests", "25", "--delay", "0"], cwd=place)
            assert said.count("received 64 actions") == 25
            assert re.fullmatch(r"✓ Client #1 connected from \('127\.0\.0\.1', \d+\)", program.until("✓ Client"))
            assert program.until("Client #1:") == "  Client #1: 10 requests processed"
            assert program.until("Client #1:") == "  Client #1: 20 requests processed"
            assert program.until("closed") == "  Client #1 connection closed (processed 25 requests)"
            before = len(program.lines)
            socket.create_connection(("127.0.0.1", int(port)), timeout=30).close()  # curl telnet://
            program.until("✓ Client #2")
            assert program.stop(signal.SIGINT) == 0
            assert len([line for line in program.lines[before:] if "Client" in line]) == 1

    def test_shell_script_and_documented_options(self, place: Path) -> None:
        model = "ckpt/act_sim_transfer_cube_scripted_zscore_example"
        words = (
            f"./scripts/start_policy_server.sh --model_path {model} --host 0.0.0.0 --port 0 --chunk_size 32 --device cpu".split()
        )
        with started([*words, "--dataset_id", "my_robot_dataset"], cwd=place) as program:
            warning = program.until("⚠ 0.0.0.0")
            assert "loopback, private and link-local" in warning and "--allow" in warning
            port = program.until("🚀 Policy Server started on 0.0.0.0:").rpartition(":")[2]
            said = run(
                ["python", "policy_client_example.py", "--host", "localhost", "--port", port, "--num_requests", "1"], cwd=place
            )
            assert "received 32 actions" in said
            assert program.stop() == 0

    def test_what_is_not_there(self, place: Path) -> None:
        said = run(["python", "start_policy_server.py", "-m", "ckpt/my_model"], cwd=place, expect=1)
        assert "no policy 'ckpt/my_model'" in said
        said = run(["python", "start_policy_server.py", "--device", "cuda:99", "-p", "0"], cwd=place, expect=1)
        assert "cuda:99" in said  # typed, so it is an error

    def test_connection_refused(self, place: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        said = run(["python", "policy_client_example.py", "--port", str(port)], cwd=place, expect=1)
        assert "ConnectionRefusedError: [Errno 111] Connection refused" in said and "firewall" in said


class TestAccess:
    def test_wide_addresses_are_for_the_networks_around_and_say_so(self, compat: Any, capsys: pytest.CaptureFixture[str]) -> None:
        config = compat("opening").config
        for host in ("0.0.0.0", "::", "192.168.1.100"):
            assert set(config(host, (), "HOW").allow) >= {"127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16"}
            assert capsys.readouterr().err == (
                f"⚠ {host} is open to other machines: those in loopback, private and link-local networks may connect. HOW\n"
            )
        for host, allow in (("127.0.0.1", ()), ("localhost", ()), ("0.0.0.0", ("192.168.7.0/24",))):
            assert config(host, allow, "HOW").allow == allow
        assert not capsys.readouterr().err


class TestPolicyClient:
    @pytest.mark.parametrize(
        ("fields", "error", "says"),
        [
            ({"state": np.zeros((1, 2, 14))}, ValueError, "state: expected 1 axes, or 2 for a batch"),
            ({"state": [1.0]}, TypeError, "state: expected an array of numbers"),
            ({"state": np.array(["x"])}, TypeError, "state: expected an array of numbers"),
            ({"image": np.zeros((1, 3, 8, 8), np.float32)}, ValueError, "image: expected uint8"),
            ({"image": np.zeros((1, 8, 8, 3), np.uint8)}, ValueError, r"image: expected uint8 \(K, 3, H, W\)"),
            ({"image": np.zeros((3, 8, 8), np.uint8)}, ValueError, "image: expected 4 axes"),
            ({"raw_lang": 3}, TypeError, "raw_lang"),
        ],
    )
    def test_checks_before_sending(self, compat: Any, fields: Any, error: type[Exception], says: str) -> None:
        base, example = compat("benchmark.base"), compat("policy_client_example")
        with pytest.raises(error, match=says):
            example.PolicyClient("localhost", 1).send_meta_obs(base.MetaObs(**fields))

    def test_not_connected(self, compat: Any) -> None:
        base, example = compat("benchmark.base"), compat("policy_client_example")
        client = example.PolicyClient("localhost", 1)
        with pytest.raises(ConnectionError, match="not connected"):
            client.send_meta_obs(base.MetaObs(state=np.zeros(14)))
        client.disconnect()


class TestRemotePolicyClient:
    @pytest.mark.parametrize(
        ("text", "is_one"),
        [
            ("localhost:5000", True),
            ("192.168.1.100:5001", True),
            ("server_host:5000", True),
            ("[::1]:5000", True),
            ("ckpt/my_model", False),
            ("/path/to/checkpoint", False),
            ("localhost", False),
            ("localhost:port", False),
        ],
    )
    def test_address_or_path(self, compat: Any, text: str, is_one: bool) -> None:
        assert compat("eval_remote").is_server_address(text) is is_one

    def test_a_path_that_looks_like_an_address(self, compat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("model:5000").mkdir()
        assert not compat("eval_remote").is_server_address("model:5000")

    def test_parse(self, compat: Any) -> None:
        parse = compat("eval_remote").parse_server_address
        assert parse("gpu-box:5001") == ("gpu-box", 5001) and parse("[::1]:5000") == ("::1", 5000)
        for wrong in ("gpu-box", ":5000", "gpu-box:0", "gpu-box:99999", "gpu-box:x"):
            with pytest.raises(ValueError, match="expected host:port"):
                parse(wrong)

    def test_hands_out_a_chunk_action_by_action(self, compat: Any, scripted: str) -> None:
        base, remote = compat("benchmark.base"), compat("eval_remote")
        client = remote.RemotePolicyClient("localhost", int(scripted), chunk_size=3)
        asked: list[int] = []
        send = client._send_meta_obs
        client._send_meta_obs = lambda mobs: asked.append(int(mobs.timestep[0, 0])) or send(mobs)
        for t in range(7):
            states = np.stack([np.full(14, t, np.float32), np.full(14, -t, np.float32)])
            image = np.zeros((2, 1, 3, 480, 640), np.uint8)
            element = client.select_action(base.MetaObs(state=states, image=image, raw_lang=["", ""]), t)
            assert element.shape == (2,)
            assert [action["action"][0] for action in element] == [t // 3 * 3, -(t // 3 * 3)]
        assert asked == [0, 3, 6] and not client.is_action_queue_empty()
        client.reset()
        assert client.is_action_queue_empty()
        assert len(client.select_action(base.MetaObs(state=states, image=image), 0, return_all=True)) == 3
        with pytest.raises(RuntimeError, match="Server returned empty action list"):
            client.select_action(base.MetaObs(state=np.zeros(3)), 0)
        with pytest.raises(TypeError, match="expected the step"):
            client.select_action(base.MetaObs(state=np.zeros(3)))
        client.disconnect()

    def test_connects_again_once(self, compat: Any) -> None:
        base, remote = compat("benchmark.base"), compat("eval_remote")

        def server(port: int) -> Server:
            return Server({"e": open_policy("scripted:echo?state=2&action=2&horizon=4")}, [f"ilstudio+tcp://127.0.0.1:{port}"])

        with server(0) as first:
            port = int(first.addresses[0].rpartition(":")[2])
            client = remote.RemotePolicyClient("127.0.0.1", port)
        with server(port):
            assert client.select_action(base.MetaObs(state=np.ones(2)), 0).action.tolist() == [1, 1]
        client.reset()
        with pytest.raises(ConnectionError):
            client.select_action(base.MetaObs(state=np.ones(2)), 0)
        with pytest.raises(ConnectionError):
            remote.RemotePolicyClient("127.0.0.1", port)


class TestOptions:
    def test_documented_defaults(self, compat: Any) -> None:
        given, env = compat("eval_remote").parse([])
        assert (given.model_name_or_path, given.env, given.num_rollout, given.num_envs) == ("localhost:5000", "aloha", 4, 2)
        assert given.chunk_size == 64 and given.output_dir.startswith("results/") and env["type"] == "aloha"

    def test_configuration_file(self, compat: Any, tmp_path: Path) -> None:
        path = tmp_path / "eval_config.yaml"
        path.write_text(
            'server:\n  host: "192.168.1.100"\n  port: 5000\n  \nevaluation:\n  env: "aloha"\n  num_rollout: 20\n  num_envs: 4\n'
            '  chunk_size: 64\n  output_dir: "results/remote_eval"\n'
        )
        parse = compat("eval_remote").parse
        given, _ = parse(["--config", str(path)])
        assert (given.model_name_or_path, given.num_rollout, given.num_envs) == ("192.168.1.100:5000", 20, 4)
        assert given.output_dir == "results/remote_eval"
        assert parse(["--config", str(path), "--num_rollout", "3"])[0].num_rollout == 3

    @pytest.mark.parametrize("content", ["evaluation: {rollouts: 3}", "server: {name: x}", "other: {}", "- 1", "{", "server: 5000"])
    def test_wrong_configuration_file(self, compat: Any, tmp_path: Path, content: str) -> None:
        path = tmp_path / "eval_config.yaml"
        path.write_text(content)
        with pytest.raises(Exception, match=r"eval_config\.yaml"):
            compat("eval_remote").parse(["--config", str(path)])

    def test_environment_keys(self, compat: Any) -> None:
        parse = compat("eval_remote").parse
        assert parse(["--env", "simulation", "--env.max_timesteps", "7", "--env.camera_ids=[1]"])[1]["max_timesteps"] == 7
        for words, says in (
            (["--env.nothing", "1"], "aloha.yaml has no such key; it has: type, task"),
            (["--nothing", "1"], "unknown option '--nothing'"),
            (["--env.task"], "unknown option '--env.task'"),
            (["--env", "kitchen"], "no environment 'kitchen'; there are: aloha, real_world, simulation"),
            (["--env", "../env/aloha"], "no environment"),
        ):
            with pytest.raises(Exception, match=re.escape(says)):
                parse(words)


def test_evaluation_writes_what_il_studio_writes(tmp_path: Path) -> None:
    module = loading.load("environments", "aloha")
    if loading.missing(module):
        pytest.skip(f"compat/eval_remote.py NOT RUN: {loading.pip_line(module)}")
    with Server({"p": open_policy("aloha_transfer_cube")}, ["ilstudio+tcp://127.0.0.1:0"]) as server:
        address = server.addresses[0].partition("://")[2]
        words = (
            f"python eval_remote.py --model_name_or_path {address} --env aloha --num_rollout 3 --num_envs 2 --chunk_size 4".split()
        )
        said = run([*words, "--use_spawn", "-v", "--fps", "50", "--env.max_timesteps", "6", "--output_dir", str(tmp_path)])
    path = tmp_path / "aloha" / "sim_transfer_cube_scripted.json"
    assert str(path) in said and "0 of 3 episodes" in said
    found = json.loads(path.read_text())
    assert found == {"total_success": 0, "total": 3, "horizon": [6, 6, 6], "horizon_success": None, "success_rate": 0.0}
    assert sorted(each.name for each in (tmp_path / "aloha").iterdir() if each.name != "video") == [path.name]
    if "no video" not in said:
        names = sorted(each.name for each in (tmp_path / "aloha" / "video").iterdir())
        assert names == ["sim_transfer_cube_scripted_roll0_1.mp4", "sim_transfer_cube_scripted_roll2_2.mp4"]


def test_the_example_script_and_a_local_model(place: Path, tmp_path: Path) -> None:
    """The script passes its options on, the last of which win: here a model instead of a server."""
    module = loading.load("environments", "aloha")
    if loading.missing(module):
        pytest.skip(f"compat/scripts/example_eval_remote.sh NOT RUN: {loading.pip_line(module)}")
    if shutil.which("bash") is None:
        pytest.skip("no bash here: compat/scripts/example_eval_remote.sh NOT RUN")
    (tmp_path / "real_world").mkdir()
    (tmp_path / "real_world" / "video").write_text("")  # where no video can be written, the figures are kept
    local = "ckpt/act_sim_transfer_cube_scripted_zscore_example"
    words = ["./scripts/example_eval_remote.sh", "--model_name_or_path", local, "--num_rollout", "1", "--env.max_timesteps", "2"]
    said = run([*words, "--env", "real_world", "--output_dir", str(tmp_path)], cwd=place)
    assert "0 of 1 episodes" in said and (tmp_path / "real_world" / "sim_transfer_cube_scripted.json").is_file()
