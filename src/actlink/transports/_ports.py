"""Binding an address, and who is in the way. Law: an address that cannot be bound says why and what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from actlink.address import Address
from actlink.errors import ConfigError

BACKLOG = 512


def bind(address: Address) -> list[socket.socket]:
    """Listening, non-blocking sockets for the address: one for each that its host resolves to. ``ConfigError`` if it cannot be."""
    if address.path:
        return [_bind_path(address)]
    if address.port is None:
        raise ConfigError(f"{address}: no port to listen at")
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"{address}: {address.host!r} is not a host of this machine ({error.strerror})") from error
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, _, _, _, place in dict.fromkeys(found):
            port = sockets[0].getsockname()[1] if sockets else place[1]  # port 0: the same free one for IPv4 and IPv6
            try:
                sockets.append(_bind(family, (place[0], port, *place[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # localhost is often also ::1 where there is no IPv6
        if absent is not None and not sockets:
            raise absent
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise _cannot(address, error) from error
    return sockets


def _bind(family: int, place: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_path(address: Address) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{address}: this system has no Unix sockets")
    path = Path(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            path.unlink()  # left behind by a server that was killed
        sock.bind(address.path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{address}: in use by another server; find out who: ss -lxp 'src = {address.path}'") from error
        raise ConfigError(f"{address}: {error.strerror}") from error
    return sock


def _is_abandoned(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _cannot(address: Address, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        port = address.port or 0
        holder = holder_of(port)
        whom = f"already in use by {holder}" if holder else "already in use"
        return ConfigError(f"{address}: port {port} is {whom}; find out more: ss -ltnp 'sport = :{port}'; or choose another port")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{address}: {address.host!r} is not an address of this machine; 0.0.0.0 means all of them")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"{address}: not permitted; ports below 1024 are reserved, choose a higher one")
    return ConfigError(f"{address}: {error.strerror or error}")


def holder_of(port: int) -> str:
    """The process that listens at the port, as ``name (pid 123)``; empty where this cannot be found out."""
    try:
        pid = _pid_by_proc(port) if Path("/proc/net/tcp").exists() else _pid_by_psutil(port)
    except (OSError, ValueError):
        return ""
    if pid is None:
        return ""
    if pid == os.getpid():
        return f"this very process (pid {pid})"
    return f"{_name_of(pid)} (pid {pid})"


def _pid_by_proc(port: int) -> int | None:
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(entry) in inodes for entry in descriptors.iterdir()):
                return int(descriptors.parent.name)
        except OSError:
            continue  # another user's, or gone
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A = listening
                yield columns[9]


def _pid_by_psutil(port: int) -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for one in found:
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port:
            return one.pid
    return None


def _name_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "a process"
    return b" ".join(words).decode(errors="replace").strip()[:80] or "a process"
