"""What one question costs: three 480x640 cameras and a state up, a chunk of 50 actions down, and a policy that does nothing.

The last table is of a real policy of the other kind: a SAC actor (3-256-256-1, in numpy) that sees three numbers and answers with
one. It shows which control rate a reinforcement learning policy allows that is asked at every step.

    python benchmarks/roundtrip.py [--quick]

Compares `actlink.connect` to a served policy, over native+tcp and native+ws, with a bare blocking socket that moves the same bytes
and with the usual policy server (both in `_raw.py`). The served policy is a plain function and takes the way of any policy: spec,
scheduler, engine thread. Every run starts a fresh server process and a fresh client process; runs alternate between the
contestants, so that what else the machine does hits all of them. Exits with 1 if a ratio misses its accepted bound.

The bare socket is as the system makes it; "with reno" is the same with the congestion control that actlink asks for within one
machine, for comparison only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _raw import RawClient, UsualClient, announce, serve_raw, serve_usual

from actlink import ActionChunk, Field, Spec
from actlink.dialects import native
from actlink.dialects._base import Chunks, Frame, Hello, Infer, Lane, Welcome

STATE, ACTIONS, HORIZON = 14, 14, 50
CAMERAS = ("top", "left_wrist", "right_wrist")
SPEC = Spec(
    {"state": Field((STATE,)), **{f"images.{name}": Field((480, 640, 3), "uint8", required=False) for name in CAMERAS}},
    Field((ACTIONS,)),
    HORIZON,
    name="does_nothing",
)
RL_CHECKPOINT = Path(__file__).parent.parent / "compat" / "runs" / "pendulum" / "checkpoints"
RL_SPEC = Spec({"state": Field((3,))}, Field((1,)), name="pendulum_sac")
WARM_UP_TRIPS = 20

Observation = dict[str, Any]


def observations(size: str) -> Observation:
    """``large`` has the cameras, ``small`` the state alone, ``rl`` a state of three numbers."""
    rng = np.random.default_rng(0)
    observation: Observation = {"state": rng.normal(size=3 if size == "rl" else STATE).astype(np.float32)}
    if size == "large":
        observation |= {f"images.{name}": rng.integers(0, 256, (480, 640, 3), np.uint8) for name in CAMERAS}
    return observation


def wire_bytes(observation: Observation) -> tuple[int, int]:
    """Bytes of a request and of its reply on the native wire."""
    spec = RL_SPEC if len(observation["state"]) == 3 else SPEC
    server, client = native.Server(native.Config()), native.Client(native.Config())
    for frame in client.send(Hello()):
        server.receive(_received(frame))
    for frame in server.send(Welcome("session", spec)):
        client.receive(_received(frame))
    (request,) = client.send(Infer((Lane(observation, 0),), episode=0, budget_ms=60_000.0, call=1))
    (event,) = server.receive(_received(request))
    chunk = ActionChunk(np.zeros((spec.action_horizon, spec.action_dim or 0), np.float32))
    timing = dict.fromkeys(("decode_ms", "queue_ms", "infer_ms", "batch_size", "server_ms"), 0.1)
    (reply,) = server.send(Chunks((chunk,), timing, getattr(event, "call", None)))
    return request.size, reply.size


def _received(frame: Frame) -> Frame:
    return Frame((bytearray().join(frame.parts),))


# Servers, each in a process of its own


def serve_actlink() -> None:
    from actlink.policies._callable import CallablePolicy
    from actlink.serving.server import Server

    actions = np.zeros((HORIZON, ACTIONS), np.float32)
    server = Server({"nothing": CallablePolicy(lambda observation: actions, SPEC)}, ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
    server.serve(lambda: announce(" ".join(server.addresses)))


def serve_rl() -> None:
    from actlink.policies._open import open_policy
    from actlink.serving.server import Server

    server = Server({"pendulum": open_policy(str(RL_CHECKPOINT))}, ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
    server.serve(lambda: announce(" ".join(server.addresses)))


def serve_standin() -> None:
    actions = np.zeros((HORIZON, ACTIONS), np.float32)
    serve_usual(lambda observation: {"actions": actions})


# Clients, each in a process of its own


def actlink_client(scheme: str) -> Callable[[str, Observation], tuple[Callable[[], object], Callable[[], None]]]:
    def client(where: str, observation: Observation) -> tuple[Callable[[], object], Callable[[], None]]:
        from actlink import connect

        (url,) = (url for url in where.split() if url.startswith(f"native+{scheme}:"))
        policy = connect(url)
        return lambda: policy.infer_one(observation), policy.close

    return client


def raw_client(*, reno: bool) -> Callable[[str, Observation], tuple[Callable[[], object], Callable[[], None]]]:
    def client(where: str, observation: Observation) -> tuple[Callable[[], object], Callable[[], None]]:
        up, down = wire_bytes(observation)
        raw = RawClient(int(where), up, down, reno=reno)
        return raw.round_trip, raw.close

    return client


def usual_client(where: str, observation: Observation) -> tuple[Callable[[], object], Callable[[], None]]:
    client = UsualClient(int(where))
    return lambda: client.infer(observation), client.close


@dataclass(frozen=True)
class Contestant:
    serve: Callable[[], None]
    client: Callable[[str, Observation], tuple[Callable[[], object], Callable[[], None]]]


CONTESTANTS = {
    "bare socket": Contestant(serve_raw, raw_client(reno=False)),
    "bare socket, with reno": Contestant(serve_raw, raw_client(reno=True)),
    "native+tcp": Contestant(serve_actlink, actlink_client("tcp")),
    "native+ws": Contestant(serve_actlink, actlink_client("ws")),
    "usual server": Contestant(serve_standin, usual_client),
    "SAC policy, native+tcp": Contestant(serve_rl, actlink_client("tcp")),
    "SAC policy, native+ws": Contestant(serve_rl, actlink_client("ws")),
}
RL = ("bare socket", "SAC policy, native+tcp", "SAC policy, native+ws")
DOES_NOTHING = tuple(name for name in CONTESTANTS if not name.startswith("SAC"))


@dataclass(frozen=True)
class Run:
    """One run of one contestant, measured in its client."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Processor time of the client, per round trip."""
    memory_mib: float
    """Largest resident memory of the client."""


