"""The soak: many clients on every wire, one request in flight each, against a server in a process of its own.

A client here is the link and the dialect of its wire without the client's own bookkeeping, so that an answer too many is seen and
not dropped. The action is the first numbers of the state, and these say whose request it is and which:

    lost         no answer, or an error
    mismatched   an answer that is no action for any request of this client
    cross-talk   an answer to a request of another client
    duplicated   an answer to an earlier request of this client, or one after the last
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from wires_world import LISTEN, echo, nonces

from actlink import address
from actlink.dialects._base import Bye, Chunks, Failed, Hello, Infer, Lane, Welcome
from actlink.errors import ActlinkError, LinkError, LinkTimeoutError, PolicyError
from actlink.policies._base import Policy, Result
from actlink.spec import Spec
from actlink.transports._wire import wire_of
from actlink.types import ActionChunk, Request

HUNG_S = 60.0
AFTERWARDS_S = 0.2
"""How long a client listens for answers that nobody asked for, once it has all."""
FAULTS = ("lost", "duplicated", "mismatched", "cross-talk")
NEWEST_ALONE = {**LISTEN, "act": "act+zmq://127.0.0.1:0?k=1000&weights=newest"}
"""An ensemble whose weights leave the newest chunk alone: its action is a function of the observation, exactly."""

MIB = 1 << 20


# The server's process


class Faulty(Policy):
    """Keeps some bytes of every request for good; ``mixing`` loses answers, repeats them and swaps them between sessions."""

    def __init__(self, inner: Policy, leak_bytes: int, mixing: bool) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._leak_bytes = leak_bytes
        self._mixing = mixing
        self._kept: list[bytes] = []
        self._before: dict[str, Request] = {}
        self._other: Request | None = None
        self._count = 0

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        if self._leak_bytes:
            self._kept += [bytes(self._leak_bytes) for _ in requests]
        return [self._one(request) if self._mixing else self._inner.infer([request])[0] for request in requests]

    def _one(self, request: Request) -> Result:
        before, other = self._before.get(request.session, request), self._other or request
        self._before[request.session] = self._other = request
        self._count += 1
        if self._count % 40 == 0:
            return PolicyError("lost")
        asked = before if self._count % 40 == 10 else other if self._count % 40 == 20 else request
        (result,) = self._inner.infer([asked])
        return result


def serve(leak_bytes: int, mixing: bool) -> None:
    """Prints its addresses, then for each line on stdin its memory and how many requests it has answered; ends with stdin."""
    from actlink.serving.config import ServerConfig
    from actlink.serving.server import Server

    policy = Faulty(echo(), leak_bytes, mixing) if leak_bytes or mixing else echo()
    with Server({"echo": policy}, list(NEWEST_ALONE.values()), ServerConfig(log_every_s=0.0, warm_up=False)) as server:
        say(" ".join(server.addresses))
        for _ in sys.stdin:
            say(f"{private_bytes()} {server.statistics().answered}")


def private_bytes() -> int:
    """Memory that this process alone holds, as the system's page tables have it."""
    import psutil

    gc.collect()
    found: int = psutil.Process().memory_full_info().uss
    return found


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class ServerProcess:
    """The server, seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.urls = dict(zip(NEWEST_ALONE, process.stdout.readline().split(), strict=True))

    def state(self) -> tuple[int, int]:
        """Bytes of memory, and requests answered so far."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        memory, answered = map(int, self._process.stdout.readline().split())
        return memory, answered


