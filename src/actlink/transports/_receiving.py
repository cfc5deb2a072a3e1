"""A peer and the receiver made for it. Law: what a receiver raises costs its own peer the connection; the log has all of it."""

from __future__ import annotations

import logging

from actlink.dialects._base import Frame
from actlink.transports._base import Connection, Opened, Receiver

logger = logging.getLogger("actlink.transports")


def receiver_of(connection: Connection, opened: Opened) -> Receiver | None:
    """Whoever is to hear this peer; None, and the connection is closed, if there is a bug in the way."""
    try:
        return opened(connection)
    except Exception:
        logger.exception("%s: no receiver", connection.peer)
        connection.close("the server failed", error=True)
        return None


def hand_over(connection: Connection, receiver: Receiver, frame: Frame) -> None:
    """A frame of this peer to its receiver."""
    try:
        receiver.received(frame)
    except Exception:
        logger.exception("%s: the receiver failed", connection.peer)
        connection.close("the server failed", error=True)
