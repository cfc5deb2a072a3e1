"""Examiner of dialects. Law: what one half says the other understands, and whatever else arrives is refused by name.

``check_dialect(module)`` raises ``AssertionError`` saying what the dialect did wrong. It plays transport and session between the
module's ``Client`` and ``Server``. Many wires cannot say everything (no step, no prefix, no reset): what a wire leaves out is None
or absent on the other side, never something else.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import random
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from actlink.address import Address
from actlink.dialects._base import (
    Bye,
    Chunks,
    ClientDialect,
    Done,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Lane,
    Ping,
    Pong,
    Reply,
    Reset,
    ServerDialect,
    Welcome,
)
from actlink.errors import PolicyError, RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.testing._dialect_wire import Wire
from actlink.types import ActionChunk

T = TypeVar("T")

SEED = 3
MUTATIONS = 200

SPEC = Spec(
    {"state": Field((3,)), "images.top": Field((8, 16, 3), "uint8"), "prompt": Field((), "str")},
    Field((2,)),
    action_horizon=4,
    accepts_prefix=True,
    max_batch_size=8,
)

_IO = {"asyncio", "grpc", "http", "requests", "select", "socket", "ssl", "subprocess", "threading", "time", "urllib", "websockets"}
_IO |= {"zmq", "picows", "selectors", "socketserver", "multiprocessing", "concurrent", "os", "pathlib", "datetime"}


def check_dialect(module: Any, *, config: Any = None, spec: Spec = SPEC) -> None:
    """Examine a dialect file. ``config``: an instance of its ``Config``; ``spec``: of a policy that this wire can serve."""
    _is_complete(module)
    _touches_nothing(module)
    config = module.Config() if config is None else config
    _opens(Wire(module, config, spec))
    _carries_a_request(Wire(module, config, spec).opened())
    _tells_answers_apart(Wire(module, config, spec).opened())
    _carries_an_error(Wire(module, config, spec).opened())
    _carries_resets_and_pings(Wire(module, config, spec).opened())
    _leaves_buffers_alone(Wire(module, config, spec).opened())
    _keeps_strangers_out(Wire(module, config, spec))
    _refuses_everything_else(Wire(module, config, spec).opened())


def _is_complete(module: Any) -> None:
    for name in ("Config", "Server", "Client", "DEFAULT_PORTS"):
        assert hasattr(module, name), f"expected the module to define {name}"
    config, server, client = module.Config, module.Server, module.Client
    frozen = dataclasses.is_dataclass(config) and getattr(config, "__dataclass_params__").frozen  # noqa: B009
    assert frozen, "Config: expected a frozen dataclass"
    missing = [f.name for f in dataclasses.fields(config) if f.default is f.default_factory is dataclasses.MISSING]
    assert not missing, f"Config: expected a default for every option, got none for {', '.join(missing)}"
    assert issubclass(server, ServerDialect) and not inspect.isabstract(server), "Server: expected a final ServerDialect"
    assert issubclass(client, ClientDialect) and not inspect.isabstract(client), "Client: expected a final ClientDialect"
    # A client may wait for the greeting of a server that speaks first and expects no hello.
    assert client.handshake or not server.handshake, f"handshake: Server says {server.handshake}, Client {client.handshake}"
    assert server.transports, "Server.transports: expected at least one transport, got none"
    for scheme, port in module.DEFAULT_PORTS.items():
        transport = Address("", scheme).transport
        assert transport in server.transports, f"DEFAULT_PORTS[{scheme!r}]: {transport} is not among Server.transports"
        assert 0 < port < 65536, f"DEFAULT_PORTS[{scheme!r}]: expected a port, got {port}"


def _touches_nothing(module: Any) -> None:
    """A dialect neither waits, reads a clock nor touches a socket: it does not even import what could."""
    if not isinstance(module, ModuleType) or not module.__file__:
        return
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            assert name.split(".")[0] not in _IO, f"line {getattr(node, 'lineno', 0)}: a dialect does no I/O, got import {name}"


def _opens(wire: Wire) -> None:
    if wire.server.handshake:
        heard = wire.says(Hello(token="open sesame", model="m", resume="r", call=1))
        hello = _one(heard, Hello, "a hello")
        for key, value in {"token": "open sesame", "model": "m", "resume": "r"}.items():
            got = getattr(hello, key)
            assert got == value, f"Hello.{key}: the client said {value!r}, the server heard {got!r}"
    if wire.client.handshake:
        welcomes = wire.answers(wire.welcome())
        welcome = _one(welcomes, Welcome, "a welcome")
        assert welcome.spec == wire.spec, f"Welcome.spec: expected the policy's, got {welcome.spec}"
        _same_or_absent("Welcome.session", welcome.session, "session-1", "")
        _same_or_absent("Welcome.episode", welcome.episode, 2, 0)
        _same_or_absent("Welcome.heartbeat_s", welcome.heartbeat_s, 5.0, 0.0)
        return
    for reply in wire.answers(wire.welcome()):
        assert isinstance(reply, Welcome), f"after a welcome: expected nothing or a Welcome, got {type(reply).__name__}"


def _carries_a_request(wire: Wire) -> None:
    said = wire.infer()
    heard = _one(wire.says(said), Infer, "a request")
    _same_or_absent("Infer.episode", heard.episode, said.episode, None)
    _same_or_absent("Infer.budget_ms", heard.budget_ms, said.budget_ms, None)
    assert len(heard.lanes) == 1, f"Infer.lanes: expected 1, got {len(heard.lanes)}"
    _same_lane(said.lanes[0], heard.lanes[0])
    chunk = wire.chunk()
    answer = _one(wire.answers(Chunks((chunk,), {"infer_ms": 12.5}, heard.call)), Chunks, "chunks")
    assert len(answer.results) == 1, f"Chunks.results: expected 1, got {len(answer.results)}"
    got = answer.results[0]
    assert isinstance(got, ActionChunk), f"Chunks.results[0]: expected a chunk, got {got!r}"
    assert np.array_equal(got.actions, chunk.actions), f"actions: the server said {chunk.actions}, the client heard {got.actions}"
    _same_or_absent("ActionChunk.step", got.step, chunk.step, 0)
    _same_or_absent("ActionChunk.episode", got.episode, chunk.episode, 0)
    _same_or_absent("Chunks.timing['infer_ms']", answer.timing.get("infer_ms"), 12.5, None)


def _tells_answers_apart(wire: Wire) -> None:
    """Where requests have numbers, an answer finds its request whatever the order; polled answers come as they are fetched."""
    if wire.server.polled:
        return
    first = _one(wire.says(wire.infer(step=5, call=3)), Infer, "a request")
    second = _one(wire.says(wire.infer(step=6, call=4)), Infer, "a request")
    if first.call is None or second.call is None:
        return
    assert first.call != second.call, f"Infer.call: expected two different ones, got {first.call!r} twice"
    for event, number, step in ((second, 4, 6), (first, 3, 5)):
        answer = _one(wire.answers(Chunks((wire.chunk(step),), {}, event.call)), Chunks, "chunks")
        assert answer.call == number, f"Chunks.call: expected {number}, that of the request, got {answer.call!r}"


def _carries_an_error(wire: Wire) -> None:
    heard = _one(wire.says(wire.infer()), Infer, "a request")
    replies = wire.answers(Failed(PolicyError("the examiner's reason"), call=heard.call))
    if wire.server.ended is not None and not replies:
        told = str(wire.server.ended)  # the connection closes, with this as the reason
        assert "the examiner's reason" in told, f"Server.ended: expected its text, got {told!r}"
        return
    failed = _one(replies, Failed, "an error")
    says_why = "the examiner's reason" in str(failed.error) or not wire.server.tells_reasons
    assert says_why, f"Failed.error: expected its text, got {str(failed.error)!r}"
    assert not failed.fatal, "Failed.fatal: one request failed, expected False"
    if heard.call is not None:
        assert failed.call == 3, f"Failed.call: expected 3, that of the request, got {failed.call!r}"


def _carries_resets_and_pings(wire: Wire) -> None:
    for event, reply in ((Ping(1.5, 7), Pong(1.5, 2.0, 2.5)), (Reset(3, 8), Done(3))):
        heard = wire.says(event)
        if not heard:
            continue  # a wire without such a message
        one = _one(heard, type(event), f"a {type(event).__name__.lower()}")
        for answer in wire.answers(dataclasses.replace(reply, call=one.call)):
            got = dataclasses.replace(answer, call=None)
            told = all(getattr(got, f.name) == getattr(reply, f.name) for f in dataclasses.fields(reply))
            assert type(answer) is type(reply) and told, f"expected {reply}, got {got}"
    for bye in wire.says(Bye()):
        assert isinstance(bye, Bye), f"after a bye: expected a Bye, got {type(bye).__name__}"


def _leaves_buffers_alone(wire: Wire) -> None:
    said = wire.infer()
    before = {key: np.array(value) for key, value in said.lanes[0].observation.items()}
    frames = wire.client.send(said)
    buffers = [bytearray(b"".join(frame.parts)) for frame in frames]
    copies = [bytes(buffer) for buffer in buffers]
    for frame, buffer in zip(frames, buffers, strict=True):
        wire.server.receive(dataclasses.replace(frame, parts=(buffer,)))
    assert copies == [bytes(buffer) for buffer in buffers], "receive: expected the frame's bytes as they came, got them changed"
    same = all(np.array_equal(before[key], value) for key, value in said.lanes[0].observation.items())
    assert same, "send: expected the observation as it was given, got it changed"


def _keeps_strangers_out(wire: Wire) -> None:
    """A handshake is a handshake: what a welcome client says is refused from one that has not introduced itself."""
    if not wire.server.handshake:
        return
    wire.opened()
    introduction = len(wire.up)
    for event in (wire.infer(), Reset(3), Ping(1.5)):
        wire.says(event)
    for frame in wire.up[introduction:]:
        try:
            heard = wire.another().server.receive(frame)
        except RemoteProtocolError:
            continue
        raise AssertionError(f"before a hello: expected RemoteProtocolError, got {[type(event).__name__ for event in heard]}")


def _refuses_everything_else(wire: Wire) -> None:
    """Cut, changed and foreign frames are understood or refused; no other error escapes, and no part of a request is acted on."""
    heard = _one(wire.says(wire.infer()), Infer, "a request")
    wire.answers(Chunks((wire.chunk(),), {"infer_ms": 12.5}, heard.call))
    for half, frames in (("server", wire.up), ("client", wire.down)):
        for frame in frames:
            data = bytes(frame.data)
            for length in {*range(min(len(data), 64)), *range(0, len(data), max(1, len(data) // 64)), max(0, len(data) - 1)}:
                got = _try(wire.another().opened(), half, dataclasses.replace(frame, parts=(data[:length],)))
                acted = [type(one).__name__ for one in got if isinstance(one, Infer | Chunks)]
                assert not acted, f"{half}: {length} of {len(data)} bytes of a frame were understood as {', '.join(acted)}"
            for changed in (*_mutations(data), *_FOREIGN):
                for text in (frame.text, not frame.text):
                    _try(wire.another().opened(), half, dataclasses.replace(frame, parts=(changed,), text=text))


_FOREIGN = (
    b"",
    b"\0",
    b"\xff" * 64,
    b"\x80",
    b"{}",
    b"null",
    b"[]",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x80\x04N.",
    b"\xc1" * 9,
    bytes(64),
)


def _mutations(data: bytes) -> list[bytes]:
    source = random.Random(SEED)
    mutated = []
    for _ in range(MUTATIONS if data else 0):
        changed = bytearray(data)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(len(changed))] = source.choice((0, 0x7F, 0x80, 0xFF, source.randrange(256)))
        mutated.append(bytes(changed))
    return mutated


def _try(wire: Wire, half: str, frame: Frame) -> Sequence[Event | Reply]:
    try:
        return wire.server.receive(frame) if half == "server" else wire.client.receive(frame)
    except RemoteProtocolError:
        return []
    except Exception as error:
        shown = bytes(frame.data[:40])
        raise AssertionError(
            f"{half}: expected RemoteProtocolError for {shown!r}..., got {type(error).__name__}: {error}"
        ) from error


def _one(heard: Sequence[Event | Reply], kind: type[T], what: str) -> T:
    got = [type(one).__name__ for one in heard]
    assert len(heard) == 1 and isinstance(heard[0], kind), f"expected {what}, got {', '.join(got) or 'nothing'}"
    return heard[0]


def _same_or_absent(what: str, got: object, said: object, absent: object) -> None:
    assert got in (said, absent), f"{what}: said {said!r}, expected that or {absent!r} on the other side, got {got!r}"


def _same_lane(said: Lane, heard: Lane) -> None:
    _same_or_absent("Lane.step", heard.step, said.step, None)
    _same_or_absent("Lane.inference_delay", heard.inference_delay, said.inference_delay, 0)
    prefix = heard.prefix is None or np.array_equal(heard.prefix, said.prefix)  # type: ignore[arg-type]
    assert prefix, f"Lane.prefix: said {said.prefix}, expected that or None, got {heard.prefix}"
    names = sorted(said.observation)
    assert sorted(heard.observation) == names, f"observation: said the keys {names}, got {sorted(heard.observation)}"
    for key, value in said.observation.items():
        got = heard.observation[key]
        dtypes = getattr(got, "dtype", None), getattr(value, "dtype", None)
        alike = type(got) is type(value) and dtypes[0] == dtypes[1] and np.array_equal(got, value)
        assert alike, f"observation[{key!r}]: said {value!r}, got {got!r}"
