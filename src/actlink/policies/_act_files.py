"""What the three kinds of ACT checkpoints share: how files are read, what comes of it. Law: nothing from a file is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actlink.codecs import torch_files
from actlink.errors import ConfigError
from actlink.policies._act_names import Sizes
from actlink.policies._act_scaling import Scaling
from actlink.types import Array

MOST_CAMERAS = 6
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
"""Mean and deviation of ImageNet's pixels in 0..1, per channel: what every ACT with a pretrained ResNet starts from."""
_HEADS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A camera, and what its pixels (0..255) are normalised with."""

    name: str
    mean: Array
    """float32 (3,), in 0..255."""
    std: Array
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """An ACT as its files describe it."""

    layout: str
    """``original ACT``, ``IL-Studio ACT``, ``LeRobot ACT``."""
    weights: Path
    tensors: Mapping[str, Array]
    """float32, under the names of ``_act_names``."""
    size: Sizes
    heads: int
    cameras: tuple[Camera, ...]
    state: Scaling
    """Of the whole state: joints, and the environment state behind them."""
    action: Scaling
    normalisation: str
    """Where it comes from, for people."""
    activation: str = "relu"
    control_space: str = "joint"
    control_type: str = "abs"
    execution_horizon: int | None = None
    """Actions of a chunk that the checkpoint's own program runs, where it says so."""

    def digest(self) -> str:
        """Of the weights and the normalisation."""
        total = hashlib.sha256()
        with self.weights.open("rb") as file:
            while part := file.read(1 << 20):
                total.update(part)
        total.update(self.state.content() + self.action.content())
        for camera in self.cameras:
            total.update(camera.name.encode() + camera.mean.tobytes() + camera.std.tobytes())
        total.update(f"{self.heads} {self.activation}".encode())
        return f"sha256:{total.hexdigest()[:16]}"


def tensors(path: Path) -> dict[str, Array]:
    """The tensors in ``path`` as float32 arrays; ``ConfigError`` for one with a value that is no finite number."""
    found = _safetensors(path) if path.suffix == ".safetensors" else torch_files.state_dict(path)
    single = {name: np.array(value, np.float32) for name, value in found.items() if value.dtype.kind in "fiu"}
    for name, value in single.items():
        if not np.isfinite(value).all():
            raise ConfigError(f"{path}: tensor {name!r}: expected finite numbers, it holds NaN or infinity")
    return single


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:  # numpy knows no bfloat16
            return {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as safetensors: {error}") from error


def integer(plain: Mapping[str, Any], key: str, where: str) -> int | None:
    """A number above 0, or None where there is none."""
    value = plain.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}: {key!r}: expected a number above 0, got {value!r}")
    return value


def heads_of(given: int | None, written: int | None, size: Sizes, where: str) -> int:
    """Attention heads: the option's, the files', else 8, which every program has; they must divide the hidden size."""
    heads = given or written or _HEADS
    if heads < 1 or size.hidden % heads:
        raise ConfigError(f"{where}: {heads} attention heads do not divide the hidden size {size.hidden}; give the option heads=N")
    return heads


def camera_names(given: tuple[str, ...] | None, written: Any, size: Sizes, where: str) -> tuple[str, ...]:
    """Names of the cameras: the option's, else the files'. The tensors cannot say them, for one ResNet serves all."""
    if not size.blocks:
        if given:
            raise ConfigError(f"{where}: cameras={','.join(given)}: this checkpoint sees no pictures")
        return ()
    names = given or written
    if not names:
        raise ConfigError(
            f"{where}: the checkpoint does not say what its cameras are called, nor how many there are; give them in the order of "
            "its training: --policy-options cameras=top,left_wrist"
        )
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{where}: camera names: expected a list of names, got {names!r}")
    if len(set(names)) != len(names) or len(names) > MOST_CAMERAS:
        raise ConfigError(f"{where}: camera names: expected 1 to {MOST_CAMERAS} different ones, got {', '.join(names)}")
    return tuple(names)


def listing(directory: Path) -> str:
    """What a directory holds, for an error."""
    there = sorted(entry.name for entry in directory.iterdir())
    return ", ".join(there[:12]) + (", ..." if len(there) > 12 else "") or "nothing"