@contextmanager
def server_process(leak_bytes: int = 0, mixing: bool = False) -> Iterator[ServerProcess]:
    command = [sys.executable, str(Path(__file__).with_name("run_soak.py")), "serve", str(leak_bytes), str(int(mixing))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield ServerProcess(process)
    finally:
        process.kill()
        process.communicate()


# The clients' processes


class Talker:
    """One client: a link, a dialect, and what came of its requests."""

    def __init__(self, url: str, spec: Spec, number: int) -> None:
        self.faults: Counter[str] = Counter()
        self._number = number
        self._asked = 0
        wire = wire_of(address.parse(url.partition("?")[0]))
        self._link = wire.transport.connect(wire.address, wire.transport_config, token=None, timeout_s=HUNG_S)
        self._dialect = wire.dialect.Client(wire.dialect_config)
        self._dialect.prepare(spec)
        said = self._dialect.send(Hello(call=0))
        self._link.send(said, HUNG_S)
        while said or self._dialect.handshake:
            if any(isinstance(reply, Welcome) for reply in self._receive(HUNG_S)):
                break

    def run(self, rows: Any) -> None:
        """Ask with each row, the next one once the answer to the one before is there."""
        for row in rows:
            try:
                self._asked += 1
                self._link.send(
                    self._dialect.send(Infer((Lane({"state": row}, self._asked),), 0, 1e3 * HUNG_S, self._asked)), HUNG_S
                )
                replies: list[Any] = []
                while not replies:
                    replies = self._receive(HUNG_S)
            except ActlinkError:
                self.faults["lost"] += 1
                continue
            self.faults["duplicated"] += len(replies) - 1
            self._judge(replies[0], row)

    def close(self) -> None:
        """Listen whether anything more comes, then leave."""
        try:
            self.faults["duplicated"] += len(self._receive(AFTERWARDS_S))
        except LinkTimeoutError:
            pass
        except LinkError:
            self.faults["lost"] += 1
        with suppress(LinkError):
            self._link.send(self._dialect.send(Bye()), 1.0)
        self._link.close()

    def _receive(self, timeout_s: float) -> list[Any]:
        return list(self._dialect.receive(self._link.receive(timeout_s)))

    def _judge(self, reply: Any, row: Any) -> None:
        result = reply.results[0] if isinstance(reply, Chunks) else None
        if isinstance(reply, Failed) or not isinstance(result, ActionChunk):
            self.faults["lost"] += 1
        elif not np.array_equal(result.actions, np.tile(row[:4], (len(result.actions), 1))):
            self.faults[_what_is_wrong(result.actions, row)] += 1


def _what_is_wrong(actions: Any, row: Any) -> str:
    whose, low, high, check = actions[0]
    if not np.array_equal(actions, np.tile(actions[0], (len(actions), 1))) or check != whose * 3 + 1:
        return "mismatched"
    if whose != row[0]:
        return "cross-talk"
    return "duplicated" if low + 4096 * high < row[1] + 4096 * row[2] else "mismatched"


@dataclass
class Share:
    """What one process does: some of the clients, each with some requests before the half-time and as many after it."""

    urls: list[str]
    first: int
    requests: int
    faults: Counter[str] = field(default_factory=Counter)


def talk(share: Share) -> None:
    """Prints ``ready``, ``half``, ``most`` (three quarters), goes on at a line on stdin each time; prints the faults at last."""
    spec = echo().spec
    talkers = [Talker(url, spec, share.first + index) for index, url in enumerate(share.urls)]
    rows = [nonces(share.first + index + 1, share.requests) for index in range(len(talkers))]
    half, most = share.requests // 2, share.requests * 3 // 4
    for word, part in (("ready", slice(half)), ("half", slice(half, most)), ("most", slice(most, None))):
        say(word)
        sys.stdin.readline()
        at_once([partial(talker.run, row[part]) for talker, row in zip(talkers, rows, strict=True)])
    say("done")
    at_once([talker.close for talker in talkers])
    for talker in talkers:
        share.faults.update(talker.faults)
    say(" ".join(str(share.faults[name]) for name in FAULTS))


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The soak


@dataclass(frozen=True)
class Outcome:
    requests: int
    answered: int
    """As the server counts them."""
    faults: dict[str, int]
    growth_bytes: int
    """Growth of the server's memory in the second half: twice that of the quieter of its quarters. What leaks grows in both; when a
    process has stood still, all clients gather once, and the server takes what that takes."""
    took_s: float

    @property
    def growth_limit_bytes(self) -> int:
        """16 MiB at most; in a short run less, or a leak would have no time to show."""
        return min(16 * MIB, 2 * MIB + 64 * (self.requests // 2))

    def problems(self) -> list[str]:
        found = [f"{name}: {count}" for name, count in self.faults.items() if count]
        if self.answered != self.requests:
            found.append(f"the server answered {self.answered} of {self.requests}")
        if self.growth_bytes > self.growth_limit_bytes:
            found.append(f"memory grew by {self.growth_bytes:,} bytes in the second half; allowed are {self.growth_limit_bytes:,}")
        return found

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in self.faults.items())
        rate = f"{self.took_s:.0f} s ({self.requests / self.took_s:,.0f}/s)"
        return (
            f"{self.requests:,} requests, {self.answered:,} answered, in {rate}: {faults}; "
            f"memory grew by {self.growth_bytes / MIB:.2f} MiB in the second half "
            f"(allowed {self.growth_limit_bytes / MIB:.2f})"
        )


def soak(
    requests: int,
    *,
    clients: int = 64,
    processes: int = 2,
    leak_bytes: int = 0,
    mixing: bool = False,
    names: Sequence[str] = tuple(LISTEN),
) -> Outcome:
    """``requests`` of ``clients``, evenly over ``names``; ``leak_bytes`` a request and ``mixing`` are wrong on purpose."""
    each = requests // clients
    with server_process(leak_bytes, mixing) as server:
        urls = [server.urls[names[index % len(names)]] for index in range(clients)]
        size = -(-clients // processes)
        workers = [_worker(urls[first : first + size], first, each) for first in range(0, clients, size)]
        try:
            _await(workers, "ready")
            began_s = time.monotonic()
            _go_on(workers)
            _await(workers, "half")
            before, _ = server.state()
            _go_on(workers)
            _await(workers, "most")
            between, _ = server.state()
            _go_on(workers)
            _await(workers, "done")
            took_s = time.monotonic() - began_s
            counts = [list(map(int, _line(worker).split())) for worker in workers]
            after, answered = server.state()
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    faults = dict(zip(FAULTS, map(sum, zip(*counts, strict=True)), strict=True))
    return Outcome(each * clients, answered, faults, 2 * min(between - before, after - between), took_s)


def _worker(urls: list[str], first: int, requests: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("run_soak.py")), "talk", str(first), str(requests), *urls]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _await(workers: Sequence[subprocess.Popen[str]], word: str) -> None:
    for worker in workers:
        found = _line(worker)
        if found != word:
            raise RuntimeError(f"a client process said {found!r} instead of {word!r}; its error is above")


def _go_on(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()
