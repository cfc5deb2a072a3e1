"""LeRobot's features as fields of a spec, and observations as LeRobot's batches. Law: names and shapes; torch inside functions.

``observation.state`` is ``state``, ``observation.environment_state`` ``environment_state``, ``observation.images.front``
``images.front``, ``observation.image`` ``images.image``, the task ``prompt``. Images are ``(height, width, 3)`` uint8 here and
``(channels, height, width)`` of 0..1 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actlink.errors import ConfigError
from actlink.policies._lerobot_files import Checkpoint
from actlink.spec import STRING, Field
from actlink.types import Request

_PREFIX = "observation."
_IMAGES = "observation.images."
PROMPT = "prompt"
_WITHOUT_WORDS = frozenset({"act", "diffusion", "vqbet", "tdmpc", "sac", "gaussian_actor"})
_EMPTY_CAMERA = "empty_camera"
"""Cameras that a policy was trained to do without; LeRobot fills them in itself."""


def observation_fields(config: Any, checkpoint: Checkpoint, renames: Mapping[str, str]) -> dict[str, Field]:
    """What the robot has to give, under its own names: ``renames`` (robot's -> policy's) undone."""
    features = config.input_features or {}
    if not features or not config.output_features:
        raise ConfigError(f"{checkpoint.directory / 'config.json'}: expected input_features and output_features, got none")
    back = {policy: robot for robot, policy in renames.items()}
    fields: dict[str, Field] = {}
    for key, feature in features.items():
        if _EMPTY_CAMERA in key:
            continue
        name = key_of(back.get(key, key))
        if name in fields:
            raise ConfigError(f"{checkpoint.directory}: two inputs are both called {name!r} after renaming; check rename_map")
        fields[name] = _field(feature, f"{checkpoint.directory / 'config.json'}: input_features[{key!r}]")
    words = any("tokenizer" in name for name, _ in checkpoint.steps())
    if words or checkpoint.type not in _WITHOUT_WORDS:
        fields[PROMPT] = Field((), STRING, required=words)
    return fields


def typical(before: Any, key: str, count: int) -> tuple[tuple[float, float], ...] | None:
    """Where each of the ``count`` entries of LeRobot's ``key`` lay in training, from the normalisation; None: it does not tell."""
    for step in before.steps:
        known = (getattr(step, "stats", None) or {}).get(key)
        if not isinstance(known, Mapping):
            continue
        for low, high in (("min", "max"), ("q01", "q99")):
            if low in known and high in known:
                return _pairs(known[low], known[high], count)
        if "mean" in known and "std" in known:
            mean, std = np.asarray(known["mean"], np.float64), np.asarray(known["std"], np.float64)
            return _pairs(mean - 4 * std, mean + 4 * std, count)
    return None


def _pairs(low: Any, high: Any, count: int) -> tuple[tuple[float, float], ...] | None:
    pairs = np.stack([np.ravel(np.asarray(low, np.float64)), np.ravel(np.asarray(high, np.float64))], axis=-1)
    if pairs.shape != (count, 2) or not np.isfinite(pairs).all() or (pairs[:, 0] > pairs[:, 1]).any():
        return None
    return tuple((float(a), float(b)) for a, b in pairs)


def key_of(lerobot: str) -> str:
    """The spec's key for LeRobot's."""
    if lerobot == f"{_PREFIX}image":
        return "images.image"
    return lerobot.removeprefix(_PREFIX)


def _field(feature: Any, where: str) -> Field:
    shape = tuple(int(n) for n in feature.shape)
    if str(getattr(feature.type, "value", feature.type)) != "VISUAL":
        return Field(shape)
    if len(shape) != 3:
        raise ConfigError(f"{where}: expected an image (channels, height, width), got shape {shape}")
    channels, height, width = shape
    return Field((height, width, channels), "uint8")


class Keys:
    """Requests as the dict that LeRobot's preprocessor takes: tensors ``(batch, ...)`` under LeRobot's keys, and the tasks."""

    def __init__(self, fields: Mapping[str, Field], device: str, prompt: str | None = None) -> None:
        self._device = device
        self.prompt = prompt
        """Words of every request, in place of the requests' own."""
        self._lerobot = {key: _lerobot_key(key) for key in fields if key != PROMPT}
        self._images = frozenset(key for key, value in fields.items() if value.is_image)

    def batch(self, requests: Sequence[Request]) -> dict[str, Any]:
        """All observations have the same keys and shapes."""
        import torch

        keys = [key for key in self._lerobot if key in requests[0].observation]
        stacked = [np.stack([np.asarray(request.observation[key]) for request in requests]) for key in keys]
        tensors = [torch.from_numpy(values).to(self._device) for values in stacked]
        return self.named(dict(zip(keys, tensors, strict=True)), [str(request.observation.get(PROMPT, "")) for request in requests])

    def named(self, values: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Any]:
        """The spec's keys -> tensors ``(batch, ...)``, and a prompt for each request, as LeRobot's."""
        import torch

        batch: dict[str, Any] = {}
        for key, tensor in values.items():
            picture = key in self._images
            batch[self._lerobot[key]] = (tensor.to(torch.float32) / 255).permute(0, 3, 1, 2).contiguous() if picture else tensor
        batch["task"] = list(prompts) if self.prompt is None else [self.prompt] * len(prompts)
        return batch


def _lerobot_key(key: str) -> str:
    return f"{_PREFIX}image" if key == "images.image" else f"{_PREFIX}{key}"
