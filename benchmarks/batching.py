"""What batching across clients is worth: 8 clients against 1, with a policy whose call takes 20 ms whatever the batch.

    python benchmarks/batching.py [--quick]

The server runs in a process of its own, and so does every client; all speak the native wire over TCP. Prints one table and exits
with 1 if a figure misses its bound:

* 8 clients together get at least 6.5 times the answers of one client alone;
* one client alone waits at most 1 ms longer than the policy takes (median);
* the health page under load takes at most 3 times as long as on an idle server (median).

The figures are medians over the rounds; their smallest and largest values stand beside them.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from actlink import Field, Policy, Spec, connect
from actlink.policies._base import Result, answer
from actlink.serving.server import Server
from actlink.types import Request

POLICY_S = 0.020
CLIENTS = 8
PROBE_EVERY_S = 0.005

STATE, ACTIONS, HORIZON = 14, 14, 50
SPEC = Spec({"state": Field((STATE,))}, Field((ACTIONS,)), HORIZON, max_batch_size=64, name="twenty_milliseconds")


class TwentyMilliseconds(Policy):
    """Takes its time, once per batch, as an accelerator does."""

    spec = SPEC

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        time.sleep(POLICY_S)
        return [answer(request, np.zeros((HORIZON, ACTIONS), np.float32)) for request in requests]


@dataclass(frozen=True)
class Goal:
    """One figure and its bound."""

    name: str
    values: list[float]
    bound: float
    at_least: bool
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.median >= self.bound if self.at_least else self.median <= self.bound

    def row(self) -> str:
        sign = ">=" if self.at_least else "<="
        spread = f"{min(self.values):.2f}..{max(self.values):.2f}"
        verdict = "ok" if self.met else "MISSED"
        return f"{self.name:<52}{self.median:>8.2f} {self.unit:<3}{spread:>16}   {sign} {self.bound:g} {self.unit:<3} {verdict}"


def serve(pipe: Connection) -> None:
    """Server process: tells its addresses, and ends when the pipe is closed."""
    with Server({"slow": TwentyMilliseconds()}, ["native+tcp://127.0.0.1:0", "http://127.0.0.1:0"]) as server:
        pipe.send(server.addresses)
        pipe.poll(None)


def ask(address: str, pipe: Connection) -> None:
    """Client process: for each number of seconds it is told, asks as fast as it is answered; sends the waits beyond the policy."""
    with connect(address) as policy:
        observation = {"state": np.zeros(STATE, np.float32)}
        policy.infer_one(observation)
        pipe.send("ready")
        while (seconds := pipe.recv()) is not None:
            waits_ms = []
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                began_s = time.monotonic()
                chunk = policy.infer_one(observation)
                waits_ms.append(1e3 * (time.monotonic() - began_s) - chunk.timing["infer_ms"])
            pipe.send(waits_ms)


class Clients:
    """Client processes that wait to be told how long to ask."""

    def __init__(self, address: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=ask, args=(address, theirs), daemon=True).start()
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def start(self, count: int, seconds: float) -> None:
        """The first ``count`` begin to ask."""
        for pipe in self._pipes[:count]:
            pipe.send(seconds)

    def waits(self, count: int) -> list[list[float]]:
        """What each of them has to tell in the end."""
        return [pipe.recv() for pipe in self._pipes[:count]]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)


def probe(address: str, seconds: float) -> float:
    """Median milliseconds of a health page over one connection, asked at a steady pace."""
    host = http.client.HTTPConnection(address.rpartition("/")[2], timeout=10)
    took_ms = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        began_s = time.monotonic()
        host.request("GET", "/healthz")
        assert host.getresponse().read().startswith(b'{"status":"ok"')
        took_ms.append(1e3 * (time.monotonic() - began_s))
        time.sleep(PROBE_EVERY_S)
    host.close()
    return statistics.median(took_ms)


def measure(rounds: int, seconds: float) -> list[Goal]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,))
    server.start()
    tcp, health = ours.recv()
    clients = Clients(tcp, CLIENTS)
    ratios, extra_ms, slowdowns = [], [], []
    try:
        for _ in range(rounds):
            idle_ms = probe(health, seconds / 2)
            clients.start(1, seconds)
            (alone,) = clients.waits(1)
            clients.start(CLIENTS, seconds)
            busy_ms = probe(health, seconds)
            together = clients.waits(CLIENTS)
            ratios.append(sum(map(len, together)) / len(alone))
            extra_ms.append(statistics.median(alone))
            slowdowns.append(busy_ms / idle_ms)
            print(
                f"  one client {len(alone) / seconds:.1f}/s, {CLIENTS} clients {sum(map(len, together)) / seconds:.1f}/s; "
                f"health page {idle_ms:.2f} ms idle, {busy_ms:.2f} ms under load",
                flush=True,
            )
    finally:
        clients.close()
        ours.close()
        server.join()
    return [
        Goal(f"{CLIENTS} clients against one, answers per second", ratios, 6.5, True, "x"),
        Goal("one client alone: waiting beyond the policy, median", extra_ms, 1.0, False, "ms"),
        Goal("health page under load against idle, median", slowdowns, 3.0, False, "x"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, not how fast")
    quick = parser.parse_args().quick
    goals = measure(1 if quick else 5, 1.5 if quick else 3.0)
    print(f"{'':<52}{'median':>8} {'':<3}{'spread':>16}   bound")
    for goal in goals:
        print(goal.row())
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
