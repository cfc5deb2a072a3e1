"""Several engines for one model, and what happens when a device's memory is full. The engines are real; their devices are CPUs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from actlink.client import connect
from actlink.errors import ActlinkError, ConfigError, LinkError, PolicyError
from actlink.policies._base import Policy, Result, answer
from actlink.policies._hardware import is_out_of_memory, out_of_memory, physical_cores, wanted_threads
from actlink.policies._wrappers import Described
from actlink.serving.engine import warm_up_sizes
from actlink.serving.server import Server, ServerConfig
from actlink.spec import Field, Spec
from actlink.types import Request, Runtime
from cli_world import ECHO, actlink, running

ALL = ["native+tcp://127.0.0.1:0", "native+ws://127.0.0.1:0"]
QUIET = ServerConfig(warm_up=False)


class OutOfMemoryError(RuntimeError):
    """Called as torch's: errors are known by name, so that no framework is imported for it."""


class OnDevice(Policy):
    """Answers with the number of its device; raises ``error`` while it is set, or for a batch of more than ``most``."""

    def __init__(self, number: int = 0, error: BaseException | None = None, most: int = 99) -> None:
        self.spec = Spec({"state": Field((1,))}, Field((1,)), max_batch_size=8, stateful=True, name="probe")
        self.facts = {"device": f"cuda:{number}"}
        self.number, self.error, self.most, self.sizes = number, error, most, list[int]()

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        self.sizes.append(len(requests))
        if self.error is not None and requests[0].observation["state"][0] >= 0:  # type: ignore[operator]
            raise self.error
        if len(requests) > self.most:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [answer(request, np.full((1, 1), self.number, np.float32), (request.memory or 0) + 1) for request in requests]


def asked(policy: Any, value: float = 1.0) -> float:
    return float(policy.infer_one({"state": np.array([value], np.float32)}).actions[0, 0])


# Several engines


def test_sessions_are_spread_evenly_and_each_stays_on_its_engine() -> None:
    with Server({"probe": [OnDevice(0), OnDevice(1), OnDevice(2)]}, ALL, QUIET) as server:
        clients = [connect(server.addresses[0]) for _ in range(6)]
        first = [asked(client) for client in clients]
        assert sorted(first) == [0, 0, 1, 1, 2, 2]
        assert [[asked(client) for _ in range(3)] for client in clients] == [[number] * 3 for number in first]
        statistics = server.statistics()
        assert [(each.device, each.sessions, each.batched) for each in statistics.engines] == [
            (f"cuda:{number}", 2, 8) for number in range(3)
        ]
        assert statistics.batches == sum(each.batches for each in statistics.engines)
        for client in clients:
            client.close()


def test_whoever_goes_makes_room_on_the_engine_that_was_theirs() -> None:
    with Server({"probe": [OnDevice(0), OnDevice(1)]}, ALL, ServerConfig(warm_up=False, resume_s=0)) as server:
        clients = [connect(server.addresses[0]) for _ in range(4)]
        for client in clients:
            if asked(client) == 1.0:
                client.close()
        wait_until(lambda: [each.sessions for each in server.statistics().engines] == [2, 0])
        late = [connect(server.addresses[0]) for _ in range(2)]
        assert [asked(client) for client in late] == [1.0, 1.0]
        for client in [*clients, *late]:
            client.close()


def test_a_session_that_comes_back_finds_its_own_engine() -> None:
    with Server({"probe": [OnDevice(0), OnDevice(1)]}, ALL, QUIET) as server:
        first, second = connect(server.addresses[0]), connect(server.addresses[0])
        assert (asked(first), asked(second)) == (0.0, 1.0)
        first.close()  # a new session would go to the first engine from now on
        second._sessions[""]._exchange._link.close()  # type: ignore[union-attr]
        with contextlib.suppress(LinkError):
            asked(second)
        assert asked(second) == 1.0
        second.close()


