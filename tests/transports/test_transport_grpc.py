"""Calls over gRPC: what a client and a server see of each other, and what neither may do to the other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: the gRPC transport is NOT TESTED")

from actlink import loading  # noqa: E402
from actlink.address import parse  # noqa: E402
from actlink.dialects._base import Frame  # noqa: E402
from actlink.errors import (  # noqa: E402
    ActlinkError,
    ConfigError,
    ConnectError,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
)
from actlink.testing._transport_stage import HUNG_S, Stage, stage  # noqa: E402
from actlink.transports._base import Connection, Page  # noqa: E402

transport = loading.load("transports", "grpc")
METHOD = "/acme.Robot/Move"
RETRIES = (
    '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s",'
    ' "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
)
"""How the stock LeRobot client has its calls repeated."""


@pytest.fixture
def one() -> Iterator[Stage]:
    with stage(transport, parse("lerobot+grpc://127.0.0.1:0")) as made:
        made.reply = echo
        yield made


def echo(connection: Connection, frame: Frame) -> None:
    connection.send([Frame((b"|".join(frame.parts),), call=frame.call)])


def silent(connection: Connection, frame: Frame) -> None:
    """Answers nothing yet."""


def ask(link: Any, *parts: bytes, call: Any = 1, route: str = METHOD) -> Frame:
    link.send([Frame(parts, route=route, call=call)], HUNG_S)
    frame: Frame = link.receive(HUNG_S)
    return frame


class Raw:
    """A client of gRPC's own, one connection."""

    def __init__(self, where: Any, *, service_config: str = "{}", **metadata: str) -> None:
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.service_config", service_config),
        )
        self.channel = grpc.insecure_channel(f"{where.host}:{where.port}", options=options)
        self.metadata = tuple(metadata.items())

    def unary(self, data: bytes = b"", method: str = METHOD, **more: Any) -> Any:
        return self.channel.unary_unary(method).future(data, timeout=HUNG_S, metadata=self.metadata, **more)

    def stream(self, messages: Iterator[bytes], **more: Any) -> Any:
        return self.channel.stream_unary(METHOD).future(messages, timeout=HUNG_S, metadata=self.metadata, **more)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def refusal(call: Any) -> tuple[str, str]:
    error = call.exception(HUNG_S)
    assert isinstance(error, grpc.RpcError), f"expected a refusal, got {call.result()!r}"
    return call.code().name, call.details()


class Waiting:
    """An upload that sends ``first`` and then nothing until it is let go."""

    def __init__(self, *first: bytes) -> None:
        self._first = first
        self._go = threading.Event()

    def messages(self) -> Iterator[bytes]:
        yield from self._first
        self._go.wait(HUNG_S)

    def let_go(self) -> None:
        self._go.set()


