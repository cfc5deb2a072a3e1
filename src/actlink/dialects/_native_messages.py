"""Native messages as plain maps, written and read. Law: pure, and without memory; what came before is ``native``'s business.

``docs/wire.md`` specifies every message. Unknown keys are ignored everywhere, so that a later version may add some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from actlink.dialects import _native_fields as field
from actlink.dialects._base import Chunks, Done, Failed, Hello, Infer, Lane, Ping, Pong, Reset, Welcome
from actlink.dialects._native_spec import read_spec
from actlink.errors import ActlinkError, LocalProtocolError, RemoteProtocolError, from_code
from actlink.types import ActionChunk, Array, Observation

PROTOCOL = 1
MAX_LANES = 256

Message = dict[str, Any]
Pack = Callable[[str, "Array | str"], Any]
"""An observation's key and value -> what travels (the value itself, or a map with a JPEG)."""
Unpack = Callable[[str, Any, str], "Array | str"]
"""Key, value of another kind than array or string, where -> the array it stands for."""


# What a client says


def write_hello(event: Hello) -> Message:
    message = _message("hello", event.call)
    message["protocol"] = PROTOCOL
    for key in ("token", "model", "resume"):
        value = getattr(event, key)
        if value:
            message[key] = value
    return message


def read_hello(message: Message) -> Hello:
    protocol = field.whole(message, "protocol", "hello")
    if protocol != PROTOCOL:
        raise RemoteProtocolError(f"hello: the server speaks native protocol {PROTOCOL}, the client {protocol}")
    return Hello(
        token=field.text(message, "token", "hello", "", longest=field.MAX_TOKEN) or None,
        model=field.text(message, "model", "hello", ""),
        resume=field.text(message, "resume", "hello", ""),
        call=read_id(message),
    )


def write_ping(event: Ping) -> Message:
    return {**_message("ping", event.call), "sent_s": float(event.sent_s)}


def read_ping(message: Message) -> Ping:
    return Ping(field.number(message, "sent_s", "ping"), read_id(message))


def write_infer(event: Infer, session: str, pack: Pack) -> Message:
    if not 1 <= len(event.lanes) <= MAX_LANES or event.episode is None:
        raise LocalProtocolError(f"infer: expected an episode and 1 to {MAX_LANES} lanes, got {event.episode}, {len(event.lanes)}")
    message = {**_message("infer", event.call), "session": session, "episode": event.episode}
    if event.budget_ms is not None:
        message["budget_ms"] = float(max(event.budget_ms, 0.0))
    message["lanes"] = [_write_lane(lane, pack) for lane in event.lanes]
    return message


def read_infer(message: Message, unpack: Unpack) -> Infer:
    lanes = field.items(message, "lanes", "infer")
    if not 1 <= len(lanes) <= MAX_LANES:
        raise RemoteProtocolError(f"infer: expected 1 to {MAX_LANES} lanes, got {len(lanes)}")
    budget_ms = None if message.get("budget_ms") is None else field.number(message, "budget_ms", "infer")
    if budget_ms is not None and budget_ms < 0:
        raise RemoteProtocolError("infer: 'budget_ms': expected milliseconds from 0 on, got a negative number")
    return Infer(
        tuple(_read_lane(lane, f"infer.lanes[{i}]", unpack) for i, lane in enumerate(lanes)),
        field.whole(message, "episode", "infer"),
        budget_ms,
        read_id(message),
    )


def _write_lane(lane: Lane, pack: Pack) -> Message:
    if lane.step is None:
        raise LocalProtocolError("infer: expected the control step of every lane, got none")
    plain: Message = {"step": lane.step, "observation": _write_observation(lane.observation, pack)}
    if lane.prefix is not None:
        plain["prefix"] = lane.prefix
    if lane.inference_delay:
        plain["inference_delay"] = lane.inference_delay
    return plain


def _write_observation(observation: Observation, pack: Pack) -> Message:
    for key, value in observation.items():
        if not isinstance(value, np.ndarray | str):
            raise LocalProtocolError(f"observation[{key!r}]: expected an array or a string, got a {type(value).__name__}")
    return {key: pack(key, value) for key, value in observation.items()}


def _read_lane(lane: Any, where: str, unpack: Unpack) -> Lane:
    _expect_map(lane, where)
    observation = field.mapping(lane, "observation", where)
    for key, value in observation.items():
        if type(value) is not str and not isinstance(value, np.ndarray):
            observation[key] = unpack(key, value, where)
    return Lane(
        observation,
        field.whole(lane, "step", where),
        None if lane.get("prefix") is None else field.rows(lane, "prefix", where),
        field.whole(lane, "inference_delay", where, 0),
    )


def write_reset(event: Reset, session: str) -> Message:
    message = {**_message("reset", event.call), "session": session}
    if event.episode is not None:
        message["episode"] = event.episode
    return message


def read_reset(message: Message) -> Reset:
    episode = None if message.get("episode") is None else field.whole(message, "episode", "reset")
    return Reset(episode, read_id(message))


# What a server says