def test_the_health_page_shows_each_engine_and_no_model() -> None:
    with Server({"secret": [OnDevice(0), OnDevice(1)]}, ALL, QUIET) as server:
        with connect(server.addresses[0]) as client:
            asked(client)
            page = server.addresses[1].replace("native+ws", "http") + "/healthz"
            with urllib.request.urlopen(page, timeout=30) as response:
                text = response.read().decode()
        assert json.loads(text)["engines"] == [
            {"device": "cuda:0", "sessions": 1, "waiting": 0, "batches": 1, "answered": 1},
            {"device": "cuda:1", "sessions": 0, "waiting": 0, "batches": 0, "answered": 0},
        ]
        assert "secret" not in text


def test_a_model_that_is_loaded_when_asked_for_may_have_several_engines_too() -> None:
    models = {"probe": OnDevice(7), "later": lambda: [OnDevice(0), OnDevice(1)]}
    with Server(models, ALL, QUIET) as server:
        clients = [connect(f"{server.addresses[0]}/later") for _ in range(2)]
        assert [asked(client) for client in clients] == [0.0, 1.0]
        for client in clients:
            client.close()


def test_what_cannot_be_several_engines_is_refused() -> None:
    one = OnDevice()
    with pytest.raises(ConfigError, match="one object cannot run on several devices at once"):
        Server({"probe": [one, Described(one, one.spec)]}, ALL)
    with pytest.raises(ConfigError, match="expected a policy for each device, got none"):
        Server({"probe": []}, ALL)
    other = OnDevice()
    other.spec = Spec({}, Field((1,)))
    with pytest.raises(ConfigError, match="different specs"):
        Server({"probe": [one, other]}, ALL)


