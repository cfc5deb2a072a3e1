"""The native dialect: the order of messages, the session, JPEG, and every misfit a RemoteProtocolError and nothing else."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Lane,
    Ping,
    Poll,
    Pong,
    Reply,
    Reset,
    Welcome,
)
from actlink.dialects._native_spec import fits
from actlink.errors import (
    ConfigError,
    LocalProtocolError,
    MissingPackageError,
    PolicyError,
    RefusedError,
    RemoteProtocolError,
    SpecError,
    UnauthorizedError,
)
from actlink.spec import Field, Spec
from actlink.types import ActionChunk

FOLDER = Path(__file__).parent.parent / "data" / "native"

SPEC = Spec(
    {"state": Field((3,)), "images.top": Field((8, 16, 3), "uint8"), "images.wrist": Field((8, 16, 3), "uint8")},
    Field((2,)),
    action_horizon=4,
    rate_hz=50.0,
)
WELCOME = Welcome("s", SPEC, 0, {"max_frame_bytes": 100_000}, 5.0, call=1)
LANE = Lane({"state": np.zeros(3, np.float32)}, 0)
INFER = Infer((LANE,), 0, 100.0, 7)
CHUNK = ActionChunk(np.zeros((4, 2), np.float32), 0, 0, "s")


def frame(message: dict[str, Any]) -> Frame:
    return Frame((b"".join(msgpack_arrays.encode(message)),))


def received(frames: list[Frame]) -> Frame:
    """What arrives when ``frames`` leave."""
    (one,) = frames
    return Frame((b"".join(one.parts),))


def fresh(server: native.Config = native.Config(), client: native.Config = native.Config()) -> tuple[native.Server, native.Client]:  # noqa: B008
    return native.Server(server), native.Client(client)


def opened(
    server_config: native.Config = native.Config(),  # noqa: B008
    client_config: native.Config = native.Config(),  # noqa: B008
    welcome: Welcome = WELCOME,
) -> tuple[native.Server, native.Client]:
    server, client = fresh(server_config, client_config)
    server.receive(received(client.send(Hello(call=1))))
    client.receive(received(server.send(welcome)))
    return server, client


def infer_message(**changes: Any) -> dict[str, Any]:
    lane = {"step": 0, "observation": {"state": np.zeros(3, np.float32)}}
    message = {"type": "infer", "id": 1, "session": "s", "episode": 0, "lanes": [lane], **changes}
    return {key: value for key, value in message.items() if value is not ...}


def lane_message(**changes: Any) -> dict[str, Any]:
    lane = {"step": 0, "observation": {"state": np.zeros(3, np.float32)}, **changes}
    return infer_message(lanes=[{key: value for key, value in lane.items() if value is not ...}])


# The order of messages


def test_a_conversation() -> None:
    server, client = opened()
    (infer,) = server.receive(received(client.send(INFER)))
    assert isinstance(infer, Infer) and (infer.call, infer.episode, infer.budget_ms) == (7, 0, 100.0)
    (chunks,) = client.receive(received(server.send(Chunks((CHUNK, PolicyError("no")), {"infer_ms": 2}, 7))))
    assert isinstance(chunks, Chunks) and chunks.call == 7 and chunks.timing == {"infer_ms": 2.0}
    chunk, error = chunks.results
    assert isinstance(chunk, ActionChunk) and isinstance(error, PolicyError) and str(error) == "no"
    (reset,) = server.receive(received(client.send(Reset(4, 8))))
    assert isinstance(reset, Reset) and reset.episode == 4
    (done,) = client.receive(received(server.send(Done(4, 8))))
    assert isinstance(done, Done) and done.episode == 4
    (ping,) = server.receive(received(client.send(Ping(1.5, 9))))
    assert isinstance(ping, Ping) and ping.sent_s == 1.5
    (pong,) = client.receive(received(server.send(Pong(1.5, 2.0, 2.5, 9))))
    assert isinstance(pong, Pong) and (pong.received_s, pong.now_s) == (2.0, 2.5)
    (bye,) = server.receive(received(client.send(Bye())))
    assert isinstance(bye, Bye)
    server.send(Chunks((CHUNK,), {}, 10))  # an answer that was under way may still be written


SPOKEN: list[Event] = [INFER, Reset(), Ping(0.0), Bye()]


@pytest.mark.parametrize("event", SPOKEN, ids=lambda event: type(event).__name__)
def test_nothing_is_heard_before_the_hello(event: Event) -> None:
    _, client = opened()
    with pytest.raises(RemoteProtocolError, match="expected a hello first"):
        native.Server(native.Config()).receive(received(client.send(event)))


@pytest.mark.parametrize("event", [INFER, Reset(), Ping(0.0)], ids=lambda event: type(event).__name__)
def test_nothing_is_heard_between_hello_and_welcome(event: Event) -> None:
    server, _ = fresh()
    server.receive(frame({"type": "hello", "protocol": 1}))
    _, client = opened()
    with pytest.raises(RemoteProtocolError, match="before the welcome"):
        server.receive(received(client.send(event)))


def test_a_client_may_give_up_before_the_welcome() -> None:
    server, _ = fresh()
    server.receive(frame({"type": "hello", "protocol": 1}))
    (bye,) = server.receive(frame({"type": "bye"}))
    assert isinstance(bye, Bye)


@pytest.mark.parametrize("event", [*SPOKEN, Hello()], ids=lambda event: type(event).__name__)
def test_nothing_is_heard_after_a_bye(event: Event) -> None:
    server, client = opened()
    server.receive(received(client.send(Bye())))
    other = native.Client(native.Config()) if isinstance(event, Hello) else client
    with pytest.raises(RemoteProtocolError, match="nothing after a bye"):
        server.receive(received(other.send(event)))


def test_a_second_hello_and_unknown_types_are_refused() -> None:
    server, client = opened()
    for kind in ("hello", "welcome", "pong", "infer2"):
        with pytest.raises(RemoteProtocolError, match=f"got a message of type '{kind}'"):
            server.receive(frame({"type": kind, "protocol": 1}))
    with pytest.raises(RemoteProtocolError, match="got a message of type 'weather'"):
        client.receive(frame({"type": "weather"}))
    with pytest.raises(LocalProtocolError, match="one hello"):
        client.send(Hello())


def test_a_server_says_nothing_of_the_model_before_it_was_greeted() -> None:
    replies: list[Reply] = [WELCOME, Chunks((CHUNK,)), Done(), Pong(0.0, 0.0, 0.0)]
    for reply in replies:
        with pytest.raises(LocalProtocolError):
            native.Server(native.Config()).send(reply)
    server, _ = opened()
    with pytest.raises(LocalProtocolError, match="one welcome"):
        server.send(WELCOME)


def test_a_refused_hello_is_fatal() -> None:
    server, client = fresh()
    server.receive(received(client.send(Hello(token="wrong", call=1))))
    (failed,) = client.receive(received(server.send(Failed(UnauthorizedError("token missing or wrong"), call=1))))
    assert isinstance(failed, Failed) and failed.fatal and isinstance(failed.error, UnauthorizedError) and failed.call == 1


def test_a_failed_request_is_not_fatal() -> None:
    server, client = opened()
    (failed,) = client.receive(received(server.send(Failed(SpecError("no"), call=3))))
    assert isinstance(failed, Failed) and not failed.fatal


def test_a_client_says_nothing_before_it_is_welcome() -> None:
    client = native.Client(native.Config())
    assert client.send(Bye()) == []
    client.send(Hello())
    for event in (INFER, Reset(), Ping(0.0)):
        with pytest.raises(LocalProtocolError, match="before"):
            client.send(event)
    assert len(client.send(Bye())) == 1


def test_polls_are_not_part_of_this_wire() -> None:
    assert opened()[1].send(Poll(1.0, Frame((b"",)))) == []


@pytest.mark.parametrize("kind", ["welcome", "pong", "chunks", "done", "error"])
def test_a_server_that_speaks_first_is_refused(kind: str) -> None:
    with pytest.raises(RemoteProtocolError, match="a welcome after our hello"):
        native.Client(native.Config()).receive(frame({"type": kind, "code": "x"}))


def test_a_second_welcome_is_refused() -> None:
    server, client = fresh()
    welcome = received((server.receive(received(client.send(Hello()))), server.send(WELCOME))[1])
    client.receive(welcome)
    with pytest.raises(RemoteProtocolError, match="expected pong, chunks, done or error"):
        client.receive(welcome)


def test_other_wires_are_recognised() -> None:
    client = native.Client(native.Config())
    client.send(Hello())
    with pytest.raises(RemoteProtocolError, match=r"try openpi\+ws"):
        client.receive(frame({"policy": "pi0"}))
    with pytest.raises(RemoteProtocolError, match="got text"):
        client.receive(Frame((b"{}",), text=True))
    with pytest.raises(RemoteProtocolError, match="got text"):
        native.Server(native.Config()).receive(Frame((b"{}",), text=True))


def test_peers_do_not_share_state() -> None:
    opened()
    with pytest.raises(RemoteProtocolError, match="hello first"):
        native.Server(native.Config()).receive(frame(infer_message()))


# Sessions, versions, limits


def test_another_session_is_refused_at_both_ends() -> None:
    server, client = opened()
    for message in (infer_message(session="t"), {"type": "reset", "session": "t"}):
        with pytest.raises(RemoteProtocolError, match="the one of the welcome"):
            server.receive(frame(message))
    for message in ({"type": "chunks", "session": "t", "results": []}, {"type": "done", "session": "t", "episode": 0}):
        with pytest.raises(RemoteProtocolError, match="the one of the welcome"):
            client.receive(frame(message))


def test_the_servers_session_is_what_travels() -> None:
    server, client = opened()
    (chunks,) = client.receive(received(server.send(Chunks((replace(CHUNK, session="elsewhere", episode=3, step=9),)))))
    assert isinstance(chunks, Chunks) and isinstance(chunks.results[0], ActionChunk)
    assert (chunks.results[0].session, chunks.results[0].episode, chunks.results[0].step) == ("s", 3, 9)


def test_versions_are_named_on_both_sides() -> None:
    server, client = fresh()
    with pytest.raises(RemoteProtocolError, match="the server speaks native protocol 1, the client 7"):
        server.receive(frame({"type": "hello", "protocol": 7}))
    client.send(Hello())
    with pytest.raises(RemoteProtocolError, match="the client speaks native protocol 1, the server 7"):
        client.receive(frame({"type": "welcome", "protocol": 7}))


def test_a_refused_version_leaves_the_server_waiting_for_a_hello() -> None:
    server, _ = fresh()
    with pytest.raises(RemoteProtocolError):
        server.receive(frame({"type": "hello", "protocol": 7}))
    with pytest.raises(RemoteProtocolError, match="hello first"):
        server.receive(frame({"type": "ping", "sent_s": 0.0}))


def test_a_frame_over_the_servers_limit_is_not_sent() -> None:
    _, client = opened()
    big = Infer((Lane({"state": np.zeros(30_000, np.float32)}, 0),), 0)
    with pytest.raises(LocalProtocolError, match="at most 100000 bytes, got 120"):
        client.send(big)
    _, unbounded = opened(welcome=replace(WELCOME, limits={}))
    assert len(unbounded.send(big)) == 1


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (Infer((LANE,)), "expected an episode"),
        (Infer((), 0), "1 to 256 lanes"),
        (Infer((LANE,) * 257, 0), "1 to 256 lanes"),
        (Infer((Lane({}),), 0), "control step"),
        (Infer((Lane({"state": [1.0]}, 0),), 0), r"observation\['state'\]: expected an array or a string, got a list"),
        (Infer((Lane({"state": np.array([None])}, 0),), 0), "object"),
        (Infer((LANE,), 0, call="a"), "whole number"),
        (Ping(0.0, call=-1), "whole number"),
        (Ping(0.0, call=True), "whole number"),
        (Ping(0.0, call=2**53), "whole number"),
    ],
)
def test_what_the_client_cannot_say(event: Event, says: str) -> None:
    with pytest.raises(LocalProtocolError, match=says):
        opened()[1].send(event)


def test_256_lanes_with_images_pass() -> None:
    server, client = opened(welcome=replace(WELCOME, limits={}))
    image = np.zeros((8, 16, 3), np.uint8)
    observation = {"state": np.zeros(3, np.float32), "images.top": image, "images.wrist": image, "prompt": "put it down" * 20}
    lanes = tuple(Lane(observation, step, np.zeros((2, 2), np.float32), 1) for step in range(256))
    (infer,) = server.receive(received(client.send(Infer(lanes, 0))))
    assert isinstance(infer, Infer) and [lane.step for lane in infer.lanes] == list(range(256))
    results = tuple(replace(CHUNK, step=step) for step in range(256))
    (chunks,) = client.receive(received(server.send(Chunks(results))))
    assert isinstance(chunks, Chunks) and len(chunks.results) == 256


def test_a_spent_budget_is_zero() -> None:
    server, client = opened()
    (infer,) = server.receive(received(client.send(replace(INFER, budget_ms=-5.0))))
    assert isinstance(infer, Infer) and infer.budget_ms == 0.0
    (unbounded,) = server.receive(received(client.send(replace(INFER, budget_ms=None))))
    assert isinstance(unbounded, Infer) and unbounded.budget_ms is None


def test_errors_cross_the_wire_whatever_their_text() -> None:
    server, client = opened()
    for text in ("x" * 100_000, "file \udcff", ""):
        (failed,) = client.receive(received(server.send(Failed(PolicyError(text)))))
        assert isinstance(failed, Failed) and type(failed.error) is PolicyError and len(str(failed.error)) <= 4096
    (unknown,) = client.receive(frame({"type": "error", "code": "from_the_future", "message": "m"}))
    assert isinstance(unknown, Failed) and type(unknown.error) is RefusedError and str(unknown.error) == "from_the_future: m"


# Misfits


MISFITS_OF_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({}, "'type' is missing"),
    ({"type": 3}, "'type': expected a string"),
    ({"type": "x" * 300}, "'type': expected a string"),
    ({"type": "ping"}, "'sent_s' is missing"),
    ({"type": "ping", "sent_s": "1"}, "'sent_s': expected a finite number, got a str"),
    ({"type": "ping", "sent_s": True}, "'sent_s': expected a finite number"),
    ({"type": "ping", "sent_s": float("nan")}, "'sent_s': expected a finite number"),
    ({"type": "ping", "sent_s": float("inf")}, "'sent_s': expected a finite number"),
    ({"type": "ping", "sent_s": 0.0, "id": -1}, "'id': expected a whole number"),
    ({"type": "ping", "sent_s": 0.0, "id": 1.0}, "'id': expected a whole number"),
    ({"type": "ping", "sent_s": 0.0, "id": True}, "'id': expected a whole number"),
    ({"type": "ping", "sent_s": 0.0, "id": 2**53}, "'id': expected a whole number"),
    ({"type": "reset"}, "'session' is missing"),
    ({"type": "reset", "session": "s", "episode": "1"}, "'episode': expected a whole number"),
    (infer_message(session=...), "'session' is missing"),
    (infer_message(session=7), "'session': expected a string"),
    (infer_message(episode=...), "'episode' is missing"),
    (infer_message(budget_ms=-1), "'budget_ms': expected milliseconds"),
    (infer_message(budget_ms="1"), "'budget_ms': expected a finite number"),
    (infer_message(lanes=...), "'lanes' is missing"),
    (infer_message(lanes={}), "'lanes': expected a list"),
    (infer_message(lanes=[]), "1 to 256 lanes, got 0"),
    (infer_message(lanes=[{}] * 257), "1 to 256 lanes, got 257"),
    (infer_message(lanes=[3]), r"lanes\[0\]: expected a map, got a int"),
    (lane_message(step=...), r"lanes\[0\]: 'step' is missing"),
    (lane_message(step=-1), "'step': expected a whole number"),
    (lane_message(observation=...), "'observation' is missing"),
    (lane_message(observation=[1]), "'observation': expected a map"),
    (lane_message(observation={"state": [1.0, 2.0]}), r"observation\['state'\]: expected an array, a string or"),
    (lane_message(observation={"state": 3.0}), "got a float"),
    (lane_message(observation={"state": {"jpg": 1}}), "got a dict"),
    (lane_message(observation={"state": {"jpeg": "abc"}}), "got a dict"),
    (lane_message(observation={"state": {"jpeg": np.zeros(3, np.float32)}}), "got a dict"),
    (lane_message(observation={"state": {"jpeg": np.zeros((3, 3), np.uint8)}}), "got a dict"),
    (lane_message(observation={"images.top": {"jpeg": np.zeros(3, np.uint8)}}), "JPEG is allowed for: no key"),
    (lane_message(prefix=[1.0]), "'prefix': expected an array of two axes"),
    (lane_message(prefix=np.zeros(3, np.float32)), r"an array of float32 \(3,\)"),
    (lane_message(inference_delay=-1), "'inference_delay': expected a whole number"),
]


@pytest.mark.parametrize(("message", "says"), MISFITS_OF_REQUESTS)
def test_misfits_of_requests(message: dict[str, Any], says: str) -> None:
    server, _ = opened()
    with pytest.raises(RemoteProtocolError, match=says):
        server.receive(frame(message))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"protocol": "1"}, "'protocol': expected a whole number"),
        ({}, "'protocol' is missing"),
        ({"protocol": 1, "token": 123456}, "'token': expected a string of at most 4096 characters, got a int"),
        ({"protocol": 1, "token": "x" * 5000}, "'token': expected a string"),
        ({"protocol": 1, "model": ["a"]}, "'model': expected a string"),
        ({"protocol": 1, "resume": "x" * 257}, "'resume': expected a string"),
        ({"protocol": 1, "id": "1"}, "'id': expected a whole number"),
    ],
)
def test_misfits_of_a_hello(message: dict[str, Any], says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says) as caught:
        native.Server(native.Config()).receive(frame({"type": "hello", **message}))
    assert "123456" not in str(caught.value) and "xxx" not in str(caught.value)


def test_none_counts_as_absent() -> None:
    (hello,) = native.Server(native.Config()).receive(frame({"type": "hello", "protocol": 1, "token": None, "id": None}))
    assert isinstance(hello, Hello) and hello.token is None and hello.call is None


def test_a_hello_does_not_show_its_token() -> None:
    assert "secret" not in repr(Hello(token="secret"))


def chunks_message(**changes: Any) -> dict[str, Any]:
    result = {"episode": 0, "step": 0, "actions": np.zeros((4, 2), np.float32), **changes}
    return {"type": "chunks", "session": "s", "results": [{key: value for key, value in result.items() if value is not ...}]}


MISFITS_OF_REPLIES: list[tuple[dict[str, Any], str]] = [
    ({"type": 3}, "'type': expected a string"),
    ({"type": "pong", "sent_s": 0.0, "received_s": 0.0}, "'now_s' is missing"),
    ({"type": "done", "session": "s"}, "'episode' is missing"),
    ({"type": "error"}, "'code' is missing"),
    ({"type": "error", "code": "x", "message": 3}, "'message': expected a string"),
    ({"type": "error", "code": "x", "fatal": 1}, "'fatal': expected true or false"),
    ({"type": "chunks", "session": "s"}, "'results' is missing"),
    ({"type": "chunks", "session": "s", "results": []}, "1 to 256 results"),
    ({"type": "chunks", "session": "s", "results": [None]}, r"results\[0\]: expected a map"),
    (chunks_message(actions=...), r"results\[0\]: 'actions' is missing"),
    (chunks_message(actions=[[1.0]]), "'actions': expected an array of two axes"),
    (chunks_message(actions=np.zeros(4, np.float32)), r"an array of float32 \(4,\)"),
    (chunks_message(step=...), "'step' is missing"),
    (chunks_message(episode=...), "'episode' is missing"),
    (chunks_message(timing={"infer_ms": "fast"}), r"results\[0\]\.timing: 'infer_ms': expected a finite number"),
    (chunks_message(timing={"infer_ms": None}), "'infer_ms' is missing"),
    (chunks_message(error={"message": "x"}), r"results\[0\]\.error: 'code' is missing"),
    (chunks_message(error="x"), "'error': expected a map"),
    ({**chunks_message(), "timing": []}, "'timing': expected a map"),
]


@pytest.mark.parametrize(("message", "says"), MISFITS_OF_REPLIES)
def test_misfits_of_replies(message: dict[str, Any], says: str) -> None:
    _, client = opened()
    with pytest.raises(RemoteProtocolError, match=says):
        client.receive(frame(message))


def spec_with(**changes: Any) -> dict[str, Any]:
    return {**SPEC.to_dict(), **changes}


def field_with(**changes: Any) -> dict[str, Any]:
    return spec_with(observation={"state": {"shape": [3], **changes}})


MISFITS_OF_WELCOMES: list[tuple[dict[str, Any], str]] = [
    ({"session": ...}, "'session' is missing"),
    ({"session": 3}, "'session': expected a string"),
    ({"episode": ...}, "'episode' is missing"),
    ({"spec": ...}, "'spec' is missing"),
    ({"spec": []}, "'spec': expected a map"),
    ({"spec": {}}, "welcome.spec.action: expected a map, got a NoneType"),
    ({"spec": spec_with(observation=[])}, "welcome.spec.observation: expected a map, got a list"),
    ({"spec": spec_with(observation={"state": "float32"})}, r"observation\['state'\]: expected a map"),
    ({"spec": spec_with(action={"shape": [2, 2]})}, "action.shape"),
    ({"spec": spec_with(action={"shape": "abc"})}, "shape"),
    ({"spec": spec_with(action={"shape": [1], "typical": [[0, "high"]]})}, "'typical': expected"),
    ({"spec": spec_with(action={"shape": [2], "typical": [[0, 1]]})}, "field typical: expected a pair for each"),
    ({"spec": spec_with(action={"shape": [True]})}, "'shape'"),
    ({"spec": spec_with(action={"shape": [2], "dtype": "object"})}, "dtype"),
    ({"spec": spec_with(action={"shape": [2], "dtype": ["float32"]})}, "action"),
    ({"spec": spec_with(action_horizon="many")}, "welcome.spec"),
    ({"spec": spec_with(action_horizon=1.5)}, "'action_horizon'"),
    ({"spec": spec_with(action_horizon=0)}, "at least 1"),
    ({"spec": spec_with(rate_hz="fast")}, "'rate_hz'"),
    ({"spec": spec_with(rate_hz="50")}, "'rate_hz'"),
    ({"spec": spec_with(rate_hz=0)}, "rate_hz"),
    ({"spec": spec_with(rate_hz=float("inf"))}, "rate_hz"),
    ({"spec": spec_with(rate_hz="[" * 60_000)}, "'rate_hz'"),
    ({"spec": spec_with(rate_hz=float("nan"))}, "'rate_hz'"),
    ({"spec": spec_with(accepts_prefix=1)}, "'accepts_prefix'"),
    ({"spec": spec_with(name=None)}, "'name'"),
    ({"spec": field_with(names=[1, 2, 3])}, "'names'"),
    ({"spec": field_with(names="abc")}, "'names'"),
    ({"spec": field_with(names=["a"])}, "names"),
    ({"spec": field_with(range=[0.0])}, "'range'"),
    ({"spec": field_with(range=["a", "b"])}, "'range'"),
    ({"spec": field_with(range=3)}, "'range'"),
    ({"spec": field_with(unit=3)}, "'unit'"),
    ({"spec": field_with(required="no")}, "'required'"),
    ({"spec": np.zeros(3)}, "'spec': expected a map, got an array of float64"),
    ({"limits": {"max_frame_bytes": -1}}, "welcome.limits: 'max_frame_bytes': expected a whole number"),
    ({"limits": 3}, "'limits': expected a map"),
    ({"heartbeat_s": "5"}, "'heartbeat_s': expected a finite number"),
    ({"jpeg": [1]}, "'jpeg': expected a list of strings"),
    ({"jpeg": "all"}, "'jpeg': expected a list"),
    ({"server": 1}, "'server': expected a string"),
]


@pytest.mark.parametrize(("changes", "says"), MISFITS_OF_WELCOMES)
def test_misfits_of_a_welcome(changes: dict[str, Any], says: str) -> None:
    client = native.Client(native.Config())
    client.send(Hello())
    message = {"type": "welcome", "protocol": 1, "session": "s", "episode": 0, "spec": SPEC.to_dict(), **changes}
    with pytest.raises(RemoteProtocolError, match=says):
        client.receive(frame({key: value for key, value in message.items() if value is not ...}))


def test_a_newer_servers_welcome_is_understood() -> None:
    client = native.Client(native.Config())
    client.send(Hello())
    spec = {**field_with(colour_space="sRGB"), "weather": "fine", "rate_hz": 25}
    message = {"type": "welcome", "protocol": 1, "session": "s", "episode": 0, "spec": spec, "features": [1], "heartbeat_s": -1}
    (welcome,) = client.receive(frame(message))
    assert isinstance(welcome, Welcome) and welcome.spec.rate_hz == 25 and welcome.heartbeat_s == 0.0


@pytest.mark.parametrize("text", ["null", "1e3", "2024-99-99", "[" * 60_000, "&a [*a]", "{a: b}"])
def test_text_in_a_spec_stays_text(text: str) -> None:
    client = native.Client(native.Config())
    client.send(Hello())
    spec = {**field_with(unit=text), "name": text}
    (welcome,) = client.receive(frame({"type": "welcome", "protocol": 1, "session": "s", "episode": 0, "spec": spec}))
    assert isinstance(welcome, Welcome)
    assert (welcome.spec.observation["state"].unit, welcome.spec.name) == (text, text)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ([1, 2], tuple[int, ...], True),
        ([], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ([1.0, 2], tuple[float, float], True),
        ([1.0], tuple[float, float], False),
        ("12", tuple[str, ...], False),
        (None, float | None, True),
        (True, int, False),
        (True, float, False),
        (3, str, False),
    ],
)
def test_fits(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


# JPEG


def picture(seed: int = 0, height: int = 8, width: int = 16) -> np.ndarray:
    """A smooth picture, which JPEG keeps nearly as it is."""
    row, column = np.mgrid[0:height, 0:width]
    return np.stack([row * 255 // height, column * 255 // width, np.full_like(row, 40 + seed)], axis=2).astype(np.uint8)


def through(
    server_config: native.Config, client_config: native.Config, observation: dict[str, Any]
) -> tuple[Frame, dict[str, Any]]:
    server, client = opened(server_config, client_config)
    arrived = received(client.send(Infer((Lane(observation, 0),), 0)))
    (infer,) = server.receive(arrived)
    assert isinstance(infer, Infer)
    return arrived, dict(infer.lanes[0].observation)


@pytest.fixture
def jpeg() -> native.Config:
    pytest.importorskip("simplejpeg", reason="JPEG needs an extra: pip install 'actlink[images]'")
    return native.Config(jpeg=True, jpeg_quality=95)


def test_images_travel_as_jpeg_where_both_sides_want_it(jpeg: native.Config) -> None:
    observation = {
        "state": np.arange(3, dtype=np.float32),
        "images.top": picture(height=128, width=160),
        "images.unknown": picture(),  # not in the spec
        "images.wrist": picture(1).astype(np.float32),  # not an image; the server will say so
        "prompt": "go",
    }
    raw, same = through(native.Config(), native.Config(), observation)
    packed, back = through(jpeg, jpeg, observation)
    assert packed.size < raw.size / 2
    assert list(back) == list(same) == list(observation)
    assert back["images.top"].dtype == np.uint8 and back["images.top"].shape == (128, 160, 3)
    assert np.abs(back["images.top"].astype(int) - observation["images.top"]).mean() < 3
    for key in ("state", "images.unknown", "images.wrist"):
        np.testing.assert_array_equal(back[key], observation[key])
    assert back["prompt"] == "go"


@pytest.mark.parametrize("image", [np.zeros((0, 16, 3), np.uint8), np.zeros((8, 16), np.uint8), np.zeros((8, 16, 4), np.uint8)])
def test_what_is_no_rgb_image_travels_raw(jpeg: native.Config, image: np.ndarray) -> None:
    _, back = through(jpeg, jpeg, {"images.top": image})
    assert back["images.top"].shape == image.shape


def test_a_prompt_under_a_cameras_name_travels_as_it_is(jpeg: native.Config) -> None:
    assert through(jpeg, jpeg, {"images.top": "dark"})[1] == {"images.top": "dark"}


def test_a_server_without_jpeg_gets_raw_images_and_the_client_says_so(
    jpeg: native.Config, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "actlink.dialects.native"):
        _, back = through(native.Config(), jpeg, {"images.top": picture()})
    np.testing.assert_array_equal(back["images.top"], picture())
    assert "does not take JPEG" in caplog.text


def test_the_welcome_lists_cameras_or_what_the_server_says(jpeg: native.Config) -> None:
    def listed(config: native.Config, keys: tuple[str, ...]) -> tuple[str, ...]:
        server, client = fresh(config)
        server.receive(received(client.send(Hello())))
        (welcome,) = client.receive(received(server.send(replace(WELCOME, jpeg=keys))))
        assert isinstance(welcome, Welcome)
        return welcome.jpeg

    assert listed(jpeg, ()) == ("images.top", "images.wrist")
    assert listed(jpeg, ("images.wrist",)) == ("images.wrist",)
    assert listed(native.Config(), ("images.wrist",)) == ()


def jpeg_lane(data: bytes, key: str = "images.top") -> dict[str, Any]:
    return {"step": 0, "observation": {key: {"jpeg": np.frombuffer(data, np.uint8)}}}


def test_undeclared_and_damaged_jpegs_are_refused(jpeg: native.Config) -> None:
    from actlink.codecs.images import encode_jpeg

    data = encode_jpeg(picture())
    server, _ = opened(jpeg)
    for lane, says in [
        (jpeg_lane(data, "state"), "JPEG is allowed for: images.top, images.wrist"),
        (jpeg_lane(data[:100]), r"lanes\[0\]\.observation\['images\.top'\]: jpeg: "),
        (jpeg_lane(b"GIF89a"), "begins with FF D8"),
    ]:
        with pytest.raises(RemoteProtocolError, match=says):
            server.receive(frame(infer_message(lanes=[lane])))


def test_jpegs_of_one_message_may_not_say_more_than_a_raw_frame(jpeg: native.Config) -> None:
    from actlink.codecs.images import encode_jpeg

    lane = jpeg_lane(encode_jpeg(np.zeros((160, 160, 3), np.uint8)))  # 76 800 bytes of pixels
    server, _ = opened(jpeg)
    server.receive(frame(infer_message(lanes=[lane])))
    with pytest.raises(RemoteProtocolError, match="larger than a raw frame"):
        server.receive(frame(infer_message(lanes=[lane, lane])))
    default, _ = opened(jpeg, welcome=replace(WELCOME, limits={}))
    default.receive(frame(infer_message(lanes=[lane, lane])))


def test_jpeg_without_a_package_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    halves: list[Callable[[native.Config], object]] = [native.Server, native.Client]
    for half in halves:
        half(native.Config())
        with pytest.raises(MissingPackageError, match="pip install"):
            half(native.Config(jpeg=True))


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_is_checked(quality: int) -> None:
    with pytest.raises(ConfigError, match="1 to 100"):
        native.Config(jpeg_quality=quality)


# Whatever arrives


GOLDEN = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.bin")) if not path.stem.startswith("bad_")}
SMALL = sorted(name for name, data in GOLDEN.items() if len(data) < 400)


def hear(data: bytes) -> int:
    """How many of the halves, in every state they can be in, accept ``data``; anything but a refusal escapes."""
    session = replace(WELCOME, session="5b8e7d0c")
    server, client = opened(welcome=session)
    greeted, _ = fresh()
    greeted.receive(frame({"type": "hello", "protocol": 1}))
    waiting = native.Client(native.Config())
    waiting.send(Hello())
    heard = 0
    for half in (native.Server(native.Config()), greeted, server, native.Client(native.Config()), waiting, client):
        with contextlib.suppress(RemoteProtocolError):
            half.receive(Frame((data,)))
            heard += 1
    return heard


@pytest.mark.parametrize("name", SMALL)
def test_truncated_frames_are_refused_at_every_offset(name: str) -> None:
    data = GOLDEN[name]
    assert hear(data) >= 1
    for length in range(len(data)):
        assert hear(data[:length]) == 0, f"{name}: the first {length} of {len(data)} bytes were accepted"


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    st.sampled_from(sorted(GOLDEN)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 40),
    st.binary(max_size=4),
)
def test_mutated_frames_are_read_or_refused(name: str, changes: list[tuple[int, int]], cut: int, insert: bytes) -> None:
    data = bytearray(GOLDEN[name])
    for place, value in changes:
        data[place % len(data)] = value
    place = changes[0][0] % len(data)
    data[place:place] = insert
    hear(bytes(data[: len(data) - cut]))


KEYS = ["id", "protocol", "session", "episode", "lanes", "results", "spec", "timing", "limits", "code", "sent_s", "jpeg"]
LEAVES = st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.sampled_from(["5b8e7d0c", "", "float32"])
INNER = st.sampled_from(["step", "shape", "action", "a"])
NONSENSE = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER, inner, max_size=3), max_leaves=8)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.sampled_from(["hello", "ping", "infer", "reset", "bye", "welcome", "pong", "chunks", "done", "error"]),
    st.dictionaries(st.sampled_from(KEYS), NONSENSE, max_size=8),
)
def test_messages_of_nonsense_are_read_or_refused(kind: str, rest: dict[str, Any]) -> None:
    hear(bytes(frame({"type": kind, **rest}).data))
