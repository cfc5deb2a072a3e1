"""Messages of the ACT wire as plain values, written and read. Law: pure, and without memory; a misfit says what was expected.

The wording of misfits is the original program's where it has one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from actlink.errors import LocalProtocolError, RemoteProtocolError
from actlink.spec import Field, Spec
from actlink.types import Array, Observation

logger = logging.getLogger("actlink.dialects.act")

Ids = Mapping[str, Any]
"""What a client wants to see again in the reply."""

_IDS = ("episode_id", "step_id", "timestamp")
_RESERVED = frozenset(("qpos", "images", "command", *_IDS))
_LONGEST_ID = 200
_IMAGES = "images."


class Misfit(Exception):
    """Why a request cannot be carried out, in words for the client."""


# What a client says


def ids_of(value: Any) -> Ids:
    """The ids in a request, as far as they are plain: they go back as they came."""
    if type(value) is not dict:
        return {}
    return {key: value[key] for key in _IDS if key in value and _is_plain(value[key])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_ID
    return value is None or isinstance(value, bool | int | float | np.number)


def reset_status(value: Any) -> str:
    """The status that answers a reset of this form; empty if ``value`` is none."""
    if type(value) is str and value == "RESET":
        return "OK"
    if type(value) is dict and value.get("command") in ("reset_policy", "reset"):
        return "RESET_OK"
    return ""


def read_step(value: Any, spec: Spec | None) -> Observation:
    """The observation in a step; ``Misfit`` where it does not fit the spec (None: not known yet)."""
    if type(value) is not dict:
        raise Misfit(f"Expected 'RESET' or a dict with 'qpos' and 'images', got {_kind(value)}")
    fields = spec.observation if spec is not None else {}
    observation: dict[str, Array | str] = {}
    if "qpos" in value:
        observation["state"] = _qpos(value["qpos"], fields.get("state"))
    elif spec is None or _wants(fields, "state"):
        raise Misfit("Missing key in data: 'qpos'")
    observation.update(_images(value, fields))
    for key, field in fields.items():  # whatever else the policy knows travels under its own name
        if key in _RESERVED or key == "state" or key.startswith(_IMAGES) or key not in value:
            continue
        observation[key] = value[key] if field.dtype == "str" and type(value[key]) is str else _array(value[key], key)
    return observation


def _qpos(value: Any, field: Field | None) -> Array:
    qpos = _array(value, "qpos")
    want = field.shape if field is not None else (None,)
    if qpos.ndim != 1 or (want != (None,) and qpos.shape != want):
        got = str(len(qpos)) if qpos.ndim == 1 else f"an array of shape {qpos.shape}"
        names = f" Please send {', '.join(field.names)}." if field is not None and field.names else ""
        raise Misfit(f"Expected qpos dim {'of any length' if want == (None,) else want[0]}, but got {got}.{names}")
    return qpos


def _images(value: dict[str, Any], fields: Mapping[str, Field]) -> dict[str, Array]:
    wanted = [key[len(_IMAGES) :] for key in fields if key.startswith(_IMAGES) and fields[key].required]
    given = value.get("images", {} if "images" in value or not wanted else None)
    if given is None:
        raise Misfit(f"Missing key in data: 'images'; expected {', '.join(wanted)}")
    if type(given) is not dict:
        raise Misfit(f"Expected images as a dict of arrays by camera, got {_kind(given)}")
    for camera in wanted:
        if camera not in given:
            raise Misfit(f"Missing key in data: '{camera}'; expected images of {', '.join(wanted)}, got {_names(given)}")
    return {f"{_IMAGES}{camera}": _array(image, f"images[{camera!r}]") for camera, image in given.items()}


def _array(value: Any, where: str) -> Array:
    """An array as it is; a list as clients of the later generations send it."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return np.asarray(value)
    if isinstance(value, list | tuple):
        try:
            array = np.array(value)
        except (ValueError, OverflowError):
            array = np.empty(0, object)
        if array.dtype.kind in "biuf":
            return array
    raise Misfit(f"Expected {where} as an array of numbers, got {_kind(value)}")


def _wants(fields: Mapping[str, Field], key: str) -> bool:
    return key in fields and fields[key].required


def write_step(observation: Observation) -> dict[str, Any]:
    """The observation as a step: ``state`` is ``qpos``, ``images.<camera>`` go by camera, the rest keeps its names."""
    message: dict[str, Any] = {"images": {}}
    for key, value in observation.items():
        if key == "state":
            message["qpos"] = value
        elif key.startswith(_IMAGES):
            message["images"][key[len(_IMAGES) :]] = value
        elif key in _RESERVED:
            raise LocalProtocolError(f"observation[{key!r}]: this wire uses the name for something else")
        else:
            message[key] = value
    return message


# What a server says


def error_in(value: Any) -> str | None:
    """What went wrong, in the words of the server; None if nothing did."""
    if value is None:
        return "the server failed, and its wire does not say why: its log does"
    if type(value) is dict and value.get("status") == "ERROR":
        message = value.get("message")
        return message if isinstance(message, str) and message else "the server failed and did not say why"
    return None


def is_acknowledgement(value: Any) -> bool:
    return value == "OK" if type(value) is str else type(value) is dict and value.get("status") in ("OK", "RESET_OK")


def check_echo(value: Any, ids: Ids) -> None:
    """``RemoteProtocolError`` if the reply names another step than the one asked for. Servers need not echo anything."""
    for key, sent in ids.items():
        if type(value) is dict and key in value and not _same(value[key], sent):
            raise RemoteProtocolError(f"expected the reply to {key} {sent}, got the one to {str(value[key])[:40]}")


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, int | float | np.number) and one == other


def read_action(value: Any, spec: Spec | None) -> Array:
    """The action as a chunk of one row, in the spec's dtype."""
    if type(value) is dict:
        found = value.get("action", value.get("joint_positions"))
        if found is None:
            raise RemoteProtocolError(f"expected 'action' or 'joint_positions' in the reply, got {_names(value)}")
        value = found
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim not in (1, 2) or not value.size:
        raise RemoteProtocolError(f"expected an action (action_dim,), got {_kind(value)}")
    dtype = spec.action.dtype if spec is not None else "float32"
    with np.errstate(over="ignore", invalid="ignore"):  # the spec judges what comes of it
        return np.atleast_2d(value).astype(dtype)


def _kind(value: Any) -> str:
    return f"an array of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _names(value: Mapping[Any, Any]) -> str:
    return ", ".join(str(name)[:40] for name in list(value)[:12]) or "nothing"
