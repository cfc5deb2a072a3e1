"""IL-Studio's policy server: ``python start_policy_server.py -m ckpt/my_model -p 5000``.

The actlink way: ``actlink serve ckpt/my_model --listen 'ilstudio+tcp://0.0.0.0:5000?chunk_size=64' --allow 192.168.1.0/24``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from opening import config, fail, for_act, opened, prepare

from actlink.errors import ActlinkError
from actlink.serving.server import Server
from actlink.transports._base import Connection, Receiver

EVERY = 10
"""Requests between two lines about a client."""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve a policy to IL-Studio's clients.")
    parser.add_argument("-m", "--model_name_or_path", default="ckpt/act_sim_transfer_cube_scripted_zscore_example")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen at")
    parser.add_argument("-p", "--port", type=int, default=5000)
    parser.add_argument("--dataset_id", default="", help="which of a checkpoint's datasets; the first if empty")
    parser.add_argument("--chunk_size", type=int, default=64, help="most actions of a reply; -1 = the whole chunk")
    parser.add_argument("--device", help="cuda (default, where there is one), cpu, cuda:1")
    parser.add_argument(
        "--allow-identity-normalization",
        action="store_true",
        help="serve a checkpoint without normalize.json on numbers as they are",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NETWORK", help="who may connect; several times for several"
    )
    return parser


class Client:
    """One client, between its connection and its session: counts and tells."""

    def __init__(self, number: int, connection: Connection) -> None:
        self._name = f"Client #{number}"
        self._connection = connection
        self._requests = 0
        host, _, port = connection.peer.rpartition(":")
        print(f"✓ {self._name} connected from {(host.strip('[]'), int(port))}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def send(self, frames: Sequence[Any]) -> None:
        for _ in frames:
            self._requests += 1
            if self._requests % EVERY == 0:
                print(f"  {self._name}: {self._requests} requests processed")
        self._connection.send(frames)

    def left(self) -> None:
        if self._requests:
            print(f"  {self._name} connection closed (processed {self._requests} requests)")


class Told:
    """A session whose end is told."""

    def __init__(self, inner: Receiver, client: Client) -> None:
        self.received = inner.received
        self._inner, self._client = inner, client

    def closed(self, reason: str) -> None:
        self._client.left()
        self._inner.closed(reason)


class TalkativeServer(Server):
    """Says who comes, works and goes, in the words of the original program."""

    numbers = itertools.count(1)

    def _opened(self, one: Any, connection: Connection) -> Receiver:
        client: Any = Client(next(self.numbers), connection)
        return Told(super()._opened(one, client), client)


def main() -> int:
    given, ignored = options().parse_known_args()
    prepare()
    if ignored:
        print(f"⚠ ignored: {' '.join(ignored)}", file=sys.stderr)
    how = "Narrow it with --allow 192.168.1.0/24, open it with --allow 0.0.0.0/0"
    listen = f"ilstudio+tcp://{given.host}:{given.port}?chunk_size={given.chunk_size}"
    try:
        wanted = {"dataset_id": given.dataset_id, "allow_identity_normalization": given.allow_identity_normalization}
        chosen = for_act(given.model_name_or_path, wanted)
        if given.dataset_id and not chosen:
            print(f"⚠ ignored: --dataset_id {given.dataset_id}; this model has no datasets", file=sys.stderr)
        policy = opened(given.model_name_or_path, given.device, chosen)
        server = TalkativeServer({policy.spec.name: policy}, [listen], config(given.host, given.allow, how))
        server.serve(lambda: started(given.host, server.addresses[0].rpartition(":")[2]))
    except ActlinkError as error:
        return fail(error)
    return 0


def started(host: str, port: str) -> None:
    print(f"🚀 Policy Server started on {host}:{port}\n   Ctrl+C to stop the server\n   Waiting for connections...\n")


if __name__ == "__main__":
    raise SystemExit(main())
