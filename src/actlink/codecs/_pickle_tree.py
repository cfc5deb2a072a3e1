"""The finished value, walked once. Law: nothing leaves the decoder that is too deep, endless, or half built.

A pickle can put one container in many places, or in itself; the walk meets it in each of them, so that a value which would be
enormous when written out, or never end, runs out of its limits here. The walk goes level by level and cannot overflow the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any

from numpy import ndarray

from actlink.codecs._pickle_arrays import DTYPES, OBJECT, object_array
from actlink.codecs._pickle_records import Limits, Name, Record, Refusal, Text, shown

_SCALARS = {dtype.type for dtype in DTYPES.values()}
_LIGHT = {NoneType, bool, int, float, Name, *_SCALARS, *(type(dtype) for dtype in (*DTYPES.values(), OBJECT))}
"""Leaves that weigh nothing to speak of."""
_CONTAINERS = {dict, list, tuple, Record}


def measure(value: Any, limits: Limits) -> bool:
    """Whether byte strings or long texts still stand as views on the message (``settle`` makes them bytes and str)."""
    level: list[Any] = [(value,)]
    left, bytes_left, views = limits.operations, limits.expanded_bytes, False
    for _ in range(limits.depth + 1):
        deeper: list[Any] = []
        for node in level:
            children = _children(node)
            left -= len(children)
            if left < 0:
                raise Refusal("more values than the limit allows when shared ones are counted at each place")
            for child in children:
                kind = type(child)
                if kind in _LIGHT:
                    continue
                if kind in _CONTAINERS or (kind is ndarray and child.dtype is OBJECT):
                    deeper.append(child)
                else:
                    bytes_left -= _weight(child)
                    views = views or kind is memoryview or kind is Text
            if bytes_left < 0:
                raise Refusal("more bytes than the limit allows when shared ones are counted at each place")
        if not deeper:
            return views
        level = deeper
    raise Refusal(f"containers nested deeper than {limits.depth}, or one that contains itself")


def _children(node: Any) -> Any:
    kind = type(node)
    if kind is dict:
        return node.values()
    if kind is Record:
        return node.args, node.state
    if kind is ndarray:
        return node.ravel().tolist()
    return node


def _weight(leaf: Any) -> int:
    kind = type(leaf)
    if kind is str or kind is bytes or kind is memoryview:
        return len(leaf)
    if kind is ndarray:
        return int(leaf.nbytes)
    if kind is Text:
        return len(leaf.view)
    raise Refusal(f"{shown(leaf)} that was never completed")


def settle(value: Any, limits: Limits) -> Any:
    """``value`` with its byte strings and long texts copied out of the message, each once; call it after ``measure``."""
    done: dict[int, Any] = {}
    text_left = limits.text_bytes

    def settled(node: Any) -> Any:
        nonlocal text_left
        kind = type(node)
        if (
            kind not in _CONTAINERS
            and kind is not memoryview
            and kind is not Text
            and (kind is not ndarray or node.dtype is not OBJECT)
        ):
            return node
        if id(node) not in done:
            if kind is Text:
                text_left -= len(node.view)
                if text_left < 0:
                    raise Refusal("more text than the limit allows")
            done[id(node)] = _copied(node, settled)
        return done[id(node)]

    return settled(value)


def _copied(node: Any, settled: Callable[[Any], Any]) -> Any:
    kind = type(node)
    if kind is memoryview:
        return bytes(node)
    if kind is Text:
        return str(node.view, "utf-8")
    if kind is dict:
        return {key: settled(child) for key, child in node.items()}
    if kind is Record:
        return Record(node.module, node.name, settled(node.args), settled(node.state))
    if kind is ndarray:
        return object_array(node.shape, [settled(child) for child in _children(node)], node.flags.f_contiguous)
    return kind(settled(child) for child in node)
