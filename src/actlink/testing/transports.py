"""Examiner of transports. Law: what a client and a server of one wire see of each other, and nothing of how it is done.

``check_transport(module, address)`` raises ``AssertionError`` saying what the transport did wrong. It opens listeners at
``address`` (port 0: a free one) and connects to them with the module's own client.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import ModuleType

import numpy as np

from actlink.address import Address
from actlink.dialects._base import Buffer, Frame
from actlink.errors import (
    ActlinkError,
    ConfigError,
    ConnectError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    LocalProtocolError,
    RemoteProtocolError,
)
from actlink.testing._transport_stage import HUNG_S, Relay, Stage, Tls, raised_by, stage
from actlink.transports._base import Connection, Link

LARGE_BYTES = 3_000_000
SIZES = (0, 1, 3, 124, 125, 126, 127, 1000, 16383, 16384, 16385, 65535, 65536, 65537, 100_001)


def check_transport(transport: ModuleType, address: Address, *, text: bool = False, tls: Tls | None = None) -> None:
    """Examine ``transport``; ``text``: whether its wire tells text frames from binary ones; ``tls``: for an address that is TLS."""
    examinations = [
        _moves_frames_in_order,
        _takes_any_parts,
        _gives_buffers_away,
        _refuses_long_frames,
        _says_goodbye_after_what_is_queued,
        _notices_a_client_that_leaves,
        _loses_nothing_by_a_timeout,
        _turns_peers_away,
        _drops_slow_readers,
        _survives_a_receiver_that_fails,
        _stops_accepting_and_frees_its_address,
        _refuses_a_second_listener,
        _keeps_text if text else _knows_no_text,
    ]
    if address.port is not None:
        examinations += [_reads_bytes_one_by_one, _notices_a_torn_connection]
    for examine in examinations:
        try:
            with stage(transport, address, tls) as one:
                examine(one)
        except ActlinkError as error:
            raise AssertionError(f"{examine.__name__.strip('_').replace('_', ' ')}: {error!r}") from error


def _moves_frames_in_order(one: Stage) -> None:
    one.reply = _echo
    one.start()
    link, recorder = one.pair()
    sent = [_pattern(size, seed) for seed, size in enumerate(SIZES)]
    link.send([Frame((data,)) for data in sent], HUNG_S)
    for data in sent:
        _same(recorder.next_frame(), data, "at the server")
        _same(link.receive(HUNG_S), data, "at the client")
    others = [one.pair() for _ in range(3)]
    for number, (other, its_recorder) in enumerate(others):
        other.send([Frame((b"peer %d" % number,))], HUNG_S)
        _same(its_recorder.next_frame(), b"peer %d" % number, "at the server, of one peer among several")
        _same(other.receive(HUNG_S), b"peer %d" % number, "at one client among several")


def _takes_any_parts(one: Stage) -> None:
    """Bytes, bytearrays, views on arrays of any shape, nothing at all, and more parts than one system call takes."""
    one.reply = lambda connection, frame: connection.send([Frame((np.arange(12.0).reshape(3, 4).data, b"", frame.data))])
    one.start()
    link, recorder = one.pair()
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    nothing = np.zeros((0, 3), np.float32)
    parts: tuple[Buffer, ...] = (b"head", image.data, nothing.data, bytearray(b"tail"), b"")
    many: tuple[Buffer, ...] = tuple(bytes((i % 256,)) * (i % 5) for i in range(3000))
    for given in (parts, many, ()):
        data = b"".join(given)
        link.send([Frame(given)], HUNG_S)
        _same(recorder.next_frame(), data, f"of {len(given)} parts at the server")
        _same(link.receive(HUNG_S), np.arange(12.0).tobytes() + data, "of three parts at the client")


def _gives_buffers_away(one: Stage) -> None:
    """What was received stays as it is while more comes in; what was sent may be changed afterwards."""
    one.reply = _echo
    one.start()
    link, recorder = one.pair()
    buffer = np.empty(LARGE_BYTES, np.uint8)
    kept: list[tuple[Frame, Frame]] = []
    for value in range(4):
        buffer[:] = value
        link.send([Frame((buffer.data,))], HUNG_S)
        buffer[:] = 255
        kept.append((recorder.next_frame(), link.receive(HUNG_S)))
    for value, frames in enumerate(kept):
        for frame, side in zip(frames, ("server", "client"), strict=True):
            seen = np.frombuffer(frame.data, np.uint8)
            assert seen.size == LARGE_BYTES, f"large frame at the {side}: expected {LARGE_BYTES} bytes, got {seen.size}"
            assert (seen == value).all(), f"a frame received by the {side} changed when later ones came, or came wrong"
            assert seen.flags.writeable, f"a frame received by the {side} is not writable, so it is not the receiver's own"


def _refuses_long_frames(one: Stage) -> None:
    limit = 10_000
    one.reply = lambda connection, frame: connection.send([Frame((bytes(int(bytes(frame.data))),))])
    one.start(max_frame_bytes=limit)
    link, recorder = one.pair(max_frame_bytes=limit)
    error = raised_by(lambda: link.send([Frame((bytes(limit + 1),))], HUNG_S), "sending a frame over the limit")
    assert isinstance(error, LocalProtocolError), f"sending a frame over the limit: expected LocalProtocolError, got {error!r}"
    link.send([Frame((str(limit).encode(),))], HUNG_S)
    assert link.receive(HUNG_S).size == limit, "a frame of exactly the limit, after one was refused locally"
    link.send([Frame((str(limit + 1).encode(),))], HUNG_S)
    _is_closed(link, "when the server's reply was over its own limit")
    assert recorder.end(), "a reply over the limit: expected a reason"
    generous, recorder = one.pair()
    with contextlib.suppress(LinkError):  # the server may be quicker to close than the client to send
        generous.send([Frame((bytes(LARGE_BYTES),))], HUNG_S)
    assert recorder.end(), "a frame over the server's limit: expected a reason"
    assert recorder.frames.empty(), "a frame over the server's limit was delivered"
    _is_closed(generous, "when its frame was over the server's limit")
    strict, _ = one.pair(max_frame_bytes=limit - 1)
    strict.send([Frame((str(limit).encode(),))], HUNG_S)
    error = raised_by(lambda: strict.receive(HUNG_S), "a reply over the client's limit")
    assert isinstance(error, RemoteProtocolError), f"a reply over the client's limit: expected RemoteProtocolError, got {error!r}"


def _says_goodbye_after_what_is_queued(one: Stage) -> None:
    one.start()
    link, recorder = one.pair()
    data = _pattern(LARGE_BYTES, 1)

    def leave(connection: Connection) -> None:
        connection.send([Frame((data,)), Frame((b"last",))])
        connection.close("the reason", error=True)
        connection.close("another")
        connection.send([Frame((b"too late",))])

    one.on_loop(leave, recorder.connection)
    _same(link.receive(HUNG_S), data, "queued before the server closed")
    _same(link.receive(HUNG_S), b"last", "queued before the server closed")
    _is_closed(link, "after the server closed")
    _is_closed(link, "when asked again after the server closed")
    assert recorder.end() == "the reason", "closed() after connection.close(): expected the reason given there"
    link.close()
    one.on_loop(lambda: None)
    assert recorder.ends.empty(), "closed() was called twice"


def _notices_a_client_that_leaves(one: Stage) -> None:
    one.start()
    link, recorder = one.pair()
    link.send([Frame((b"last",))], HUNG_S)
    link.close()
    link.close()
    _same(recorder.next_frame(), b"last", "sent just before the client closed")
    recorder.end()
    assert not recorder.late, "a frame was delivered after closed()"
    one.on_loop(recorder.connection.send, [Frame((b"nobody hears this",))])
    one.on_loop(recorder.connection.close)
    error = raised_by(lambda: link.send([Frame((b"x",))], HUNG_S), "send() after close()")
    assert isinstance(error, LinkClosedError), f"send() after close(): expected LinkClosedError, got {error!r}"


def _loses_nothing_by_a_timeout(one: Stage) -> None:
    one.start()
    link, recorder = one.pair()
    error = raised_by(lambda: link.receive(0.01), "receive() with nothing to receive")
    assert isinstance(error, LinkTimeoutError), f"receive() with nothing to receive: expected LinkTimeoutError, got {error!r}"
    one.on_loop(recorder.connection.send, [Frame((b"after all",))])
    _same(link.receive(HUNG_S), b"after all", "after a timeout")
    one.on_loop(recorder.connection.send, [Frame((b"1",)), Frame((b"2",))])
    _same(link.receive(None), b"1", "without a timeout")
    _same(link.receive(None), b"2", "without a timeout")


def _turns_peers_away(one: Stage) -> None:
    """By ``opened`` itself, and over the limit of connections; both leave the present peers alone."""
    one.start(max_connections=2)
    link, recorder = one.pair()
    one.greet = lambda connection: connection.close("not today", error=True)
    _gets_nowhere(one, "when opened() closed its connection")
    assert one.arrival().end() == "not today", "closed() of a peer that opened() turned away: expected the reason"
    one.greet = None
    second, its_recorder = one.pair()
    _gets_nowhere(one, "over max_connections")
    second.close()
    its_recorder.end()
    for _ in range(50):  # the place is free once the server has noticed, which is no later than closed()
        third = _try_link(one)
        if third is not None:
            break
    assert third is not None, "after a peer left, nobody could take its place"
    link.send([Frame((b"still here",))], HUNG_S)
    _same(recorder.next_frame(), b"still here", "of a peer that was there before others were turned away")


def _drops_slow_readers(one: Stage) -> None:
    one.start(write_buffer_bytes=100_000)
    _, recorder = one.pair()

    async def flood() -> bool:
        for _ in range(2000):
            recorder.connection.send([Frame((bytes(50_000),))])
            await asyncio.sleep(0)
            if not recorder.ends.empty():
                return True
        return False

    assert one.wait(flood()), "a peer that does not read was sent 100 MB and kept"
    assert recorder.end(), "a peer that reads too slowly was dropped: expected a reason"


def _survives_a_receiver_that_fails(one: Stage) -> None:
    def fail(connection: Connection, frame: Frame) -> None:
        raise RuntimeError("a bug in the receiver")

    one.reply = fail
    one.start()
    link, recorder = one.pair()
    link.send([Frame((b"x",))], HUNG_S)
    _is_closed(link, "when its receiver failed")
    recorder.end()
    one.reply = _echo
    link, _ = one.pair()
    link.send([Frame((b"y",))], HUNG_S)
    _same(link.receive(HUNG_S), b"y", "after another peer's receiver failed")


def _stops_accepting_and_frees_its_address(one: Stage) -> None:
    one.reply = _echo
    where = one.start()
    link, recorder = one.pair()
    first = one.listener
    one.wait(first.stop_accepting())
    error = raised_by(lambda: one.link(where), "connecting after stop_accepting()")
    assert isinstance(error, ConnectError), f"connecting after stop_accepting(): expected ConnectError, got {error!r}"
    link.send([Frame((b"present",))], HUNG_S)
    _same(link.receive(HUNG_S), b"present", "after stop_accepting()")
    one.wait(first.close())
    assert not recorder.ends.empty(), "close() returned before its peers were told"
    _is_closed(link, "after the listener closed")
    one.asked = where
    one.start()
    link, _ = one.pair()
    link.send([Frame((b"again",))], HUNG_S)
    _same(link.receive(HUNG_S), b"again", "at an address that was freed and bound again")


def _refuses_a_second_listener(one: Stage) -> None:
    where = one.start()
    second = one.another(where)
    error = raised_by(lambda: one.wait(second.start(one.opened)), "a second listener at one address")
    assert isinstance(error, ConfigError), f"a second listener at one address: expected ConfigError, got {error!r}"
    assert str(where) in str(error), f"a second listener at {where}: expected the address in the message, got: {error}"


def _keeps_text(one: Stage, *, text: bool = True) -> None:
    one.reply = _echo
    one.start()
    link, recorder = one.pair()
    for flag in (True, False):
        link.send([Frame(("grüße".encode(),), text=flag)], HUNG_S)
        for frame in (recorder.next_frame(), link.receive(HUNG_S)):
            _same(frame, "grüße".encode(), "of text")
            assert frame.text is (flag and text), f"text frame: expected text={flag and text}, got {frame.text}"


def _knows_no_text(one: Stage) -> None:
    _keeps_text(one, text=False)


def _reads_bytes_one_by_one(one: Stage) -> None:
    one.reply = _echo
    relay = Relay(one.start())
    try:
        link = one.link(one.wait(relay.start()))
        for size in (0, 1, 125, 126, 300):
            link.send([Frame((_pattern(size, size),))], HUNG_S)
            _same(link.receive(HUNG_S), _pattern(size, size), "that came byte by byte")
        link.close()
    finally:
        one.wait(relay.close())


def _notices_a_torn_connection(one: Stage) -> None:
    one.reply = _echo
    relay = Relay(one.start())
    try:
        link = one.link(one.wait(relay.start()))
        recorder = one.arrival()
        link.send([Frame((b"whole",))], HUNG_S)
        _same(link.receive(HUNG_S), b"whole", "before the connection was reset")
        one.wait(relay.tear())
        _is_closed(link, "after the connection was reset")
        assert recorder.end(), "closed() after the connection was reset: expected a reason"
        other, _ = one.pair()
        other.send([Frame((b"unharmed",))], HUNG_S)
        _same(other.receive(HUNG_S), b"unharmed", "after another peer's connection was reset")
    finally:
        one.wait(relay.close())


def _echo(connection: Connection, frame: Frame) -> None:
    connection.send([frame])


def _pattern(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def _same(frame: Frame, data: bytes, where: str) -> None:
    assert len(frame.parts) == 1, f"frame {where}: expected exactly one part, got {len(frame.parts)}"
    assert frame.size == len(data), f"frame {where}: expected {len(data)} bytes, got {frame.size}"
    assert bytes(frame.data) == data, f"frame {where}: its {len(data)} bytes are not those that were sent"


def _is_closed(link: Link, when: str) -> None:
    try:
        frame = link.receive(HUNG_S)
    except LinkClosedError:
        return
    except ActlinkError as error:
        raise AssertionError(f"receive() {when}: expected LinkClosedError, got {error!r}") from error
    raise AssertionError(f"receive() {when}: expected LinkClosedError, got a frame of {frame.size} bytes")


def _try_link(one: Stage) -> Link | None:
    """A link that works, if one more peer is let in."""
    try:
        link = one.link()
        link.send([Frame((b"hello",))], HUNG_S)
        link.receive(0.01)
    except LinkTimeoutError:
        one.arrival()
        return link
    except LinkError:
        return None
    return link


def _gets_nowhere(one: Stage, when: str) -> None:
    """Connecting fails, or the connection closes before anything comes."""
    try:
        link = one.link()
        link.send([Frame((b"hello",))], HUNG_S)
    except LinkError:
        return
    _is_closed(link, when)