def write_welcome(reply: Welcome, jpeg: tuple[str, ...]) -> Message:
    return {
        **_message("welcome", reply.call),
        "protocol": PROTOCOL,
        "session": reply.session,
        "episode": reply.episode,
        "spec": reply.spec.to_dict(),
        "limits": dict(reply.limits),
        "heartbeat_s": float(reply.heartbeat_s),
        "deterministic": bool(reply.deterministic),
        "jpeg": list(jpeg),
        "server": reply.server,
    }


def read_welcome(message: Message) -> Welcome:
    protocol = field.whole(message, "protocol", "welcome")
    if protocol != PROTOCOL:
        raise RemoteProtocolError(f"welcome: the client speaks native protocol {PROTOCOL}, the server {protocol}")
    limits = field.mapping(message, "limits", "welcome", {})
    jpeg = field.items(message, "jpeg", "welcome", [])
    if any(type(key) is not str for key in jpeg):
        raise field.misfit("welcome", "jpeg", "a list of strings", jpeg)
    return Welcome(
        session=field.text(message, "session", "welcome"),
        spec=read_spec(field.mapping(message, "spec", "welcome")),
        episode=field.whole(message, "episode", "welcome"),
        limits={key: field.whole(limits, key, "welcome.limits") for key in limits},
        heartbeat_s=max(field.number(message, "heartbeat_s", "welcome", 0.0), 0.0),
        deterministic=field.flag(message, "deterministic", "welcome") if "deterministic" in message else None,
        jpeg=tuple(jpeg),
        server=field.text(message, "server", "welcome", ""),
        call=read_id(message),
    )


def write_pong(reply: Pong) -> Message:
    times = {"sent_s": float(reply.sent_s), "received_s": float(reply.received_s), "now_s": float(reply.now_s)}
    return {**_message("pong", reply.call), **times}


def read_pong(message: Message) -> Pong:
    sent_s, received_s, now_s = (field.number(message, key, "pong") for key in ("sent_s", "received_s", "now_s"))
    return Pong(sent_s, received_s, now_s, read_id(message))


def write_chunks(reply: Chunks, session: str) -> Message:
    return {
        **_message("chunks", reply.call),
        "session": session,
        "results": [_write_result(result) for result in reply.results],
        "timing": _write_timing(reply.timing),
    }


def read_chunks(message: Message, session: str) -> Chunks:
    results = field.items(message, "results", "chunks")
    if not 1 <= len(results) <= MAX_LANES:
        raise RemoteProtocolError(f"chunks: expected 1 to {MAX_LANES} results, got {len(results)}")
    read = tuple(_read_result(result, f"chunks.results[{i}]", session) for i, result in enumerate(results))
    return Chunks(read, _read_timing(message, "chunks"), read_id(message))


def _write_result(result: ActionChunk | ActlinkError) -> Message:
    if isinstance(result, ActlinkError):
        return {"error": _write_error(result)}
    plain: Message = {"episode": result.episode, "step": result.step, "actions": result.actions}
    if result.timing:
        plain["timing"] = _write_timing(result.timing)
    return plain


def _read_result(result: Any, where: str, session: str) -> ActionChunk | ActlinkError:
    _expect_map(result, where)
    if result.get("error") is not None:
        return _read_error(field.mapping(result, "error", where), f"{where}.error")
    return ActionChunk(
        field.rows(result, "actions", where),
        field.whole(result, "step", where),
        field.whole(result, "episode", where),
        session,
        None,
        _read_timing(result, where),
    )


def write_done(reply: Done, session: str) -> Message:
    return {**_message("done", reply.call), "session": session, "episode": reply.episode}


def read_done(message: Message) -> Done:
    return Done(field.whole(message, "episode", "done"), read_id(message))


def write_failed(reply: Failed, *, fatal: bool) -> Message:
    return {**_message("error", reply.call), **_write_error(reply.error), "fatal": fatal}


def read_failed(message: Message) -> Failed:
    return Failed(_read_error(message, "error"), field.flag(message, "fatal", "error"), read_id(message))


# What several messages have in common


def read_id(message: Message) -> int | None:
    return None if message.get("id") is None else field.whole(message, "id", message["type"])


def _message(kind: str, call: Any) -> Message:
    if call is None:
        return {"type": kind}
    if type(call) is not int or not 0 <= call <= field.MAX_WHOLE:
        raise LocalProtocolError(f"{kind}: expected a call that is a whole number from 0 to 2^53 - 1, got {call!r}")
    return {"type": kind, "id": call}


def _expect_map(value: Any, where: str) -> None:
    if type(value) is not dict:
        raise RemoteProtocolError(f"{where}: expected a map, got a {type(value).__name__}")


def _write_error(error: ActlinkError) -> Message:
    # An error's text may come from anywhere, also from a file name that is not UTF-8.
    message = str(error).encode("utf-8", "replace").decode("utf-8")
    return {"code": error.code, "message": message[: field.MAX_ERROR]}


def _read_error(plain: Message, where: str) -> ActlinkError:
    return from_code(field.text(plain, "code", where), field.text(plain, "message", where, "", longest=field.MAX_ERROR))


def _write_timing(timing: Mapping[str, float]) -> Message:
    return {name: float(value) for name, value in timing.items()}


def _read_timing(message: Message, where: str) -> dict[str, float]:
    timing = field.mapping(message, "timing", where, {})
    return {name: field.number(timing, name, f"{where}.timing") for name in timing}
