"""A client's socket: blocking, with deadlines. Law: the system's failures leave here as a ``LinkError`` that says what to check."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from actlink.address import Address
from actlink.errors import ActlinkError, ConfigError, ConnectError, LinkClosedError, LinkTimeoutError
from actlink.transports._buffers import unsent
from actlink.transports._socket_options import for_stream
from actlink.transports._tls import TlsClient, client_context, refused_later, refused_opening
from actlink.transports._tls_records import Records

_PIECES_PER_WRITE = 512  # below every system's IOV_MAX
_GATHERS = hasattr(socket.socket, "sendmsg")  # not on Windows


class Deadline:
    """A moment by which something must be over; ``timeout_s`` None is never."""

    __slots__ = ("_end_s", "timeout_s")

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds left; ``TimeoutError`` if there are none."""
        if self._end_s is None:
            return None
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class BlockingSocket:
    """Connected; used by one thread at a time."""

    def __init__(self, address: Address, timeout_s: float, tls: TlsClient | None = None) -> None:
        """``tls`` is for addresses that are TLS: ``ConfigError`` if the server cannot show who it is."""
        deadline = Deadline(timeout_s)
        context = client_context(tls or TlsClient()) if address.tls else None
        self.where = str(address)
        self._why_closed = "closed on this side"
        self._socket: socket.socket | None = _connect(address, deadline)
        self._records: Records | None = None
        if context is not None:
            try:
                self._records = self._shake_hands(context, address, deadline)
            except BaseException:
                self.shut("the TLS handshake failed")
                raise

    def send(self, pieces: Sequence[memoryview], deadline: Deadline) -> None:
        """Write all pieces. After a ``LinkTimeoutError`` half a frame may be out, so the socket is closed."""
        try:
            if self._records is None:
                self._write(pieces, deadline)
            else:
                for chunk in self._records.sealed(pieces):
                    self._write([memoryview(chunk)], deadline)
        except TimeoutError:
            self.shut("closed after a write that took too long")
            raise LinkTimeoutError(
                f"{self.where}: could not send within {deadline.timeout_s} s; the server does not read"
            ) from None
        except OSError as error:
            raise self._lost(error) from error
        except BaseException:  # Ctrl-C: half a frame may be out
            self.shut("closed after a write that was interrupted")
            raise

    def receive_into(self, buffer: memoryview, deadline: Deadline) -> int:
        """At least one byte into ``buffer``; 0 when the server has finished. ``LinkTimeoutError`` loses nothing."""
        try:
            if self._records is None:
                return self._read(buffer, deadline)
            self._open()  # what was shut stays shut, whatever is still in the records
            while True:
                count, finished = self._records.read(buffer)
                if count or finished:
                    return count
                self._feed(self._records, deadline)
        except TimeoutError:
            raise LinkTimeoutError(f"{self.where}: nothing came within {deadline.timeout_s} s") from None
        except OSError as error:
            raise self._lost(error) from error

    def shut(self, why: str) -> None:
        """Close; later calls raise ``LinkClosedError`` with ``why``."""
        if self._socket is None:
            return
        self._why_closed = why
        sock, self._socket = self._socket, None
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _shake_hands(self, context: ssl.SSLContext, address: Address, deadline: Deadline) -> Records:
        records = Records(context, address.host)
        try:
            while not records.shake_hands():
                self._write([memoryview(records.pending())], deadline)
                self._feed(records, deadline)
            self._write([memoryview(records.pending())], deadline)
        except TimeoutError:
            raise ConnectError(
                f"{address}: connected, but got no TLS handshake within {deadline.timeout_s:g} s; check the port"
            ) from None
        except OSError as error:
            with contextlib.suppress(OSError):
                self._write([memoryview(records.pending())], deadline)  # tells the server why
            refused = refused_opening(error, str(address), address.host)
            if refused is not None:
                raise refused from error
            raise ConnectError(
                f"{address}: the server closed the connection during the TLS handshake; does it speak TLS at this port?"
            ) from error
        return records

    def _feed(self, records: Records, deadline: Deadline) -> None:
        count = self._read(records.scratch, deadline)
        if count:
            records.fed(count)
        else:
            records.fed_end()

    def _write(self, pieces: Sequence[memoryview], deadline: Deadline) -> None:
        left = pieces
        while left:
            sock = self._open()
            sock.settimeout(deadline.left_s())
            left = unsent(left, sock.sendmsg(left[:_PIECES_PER_WRITE]) if _GATHERS else sock.send(left[0]))

    def _read(self, buffer: memoryview, deadline: Deadline) -> int:
        sock = self._open()
        sock.settimeout(deadline.left_s())
        return sock.recv_into(buffer)

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise LinkClosedError(f"{self.where}: {self._why_closed}")
        return self._socket

    def _lost(self, error: OSError) -> ActlinkError:
        refused = refused_later(error, self.where)
        if refused is not None:
            self.shut(str(refused))
            return refused
        reason = error.strerror or str(error)
        self.shut(f"connection lost: {reason}")
        return LinkClosedError(f"{self.where}: connection lost: {reason}")


def _connect(address: Address, deadline: Deadline) -> socket.socket:
    failure: OSError | None = None
    for family, place in _places(address):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(deadline.left_s())
            sock.connect(place)
            for_stream(sock)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise ConnectError(f"{address}: {_advice(address, failure, deadline.timeout_s)}") from failure


def _places(address: Address) -> list[tuple[int, Any]]:
    if address.path:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError(f"{address}: this system has no Unix sockets")
        return [(socket.AF_UNIX, address.path)]
    if not address.port:
        raise ConfigError(f"{address}: no port to connect to")
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError(f"{address}: no host is called {address.host!r}; check the spelling, or give its IP address") from error
    return [(family, place) for family, _, _, _, place in found]


def _advice(address: Address, failure: OSError | None, timeout_s: float | None) -> str:
    if isinstance(failure, TimeoutError):
        return f"no answer within {timeout_s:g} s; check host and port, a firewall between, and whether the machine is on"
    if isinstance(failure, ConnectionRefusedError):
        hint = "" if address.loopback else ", and whether it listens at that address rather than at 127.0.0.1"
        return f"connection refused: nothing listens there; check the port, whether the server runs{hint}"
    if isinstance(failure, FileNotFoundError):
        return "there is no such socket; check the path, and whether the server runs"
    return f"{failure.strerror or failure if failure else 'no address to try'}; check host, port and network"
