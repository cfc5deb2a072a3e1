"""A bad link of IP packets between two network namespaces. Law: the kernel's sockets and TCP on both sides, ours in between.

Each namespace has a TUN device; a thread of this process takes the packets that the kernel writes to one, asks the schedule, and
gives them to the other when they are due: delay, jitter, loss, duplicates, reordering, bandwidth and blackholes for everything that
runs over IP, without the kernel's netem. It needs Linux, root (CAP_NET_ADMIN and CAP_SYS_ADMIN), ``/dev/net/tun`` and
the program ``ip``; ``missing()`` says what is not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from actlink.clock import Clock, MonotonicClock
from actlink.errors import ConfigError
from actlink.link.faults import RESET, Direction, LinkConfig, Weather
from actlink.link.schedule import Schedule

NEAR, FAR = "near", "far"
PREFIX_BITS = 30

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def missing() -> str | None:
    """Why there can be no tunnel here; None where there can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces are Linux', this is {sys.platform}"
    if not _TUN.exists():
        return f"{_TUN} is not there (modprobe tun)"
    if shutil.which("ip") is None:
        return "the program 'ip' is not there (apt-get install iproute2)"
    capabilities = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    held = int(capabilities.split()[1], 16)
    if not (held >> _CAP_NET_ADMIN & 1 and held >> _CAP_SYS_ADMIN & 1):
        return "it takes root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    return None


class Tunnel:
    """Two namespaces, ``<name>-near`` and ``<name>-far``, and the link between; a context manager that leaves nothing behind."""

    def __init__(
        self, config: LinkConfig | None = None, *, name: str = "actlink", network: str = "10.77.0.0", clock: Clock | None = None
    ) -> None:
        """``network``: the first of four addresses, of which the second and third are used. ``ConfigError`` where it cannot be."""
        config = config or LinkConfig()
        if reason := missing():
            raise ConfigError(f"tunnel: {reason}")
        if any(fault.what == RESET for fault in config.parsed()):
            raise ConfigError("reset: packets know no connections; the proxy can reset one (actlink link ADDRESS)")
        self._weather = Weather(config)
        self._clock = clock or MonotonicClock()
        self.near, self.far = f"{name}-{NEAR}", f"{name}-{FAR}"
        first = network.rpartition(".")
        self.near_host, self.far_host = (f"{first[0]}.{int(first[2]) + i}" for i in (1, 2))
        self._devices: list[int] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._cut = False

    def __enter__(self) -> Tunnel:
        try:
            for space, host in ((self.near, self.near_host), (self.far, self.far_host)):
                self._make(space, host)
        except BaseException:
            self._unmake()
            raise
        self._thread = threading.Thread(target=self._shuttle, name="tunnel", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped = True
        if self._thread is not None:
            self._thread.join(5.0)
        self._unmake()

    def command(self, space: str, *words: str) -> list[str]:
        """The command line that runs ``words`` in a namespace (``near`` or ``far`` of this tunnel)."""
        return ["ip", "netns", "exec", space, *words]

    def cut(self) -> None:
        """Every packet is lost from now on, until ``mend``; beside whatever the schedule says."""
        self._cut = True

    def mend(self) -> None:
        self._cut = False

    def _make(self, space: str, host: str) -> None:
        _ip("netns", "add", space)
        self._devices.append(_in_namespace(space, lambda: _tun("tun0")))
        _ip("-n", space, "addr", "add", f"{host}/{PREFIX_BITS}", "dev", "tun0")
        for device in ("lo", "tun0"):
            _ip("-n", space, "link", "set", device, "up")

    def _unmake(self) -> None:
        while self._devices:
            os.close(self._devices.pop())
        for space in (self.near, self.far):
            with contextlib.suppress(ConfigError):
                _ip("netns", "del", space)

    def _shuttle(self) -> None:
        """Take what is there, give what is due, wait for either."""
        started_s = self._clock.now()
        near, far = self._devices
        ways: dict[int, tuple[Direction, int]] = {near: ("up", far), far: ("down", near)}
        schedules = {source: Schedule(self._weather, direction) for source, (direction, _) in ways.items()}
        numbers = {source: itertools.count() for source in ways}
        due: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()  # packets that are due at one moment leave in the order of their arrival
        while not self._stopped:
            now_s = self._clock.now() - started_s
            while due and due[0][0] <= now_s:
                _, _, target, packet = heapq.heappop(due)
                with contextlib.suppress(OSError):  # a full or closing device loses a packet, as devices do
                    os.write(target, packet)
            wait_s = min(0.1, due[0][0] - now_s) if due else 0.1
            ready, _, _ = select.select(list(ways), [], [], max(0.0, wait_s))
            now_s = self._clock.now() - started_s
            for source in ready:
                packet = os.read(source, 65536)
                _, target = ways[source]
                arrivals = schedules[source].fate(next(numbers[source]), now_s, len(packet))
                for arrival_s in () if self._cut else arrivals:
                    heapq.heappush(due, (arrival_s, next(order), target, packet))


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"ip {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _in_namespace(space: str, make: Callable[[], int]) -> int:
    """What ``make`` returns when it is called in the namespace; on a thread of its own, which alone goes there."""
    outcome: list[int | Exception] = []

    def visit() -> None:
        try:
            with open(f"/run/netns/{space}", "rb") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                    raise ConfigError(f"tunnel: namespace {space} cannot be entered: {os.strerror(ctypes.get_errno())}")
            outcome.append(make())
        except (OSError, ConfigError) as error:
            outcome.append(error)

    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    (found,) = outcome
    if isinstance(found, Exception):
        raise found if isinstance(found, ConfigError) else ConfigError(f"tunnel: {found}")
    return found


def _tun(name: str) -> int:
    """A new TUN device in the namespace of this thread, as a file descriptor that gives and takes whole IP packets."""
    import fcntl

    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"tunnel: no TUN device to be had: {error.strerror}") from error
    return descriptor
