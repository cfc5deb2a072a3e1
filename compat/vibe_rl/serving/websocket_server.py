"""``PolicyServer(policy, host, port)`` as vibe-rl has it, for any object with ``infer(obs)``, on actlink's server.

``obs`` is an array where the client sent it as ``obs`` alone, else a dict of arrays; ``infer`` answers with an action of any shape.
An actlink policy is served as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import opening

from actlink.address import Address
from actlink.dialects import _vibe_arrays as arrays
from actlink.errors import RemoteProtocolError
from actlink.policies._base import Policy, Result, answer
from actlink.serving.server import Server
from actlink.spec import Field, Spec
from actlink.types import Request
from vibe_rl.serving.trained import TrainedPolicy

logger = logging.getLogger("vibe_rl.serving")

_HOW = "To narrow that: --host 127.0.0.1 or --allow 192.168.1.0/24 (allow=[...]); to open it: --allow 0.0.0.0/0"


class PolicyServer:
    """Serves ``policy`` at ``ws://host:port``; ``allow`` names the networks that may connect (default: local ones)."""

    def __init__(self, policy: Any, host: str = "0.0.0.0", port: int = 8000, *, allow: Sequence[str] = ()) -> None:
        self.policy, self.host, self.port = policy, host, port
        self._allow = tuple(allow)
        self._served = policy.served if isinstance(policy, TrainedPolicy) else policy
        self._own = None if isinstance(self._served, Policy) else _Messages(policy)
        self._server: Server | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._made().run(self._ready)

    def run_blocking(self) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        self._made().serve(self._ready)

    @property
    def _request_count(self) -> int:
        """Requests answered."""
        if self._own is not None:
            return self._own.count
        return self._server.statistics().answered if self._server else 0

    @property
    def _total_latency_ms(self) -> float:
        """Milliseconds spent on them: decoding, inference and encoding."""
        if self._own is not None:
            return self._own.total_ms
        statistics = self._server.statistics() if self._server else None
        return statistics.latency_mean_ms * statistics.answered if statistics else 0.0

    def _made(self) -> Server:
        address = Address("vibe", "ws", self.host, self.port, options={} if self._own is None else {"raw": "true"})
        config = replace(opening.config(self.host, self._allow, _HOW), warm_up=self._own is None)
        self._server = Server({"policy": self._own or self._served}, [address], config)
        return self._server

    def _ready(self) -> None:
        assert self._server is not None
        logger.info("PolicyServer listening at %s", ", ".join(self._server.addresses))


class _Messages(Policy):
    """Reads a message's arrays, calls ``infer`` with them and writes the action, whatever their shapes are."""

    spec = Spec({"message": Field((None,), "uint8")}, Field((None,), "uint8"), name="policy")

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.count = 0
        self.total_ms = 0.0

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        started_s = time.perf_counter()
        try:
            given, _ = arrays.read(np.asarray(request.observation["message"]).data)
        except RemoteProtocolError as error:
            return error
        action = np.asarray(self._inner.infer(given["obs"] if list(given) == ["obs"] else given))
        if action.dtype.kind in "iuf":
            action = action.astype(np.float32 if action.dtype.kind == "f" else np.int32)
        latency_ms = 1e3 * (time.perf_counter() - started_s)
        message = b"".join(arrays.write({"action": action}, {"latency_ms": latency_ms}))
        self.count += 1
        self.total_ms += latency_ms
        return answer(request, np.frombuffer(message, np.uint8)[None])
