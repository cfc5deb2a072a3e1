"""Every dialect file passes the shipped examiner; broken dialects do not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from actlink import loading
from actlink.dialects import native
from actlink.dialects._base import (
    Chunks,
    ClientDialect,
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
from actlink.testing.dialects import check_dialect
from actlink.types import ActionChunk


@pytest.mark.parametrize("name", loading.names("dialects"))
def test_every_dialect_conforms(name: str) -> None:
    module = loading.load("dialects", name)
    if loading.missing(module):
        pytest.skip(f"{name} NOT EXAMINED: {loading.pip_line(module)}")
    check_dialect(module)


def test_native_is_found() -> None:
    assert "native" in loading.names("dialects")


@pytest.mark.parametrize(
    "spec",
    [
        Spec({"state": Field((None,))}, Field((7,), "int64"), action_horizon=1),
        Spec({"mask": Field((4, 4), "bool"), "count": Field((), "int64")}, Field((2,)), action_horizon=100, accepts_prefix=True),
    ],
)
def test_native_conforms_with_other_specs(spec: Spec) -> None:
    check_dialect(native, spec=spec)


class Server(ServerDialect):
    """A sound half to break one thing of."""

    transports: ClassVar[Sequence[str]] = native.Server.transports
    handshake = True

    def __init__(self, config: native.Config) -> None:
        self.inner = native.Server(config)

    def receive(self, frame: Frame) -> list[Event]:
        return self.inner.receive(frame)

    def send(self, reply: Reply) -> list[Frame]:
        return self.inner.send(reply)


class Client(ClientDialect):
    handshake = True

    def __init__(self, config: native.Config) -> None:
        self.inner = native.Client(config)

    def send(self, event: Event) -> list[Frame]:
        return self.inner.send(event)

    def receive(self, frame: Frame) -> list[Reply]:
        return self.inner.receive(frame)


def module(**changes: Any) -> SimpleNamespace:
    parts = {"Config": native.Config, "Server": Server, "Client": Client, "DEFAULT_PORTS": native.DEFAULT_PORTS, **changes}
    return SimpleNamespace(**{name: part for name, part in parts.items() if part is not None})


def hears(change: Callable[[Event], Event | list[Event]]) -> SimpleNamespace:
    """A dialect whose server hears something else."""

    class Hears(Server):
        def receive(self, frame: Frame) -> list[Event]:
            heard: list[Event] = []
            for event in self.inner.receive(frame):
                changed = change(event)
                heard += changed if isinstance(changed, list) else [changed]
            return heard

    return module(Server=Hears)


def tells(change: Callable[[Reply], Reply]) -> SimpleNamespace:
    """A dialect whose client hears something else than the server said."""

    class Tells(Client):
        def receive(self, frame: Frame) -> list[Reply]:
            return [change(reply) for reply in self.inner.receive(frame)]

    return module(Client=Tells)


def of(kind: type[Any], change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda one: change(one) if isinstance(one, kind) else one


def lane(change: Callable[[Lane], Lane]) -> SimpleNamespace:
    return hears(of(Infer, lambda infer: replace(infer, lanes=tuple(map(change, infer.lanes)))))


def chunk(change: Callable[[ActionChunk], Any]) -> SimpleNamespace:
    return tells(of(Chunks, lambda chunks: replace(chunks, results=tuple(map(change, chunks.results)))))


def observed(key: str, change: Callable[[Any], Any]) -> SimpleNamespace:
    return lane(lambda one: replace(one, observation={**one.observation, key: change(one.observation[key])}))


@dataclass
class Thawed:
    jpeg: bool = False


@dataclass(frozen=True)
class Demanding:
    port: int


class Abstract(ServerDialect):
    transports = ("tcp",)


class Nowhere(Server):
    transports = ()


class WithoutHandshake(Client):
    handshake = False


class TrustsStrangers(Server):
    """Whoever speaks is taken for a peer that has introduced itself."""

    def receive(self, frame: Frame) -> list[Event]:
        try:
            return self.inner.receive(frame)
        except RemoteProtocolError as error:
            if "hello first" in str(error):
                return [Ping(0.0)]
            raise


class WritesIntoFrames(Server):
    def receive(self, frame: Frame) -> list[Event]:
        heard = self.inner.receive(frame)
        if isinstance(frame.data, bytearray):
            frame.data[-1] ^= 1
        return heard


class WritesIntoObservations(Client):
    def send(self, event: Event) -> list[Frame]:
        if isinstance(event, Infer):
            state = event.lanes[0].observation["state"]
            assert isinstance(state, np.ndarray)
            state /= 255
        return self.inner.send(event)


class LetsKeyErrorsEscape(Server):
    def receive(self, frame: Frame) -> list[Event]:
        try:
            return self.inner.receive(frame)
        except RemoteProtocolError as error:
            if "keys" in str(error) or "missing" in str(error):
                raise KeyError("type") from error
            raise


class ClientLetsUnicodeErrorsEscape(Client):
    def receive(self, frame: Frame) -> list[Reply]:
        bytes(frame.data[:1]).decode("ascii" if frame.text else "latin-1")
        return self.inner.receive(frame)


class FillsWhatIsMissing(Server):
    """A cut frame is filled up with zeros."""

    def receive(self, frame: Frame) -> list[Event]:
        try:
            return self.inner.receive(frame)
        except RemoteProtocolError:
            return self.inner.receive(Frame((bytes(frame.data) + b"\0",)))


class SilentOnErrors(Server):
    def send(self, reply: Reply) -> list[Frame]:
        return [] if isinstance(reply, Failed) else self.inner.send(reply)


def broken() -> dict[str, tuple[Any, str]]:
    return {
        "no ports": (module(DEFAULT_PORTS=None), "to define DEFAULT_PORTS"),
        "config can change": (module(Config=Thawed), "frozen dataclass"),
        "option without default": (module(Config=Demanding), "none for port"),
        "abstract": (module(Server=Abstract), "final ServerDialect"),
        "not a dialect": (module(Client=object), "final ClientDialect"),
        "half a handshake": (module(Client=WithoutHandshake), "handshake: Server says True"),
        "no transport": (module(Server=Nowhere), "at least one transport"),
        "port of another transport": (module(DEFAULT_PORTS={"zmq": 5555}), "zmq is not among"),
        "no port": (module(DEFAULT_PORTS={"tcp": 0}), "expected a port"),
        "loses the token": (hears(of(Hello, lambda hello: replace(hello, token=None))), "Hello.token"),
        "loses the model": (hears(of(Hello, lambda hello: replace(hello, model=""))), "Hello.model"),
        "another spec": (tells(of(Welcome, lambda w: replace(w, spec=replace(w.spec, action_horizon=9)))), "Welcome.spec"),
        "another session": (tells(of(Welcome, lambda w: replace(w, session="x"))), "Welcome.session"),
        "two requests": (hears(of(Infer, lambda infer: [infer, infer])), "expected a request, got Infer, Infer"),
        "no request": (hears(of(Infer, lambda infer: [])), "expected a request, got nothing"),
        "next step": (lane(lambda one: replace(one, step=(one.step or 0) + 1)), "Lane.step"),
        "another episode": (hears(of(Infer, lambda infer: replace(infer, episode=77))), "Infer.episode"),
        "seconds for milliseconds": (hears(of(Infer, lambda infer: replace(infer, budget_ms=0.25))), "Infer.budget_ms"),
        "delay without prefix": (lane(lambda one: replace(one, inference_delay=3)), "Lane.inference_delay"),
        "prefix in other units": (lane(lambda one: replace(one, prefix=np.ones((3, 2), np.float32))), "Lane.prefix"),
        "a camera less": (lane(lambda one: replace(one, observation={"state": one.observation["state"]})), "said the keys"),
        "bgr": (observed("images.top", lambda image: image[:, :, ::-1]), "images.top"),
        "transposed": (observed("images.top", lambda image: image.transpose(2, 0, 1)), "images.top"),
        "doubles": (observed("state", lambda state: state.astype(np.float64)), "state"),
        "prompt in bytes": (observed("prompt", lambda prompt: prompt.encode()), "prompt"),
        "rounded actions": (chunk(lambda one: replace(one, actions=one.actions.astype(np.float16) * 1.01)), "actions:"),
        "half a chunk": (chunk(lambda one: replace(one, actions=one.actions[:1])), "actions:"),
        "chunk of another step": (chunk(lambda one: replace(one, step=one.step + 1)), "ActionChunk.step"),
        "no chunk": (chunk(lambda one: PolicyError("lost")), "expected a chunk"),
        "more chunks": (tells(of(Chunks, lambda c: replace(c, results=c.results * 2))), "Chunks.results: expected 1"),
        "timing in seconds": (tells(of(Chunks, lambda c: replace(c, timing={"infer_ms": 0.0125}))), "timing"),
        "one number for all": (hears(of(Infer, lambda infer: replace(infer, call=3))), "two different ones"),
        "answers by order": (tells(of(Chunks, lambda c: replace(c, call=(c.call or 0) % 2 + 3))), "that of the request"),
        "error without text": (tells(of(Failed, lambda f: replace(f, error=PolicyError("?")))), "expected its text"),
        "every error is fatal": (tells(of(Failed, lambda f: replace(f, fatal=True))), "Failed.fatal"),
        "error of nobody": (tells(of(Failed, lambda f: replace(f, call=None))), "Failed.call"),
        "silent on errors": (module(Server=SilentOnErrors), "expected an error, got nothing"),
        "reset heard as ping": (hears(of(Reset, lambda reset: Ping(0.0, reset.call))), "expected a reset, got Ping"),
        "pong with one clock": (tells(of(Pong, lambda pong: replace(pong, now_s=pong.received_s))), "expected Pong"),
        "writes into frames": (module(Server=WritesIntoFrames), "frame's bytes"),
        "writes into observations": (module(Client=WritesIntoObservations), "observation"),
        "trusts strangers": (module(Server=TrustsStrangers), "before a hello"),
        "lets errors escape": (module(Server=LetsKeyErrorsEscape), "server: expected RemoteProtocolError .* got KeyError"),
        "client lets errors escape": (module(Client=ClientLetsUnicodeErrorsEscape), "client: expected .* got UnicodeDecodeError"),
        "fills what is missing": (module(Server=FillsWhatIsMissing), "were understood as Infer"),
    }


def test_the_wrapped_dialect_is_sound() -> None:
    check_dialect(module())


@pytest.mark.parametrize("name", broken())
def test_the_examiner_rejects(name: str) -> None:
    dialect, says = broken()[name]
    with pytest.raises(AssertionError) as caught:
        check_dialect(dialect)
    assert re.search(says, str(caught.value)), caught.value


@pytest.mark.parametrize("line", ["import socket", "from time import sleep", "def f():\n    import threading"])
def test_the_examiner_rejects_a_dialect_that_does_io(line: str, tmp_path: Path) -> None:
    file = tmp_path / "chatty.py"
    file.write_text(f"from actlink.dialects.native import DEFAULT_PORTS, Client, Config, Server\n{line}\n__all__ = ['Server']\n")
    loaded = loading.resolve(f"{file}:Server")
    assert loaded is native.Server
    (chatty,) = [found for found in list(sys.modules.values()) if getattr(found, "__file__", None) == str(file)]
    with pytest.raises(AssertionError, match="does no I/O"):
        check_dialect(chatty)