class TestFrames:
    def test_a_call_is_a_frame_and_its_answer_finds_it(self, one: Stage) -> None:
        one.start()
        reply = ask(one.link(), b"hello", call="tag")
        frame = one.arrival().next_frame()
        assert (frame.route, frame.parts) == (METHOD, (b"hello",))
        assert (bytes(reply.data), reply.call, reply.text) == (b"hello", "tag", False)

    def test_messages_of_an_upload_are_parts(self, one: Stage) -> None:
        one.start()
        link = one.link()
        parts = tuple(bytes([n]) * size for n, size in enumerate((0, 1, 2_000_000, 70_000)))
        reply = ask(link, *parts)
        assert one.arrival().next_frame().parts == parts
        assert reply.size == sum(map(len, parts)) + 3

    def test_an_empty_call_has_one_empty_part(self, one: Stage) -> None:
        one.start()
        assert ask(one.link()).size == 0
        assert one.arrival().next_frame().parts == (b"",)

    def test_steps_of_a_call_run_in_order_until_one_brings_bytes(self, one: Stage) -> None:
        one.reply = lambda connection, frame: connection.send([Frame((b"" if frame.data != b"3" else b"!",), call=frame.call)])
        one.start()
        link = one.link()
        link.send([Frame((str(n).encode(),), route=METHOD, call=5) for n in range(1, 6)], HUNG_S)
        link.send([Frame((b"9",), route=METHOD, call=6)], HUNG_S)
        got = [link.receive(HUNG_S) for _ in range(4)]
        assert [(frame.call, bytes(frame.data)) for frame in got] == [(5, b""), (5, b""), (5, b"!"), (6, b"")]
        recorder = one.arrival()
        assert [bytes(recorder.next_frame().data) for _ in range(4)] == [b"1", b"2", b"3", b"9"]

    def test_an_error_ends_its_call_and_no_other(self, one: Stage) -> None:
        one.reply = lambda connection, frame: connection.send(
            [Frame(("schön schief".encode(),), text=True, route="FAILED_PRECONDITION", call=frame.call)]
            if frame.data == b"bad"
            else [Frame((b"fine",), call=frame.call)]
        )
        one.start()
        link = one.link()
        link.send([Frame((data,), route=METHOD, call=call) for data, call in ((b"bad", 1), (b"never", 1), (b"good", 2))], HUNG_S)
        error, fine = link.receive(HUNG_S), link.receive(HUNG_S)
        assert (error.text, error.route, error.call, bytes(error.data).decode()) == (
            True,
            "FAILED_PRECONDITION",
            1,
            "schön schief",
        )
        assert (bytes(fine.data), fine.call) == (b"fine", 2)

    def test_a_timeout_loses_nothing(self, one: Stage) -> None:
        one.reply = silent
        one.start()
        link = one.link()
        link.send([Frame((b"x",), route=METHOD)], HUNG_S)
        recorder = one.arrival()
        frame = recorder.next_frame()
        with pytest.raises(LinkTimeoutError):
            link.receive(0.01)
        one.on_loop(recorder.connection.send, [Frame((b"late",), call=frame.call)])
        assert bytes(link.receive(None).data) == b"late"

    def test_only_the_first_answer_counts(self, one: Stage) -> None:
        one.reply = lambda connection, frame: connection.send([Frame((b"1",), call=frame.call), Frame((b"2",), call=frame.call)])
        one.start()
        link = one.link()
        assert [bytes(ask(link).data) for _ in range(2)] == [b"1", b"1"]


