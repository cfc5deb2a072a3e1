"""A bad link for tests. Law: it is the one of ``actlink link``, opened on a free port and closed with the block.

::

    with bad_link(server_address, delay_ms=40, faults=["reset at 2 s"]) as link:
        policy = connect(str(link.address))
        link.cut()      # and, later, link.mend() or link.reset()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actlink import address
from actlink.link.faults import LinkConfig
from actlink.link.proxy import Event, Proxy


def bad_link(
    to: str, *, faults: Sequence[str] = (), seed: int = 0, log: Callable[[Event], None] | None = None, **conditions: float
) -> Proxy:
    """A proxy to the address ``to``, to be opened with ``with``; ``conditions`` are those of ``link.faults.Conditions``."""
    return Proxy(address.parse(to), LinkConfig(**conditions, faults=tuple(faults), seed=seed), log=log)
