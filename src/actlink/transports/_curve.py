"""CurveZMQ: ZeroMQ's wire encrypted, both ends known by their public keys. Law: sans-I/O; what cannot be opened is refused.

The opening is HELLO and WELCOME, INITIATE and READY; then every part of a message travels in a MESSAGE. Source:
rfc.zeromq.org/spec/26, and what libzmq 4.3 sends. Boxes are NaCl's (``pip install 'actlink[curve]'``). Keys lie in files as
``zmq.auth`` writes them: 32 bytes in Z85 behind ``public-key =`` and ``secret-key =``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actlink.errors import ConfigError, MissingPackageError, RemoteProtocolError
from actlink.transports import _zmtp
from actlink.transports._zmtp import Command, Part, Piece

MECHANISM = b"CURVE"
OVERHEAD_BYTES = 64
"""More than what a MESSAGE adds to a part: its name, a nonce, flags and the seal."""

_VERSION = b"\x01\x00"
_HELLO_BYTES, _COOKIE_BYTES, _WELCOME_BYTES = 194, 96, 160
_MESSAGE = b"\x07MESSAGE"
_MORE, _COMMAND = 1, 2
_NONCE = struct.Struct(">Q")
_FROM_CLIENT, _FROM_SERVER = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"
_Z85 = {
    char: value
    for value, char in enumerate("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")
}


@dataclass(frozen=True, slots=True)
class CurveServer:
    """Keys of a listener."""

    key: Path
    """File with the server's secret key."""
    clients: Path | None = None
    """Directory with the public keys (``*.key``) of the clients that may come; None = whoever knows the server's public key."""


@dataclass(frozen=True, slots=True)
class CurveClient:
    """Keys of a client."""

    server_key: Path
    """File with the server's public key."""
    key: Path | None = None
    """File with the client's own secret key; None = a fresh one for each connection."""


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What ``CurveServer`` names."""

    secret: bytes
    clients: frozenset[bytes] | None


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What ``CurveClient`` names."""

    server: bytes
    secret: bytes


def server_keys(curve: CurveServer) -> ServerKeys:
    """``ConfigError`` for a file that holds no key, ``MissingPackageError`` without PyNaCl."""
    _require_nacl()
    clients = None
    if curve.clients is not None:
        files = sorted(curve.clients.glob("*.key"))
        if not files:
            raise ConfigError(f"curve_clients {curve.clients}: expected a directory with public keys (*.key), found none in it")
        clients = frozenset(read_key(file, "public-key", "curve_clients") for file in files)
    return ServerKeys(read_key(curve.key, "secret-key", "curve_key"), clients)


def client_keys(curve: CurveClient) -> ClientKeys:
    """As ``server_keys``."""
    _require_nacl()
    secret = os.urandom(32) if curve.key is None else read_key(curve.key, "secret-key", "curve_key")
    return ClientKeys(read_key(curve.server_key, "public-key", "curve_server_key"), secret)


