"""One process, every wire: where each listens, and what a client of ours is told to get there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from actlink.client import ClientConfig, RemotePolicy, connect
from actlink.policies._base import Policy
from actlink.policies.scripted import Config, Echo
from actlink.serving.config import ServerConfig
from actlink.serving.server import Server
from actlink.spec import Spec

LISTEN = {
    "native+tcp": "native+tcp://127.0.0.1:0",
    "native+ws": "native+ws://127.0.0.1:0",
    "openpi": "openpi+ws://127.0.0.1:0",
    "lerobot": "lerobot+grpc://127.0.0.1:0",
    "ilstudio": "ilstudio+tcp://127.0.0.1:0",
    "vibe": "vibe+ws://127.0.0.1:0",
    "vibe, chunks": "vibe+ws://127.0.0.1:0?chunk=1",
    "act": "act+zmq://127.0.0.1:0",
}
"""Name in these tests -> listener. Wires that answer one action per observation are ``STEPWISE``."""

STEPWISE = ("vibe", "act")
WHOLE_CHUNKS = tuple(name for name in LISTEN if name not in STEPWISE)

PATIENCE = ClientConfig(timeout_s=30.0)
"""A request that takes longer is lost: 'hung', not 'slow'."""


class Wires:
    """A server at every address of ``LISTEN``, and clients of it."""

    def __init__(self, models: Mapping[str, Policy], names: Sequence[str] = tuple(LISTEN), **options: Any) -> None:
        """``options`` are ``ServerConfig``'s."""
        config = ServerConfig(**{"deterministic": True, "log_every_s": 0.0, **options})
        self.spec: Spec = next(iter(models.values())).spec
        self.server = Server(models, [LISTEN[name] for name in names], config)
        self._names = tuple(names)
        self._open = ExitStack()

    def url(self, name: str) -> str:
        """Where the wire is served; options of the listener are not the client's."""
        where = dict(zip(self._names, self.server.addresses, strict=True))[name]
        return where.partition("?")[0]

    def connect(self, name: str, spec: Spec | None = None) -> RemotePolicy:
        """A client, closed with the server."""
        return self._open.enter_context(connect(self.url(name), spec=spec or self.spec, config=PATIENCE))

    def __enter__(self) -> Wires:
        self._open.enter_context(self.server)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def echo(state: int = 6, action: int = 4, horizon: int = 3) -> Policy:
    """Its action is a function of the observation: the first numbers of the state."""
    return Echo(Config(state=state, action=action, horizon=horizon, batch=64))


def nonces(client: int, count: int, length: int = 6) -> Any:
    """float32 ``(count, length)``: row i says whose it is, and which; exact in float32."""
    rows = np.zeros((count, length), np.float32)
    rows[:, 0] = client
    rows[:, 1] = np.arange(count) % 4096
    rows[:, 2] = np.arange(count) // 4096
    rows[:, 3] = client * 3 + 1
    return rows
