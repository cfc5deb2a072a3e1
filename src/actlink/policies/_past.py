"""The last observations of an episode, for policies that look at more than one. Law: pure; what is remembered is a value.

Policies assume one observation per control step. Whoever asks once in k steps leaves gaps: each place of the history then takes the
observation that is nearest to its step in time, the older one of two equally near, the oldest at the start of an episode. For one
observation per step that is what the policies' own programs do.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

T = TypeVar("T")
Seen: TypeAlias = tuple[tuple[int, T], ...]
"""(control step, observation), oldest first."""


def with_newest(seen: Seen[T], step: int, now: T, longest: int) -> Seen[T]:
    """``seen`` with ``now`` at its end, ``longest`` at most; what was seen at the same or a later step was another time's."""
    return (*(each for each in seen if each[0] < step), (step, now))[-longest:]


def places(seen: Seen[T], length: int) -> list[T]:
    """The history that ends with the newest observation: one for each of the last ``length`` control steps, oldest first."""
    newest = seen[-1][0]
    return [_nearest(seen, newest - back) for back in range(length - 1, -1, -1)]


def _nearest(seen: Seen[T], step: int) -> T:
    return min(seen, key=lambda each: (abs(each[0] - step), each[0]))[1]
