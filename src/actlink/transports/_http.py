"""As much HTTP/1.1 as a port needs to be asked for its health and to turn into a WebSocket. Law: sans-I/O; no bodies come in."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from actlink.errors import RemoteProtocolError
from actlink.transports._base import Page, Pages
from actlink.transports._buffers import STAGING_BYTES, Inbox
from actlink.transports._framing import Ended
from actlink.transports._greetings import recognise

logger = logging.getLogger("actlink.transports")

MAX_HEAD = STAGING_BYTES
MAX_HEADERS = 128
END_OF_HEAD = b"\r\n\r\n"

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_METHOD = re.compile(rb"[A-Z]{1,20}( |\Z)|\Z")


@dataclass(frozen=True, slots=True)
class Head:
    """First line and headers of a request or response. Header names are lower case; repeated ones are joined by commas."""

    first: tuple[str, str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def path(self) -> str:
        """Path of a request, without query, decoded."""
        return unquote(urlsplit(self.first[1]).path)

    def header(self, name: str) -> str:
        """Value of the header ``name`` (lower case); empty where there is none."""
        return self.headers.get(name, "")

    def lists(self, name: str, value: str) -> bool:
        """Whether the comma-separated header ``name`` contains ``value``, in any case."""
        return value in (item.strip().lower() for item in self.header(name).split(","))


def parse_head(head: bytes) -> Head:
    """``head`` up to and without the empty line; ``RemoteProtocolError`` if it is not one."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) == 2 and parts[0].startswith("HTTP/"):
        parts.append("")  # the reason phrase of a response may be missing
    if len(parts) != 3 or not first.isprintable():
        raise RemoteProtocolError(f"expected an HTTP request or response, got the line {first[:80]!r}")
    if len(lines) > MAX_HEADERS:
        raise RemoteProtocolError(f"HTTP: expected at most {MAX_HEADERS} headers, got {len(lines)}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or any(ord(char) < 32 and char != "\t" for char in value):
            raise RemoteProtocolError(f"HTTP: not a header: {line[:80]!r}")
        key = name.lower()
        if key == "host" and key in headers:
            raise RemoteProtocolError("HTTP: two Host headers")
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return Head((parts[0], parts[1], parts[2]), headers)


def parse_request(head: bytes) -> Head:
    """As ``parse_head``, and it must be a request of HTTP/1.x for a path."""
    request = parse_head(head)
    _, target, version = request.first
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target.isascii():
        raise RemoteProtocolError(f"expected an HTTP/1.1 request, got {' '.join(request.first)[:80]!r}")
    try:
        urlsplit(target)
    except ValueError as error:
        raise RemoteProtocolError(f"HTTP: not a path: {target[:80]!r}") from error
    return request


class RequestReader:
    """The one request of a peer, out of its inbox. ``spoken`` names the port's wire to a peer that speaks another."""

    def __init__(self, inbox: Inbox, spoken: str) -> None:
        self._inbox = inbox
        self._spoken = spoken

    def read(self) -> Head | Ended | None:
        """The request; or how to end what is none; None until more bytes have come."""
        staged = bytes(self._inbox.staged)
        end = staged.find(END_OF_HEAD)
        try:
            peer = recognise(staged)
            if _METHOD.match(staged) is None or (peer and peer != "HTTP"):
                says = f"speaks {peer}" if peer else "does not speak HTTP"
                raise RemoteProtocolError(f"this peer {says}; this port speaks {self._spoken}")
            if end < 0 and len(staged) < MAX_HEAD:
                _judge_first_line(staged)
                return None
            if end < 0:
                raise RemoteProtocolError(f"HTTP: the request is longer than {MAX_HEAD} bytes")
            request = parse_request(staged[:end])
        except RemoteProtocolError as error:
            return Ended(str(error), answer(400, f"{error}\n".encode()), error=True)
        self._inbox.skip(end + len(END_OF_HEAD))
        return request


def _judge_first_line(staged: bytes) -> None:
    """``RemoteProtocolError`` if it has come and is wrong: there are other wires that begin with a word and wait for an answer."""
    line, newline, _ = staged.partition(b"\n")
    if newline and not line.endswith(b"\r"):
        raise RemoteProtocolError(f"expected an HTTP request, got the line {line[:80].decode('latin-1')!r}")
    if newline:
        parse_request(line[:-1])


def answer(
    status: int,
    body: bytes,
    content_type: str = "text/plain; charset=utf-8",
    *,
    headers: Mapping[str, str] | None = None,
    head: bool = False,
) -> bytes:
    """A whole response after which the connection closes; ``head`` leaves the body out, as HEAD asks."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Cache-Control: no-store", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head else body)


def page(request: Head, pages: Pages | None, refusal: str | None = None) -> bytes:
    """The response to a plain request: a page, 404 where there is none, 405 for anything but GET and HEAD, 403 where there is a
    ``refusal``."""
    if refusal is not None:
        return answer(403, f"{refusal}\n".encode())
    if request.method not in ("GET", "HEAD"):
        return answer(405, b"only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
    try:
        found = pages(request.path) if pages is not None else None
    except Exception:
        logger.exception("the page %s failed", request.path)
        found = Page(500, b"the server failed; its log says why\n", "text/plain; charset=utf-8")
    if found is None:
        found = Page(404, b"no such page\n", "text/plain; charset=utf-8")
    return answer(found.status, found.body, found.content_type, head=request.method == "HEAD")


def refuse_greeting(start: bytes, error: RemoteProtocolError, spoken: str) -> Ended:
    """The end of a peer whose first bytes, ``start``, are no greeting of the wire ``spoken``; one that speaks HTTP is told.

    ``error`` is what is wrong with them where they are nobody's greeting.
    """
    foreign = recognise(start)
    if not foreign:
        return Ended(str(error), error=True)
    reason = f"this peer speaks {foreign}; this port speaks {spoken}"
    if foreign != "HTTP":
        return Ended(reason, error=True)
    words = f"this port speaks {spoken}, not HTTP: connect with {spoken}://HOST:PORT\n"
    return Ended(reason, answer(400, words.encode()), error=True)
