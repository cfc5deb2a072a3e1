"""Plain HTTP that answers with health pages and nothing else: for probes that want a port of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlink.address import Address
from actlink.dialects._base import Buffer, Frame
from actlink.errors import ConfigError
from actlink.transports import _base
from actlink.transports._base import Limits, Pages
from actlink.transports._buffers import Inbox
from actlink.transports._framing import Ended, Framing, Happening
from actlink.transports._http import RequestReader, answer, page
from actlink.transports._listening import StreamListener
from actlink.transports._sites import Sites
from actlink.transports._tls import TlsClient, TlsServer


@dataclass(frozen=True, slots=True)
class Config(Limits):
    """Options of an ``http`` address."""

    hosts: tuple[str, ...] = ()
    """Names by which this server may be asked, written with commas; IP addresses, localhost and the machine's name always may."""
    origins: tuple[str, ...] = ()
    """Web pages of other hosts whose scripts may ask, as ``https://host[:port]``, written with commas."""


class Listener(StreamListener):
    """Answers GET and HEAD from ``pages``; no peer is ever opened."""

    def __init__(self, address: Address, config: Config, pages: Pages | None = None, tls: TlsServer | None = None) -> None:
        super().__init__(address, config, pages, tls)
        self._sites = Sites(address, config.hosts, config.origins)

    def _framing(self) -> Framing:
        return _PageFraming(Inbox(self._buffers), self._pages, self._sites)


def connect(
    address: Address, config: Config, *, token: str | None = None, timeout_s: float = 10.0, tls: TlsClient | None = None
) -> _base.Link:
    """No policy is reached this way: always ``ConfigError``."""
    raise ConfigError(f"{address}: http serves health pages only; connect to a ws or tcp address of that server")


class _PageFraming(Framing):
    opening = True

    def __init__(self, inbox: Inbox, pages: Pages | None, sites: Sites) -> None:
        self._inbox = inbox
        self._sites = sites
        self._requests = RequestReader(inbox, "HTTP")
        self._pages = pages

    @property
    def idle(self) -> bool:
        return self._inbox.idle

    def buffer(self) -> memoryview:
        return self._inbox.buffer()

    def filled(self, count: int) -> Iterator[Happening]:
        self._inbox.filled(count)
        found = self._requests.read()
        if isinstance(found, Ended):
            yield found
        elif found is not None:
            yield Ended(f"{found.method} {found.path[:80]}", page(found, self._pages, self._sites.refusal(found)))

    def welcome(self) -> bytes:
        return b""

    def encode(self, frame: Frame) -> Sequence[Buffer]:
        return ()

    def goodbye(self, reason: str, error: bool) -> bytes:
        return answer(503, f"{reason}\n".encode()) if reason else b""
