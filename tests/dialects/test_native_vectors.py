"""The golden vectors of the native wire: made by a script, read and written by the dialect, and by the example in JavaScript."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlink.codecs import msgpack_arrays
from actlink.dialects import native
from actlink.dialects._base import (
    Bye,
    Chunks,
    Done,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Ping,
    Pong,
    Reply,
    Reset,
    Welcome,
)
from actlink.errors import DrainingError, OverloadedError, RemoteProtocolError, SpecError
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "data" / "native"
SCRIPT = ROOT / "scripts" / "make_native_vectors.py"
EXAMPLE = ROOT / "examples" / "javascript" / "native_client.mjs"

NAMES = sorted(path.stem for path in FOLDER.glob("*.bin"))
GOOD = [name for name in NAMES if not name.startswith("bad_")]
BAD = [name for name in NAMES if name.startswith("bad_")]
SESSION = "5b8e7d0c"

STATE = np.array([0.5, -1.25, 3.0], np.float32)
ACTIONS = np.array([[0.0, 0.5], [0.25, -0.5], [0.5, 1.0], [0.75, -1.0]], np.float32)


def data(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


def description(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def described(value: Any) -> Any:
    """A description's value as the codec gives it."""
    if isinstance(value, dict) and "$array" in value:
        values = [int(v) if isinstance(v, str) else v for v in value["values"]]
        return np.array(values, value["$array"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: described(one) for key, one in value.items()}
    return [described(one) for one in value] if isinstance(value, list) else value


def frame(name: str) -> Frame:
    return Frame((data(name),))


def sent(frames: list[Frame]) -> bytes:
    (one,) = frames
    return bytes(one.data)


def connected(jpeg: bool = False) -> tuple[native.Server, native.Client]:
    """Both halves after hello_full and welcome."""
    server, client = native.Server(native.Config(jpeg=jpeg)), native.Client(native.Config())
    (hello,) = server.receive(frame("hello_full"))
    assert sent(client.send(hello)) == data("hello_full")
    (welcome,) = client.receive(frame("welcome"))
    assert isinstance(welcome, Welcome)
    server.send(welcome)
    return server, client


def test_there_are_vectors() -> None:
    assert len(GOOD) >= 20 and len(BAD) >= 40


def test_the_script_makes_exactly_these(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, timeout=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FOLDER.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), f"{path.name}: run {SCRIPT.relative_to(ROOT)} after a change"


@pytest.mark.parametrize("name", GOOD)
def test_bytes_and_description_agree(name: str) -> None:
    message = described(description(name)["message"])
    read = msgpack_arrays.decode(data(name))
    assert repr(read) == repr(message)  # keys in order, dtypes, shapes, values
    assert b"".join(msgpack_arrays.encode(message)) == data(name)


@pytest.mark.parametrize("name", BAD)
def test_malformed_frames_are_refused_at_both_ends(name: str) -> None:
    assert description(name)["error"] == RemoteProtocolError.code
    for half in connected():
        with pytest.raises(RemoteProtocolError):
            half.receive(frame(name))


@pytest.mark.parametrize("name", ["ping", "infer", "infer_full", "infer_dtypes", "reset", "reset_next"])
def test_what_the_client_says_is_written_as_it_was_read(name: str) -> None:
    server, client = connected()
    (event,) = server.receive(frame(name))
    assert sent(client.send(event)) == data(name)


@pytest.mark.parametrize("name", ["pong", "chunks", "chunks_mixed", "chunks_discrete", "done", "error"])
def test_what_the_server_says_is_written_as_it_was_read(name: str) -> None:
    server, client = connected()
    (reply,) = client.receive(frame(name))
    assert sent(server.send(reply)) == data(name)


def test_openings() -> None:
    assert sent(native.Client(native.Config()).send(Hello())) == data("hello")
    (hello,) = native.Server(native.Config()).receive(frame("hello_full"))
    assert isinstance(hello, Hello)
    assert (hello.token, hello.model, hello.resume, hello.call) == ("open sesame", "transfer", SESSION, 1)
    (bare,) = native.Server(native.Config()).receive(frame("hello"))
    assert isinstance(bare, Hello) and (bare.token, bare.model, bare.resume, bare.call) == (None, "", "", None)


def test_the_welcome_is_written_as_it_was_read() -> None:
    server, client = native.Server(native.Config(jpeg=True)), native.Client(native.Config())
    server.receive(frame("hello_full"))
    client.send(Hello())
    (welcome,) = client.receive(frame("welcome"))
    assert isinstance(welcome, Welcome)
    assert sent(server.send(welcome)) == data("welcome")
    assert welcome.spec.observation["state"] == Field((3,), "float32", True, ("waist", "elbow", "gripper"), "rad")
    assert welcome.spec.action == Field((2,), range=(-1.0, 1.0))
    assert (welcome.session, welcome.episode, welcome.heartbeat_s, welcome.jpeg) == (SESSION, 2, 5.0, ("images.top",))
    assert welcome.limits == {"max_frame_bytes": 67108864} and welcome.server == "actlink 0.1.0" and welcome.call == 1


def test_the_smallest_welcome() -> None:
    client = native.Client(native.Config())
    client.send(Hello())
    (welcome,) = client.receive(frame("welcome_smallest"))
    assert isinstance(welcome, Welcome)
    assert welcome.spec == Spec(action=Field((None,), "int64"))
    assert (welcome.limits, welcome.heartbeat_s, welcome.jpeg, welcome.server) == ({}, 0.0, (), "")


def test_infer_in_full() -> None:
    server, _ = connected()
    (event,) = server.receive(frame("infer_full"))
    assert isinstance(event, Infer)
    assert (event.call, event.episode, event.budget_ms, len(event.lanes)) == (4, 2, 180.0, 2)
    first, second = event.lanes
    assert (first.step, first.inference_delay, second.step, second.inference_delay) == (70000, 2, 12, 0)
    assert first.observation["prompt"] == "把方块递给左手 – now"
    np.testing.assert_array_equal(first.observation["state"], STATE)
    np.testing.assert_array_equal(second.observation["state"], STATE * 2)
    assert np.shape(first.observation["images.top"]) == (8, 16, 3)
    assert first.prefix is not None and second.prefix is None
    np.testing.assert_array_equal(first.prefix, ACTIONS[1:])


def test_jpeg_becomes_pixels() -> None:
    pytest.importorskip("simplejpeg", reason="JPEG needs an extra: pip install 'actlink[images]'")
    server, _ = connected(jpeg=True)
    (event,) = server.receive(frame("infer_jpeg"))
    assert isinstance(event, Infer)
    image = event.lanes[0].observation["images.top"]
    assert isinstance(image, np.ndarray) and image.shape == (8, 16, 3)
    assert np.abs(image[:, :4].astype(int) - [200, 40, 30]).max() < 20  # red on the left
    assert np.abs(image[:, 12:].astype(int) - [20, 60, 210]).max() < 20  # blue on the right


def test_unknown_keys_are_ignored() -> None:
    server, _ = connected()
    (event,) = server.receive(frame("infer_unknown_keys"))
    assert isinstance(event, Infer) and list(event.lanes[0].observation) == ["state"]


def test_the_small_messages() -> None:
    server, client = connected()
    events: list[Event] = [server.receive(frame(name))[0] for name in ("ping", "reset", "reset_next", "bye")]
    ping, reset, following, bye = events
    assert isinstance(ping, Ping) and (ping.sent_s, ping.call) == (1234.5, 2)
    assert isinstance(reset, Reset) and (reset.episode, reset.call) == (3, 7)
    assert isinstance(following, Reset) and following.episode is None
    assert isinstance(bye, Bye) and sent(client.send(bye)) == data("bye")
    replies: list[Reply] = [client.receive(frame(name))[0] for name in ("pong", "done", "error", "error_draining")]
    pong, done, error, draining = replies
    assert isinstance(pong, Pong) and (pong.sent_s, pong.received_s, pong.now_s, pong.call) == (1234.5, 77.25, 77.375, 2)
    assert isinstance(done, Done) and (done.episode, done.call) == (3, 7)
    assert isinstance(error, Failed) and isinstance(error.error, OverloadedError) and (error.fatal, error.call) == (False, 3)
    assert isinstance(draining, Failed) and isinstance(draining.error, DrainingError) and draining.fatal and draining.call is None


def test_chunks() -> None:
    _, client = connected()
    (one,) = client.receive(frame("chunks"))
    assert isinstance(one, Chunks) and one.timing == {"queue_ms": 0.5, "infer_ms": 12.25, "server_ms": 13.0}
    (mixed,) = client.receive(frame("chunks_mixed"))
    assert isinstance(mixed, Chunks)
    chunk, error = mixed.results
    assert isinstance(chunk, ActionChunk) and isinstance(error, SpecError)
    assert (chunk.session, chunk.episode, chunk.step, chunk.timing) == (SESSION, 2, 70000, {"infer_ms": 12.25})
    np.testing.assert_array_equal(chunk.actions, ACTIONS)
    (discrete,) = client.receive(frame("chunks_discrete"))
    assert isinstance(discrete, Chunks) and isinstance(discrete.results[0], ActionChunk)
    assert discrete.results[0].actions.dtype == np.int64


def test_another_version_is_answered_with_both_names() -> None:
    server, client = native.Server(native.Config()), native.Client(native.Config())
    (theirs,) = msgpack_arrays.encode({"type": "hello", "id": 1, "protocol": 2})
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive(Frame((theirs,)))
    assert sent(server.send(Failed(caught.value))) == data("error_version")
    client.send(Hello())
    (failed,) = client.receive(frame("error_version"))
    assert isinstance(failed, Failed) and "native protocol 1, the client 2" in str(failed.error)


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node on this machine: the JavaScript example is NOT CHECKED; install Node.js 20 or later")
    return found


def test_javascript_agrees_with_every_vector(node: str) -> None:
    done = subprocess.run([node, str(EXAMPLE), "--check", str(FOLDER)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(NAMES)} of {len(NAMES)} vectors agree\n"


def test_the_check_in_javascript_can_fail(node: str, tmp_path: Path) -> None:
    for name in ("ping", "chunks", "bad_utf8"):
        shutil.copy(FOLDER / f"{name}.json", tmp_path)
        (tmp_path / f"{name}.bin").write_bytes(data("reset"))
    done = subprocess.run([node, str(EXAMPLE), "--check", str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "0 of 3 vectors agree" in done.stdout


class OneClient(threading.Thread):
    """The dialect behind a plain socket, for one peer: enough of a server to talk to."""

    def __init__(self, listening: socket.socket, refuse: bool) -> None:
        super().__init__()
        self._listening, self._refuse = listening, refuse
        self.events: list[Event] = []

    def run(self) -> None:
        peer, _ = self._listening.accept()
        server = native.Server(native.Config())
        with peer, peer.makefile("rb") as stream:
            while head := stream.read(4):
                (event,) = server.receive(Frame((stream.read(*struct.unpack(">I", head)),)))
                self.events.append(event)
                for reply in self._answers(event):
                    answer = sent(server.send(reply))
                    peer.sendall(struct.pack(">I", len(answer)) + answer)

    def _answers(self, event: Event) -> Iterator[Reply]:
        if isinstance(event, Hello):
            spec = Spec({"state": Field((3,)), "images.top": Field((4, 5, 3), "uint8"), "prompt": Field((), "str")}, Field((2,)))
            yield Failed(DrainingError("try later"), call=event.call) if self._refuse else Welcome("s1", spec, 6, call=event.call)
        elif isinstance(event, Ping):
            yield Pong(event.sent_s, 1.0, 2.0, event.call)
        elif isinstance(event, Infer):
            step = event.lanes[0].step
            assert step is not None
            yield Chunks((ActionChunk(ACTIONS, step, event.episode or 0),), {"infer_ms": 1.0}, event.call)
        elif isinstance(event, Reset):
            yield Done(event.episode or 0, event.call)


@pytest.mark.parametrize("refuse", [False, True])
def test_javascript_talks_to_a_server(node: str, refuse: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = OneClient(listening, refuse)
        server.start()
        command = [node, str(EXAMPLE), "127.0.0.1", str(listening.getsockname()[1]), "some-model"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        server.join(20)
    hello = server.events[0]
    assert isinstance(hello, Hello) and hello.model == "some-model"
    if refuse:
        assert done.returncode == 1 and "draining: try later" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "actions float32 (4, 2)" in done.stdout
    assert [type(event) for event in server.events] == [Hello, Ping, Infer, Reset, Bye]
    infer, reset = server.events[2], server.events[3]
    assert isinstance(infer, Infer) and infer.episode == 6
    assert np.shape(infer.lanes[0].observation["images.top"]) == (4, 5, 3)
    assert isinstance(reset, Reset) and reset.episode == 7
