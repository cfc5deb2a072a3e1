"""Every transport that has a client passes the examiner, and the examiner rejects transports that are wrong."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actlink import loading
from actlink.address import Address, parse
from actlink.dialects._base import Frame
from actlink.errors import LinkClosedError, LinkTimeoutError
from actlink.testing import _transport_stage as stage_module
from actlink.testing import transports as examiner
from actlink.testing.transports import check_transport
from actlink.transports import memory
from actlink.transports._base import Opened, Pages, Receiver

CASES = {
    "tcp": ("native+tcp://127.0.0.1:0", False),
    "websocket": ("native+ws://127.0.0.1:0", True),
    "memory": ("native+memory://conformance", True),
}


def test_every_transport_is_examined() -> None:
    """By the examiner; or, where a wire is made of calls or pages and not of frames both ways, by tests of its own."""
    own = Path(__file__).parent.parent / "transports"
    others = [name for name in loading.names("transports") if name not in CASES]
    missing = [name for name in others if not list(own.glob(f"test*{name}*.py"))]
    assert not missing


@pytest.mark.parametrize("name", CASES)
def test_transport_conforms(name: str) -> None:
    url, text = CASES[name]
    check_transport(loading.load("transports", name), parse(url), text=text)


def test_tcp_conforms_over_a_unix_socket(tmp_path: Path) -> None:
    check_transport(loading.load("transports", "tcp"), parse(f"native+unix://{tmp_path}/socket"))


# Transports that are wrong in one way each: the memory transport, with one habit spoilt.


class Reversing(memory.Link):
    """Sends frames in the wrong order."""

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        super().send(list(reversed(frames)), timeout_s)


class Truncating(memory.Link):
    """Loses the last byte of long frames."""

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        super().send([Frame((bytes(f.data)[:65536],), text=f.text) for f in frames], timeout_s)


class FirstPartOnly(memory.Link):
    """Forgets all parts but the first three."""

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        super().send([Frame(f.parts[:3], text=f.text) for f in frames], timeout_s)


class KeepsParts(memory.Link):
    """Delivers a frame in two parts."""

    def receive(self, timeout_s: float | None) -> Frame:
        frame = super().receive(timeout_s)
        return Frame((frame.data, b""), text=frame.text)


class OneBuffer(memory.Link):
    """Receives every frame into the same memory."""

    buffer = bytearray(4_000_000)

    def receive(self, timeout_s: float | None) -> Frame:
        frame = super().receive(timeout_s)
        self.buffer[: frame.size] = frame.data
        return Frame((memoryview(self.buffer)[: frame.size],), text=frame.text)


class ReadOnly(memory.Link):
    """Hands out memory that may not be written to."""

    def receive(self, timeout_s: float | None) -> Frame:
        frame = super().receive(timeout_s)
        return Frame((bytes(frame.data),), text=frame.text)


class Unlimited(memory.Link):
    """Knows no limit of its own."""

    def __init__(self, address: Address, config: memory.Config, *rest: Any) -> None:
        super().__init__(address, memory.Config(max_frame_bytes=2**31), *rest)


class Forgetful(memory.Link):
    """Loses what comes after a timeout."""

    late = False

    def receive(self, timeout_s: float | None) -> Frame:
        try:
            frame = super().receive(timeout_s)
        except LinkTimeoutError:
            self.late = True
            raise
        if self.late:
            self.late = False
            return super().receive(0.1)
        return frame


class Lingering(memory.Link):
    """Does not tell the server that it leaves."""

    def close(self) -> None:
        self._why_closed = "closed on this side"


class Immortal(memory.Link):
    """Takes frames after it was closed."""

    def send(self, frames: Sequence[Frame], timeout_s: float | None) -> None:
        with contextlib.suppress(LinkClosedError):
            super().send(frames, timeout_s)


class AllText(memory.Link):
    """Calls everything text."""

    def receive(self, timeout_s: float | None) -> Frame:
        return Frame(super().receive(timeout_s).parts, text=True)


class WrongError(memory.Link):
    """Lets a foreign error out."""

    def receive(self, timeout_s: float | None) -> Frame:
        try:
            return super().receive(timeout_s)
        except LinkClosedError as error:
            raise OSError(str(error)) from error


class ClosedTwice(memory.Listener):
    """Tells its receivers twice that their peer has gone."""

    async def start(self, opened: Opened) -> None:
        await super().start(lambda connection: _Twice(opened(connection)))


class _Twice:
    def __init__(self, receiver: Receiver) -> None:
        self.received = receiver.received
        self._receiver = receiver

    def closed(self, reason: str) -> None:
        self._receiver.closed(reason)
        self._receiver.closed(reason)


class NeverFull(memory.Listener):
    """Lets everybody in, and keeps everything for slow readers."""

    def __init__(self, address: Address, config: memory.Config, pages: Pages | None = None) -> None:
        super().__init__(address, memory.Config(max_frame_bytes=config.max_frame_bytes), pages)


class KeepsItsAddress(memory.Listener):
    """Is still there after it was told to stop."""

    async def stop_accepting(self) -> None:
        if self._opened is None:
            await super().stop_accepting()


class LosesTheReason(memory.Listener):
    """Does not say why a peer has gone."""

    async def start(self, opened: Opened) -> None:
        await super().start(lambda connection: _Reasonless(opened(connection)))


class _Reasonless(_Twice):
    def closed(self, reason: str) -> None:
        self._receiver.closed("")


LINKS = (
    Reversing,
    Truncating,
    FirstPartOnly,
    KeepsParts,
    OneBuffer,
    ReadOnly,
    Unlimited,
    Forgetful,
    Lingering,
    Immortal,
    AllText,
    WrongError,
)
LISTENERS = (ClosedTwice, NeverFull, KeepsItsAddress, LosesTheReason)


def spoilt(monkeypatch: pytest.MonkeyPatch, link: type[memory.Link], listener: type[memory.Listener]) -> types.ModuleType:
    """The memory transport with another link or listener."""
    monkeypatch.setattr(memory, "Link", link)
    monkeypatch.setattr(memory, "_listening", {})
    module = types.ModuleType("spoilt", link.__doc__ or listener.__doc__)
    vars(module).update(Config=memory.Config, Listener=listener, connect=memory.connect)
    return module


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what never comes is told soon."""
    for module in (stage_module, examiner):
        monkeypatch.setattr(module, "HUNG_S", 0.5)


@pytest.mark.parametrize(
    ("link", "listener"),
    [*((link, memory.Listener) for link in LINKS), *((memory.Link, listener) for listener in LISTENERS)],
    ids=lambda part: part.__name__,
)
def test_examiner_rejects(
    link: type[memory.Link], listener: type[memory.Listener], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    with pytest.raises((AssertionError, OSError)) as caught:
        check_transport(spoilt(monkeypatch, link, listener), parse("native+memory://spoilt"), text=True)
    assert str(caught.value)


def test_examiner_accepts_what_is_not_spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    check_transport(spoilt(monkeypatch, memory.Link, memory.Listener), parse("native+memory://spoilt"), text=True)
