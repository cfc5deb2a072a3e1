"""The transport within one process: names, ends of loops, and limits."""

from __future__ import annotations

import asyncio

import pytest
from wire_world import listening

from actlink.address import parse
from actlink.dialects._base import Frame
from actlink.errors import ConfigError, ConnectError, LinkClosedError
from actlink.testing._transport_stage import HUNG_S
from actlink.transports import memory

URL = "native+memory://robot"


def test_unknown_name_lists_the_known_ones() -> None:
    with listening(URL), pytest.raises(ConnectError, match=r"no listener of that name.*there are: robot"):
        memory.connect(parse("native+memory://somebody"), memory.Config())
    with pytest.raises(ConnectError, match="there are: none"):
        memory.connect(parse(URL), memory.Config())


def test_name_in_use() -> None:
    with listening(URL) as stage, pytest.raises(ConfigError, match="already in use by another listener of this process"):
        stage.wait(memory.Listener(parse(URL), memory.Config()).start(stage.opened))


def test_model_and_token_arrive() -> None:
    with listening(URL) as stage:
        link = memory.connect(parse(f"{URL}/arm"), memory.Config(), token="s3cret")
        connection = stage.arrival().connection
        assert (connection.model, connection.token) == ("arm", "s3cret")
        link.close()


def test_loop_that_ended_without_a_goodbye() -> None:
    loop = asyncio.new_event_loop()
    listener = memory.Listener(parse(URL), memory.Config())
    loop.run_until_complete(listener.start(lambda connection: None))  # type: ignore[arg-type, return-value]
    link = memory.connect(parse(URL), memory.Config())
    loop.close()
    with pytest.raises(LinkClosedError, match="the server has ended"):
        link.send([Frame((b"x",))], HUNG_S)
    with pytest.raises(ConnectError, match="event loop has ended"):
        memory.connect(parse(URL), memory.Config())
    link.close()
    asyncio.run(listener.stop_accepting())


def test_frame_is_the_receivers_own() -> None:
    with listening(URL) as stage:
        link, recorder = stage.pair()
        data = bytearray(b"before")
        link.send([Frame((data,))], HUNG_S)
        data[:] = b"after!"
        assert bytes(recorder.next_frame().data) == b"before"