class TestPeers:
    def test_links_are_peers_of_their_own(self, one: Stage) -> None:
        one.start()
        first, second = one.link(), one.link()
        ask(first, b"first")
        ask(second, b"second")
        recorders = one.arrival(), one.arrival()
        assert [bytes(recorder.next_frame().data) for recorder in recorders] == [b"first", b"second"]
        assert len({recorder.connection.peer for recorder in recorders}) == 2
        assert recorders[0].connection.peer.startswith("127.0.0.1:")

    def test_one_that_leaves_is_noticed_though_it_says_nothing(self, one: Stage) -> None:
        one.start()
        link = one.link()
        ask(link)
        recorder = one.arrival()
        link.close()
        link.close()
        assert recorder.end() == "the peer closed the connection"
        one.on_loop(recorder.connection.send, [Frame((b"nobody hears this",))])
        one.on_loop(recorder.connection.close)
        with pytest.raises(LinkClosedError):
            link.send([Frame((b"x",), route=METHOD)], HUNG_S)

    def test_an_idle_one_stays_unless_the_listener_says_otherwise(self, one: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "_SWEEP_S", 0.02)
        one.start(idle_s=0.05)
        link = one.link()
        ask(link)
        recorder = one.arrival()
        assert recorder.end() == "no call for 0.05 s"
        ask(link, b"again")
        assert bytes(one.arrival().next_frame().data) == b"again"

    def test_an_open_call_is_not_idle(self, one: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "_SWEEP_S", 0.01)
        one.reply = silent
        one.start(idle_s=0.01)
        link = one.link()
        link.send([Frame((b"x",), route=METHOD)], HUNG_S)
        recorder = one.arrival()
        frame = recorder.next_frame()
        with pytest.raises(LinkTimeoutError):
            link.receive(0.2)
        assert recorder.ends.empty()
        one.on_loop(recorder.connection.send, [Frame((b"y",), call=frame.call)])
        assert bytes(link.receive(HUNG_S).data) == b"y"

    def test_the_number_is_limited_and_places_become_free(self, one: Stage) -> None:
        one.start(max_connections=2)
        first, second, third = one.link(), one.link(), one.link()
        ask(first)
        ask(second)
        refused = ask(third)
        assert (refused.text, refused.route) == (True, "RESOURCE_EXHAUSTED")
        assert "2 connections" in bytes(refused.data).decode()
        one.arrival()
        recorder = one.arrival()
        second.close()
        recorder.end()
        assert bytes(ask(third, b"now").data) == b"now"
        assert bytes(ask(first, b"still").data) == b"still"

    def test_opened_may_turn_it_away(self, one: Stage) -> None:
        one.greet = lambda connection: connection.close("not today", error=True)
        one.start()
        link = one.link()
        refused = ask(link)
        assert (refused.route, bytes(refused.data)) == ("INTERNAL", b"not today")
        assert one.arrival().end() == "not today"
        one.greet = None
        assert bytes(ask(link, b"tomorrow").data) == b"tomorrow"

    def test_a_last_word_for_all_calls_outlives_the_receiver(self, one: Stage) -> None:
        def refuse(connection: Connection) -> None:
            connection.send([Frame((b"unauthorized: no",), text=True, route="UNAUTHENTICATED")])
            connection.close("no", error=True)

        one.greet = refuse
        one.start()
        refused = ask(one.link())
        assert (refused.route, bytes(refused.data)) == ("UNAUTHENTICATED", b"unauthorized: no")

    def test_closing_ends_every_open_call(self, one: Stage) -> None:
        one.reply = silent
        where = one.start()
        with Raw(where) as raw:
            calls = [raw.unary(b"x") for _ in range(5)]
            recorder = one.arrival()
            for _ in range(5):
                recorder.next_frame()
            one.on_loop(recorder.connection.close, "enough")
            assert {refusal(call) for call in calls} == {("FAILED_PRECONDITION", "enough")}
        assert recorder.end() == "enough"
        assert not recorder.late

    def test_a_receiver_that_fails_costs_its_peer_only(self, one: Stage) -> None:
        def fail(connection: Connection, frame: Frame) -> None:
            raise RuntimeError("a bug in the receiver")

        one.reply = fail
        one.start()
        failed = ask(one.link())
        assert (failed.route, bytes(failed.data)) == ("INTERNAL", b"the server failed")
        one.arrival().end()
        one.reply = echo
        assert bytes(ask(one.link(), b"y").data) == b"y"

    def test_the_token_comes_with_the_first_call(self, one: Stage) -> None:
        where = one.start()
        link = transport.connect(where, transport.Config(), token="sesame", timeout_s=HUNG_S)
        try:
            ask(link)
            assert one.arrival().connection.token == "sesame"
        finally:
            link.close()
        with Raw(where, authorization="Api-Key other") as raw:
            assert raw.unary(b"x").result(HUNG_S) == b"x"
            assert one.arrival().connection.token == "other"
            raw.metadata = (("authorization", "Bearer another"),)
            assert refusal(raw.unary(b"x"))[0] == "UNAUTHENTICATED"
            raw.metadata = (("authorization", "Basic dXNlcjpwYXNz"),)
            assert refusal(raw.unary(b"x"))[0] == "UNAUTHENTICATED"


