"""Uploads over gRPC that stall or never end, and more connections than are let in: others are served, memory is bounded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hardening_world import HUNG_S, MIB, child, has_ended, opening, peers

from actlink.address import Address
from actlink.dialects._lerobot_messages import pieces

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: uploads over gRPC are NOT TESTED")

SERVICE = "/transport.AsyncInference/"
STREAMS = 64
PEERS = 8
LIMIT = 4 * MIB


class Robot:
    """A client of gRPC's own, one connection."""

    def __init__(self, address: Address) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
        self._channel = grpc.insecure_channel(f"{address.host}:{address.port}", options=options)

    def ready(self) -> Any:
        """The status of a small call."""
        call = self._channel.unary_unary(f"{SERVICE}Ready").future(b"", timeout=HUNG_S, wait_for_ready=True)
        return call.code().name

    def upload(self, messages: Iterator[bytes], **more: Any) -> Any:
        return self._channel.stream_unary(f"{SERVICE}SendObservations").future(messages, timeout=HUNG_S, **more)

    def __enter__(self) -> Robot:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()


def idle(first: bytes, released: threading.Event) -> Iterator[bytes]:
    """The beginning of an upload, and then nothing."""
    yield first
    released.wait(HUNG_S)


def middle_chunks(sent: list[int], ended: threading.Event) -> Iterator[bytes]:
    """An upload without end: 256 MiB of chunks, none of them the last."""
    chunk = pieces([bytes(10 * MIB)])[1]
    while sent[0] < 256 * MIB and not ended.is_set():
        sent[0] += len(chunk)
        yield chunk


def test_idle_uploads_keep_nobody_waiting_and_end(tmp_path: Path) -> None:
    released = threading.Event()
    with child(tmp_path, "?frame_s=1", ["grpc"]) as server, contextlib.ExitStack() as stack:
        address = server.addresses["grpc"]
        begin = pieces([bytes(10 * MIB)])[0]
        robots = [stack.enter_context(Robot(address)) for _ in range(PEERS)]
        stack.callback(released.set)
        calls = [robots[number % PEERS].upload(idle(begin, released)) for number in range(STREAMS)]
        served_s = [server.serves(["grpc"])]
        while sum(not call.done() for call in calls) == STREAMS:
            served_s.append(server.serves(["grpc"]))
        ends = [call.code().name for call in calls]
        assert ends == ["ABORTED"] * STREAMS
        assert "not finished within 1 s" in calls[0].details()
        assert [robot.ready() for robot in robots] == ["OK"] * PEERS, "the connections are as good as before"
        print(
            f"{STREAMS} idle uploads of {PEERS} peers, {len(set(ends))} kind of end; meanwhile {len(served_s)} good clients, "
            f"the slowest {max(served_s) * 1000:.0f} ms"
        )


def test_uploads_without_end_are_refused_at_the_limit(tmp_path: Path) -> None:
    with child(tmp_path, f"?max_frame_bytes={LIMIT}", ["grpc"]) as server, contextlib.ExitStack() as stack:
        before = server.memory("VmHWM")
        robots = [stack.enter_context(Robot(server.addresses["grpc"])) for _ in range(PEERS)]
        sent = [[0] for _ in robots]
        ended = [threading.Event() for _ in robots]
        calls = [robot.upload(middle_chunks(*one)) for robot, *one in zip(robots, sent, ended, strict=True)]
        for call, end in zip(calls, ended, strict=True):
            assert call.code().name == "RESOURCE_EXHAUSTED"
            assert f"more than {LIMIT} bytes" in call.details()
            end.set()
        most = max(count for (count,) in sent)
        grown = server.memory("VmHWM") - before
        served_s = server.serves(["grpc"])
        assert [robot.ready() for robot in robots] == ["OK"] * PEERS
        print(
            f"{PEERS} uploads without end refused, at most {most / MIB:.1f} MiB of one were sent;",
            f"memory at most +{grown / MIB:.1f} MiB; then a good request in {served_s * 1000:.0f} ms",
        )
        assert most < 64 * MIB
        assert grown < PEERS * 4 * LIMIT