def test_devices_on_the_command_line(tmp_path: Any) -> None:
    listen = ("--listen", "native+tcp://127.0.0.1:0", "--listen", "native+http://127.0.0.1:0")
    with running(tmp_path, "serve", ECHO, "--devices", "cpu,cpu", *listen) as process:
        address = process.wait_for(r"^  (native\+tcp://\S+)$")[1]
        page = process.wait_for(r"^  (http://\S+/healthz)$")[1]
        assert "device  cpu, cpu" in process.out()
        clients = [connect(address) for _ in range(4)]
        with urllib.request.urlopen(page, timeout=30) as response:
            assert [each["sessions"] for each in json.load(response)["engines"]] == [2, 2]
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ECHO, "--devices", "cpu,cpu", "--device", "cuda"), "one device or several"),
        ((ECHO, "--devices", "cpu,,cpu"), "expected names such as cuda:0,cuda:1, got 'cpu,,cpu'"),
        (("127.0.0.1:1", "--devices", "cpu,cpu"), "not to a gateway"),
        (("pendulum_sac", "--device", "cuda:1"), "device 'cuda:1'"),
        (("pendulum_sac", "--dtype", "float16"), "the precision it was exported in"),
        (("pendulum_sac", "--policy-type", "onyx"), "no policy family 'onyx'"),
        (("127.0.0.1:1", "--policy-type", "onnx"), "not to a gateway"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("serve", *arguments) == 2
    assert message in capsys.readouterr().err


# Warm-up


def test_batch_sizes_of_the_warm_up() -> None:
    assert warm_up_sizes(1, "cpu") == [1]
    assert warm_up_sizes(12, "cpu") == [1, 2, 12]
    assert warm_up_sizes(12, "cuda:1") == [1, 2, 4, 8, 12]
    assert warm_up_sizes(8, "mps") == [1, 2, 4, 8]


def test_every_engine_is_warm_before_readiness_and_full_memory_there_ends_the_start() -> None:
    first, second = OnDevice(0), OnDevice(1)
    with Server({"probe": [first, second]}, ALL):
        assert first.sizes == second.sizes == [1, 2, 4, 8]
    with pytest.raises(
        PolicyError,
        match=r"device 'cuda:1' is out of memory during the warm-up: an inference of 8 observations.*--max-batch-size",
    ):
        Server({"probe": [OnDevice(0), OnDevice(1, most=4)]}, ALL).start()


# Memory


FULL = {
    "torch": OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "torch on a CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "onnxruntime": RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
    "python": MemoryError(),
    "jax": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL.keys())
def test_full_memory_at_inference_is_told_and_the_server_goes_on(error: BaseException) -> None:
    policy = OnDevice(1, error)
    with Server({"probe": policy}, ALL, QUIET) as server, connect(server.addresses[0]) as client:
        with pytest.raises(
            PolicyError, match=r"device 'cuda:1' is out of memory during an inference .*use --device cpu, a smaller chunk"
        ):
            asked(client)
        policy.error = None
        assert asked(client) == 1.0


def test_a_batch_that_does_not_fit_runs_one_by_one() -> None:
    from actlink.serving.inference import Inference

    policy = OnDevice(3, most=1)
    request = Request({"state": np.zeros(1, np.float32)})
    results = Inference(policy).run([request] * 4)
    assert not any(isinstance(result, ActlinkError) for result in results)
    assert policy.sizes == [4, 1, 1, 1, 1]


def test_what_is_and_is_not_full_memory() -> None:
    wrapped = PolicyError("onnxruntime: something")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(ValueError("expected 3 entries")) and not is_out_of_memory(PolicyError("bad weights"))
    told = out_of_memory(MemoryError("5 GB"), "cpu", "loading x")
    assert "--device cpu" not in str(told) and "smaller chunk or batch" in str(told)
    assert out_of_memory(told, "cuda", "an inference") is told
    circle = ValueError("a")
    circle.__context__ = KeyError("b")
    circle.__context__.__context__ = circle
    assert not is_out_of_memory(circle)


REAL = """
import resource, sys
import numpy as np
from actlink import ActionChunk, Field, Policy, Spec, connect
from actlink.errors import PolicyError
from actlink.serving.server import Server

class Hungry(Policy):
    spec = Spec({"size": Field((1,))}, Field((1,)))
    def infer(self, requests):
        mib = int(requests[0].observation["size"][0])
        block = np.ones(max(1, mib << 17))
        return [ActionChunk(block[:1].reshape(1, 1).astype(np.float32), r.step, r.episode, r.session) for r in requests]

with Server({"hungry": Hungry()}, ["native+tcp://127.0.0.1:0"]) as server, connect(server.addresses[0]) as client:
    client.infer_one({"size": np.array([1.0])})
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            client.infer_one({"size": np.array([4096.0])})
        except PolicyError as error:
            print(error)
        print(client.infer_one({"size": np.array([1.0])}).actions[0, 0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit on address space that holds")
def test_a_server_whose_memory_really_is_full_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=250, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stderr
    assert lines[0].startswith("device 'cpu' is out of memory during an inference (Unable to allocate 4.00 GiB")
    assert lines[1] == lines[3] == "1.0"


GRAPH = """
import resource
from actlink.policies._open import open_policy
from actlink.serving.inference import Inference
from actlink.types import Request
import logging

policy = open_policy("aloha_transfer_cube", options={"max_batch_size": "1000"})
inference = Inference(policy)
request = Request(policy.spec.check(policy.spec.zeros()))
inference.run([request])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), resource.RLIM_INFINITY))
logging.basicConfig()
print({type(result).__name__ for result in inference.run([request] * 600)})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit on address space that holds")
def test_a_graph_whose_batch_really_does_not_fit_runs_it_one_by_one() -> None:
    """onnxruntime keeps what it once had; without giving it back nothing else in the process finds memory either."""
    pytest.importorskip("onnxruntime")
    done = subprocess.run([sys.executable, "-c", GRAPH], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "{'ActionChunk'}", done.stderr
    assert "device 'cpu' is out of memory during an inference of 600 observations" in done.stderr


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert wanted_threads(Runtime()) == max(1, min(physical_cores() - 1, 4))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert wanted_threads(Runtime()) == 3
    assert wanted_threads(Runtime(threads=7)) == 7
    assert wanted_threads(Runtime(threads=7, deterministic=True)) == 1


def wait_until(true: Any) -> None:
    """Looks again until it is so; fails after ten times what it may take."""
    end_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)
