"""What TLS costs: the round trip of `roundtrip.py` over tcp and ws, and over the same wires within TLS.

    python benchmarks/tls.py [--quick]

One server process listens at all four addresses, one client asks them in turn, so that what else the machine does hits all alike.
Prints medians and the ratio of each wire to itself without TLS; it has no bound to miss.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import trustme
from roundtrip import ACTIONS, HORIZON, SPEC, observations

from actlink import Credentials, RemotePolicy, connect
from actlink.policies._callable import CallablePolicy
from actlink.serving.server import Server, ServerConfig

WIRES = ("tcp", "tcps", "ws", "wss")
WARM_UP_TRIPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer trips: shows that it runs, not what it costs")
    trips = 30 if parser.parse_args().quick else 400
    with tempfile.TemporaryDirectory() as directory:
        authority, papers = trustme.CA(), Path(directory)
        authority.cert_pem.write_to_path(str(papers / "ca.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(papers / "server.pem"))
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(papers / "server.pem", theirs), daemon=True)
        server.start()
        links = [connect(url, credentials=Credentials(tls_ca=papers / "ca.pem")) for url in ours.recv()]
        for size in ("large", "small"):
            print(table(size, measure(links, observations(size), trips)))
        for link in links:
            link.close()
        ours.send("over")
        server.join()


def serve(paper: Path, parent: Connection) -> None:
    """Body of the server process."""
    actions = np.zeros((HORIZON, ACTIONS), np.float32)
    config = ServerConfig(tls_certificate=paper, log_every_s=0.0)
    listen = [f"native+{wire}://127.0.0.1:0" for wire in WIRES]
    with Server({"does_nothing": CallablePolicy(lambda _: actions, SPEC)}, listen, config) as server:
        parent.send(server.addresses)
        parent.recv()


def measure(links: Sequence[RemotePolicy], observation: dict[str, object], trips: int) -> list[float]:
    """Median milliseconds of each link; they take turns."""
    times: list[list[float]] = [[] for _ in links]
    for trip in range(WARM_UP_TRIPS + trips):
        for link, own in zip(links, times, strict=True):
            started_s = time.perf_counter()
            link.infer_one(observation)  # type: ignore[arg-type]
            if trip >= WARM_UP_TRIPS:
                own.append(1e3 * (time.perf_counter() - started_s))
    return [statistics.median(own) for own in times]


def table(size: str, medians: Sequence[float]) -> str:
    plain = {"tcps": medians[0], "wss": medians[2]}
    rows = [
        f"  {wire:<5} {median:7.3f} ms" + (f"   {median / plain[wire]:.2f}x {wire[:-1]}" if wire in plain else "")
        for wire, median in zip(WIRES, medians, strict=True)
    ]
    what = "three 480x640 cameras and a state up" if size == "large" else "a state up"
    return "\n".join([f"{what}, {HORIZON} actions down", *rows])


if __name__ == "__main__":
    main()