def ask(contestant: str, where: str, size: str, trips: int) -> Run:
    """In the client's process."""
    trip, close = CONTESTANTS[contestant].client(where, observations(size))
    for _ in range(WARM_UP_TRIPS):
        trip()
    took_ms = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(trips):
        began_s = time.perf_counter()
        trip()
        took_ms.append(1e3 * (time.perf_counter() - began_s))
    after = resource.getrusage(resource.RUSAGE_SELF)
    close()
    cpu_ms = 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / trips
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return Run(statistics.median(took_ms), float(np.percentile(took_ms, 99)), cpu_ms, after.ru_maxrss / unit)


def measure(contestant: str, size: str, trips: int) -> Run:
    """One run: a fresh server, a fresh client."""
    this = [sys.executable, str(Path(__file__))]
    server = subprocess.Popen([*this, "--serve", contestant], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        where = server.stdout.readline().strip()
        asked = [*this, "--ask", contestant, "--where", where, "--size", size, "--trips", str(trips)]
        answer = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
        return Run(**json.loads(answer.stdout))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def alternate(size: str, runs: int, trips: int, names: tuple[str, ...] = DOES_NOTHING) -> dict[str, list[Run]]:
    results: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(runs):
        for name in names:
            print(f"\r  {size} observation, run {number + 1} of {runs}: {name:<30}\r", end="", file=sys.stderr, flush=True)
            results[name].append(measure(name, size, trips))
    print(f"\r{'':<78}\r", end="", file=sys.stderr)
    return results


def table(results: Mapping[str, list[Run]]) -> None:
    print(f"  {'':<24}{'p50 ms':>8}{'spread':>16}{'p99 ms':>9}{'client CPU ms':>15}{'client MiB':>12}")
    for name, runs in results.items():
        p50 = [run.p50_ms for run in runs]
        rest = [statistics.median(getattr(run, key) for run in runs) for key in ("p99_ms", "cpu_ms", "memory_mib")]
        spread = f"{min(p50):.3f}-{max(p50):.3f}"
        print(f"  {name:<24}{statistics.median(p50):>8.3f}{spread:>16}{rest[0]:>9.3f}{rest[1]:>15.3f}{rest[2]:>12.0f}")


def rates(results: Mapping[str, list[Run]]) -> None:
    """Print the control rate that asking at every step allows, and the ratio to the bare socket."""
    floor = statistics.median(run.p50_ms for run in results["bare socket"])
    for name, runs in results.items():
        p50, p99 = (statistics.median(getattr(run, key) for run in runs) for key in ("p50_ms", "p99_ms"))
        print(
            f"  {name:<24}{1e3 / p50:>8,.0f} Hz at the median, {1e3 / p99:>7,.0f} Hz for 99 of 100 steps, {p50 / floor:.2f} x bare"
        )


def judge(results: Mapping[str, list[Run]]) -> bool:
    """Print the ratios beside their bounds; whether all are accepted."""
    p50 = {name: statistics.median(run.p50_ms for run in runs) for name, runs in results.items()}
    rows = [
        ("native+tcp / bare socket", p50["native+tcp"] / p50["bare socket"], 1.3, 1.6, False),
        ("native+ws / bare socket", p50["native+ws"] / p50["bare socket"], 3.0, 4.0, False),
        ("usual server / native+tcp", p50["usual server"] / p50["native+tcp"], 2.5, 2.5, True),
        ("usual server / native+ws", p50["usual server"] / p50["native+ws"], 1.5, 1.5, True),
    ]
    print(f"  {'':<28}{'ratio':>7}{'goal':>10}{'accepted':>11}")
    accepted = True
    for name, ratio, goal, bound, at_least in rows:
        sign = ">=" if at_least else "<="
        met = ratio >= bound if at_least else ratio <= bound
        reached = ratio >= goal if at_least else ratio <= goal
        verdict = "ok" if reached else "accepted" if met else "MISSED"
        print(f"  {name:<28}{ratio:>7.2f}{f'{sign} {goal:g}':>10}{f'{sign} {bound:g}':>11}   {verdict}")
        accepted &= met
    return accepted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer round trips per run")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each contestant")
    parser.add_argument("--serve", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--ask", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--where", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    parser.add_argument("--trips", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        CONTESTANTS[options.serve].serve()
        return 0
    if options.ask:
        print(json.dumps(asdict(ask(options.ask, options.where, options.size, options.trips))))
        return 0
    up, down = wire_bytes(observations("large"))
    trips = 60 if options.quick else 200
    print(f"three cameras and a state: {up:,} bytes up, {down:,} down; medians of {options.runs} runs of {trips}", flush=True)
    large = alternate("large", options.runs, trips)
    table(large)
    accepted = judge(large)
    up, down = wire_bytes(observations("small"))
    print(f"a state of {STATE} numbers: {up:,} bytes up, {down:,} down; medians of {options.runs} runs of {5 * trips}", flush=True)
    table(alternate("small", options.runs, 5 * trips))
    up, down = wire_bytes(observations("rl"))
    print(f"a SAC policy: {up:,} bytes up, {down:,} down; medians of {options.runs} runs of {25 * trips}", flush=True)
    rl = alternate("rl", options.runs, 25 * trips, RL)
    table(rl)
    rates(rl)
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main())