def read_key(path: Path, kind: str, option: str) -> bytes:
    """The key of that kind in a file; ``ConfigError`` if there is none."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from None
    found = re.search(rf'^\s*{kind}\s*=\s*"(.{{40}})"\s*$', text, re.MULTILINE)
    if found is None or not set(found[1]) <= _Z85.keys():
        raise ConfigError(f"{option} {path}: expected a line '{kind} = \"...\"' with 40 characters (Z85), found none")
    groups = [found[1][start : start + 5] for start in range(0, 40, 5)]
    numbers = [sum(_Z85[char] * 85 ** (4 - place) for place, char in enumerate(group)) for group in groups]
    if max(numbers) >= 2**32:
        raise ConfigError(f"{option} {path}: its {kind} is not Z85")
    return b"".join(number.to_bytes(4, "big") for number in numbers)


class Traffic:
    """What one end says once both are known. Nonces only rise, so that nothing can be said twice."""

    def __init__(self, shared: bytes, ours: bytes, theirs: bytes, sent: int, heard: int) -> None:
        """``shared`` is the key of both short-term keys; ``sent`` and ``heard`` are the nonces used by the opening."""
        self._shared = shared
        self._ours, self._theirs = ours, theirs
        self._sent, self._heard = sent, heard

    def sealed(self, flags: int, payload: bytes) -> bytes:
        """A frame with one MESSAGE."""
        self._sent += 1
        nonce = _NONCE.pack(self._sent)
        return _zmtp.frame(_MESSAGE + nonce + _seal(bytes((flags,)) + payload, self._ours + nonce, self._shared))

    def message(self, body: bytes, *, delimited: bool) -> Sequence[bytes]:
        """A message of one body."""
        return ([self.sealed(_MORE, b"")] if delimited else []) + [self.sealed(0, body)]

    def command(self, name: bytes, body: bytes) -> bytes:
        return self.sealed(_COMMAND, bytes((len(name),)) + name + body)

    def opened(self, piece: Piece) -> Piece:
        """What is in a MESSAGE; ``RemoteProtocolError`` for anything else, and for one that was changed or came before."""
        if isinstance(piece, Command) or piece.more or bytes(piece.body[: len(_MESSAGE)]) != _MESSAGE:
            raise RemoteProtocolError("expected an encrypted message, got something else")
        sealed = bytes(piece.body[len(_MESSAGE) :])
        nonce = sealed[: _NONCE.size]
        plain = _open(sealed[_NONCE.size :], self._theirs + nonce, self._shared, "a message")
        (number,) = _NONCE.unpack(nonce)
        if number <= self._heard or not plain:
            raise RemoteProtocolError("an encrypted message came twice, or out of order")
        self._heard = number
        body = memoryview(bytearray(plain))[1:]
        if not plain[0] & _COMMAND:
            if plain[0] & _MORE and len(body):
                raise RemoteProtocolError("a message of several parts; expected an empty delimiter and one body")
            return Part(body, bool(plain[0] & _MORE))
        if not body or len(body) < 1 + body[0]:
            raise RemoteProtocolError("a command without its whole name")
        return Command(bytes(body[1 : 1 + body[0]]), bytes(body[1 + body[0] :]))


class ServerOpening:
    """The server's half of the opening."""

    def __init__(self, keys: ServerKeys) -> None:
        self._keys = keys
        self._short = os.urandom(32)
        self._cookie = b""
        self._theirs = b""
        self._shared = b""
        self._heard = 0

    def hear(self, command: Command) -> bytes | None:
        """What to answer; None once ``metadata`` is known."""
        if command.name == b"HELLO" and not self._cookie:
            return self._welcome(command.body)
        if command.name == b"INITIATE" and self._cookie:
            self.metadata = self._initiated(command.body)
            return None
        raise RemoteProtocolError(f"expected {'INITIATE' if self._cookie else 'HELLO'}, got {command.name[:20]!r}")

    metadata = b""
    """What the client says of itself."""

    def ready(self, metadata: bytes) -> bytes:
        """The last word of the opening."""
        nonce = _NONCE.pack(1)
        return _zmtp.command(b"READY", nonce + _seal(metadata, b"CurveZMQREADY---" + nonce, self._shared))

    def traffic(self) -> Traffic:
        return Traffic(self._shared, _FROM_SERVER, _FROM_CLIENT, sent=1, heard=self._heard)

    def _welcome(self, body: bytes) -> bytes:
        if len(body) != _HELLO_BYTES or body[:1] != _VERSION[:1]:
            raise RemoteProtocolError("HELLO: not version 1 of CurveZMQ")
        self._theirs, nonce, box = body[74:106], body[106:114], body[114:]
        shared = _shared(self._theirs, self._keys.secret)
        if _open(box, b"CurveZMQHELLO---" + nonce, shared, "HELLO: the client has another key for this server") != bytes(64):
            raise RemoteProtocolError("HELLO: expected zeros in its box")
        (self._heard,) = _NONCE.unpack(nonce)
        self._cookie = os.urandom(_COOKIE_BYTES)  # this end remembers it, so there is nothing in it
        long_nonce = os.urandom(16)
        return _zmtp.command(b"WELCOME", long_nonce + _seal(_public(self._short) + self._cookie, b"WELCOME-" + long_nonce, shared))

    def _initiated(self, body: bytes) -> bytes:
        nonce = body[_COOKIE_BYTES : _COOKIE_BYTES + 8]
        if body[:_COOKIE_BYTES] != self._cookie or len(nonce) != 8 or _NONCE.unpack(nonce)[0] <= self._heard:
            raise RemoteProtocolError("INITIATE: it does not follow this WELCOME")
        self._shared = _shared(self._theirs, self._short)
        plain = _open(body[_COOKIE_BYTES + 8 :], b"CurveZMQINITIATE" + nonce, self._shared, "INITIATE")
        client, long_nonce, vouch = plain[:32], plain[32:48], plain[48:128]
        if len(vouch) != 80:
            raise RemoteProtocolError("INITIATE: too short")
        told = _open(vouch, b"VOUCH---" + long_nonce, _shared(client, self._short), "INITIATE: its vouch")
        if told != self._theirs + _public(self._keys.secret):
            raise RemoteProtocolError("INITIATE: it vouches for another connection")
        if self._keys.clients is not None and client not in self._keys.clients:
            raise RemoteProtocolError("this client's key is not among those that may come")
        (self._heard,) = _NONCE.unpack(nonce)
        return plain[128:]