class TestLimits:
    def test_an_upload_over_the_limit_is_refused_while_it_comes(self, one: Stage) -> None:
        where = one.start(max_frame_bytes=10_000)
        endless = Waiting(*[bytes(4000)] * 3)
        with Raw(where) as raw:
            status, details = refusal(raw.stream(endless.messages()))
            endless.let_go()
            assert (status, details) == ("RESOURCE_EXHAUSTED", "uploads of more than 10000 bytes")
            assert raw.unary(b"fine").result(HUNG_S) == b"fine"
        assert bytes(one.arrival().next_frame().data) == b"fine"

    def test_uploads_of_one_peer_share_the_limit(self, one: Stage) -> None:
        where = one.start(max_frame_bytes=10_000)
        held = [Waiting(bytes(4000)) for _ in range(3)]
        with Raw(where) as raw:
            calls = [raw.stream(upload.messages()) for upload in held]
            done = threading.Event()
            for call in calls:
                call.add_done_callback(lambda _: done.set())
            assert done.wait(HUNG_S)
            refused = [call for call in calls if call.done()]
            assert len(refused) == 1 and refused[0].code().name == "RESOURCE_EXHAUSTED"
            for upload in held:
                upload.let_go()
            assert sum(call.exception(HUNG_S) is None for call in calls) == 2

    def test_a_message_over_the_limit_is_refused(self, one: Stage) -> None:
        where = one.start(max_frame_bytes=10_000)
        with Raw(where) as raw:
            assert refusal(raw.unary(bytes(10_001)))[0] == "RESOURCE_EXHAUSTED"
            assert raw.unary(bytes(10_000)).result(HUNG_S) == bytes(10_000)

    def test_what_unpacks_to_too_much_is_refused(self, one: Stage) -> None:
        where = one.start(max_frame_bytes=100_000)
        with Raw(where) as raw:
            bomb = raw.unary(bytes(50_000_000), compression=grpc.Compression.Gzip)
            assert refusal(bomb)[0] == "RESOURCE_EXHAUSTED"
            assert raw.unary(b"alive").result(HUNG_S) == b"alive"

    def test_replies_have_limits_on_both_sides(self, one: Stage) -> None:
        one.reply = lambda connection, frame: connection.send([Frame((bytes(int(frame.data)),), call=frame.call)])
        one.start(max_frame_bytes=10_000)
        link = one.link(max_frame_bytes=5_000)
        with pytest.raises(LocalProtocolError, match="5001 bytes"):
            link.send([Frame((bytes(5_001),), route=METHOD)], HUNG_S)
        assert ask(link, b"5000").size == 5000
        assert ask(link, b"5001").route == "RESOURCE_EXHAUSTED"
        assert ask(link, b"10001").route == "INTERNAL"
        assert ask(link, b"3").size == 3

    def test_an_upload_that_stalls_is_ended(self, one: Stage) -> None:
        where = one.start(frame_s=0.5)  # not shorter: it is that of the good call as well
        stalled = Waiting(b"first")
        with Raw(where) as raw:
            status, details = refusal(raw.stream(stalled.messages()))
            stalled.let_go()
            assert (status, details) == ("ABORTED", "the upload was not finished within 0.5 s")
            assert raw.unary(b"fine").result(HUNG_S) == b"fine"
        assert one.arrival().next_frame().data == b"fine"

    def test_idle_uploads_pin_nothing(self, one: Stage) -> None:
        """With as many threads as the original server has, four of them stop everything."""
        where = one.start()
        idle = [Waiting() for _ in range(64)]
        with Raw(where) as raw, Raw(where) as other:
            calls = [raw.stream(upload.messages()) for upload in idle]
            assert all(other.unary(b"%d" % n).result(HUNG_S) == b"%d" % n for n in range(50))
            assert raw.unary(b"mine too").result(HUNG_S) == b"mine too"
            for call in calls:
                call.cancel()
            for upload in idle:
                upload.let_go()

    def test_calls_that_are_given_up_leave_nothing_behind(self, one: Stage) -> None:
        one.reply = lambda connection, frame: echo(connection, frame) if frame.data == b"last" else None
        where = one.start()
        with Raw(where) as hasty, Raw(where) as other:
            assert hasty.unary(b"last").result(HUNG_S) == b"last"  # calls that are given up before there is a connection never come
            recorder = one.arrival()
            for _ in range(20):
                calls = [hasty.unary(b"x") for _ in range(10)]
                for call in calls:
                    call.cancel()
            assert other.unary(b"last").result(HUNG_S) == b"last"
        assert recorder.end()
        one.wait(given_back(recorder.connection))
        assert recorder.connection._uploading_bytes == 0  # type: ignore[attr-defined]

    def test_an_answer_that_nobody_waits_for_is_marked_as_lost(self, one: Stage) -> None:
        one.reply = silent
        where = one.start()
        with Raw(where) as raw:
            call = raw.unary(b"x")
            recorder = one.arrival()
            handle = recorder.next_frame().call
            assert not handle.lost
            call.cancel()
            following = raw.unary(b"next")
            recorder.next_frame()
            one.wait(settled(handle))
            assert not following.done()
            one.on_loop(recorder.connection.send, [Frame((b"y",), call=handle)])
            assert handle.lost

    def test_attempts_of_grpc_itself_are_told(self, one: Stage) -> None:
        def answer(connection: Connection, frame: Frame) -> None:
            failed = Frame((b"not now",), text=True, route="UNAVAILABLE", call=frame.call)
            connection.send([failed if frame.call.attempts < 2 else Frame((b"now",), call=frame.call)])

        one.reply = answer
        where = one.start()
        with Raw(where, service_config=RETRIES) as raw:
            assert raw.unary(b"x").result(HUNG_S) == b"now"
        recorder = one.arrival()
        assert [recorder.next_frame().call.attempts for _ in range(3)] == [0, 1, 2]


