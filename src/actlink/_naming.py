"""Which value of a giver is meant by the name that a policy has for it. Law: pure; where two are as likely, none is chosen."""

from __future__ import annotations

from actlink.spec import Field, Spec


def renames(wanted: Spec, offered: Spec) -> dict[str, str]:
    """Wanted key -> offered key of another name, likeliest pair first, as long as no other pair is as likely."""
    missing = [key for key, field in wanted.observation.items() if key not in offered.observation and field.required]
    spare = [key for key in offered.observation if key not in wanted.observation]
    likely = {
        (key, other): likeness
        for key in missing
        for other in spare
        if (likeness := _likeness(key, wanted.observation[key], other, offered.observation[other])) is not None
    }
    pairs: dict[str, str] = {}
    while likely:
        key, other = best = max(likely, key=lambda pair: likely[pair])
        rivals = [pair for pair in likely if pair != best and (pair[0] == key or pair[1] == other)]
        equals = [pair for pair in rivals if likely[pair] == likely[best]]
        if not equals:
            pairs[key] = other
        for pair in (best, *(equals or rivals)):
            del likely[pair]
    return pairs


def _likeness(key: str, wanted: Field, other: str, offered: Field) -> tuple[float, bool] | None:
    """How likely ``other`` is what ``key`` means: words in common, then the shape; None = it cannot be."""
    if wanted.dtype != offered.dtype or len(wanted.shape) != len(offered.shape) or wanted.is_image != offered.is_image:
        return None
    if not wanted.is_image and wanted.shape != offered.shape and not _chosen(wanted, offered):
        return None
    words, others = set(_words(key)), set(_words(other))
    return len(words & others) / max(1, len(words | others)), wanted.shape == offered.shape


def _words(key: str) -> list[str]:
    words = key.replace("/", ".").replace("_", ".").lower().split(".")
    return [_SAME.get(word, word) for word in words if word not in _EMPTY]


_EMPTY = ("", "images", "image", "observation", "cam", "camera", "rgb", "color", "view")
_SAME = {"high": "top", "overhead": "top", "ceiling": "top", "low": "front", "hand": "wrist", "gripper": "wrist"}
"""Words for the same place: ALOHA's cam_high is above the table, its cam_low before it."""


def _chosen(wanted: Field, offered: Field) -> bool:
    return bool(wanted.names and offered.names and set(wanted.names) <= set(offered.names))