class ClientOpening:
    """The client's half of the opening."""

    def __init__(self, keys: ClientKeys) -> None:
        self._keys = keys
        self._short = os.urandom(32)
        self._shared = b""

    def hello(self) -> bytes:
        nonce = _NONCE.pack(1)
        box = _seal(bytes(64), b"CurveZMQHELLO---" + nonce, _shared(self._keys.server, self._short))
        return _zmtp.command(b"HELLO", _VERSION + bytes(72) + _public(self._short) + nonce + box)

    def initiate(self, welcome: Command, metadata: bytes) -> bytes:
        """The answer to WELCOME."""
        _expect(welcome, b"WELCOME")
        if len(welcome.body) != _WELCOME_BYTES:
            raise RemoteProtocolError("WELCOME: expected 160 bytes")
        shared = _shared(self._keys.server, self._short)
        plain = _open(welcome.body[16:], b"WELCOME-" + welcome.body[:16], shared, "WELCOME: it is not the server that was meant")
        server, cookie = plain[:32], plain[32:]
        self._shared = _shared(server, self._short)
        long_nonce, nonce = os.urandom(16), _NONCE.pack(2)
        vouch = _seal(_public(self._short) + self._keys.server, b"VOUCH---" + long_nonce, _shared(server, self._keys.secret))
        box = _seal(_public(self._keys.secret) + long_nonce + vouch + metadata, b"CurveZMQINITIATE" + nonce, self._shared)
        return _zmtp.command(b"INITIATE", cookie + nonce + box)

    def ready(self, ready: Command) -> bytes:
        """What the server says of itself."""
        _expect(ready, b"READY")
        nonce = ready.body[:8]
        plain = _open(ready.body[8:], b"CurveZMQREADY---" + nonce, self._shared, "READY")
        (self._heard,) = _NONCE.unpack(nonce)
        return plain

    def traffic(self) -> Traffic:
        return Traffic(self._shared, _FROM_CLIENT, _FROM_SERVER, sent=2, heard=self._heard)


def _expect(command: Command, name: bytes) -> None:
    if command.name == b"ERROR":
        raise RemoteProtocolError(f"turned away: {_zmtp.reason_of(command.body)}")
    if command.name != name:
        raise RemoteProtocolError(f"expected {name.decode()}, got {command.name[:20]!r}")


def _require_nacl() -> None:
    try:
        import nacl.bindings  # noqa: F401
    except ImportError:
        raise MissingPackageError("CURVE needs PyNaCl; install with: pip install 'actlink[curve]'") from None


def _public(secret: bytes) -> bytes:
    from nacl.bindings import crypto_scalarmult_base

    return crypto_scalarmult_base(secret)


def _shared(theirs: bytes, ours: bytes) -> bytes:
    from nacl.bindings import crypto_box_beforenm
    from nacl.exceptions import CryptoError

    try:
        return crypto_box_beforenm(theirs, ours)
    except CryptoError:
        raise RemoteProtocolError("not a public key") from None


def _seal(plain: bytes, nonce: bytes, shared: bytes) -> bytes:
    from nacl.bindings import crypto_box_afternm

    return crypto_box_afternm(plain, nonce, shared)


def _open(box: bytes, nonce: bytes, shared: bytes, what: str) -> bytes:
    from nacl.bindings import crypto_box_open_afternm
    from nacl.exceptions import CryptoError

    try:
        return crypto_box_open_afternm(box, nonce, shared)
    except (CryptoError, ValueError):
        raise RemoteProtocolError(f"{what}: it cannot be decrypted") from None
