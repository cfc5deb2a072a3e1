"""A server in a process of its own, so that its memory and descriptors can be counted: ``python hardened_server.py ADDRESS...``.

Prints its addresses as a JSON list; then, for every line it reads, what it knows of its peers. It ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import sys

import numpy as np

from actlink import Field, Spec
from actlink.policies._callable import CallablePolicy
from actlink.serving.server import Server, ServerConfig
from actlink.types import Array, Observation

SPEC = Spec(observation={"state": Field((4,))}, action=Field((4,)), action_horizon=8, name="echo")


def repeat(observation: Observation) -> Array:
    return np.tile(np.asarray(observation["state"], np.float32), (8, 1))


def main(listen: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    with Server({"echo": CallablePolicy(repeat, SPEC)}, listen, ServerConfig(log_every_s=0)) as server:
        print(json.dumps(server.addresses), flush=True)
        for _ in sys.stdin:
            statistics = server.statistics()
            known = {"sessions": statistics.sessions, "total": statistics.sessions_total, "answered": statistics.answered}
            print(json.dumps(known), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
