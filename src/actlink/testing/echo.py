"""A listener that sends every frame back. Law: what is seen at its port is the transport alone: no dialect, policy or session.

::

    python -m actlink.testing.echo native+ws://127.0.0.1:0

prints the address that was bound, and serves until SIGTERM or Ctrl-C. The address chooses the transport and its options
(``?max_frame_bytes=1000``); its dialect only names the port in messages to foreign peers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from actlink import loading, options
from actlink.address import parse
from actlink.transports._base import Connection, Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from actlink.dialects._base import Frame


class Echo:
    """The receiver of one peer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def received(self, frame: Frame) -> None:
        self._connection.send([frame])

    def closed(self, reason: str) -> None:
        """Nothing is kept of a peer, so nothing is to be forgotten."""


@asynccontextmanager
async def echoing(url: str) -> AsyncIterator[Listener]:
    """A listener at ``url`` as long as the block lasts; ``ConfigError`` for a wrong address or option."""
    address = parse(url)
    transport = loading.load("transports", address.transport)
    config = options.build(transport.Config, address.options, str(address))
    listener: Listener = transport.Listener(replace(address, options={}), config)
    await listener.start(Echo)
    try:
        yield listener
    finally:
        await listener.close()


async def _serve(url: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # where loops know no signals, Ctrl-C still raises
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with echoing(url) as listener:
        print(listener.bound, flush=True)
        await stopped.wait()


def main(arguments: list[str]) -> None:
    """Serve at the one address in ``arguments``."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m actlink.testing.echo dialect+transport://host:port[?option=value]")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