def test_a_compressed_bomb_is_refused_at_the_limit(tmp_path: Path) -> None:
    """A few kilobytes of gzip that would be 256 MiB: refused by what they would unpack to."""
    bomb = bytes(256 * MIB)
    with child(tmp_path, f"?max_frame_bytes={LIMIT}", ["grpc"]) as server, Robot(server.addresses["grpc"]) as robot:
        before = server.memory("VmHWM")
        call = robot.upload(iter([bomb]), compression=grpc.Compression.Gzip)
        assert call.code().name == "RESOURCE_EXHAUSTED"
        grown = server.memory("VmHWM") - before
        served_s = server.serves(["grpc"])
        assert robot.ready() == "OK"
        print(
            f"a gzip bomb of 256 MiB refused: {call.details()}; memory at most +{grown / MIB:.1f} MiB; served in {served_s:.3f} s"
        )
        assert grown < 8 * LIMIT


def http2(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One frame of HTTP/2."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def headers(method: str) -> bytes:
    """What begins a call, written out without HPACK's tables."""
    fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    words = ((name.encode(), value.encode()) for name, value in fields.items())
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in words)


def test_calls_begun_and_reset_ten_thousand_times(tmp_path: Path) -> None:
    """The attack that is known as rapid reset (CVE-2023-44487)."""
    calls, block = 10_000, headers(f"{SERVICE}Ready")
    with child(tmp_path, ports=["grpc"]) as server:
        before = server.memory("VmHWM")
        with peers(server.addresses["grpc"], 1) as (sock,):
            sock.sendall(opening("grpc", server.addresses["grpc"]))
            empty = bytes(5)  # one message, not compressed, without content
            sock.sendall(http2(1, 4, 1, block) + http2(0, 1, 1, empty))
            heard = b""
            while http2(0, 0, 1, empty) not in heard:  # a call of this kind is a good one, if it is not reset
                heard += (more := sock.recv(1000))
                assert more, heard
            sent, served_s = 0, [server.serves(["grpc"])]
            with contextlib.suppress(ConnectionError):
                for sent in range(0, calls, 100):
                    streams = range(2 * sent + 3, 2 * (sent + 100) + 3, 2)
                    data = b"".join(http2(1, 4, n, block) + http2(3, 0, n, (8).to_bytes(4, "big")) for n in streams)
                    sock.sendall(data)
                    if has_ended(sock):
                        break
                    if sent % 1000 == 0:
                        served_s.append(server.serves(["grpc"]))
            served_s.append(server.serves(["grpc"]))
        grown = server.memory("VmHWM") - before
        print(
            f"{sent + 100} calls begun and reset; {len(served_s)} good clients, the slowest {max(served_s) * 1000:.0f} ms;",
            f"memory at most +{grown / MIB:.1f} MiB",
        )
        assert grown < 64 * MIB
        server.settled(lambda: server.known()["sessions"] == 0)


def test_connections_are_capped(tmp_path: Path) -> None:
    with child(tmp_path, "?max_connections=20", ["grpc"]) as server:
        address = server.addresses["grpc"]
        with contextlib.ExitStack() as stack:
            before = server.descriptors()
            let_in = [stack.enter_context(Robot(address)) for _ in range(20)]
            server.settled(lambda: server.known()["sessions"] == 0)
            assert [robot.ready() for robot in let_in] == ["OK"] * 20
            beyond = [stack.enter_context(Robot(address)) for _ in range(10)]
            assert [robot.ready() for robot in beyond] == ["RESOURCE_EXHAUSTED"] * 10
            with peers(address, 200):
                server.settled(lambda: server.descriptors() <= before + 20 + 64)
                print(f"20 let in, 10 told that it is full, 200 more: {server.descriptors() - before} descriptors")
        server.settled(lambda: server.descriptors() <= before + 2)
        server.serves(["grpc"])