async def given_back(peer: Any) -> None:
    """Until the server has noticed of each call that it was given up."""
    while peer._calls:
        await asyncio.sleep(0)


async def settled(handle: Any) -> None:
    """Until the server has noticed that the call was given up."""
    while not handle.lost:
        await asyncio.sleep(0)


class TestListener:
    def test_a_second_one_at_its_address_is_refused(self, one: Stage) -> None:
        where = one.start()
        second = transport.Listener(where, transport.Config())
        with pytest.raises(ConfigError, match=rf"{where.port}.*in use"):
            one.wait(second.start(one.opened))
        one.wait(second.close())

    def test_stopping_keeps_present_peers_and_frees_the_address_in_the_end(self, one: Stage) -> None:
        where = one.start()
        link, stranger = one.link(), one.link()
        ask(link)
        recorder = one.arrival()
        one.wait(one.listener.stop_accepting())
        assert bytes(ask(link, b"present").data) == b"present"
        refused = ask(stranger)
        assert refused.route == "FAILED_PRECONDITION" and b"shutting down" in bytes(refused.data)
        one.wait(one.listener.close())
        assert not recorder.ends.empty(), "close() returned before its peers were told"
        with pytest.raises(LinkClosedError):
            ask(link)
        with pytest.raises(LinkClosedError):
            link.receive(HUNG_S)
        one.asked = where
        one.start()
        assert bytes(ask(one.link(), b"again").data) == b"again"

    def test_a_link_does_not_go_on_with_a_server_that_came_back(self, one: Stage) -> None:
        """gRPC would connect anew by itself, to a server that knows nothing of the session."""
        where = one.start()
        link = one.link()
        ask(link)
        one.wait(one.listener.close())
        one.asked = where
        one.start()
        assert link._channel.lost.wait(HUNG_S)  # type: ignore[attr-defined]
        with pytest.raises(LinkClosedError, match="closed the connection"):
            ask(link)

    def test_open_calls_get_a_reason_when_it_closes(self, one: Stage) -> None:
        one.reply = silent
        where = one.start()
        with Raw(where) as raw:
            call = raw.unary(b"x")
            one.arrival().next_frame()
            one.wait(one.listener.close())
            assert refusal(call) == ("FAILED_PRECONDITION", "the server is shutting down")

    def test_closing_before_it_was_started_does_nothing(self) -> None:
        asyncio.run(transport.Listener(parse("lerobot+grpc://127.0.0.1:0"), transport.Config()).close())

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("lerobot+grpc://127.0.0.1", "no port"),
            ("lerobot+grpc://192.0.2.1:0", "not an address of this machine"),
        ],
    )
    def test_what_it_cannot_listen_at(self, url: str, words: str, one: Stage) -> None:
        listener = transport.Listener(parse(url), transport.Config())
        one.start()
        with pytest.raises(ConfigError, match=words):
            one.wait(listener.start(one.opened))

    def test_ipv6(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6 here: NOT TESTED")
        with stage(transport, parse("lerobot+grpc://[::1]:0")) as six:
            six.reply = echo
            try:
                six.start()
            except ConfigError:
                pytest.skip("no IPv6 here: NOT TESTED")
            assert bytes(ask(six.link(), b"six").data) == b"six"
            assert six.arrival().connection.peer.startswith("[::1]:")

    def test_garbage_harms_nobody(self, one: Stage) -> None:
        where = one.start()
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x80\x04N.", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500):
            with socket.create_connection((where.host, where.port), HUNG_S) as sock:
                sock.sendall(garbage)
        assert bytes(ask(one.link(), b"alive").data) == b"alive"
        assert one.arrivals.qsize() == 1

    def test_a_health_check_is_answered_from_the_pages(self, one: Stage) -> None:
        status = [503]
        listener = transport.Listener(one.asked, transport.Config(), lambda path: Page(status[0], b"{}"))
        one.start()
        one.wait(listener.start(one.opened))
        try:
            with Raw(one.asked.with_port(int(listener.bound.rpartition(":")[2]))) as raw:
                assert raw.unary(method="/grpc.health.v1.Health/Check").result(HUNG_S) == b"\x08\x02"
                status[0] = 200
                assert raw.unary(method="/grpc.health.v1.Health/Check").result(HUNG_S) == b"\x08\x01"
        finally:
            one.wait(listener.close())
        assert one.arrivals.empty(), "a health check is no peer"

    @pytest.mark.parametrize("options", [{"idle_s": -1.0}, {"max_frame_bytes": 0}])
    def test_options_are_checked(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            transport.Config(**options)


class TestConnecting:
    def test_nobody_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            with pytest.raises(ConnectError, match="nothing listens there"):
                transport.connect(parse(f"lerobot+grpc://127.0.0.1:{port}"), transport.Config(), timeout_s=HUNG_S)

    def test_somebody_who_speaks_something_else(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=answer_in_http, args=(server,), daemon=True).start()
            with pytest.raises(ConnectError, match="does not speak gRPC"):
                transport.connect(
                    parse(f"lerobot+grpc://127.0.0.1:{server.getsockname()[1]}"), transport.Config(), timeout_s=HUNG_S
                )

    def test_an_address_without_a_port(self) -> None:
        with pytest.raises(ConfigError):
            transport.connect(parse("lerobot+grpc://127.0.0.1"), transport.Config(), timeout_s=HUNG_S)

    def test_closing_wakes_who_waits(self, one: Stage) -> None:
        one.reply = silent
        one.start()
        link = one.link()
        link.send([Frame((b"x",), route=METHOD)], HUNG_S)
        one.arrival().next_frame()
        raised: list[ActlinkError] = []

        def wait() -> None:
            try:
                link.receive(HUNG_S)
            except ActlinkError as error:
                raised.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        link.close()
        waiting.join(HUNG_S)
        assert [type(error) for error in raised] == [LinkClosedError]


def answer_in_http(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer, contextlib.suppress(OSError):  # gRPC may have left
            peer.recv(1000)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
