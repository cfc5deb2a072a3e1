"""What two actlink peers tell each other on the openpi wire. Law: everything is below one key, ``actlink``, which others ignore.

The server's greeting says the spec. Only a client that has heard it adds to its requests what the wire itself has no word for:
control step, episode, prefix, inference delay and time budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actlink.dialects import _native_fields as field
from actlink.dialects._base import Infer, Lane, Welcome
from actlink.dialects._native_spec import read_spec
from actlink.errors import RemoteProtocolError
from actlink.types import Observation

KEY = "actlink"


def write_welcome(reply: Welcome) -> dict[str, Any]:
    return {
        "server": reply.server,
        "session": reply.session,
        "episode": reply.episode,
        "deterministic": bool(reply.deterministic),
        "spec": reply.spec.to_dict(),
    }


def read_welcome(own: Any) -> Welcome:
    """``RemoteProtocolError`` unless ``own`` is what ``write_welcome`` makes; unknown keys are a newer server's and ignored."""
    message = _map(own, "metadata")
    return Welcome(
        session=field.text(message, "session", "metadata"),
        spec=read_spec(field.mapping(message, "spec", "metadata")),
        episode=field.whole(message, "episode", "metadata", 0),
        deterministic=field.flag(message, "deterministic", "metadata") if "deterministic" in message else None,
        server=field.text(message, "server", "metadata", ""),
    )


def write_infer(event: Infer) -> dict[str, Any]:
    (lane,) = event.lanes
    own: dict[str, Any] = {"episode": event.episode, "step": lane.step, "budget_ms": event.budget_ms, "prefix": lane.prefix}
    if lane.inference_delay:
        own["inference_delay"] = lane.inference_delay
    return {key: value for key, value in own.items() if value is not None}


def read_infer(own: Any, observation: Observation) -> Infer:
    message = _map(own, "observation")
    budget_ms = field.number(message, "budget_ms", KEY) if "budget_ms" in message else None
    if budget_ms is not None and budget_ms < 0:
        raise RemoteProtocolError(f"{KEY}: 'budget_ms': expected milliseconds from 0 on, got a negative number")
    lane = Lane(
        observation,
        field.whole(message, "step", KEY) if "step" in message else None,
        field.rows(message, "prefix", KEY) if "prefix" in message else None,
        field.whole(message, "inference_delay", KEY, 0),
    )
    return Infer((lane,), field.whole(message, "episode", KEY) if "episode" in message else None, budget_ms)


def _map(own: Any, where: str) -> Mapping[str, Any]:
    if type(own) is not dict:
        raise RemoteProtocolError(f"{where}[{KEY!r}]: expected a map, got a {type(own).__name__}")
    return own
