"""ACT checkpoints: the original's policy_best.ckpt, IL-Studio's directories, LeRobot's of type act.

One network for all three (``_act_network``), its sizes read off the tensors; nothing in a checkpoint is run, and none of the three
programs needs to be installed. ``docs/checkpoints.md`` says what each layout consists of.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np

from actlink import loading
from actlink.errors import ConfigError, PolicyError
from actlink.policies import _act_ilstudio, _act_lerobot, _act_original, _lerobot_files, _torch
from actlink.policies._act_files import Camera, Checkpoint
from actlink.policies._act_scaling import Scaling
from actlink.policies._base import Exportable, Policy, Result, answer
from actlink.spec import Field, Spec
from actlink.types import Array, Request, Runtime

REQUIRES = ("torch", "safetensors")
EXTRA = "act"
LOOKS_FOR = (
    "policy_best.ckpt (policy_last, policy_epoch_<n>) with dataset_stats.pkl, policy_metadata.json of IL-Studio's ACT, or "
    "LeRobot's config.json of type act"
)
_MOST_WITH_CAMERAS, _MOST_WITHOUT = 16, 64


@dataclass(frozen=True, slots=True)
class Config:
    """Options of the family."""

    cameras: tuple[str, ...] | None = None
    """Names of the cameras in the order of the training, where the checkpoint does not say them: top,left_wrist."""
    image_size: tuple[int, int] | None = None
    """Height and width of the pictures, e.g. 480,640; None = what the checkpoint says, else any."""
    heads: int | None = None
    """Attention heads, the only size that no tensor shows; None = what the checkpoint says, else 8."""
    dataset_id: str = ""
    """IL-Studio: which of the checkpoint's datasets it is normalised for; empty = the first."""
    allow_identity_normalization: bool = False
    """Run a checkpoint that comes without its statistics on numbers as they are."""
    rate_hz: float | None = None
    """Control steps per second that it was trained with; no layout says it."""
    max_batch_size: int | None = None
    """Requests per call; None = 16 with cameras, 64 without."""


def recognises(path: Path) -> bool:
    """Whether one of the three layouts is at ``path``."""
    return _act_original.weights_of(path) is not None or _act_ilstudio.is_one(path) or _lerobot_place(path) is not None


def _lerobot_place(path: Path) -> Path | None:
    """The LeRobot directory of type act at ``path`` or where a training run keeps it."""
    place = _lerobot_files.place_of(path)
    return place if place is not None and _lerobot_files.type_of(place) == _act_lerobot.TYPE else None


def load(source: str, config: Config, runtime: Runtime) -> Policy:
    """The policy at ``source``. ``ConfigError`` says which file is missing or wrong, and how."""
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(f"{path}: no such file or directory; expected {LOOKS_FOR}")
    loading.require(sys.modules[__name__])
    _torch.device(runtime)  # before anything is read: what is not there is said at once
    return ActPolicy(read(path, config), config, runtime)


def read(path: Path, config: Config) -> Checkpoint:
    """The checkpoint at ``path`` in whichever layout it is."""
    weights, lerobot = _act_original.weights_of(path), _lerobot_place(path)
    cameras, heads, identity = config.cameras, config.heads, config.allow_identity_normalization
    if _act_ilstudio.is_one(path):
        chosen = config.dataset_id
        return _act_ilstudio.read(path, dataset_id=chosen, cameras=cameras, heads=heads, identity=identity)
    if config.dataset_id:
        raise ConfigError(f"{path}: dataset_id={config.dataset_id}: only IL-Studio's checkpoints have several datasets")
    if weights is not None:
        return _act_original.read(weights, cameras=cameras, heads=heads, identity=identity)
    if lerobot is None:
        raise ConfigError(f"{path}: no ACT checkpoint; expected {LOOKS_FOR}")
    if cameras:
        raise ConfigError(f"{path}: cameras={','.join(cameras)}: this checkpoint names its cameras; use a transform to rename them")
    return _act_lerobot.read(lerobot, heads=heads)


@final
class ActPolicy(Policy):
    """Requests stacked, normalised, through the network, denormalised."""

    def __init__(self, checkpoint: Checkpoint, config: Config, runtime: Runtime) -> None:
        import torch

        from actlink.policies._act_network import Network

        device, dtype = _torch.device(runtime), _torch.dtype(runtime)
        _torch.threads(runtime)
        self.checkpoint = checkpoint
        self.spec = _spec(checkpoint, config)
        self.facts = MappingProxyType(_facts(checkpoint))
        self._device, self._name = device, runtime.device
        self._cameras = [f"images.{camera.name}" for camera in checkpoint.cameras]
        try:
            self.network = Network(
                checkpoint.tensors,
                checkpoint.size,
                heads=checkpoint.heads,
                activation=checkpoint.activation,
                pixels=_pixels(checkpoint.cameras),
                device=str(device),
                dtype=dtype,
            )
        except (RuntimeError, MemoryError) as error:
            if not _torch.is_out_of_memory(error):
                raise
            raise _torch.out_of_memory(error, runtime.device, "loading") from error
        self._inference = torch.inference_mode

    def infer(self, requests: Sequence[Request]) -> Sequence[Result]:
        try:
            with self._inference():
                raw = self.network(self._states(requests), self._pictures(requests)).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if _torch.is_out_of_memory(error):
                raise _torch.out_of_memory(error, self._name, f"inference of {len(requests)} observations") from error
            raise PolicyError(f"torch: {error}") from error
        actions = self.checkpoint.action.denormalise(raw).astype(np.float32, copy=False)
        return [answer(request, rows) for request, rows in zip(requests, actions, strict=True)]

    def _states(self, requests: Sequence[Request]) -> Any:
        import torch

        if "state" not in self.spec.observation:
            return None
        rows = np.stack([np.asarray(request.observation["state"]) for request in requests])
        return torch.from_numpy(self.checkpoint.state.normalise(rows)).to(self._device)

    def _pictures(self, requests: Sequence[Request]) -> list[Any]:
        import torch

        stacked: list[Array] = [np.stack([np.asarray(one.observation[key]) for one in requests]) for key in self._cameras]
        return [torch.from_numpy(each).to(self._device) for each in stacked]

    def exportable(self) -> Exportable:
        import torch

        if self._name != "cpu" or self.network.dtype != torch.float32:
            raise ConfigError("act: an export computes in float32 on the cpu; leave --device and --dtype out")
        open_size = [key for key, field in self.spec.observation.items() if field.is_image and None in field.shape]
        if open_size:
            raise ConfigError(
                f"act: a graph needs pictures of one size, and the checkpoint leaves that of {', '.join(open_size)} open: "
                "--policy-options image_size=480,640"
            )
        before, behind = _torch_scaling(self.checkpoint.state), _torch_scaling(self.checkpoint.action)
        with_state, network = "state" in self.spec.observation, self.network

        def function(*given: Any) -> Any:
            state = _normalised(given[0], *before) if with_state else None
            with network.plain():
                raw = network(state, given[1:] if with_state else given)
            shift, _, factor, offset, low, high = behind
            found = (raw - offset) * factor + shift
            return torch.minimum(torch.maximum(found, low), high) if low.isfinite().any() else found

        return Exportable(function, tuple(self.spec.observation))


def _torch_scaling(scaling: Scaling) -> tuple[Any, ...]:
    import torch

    parts = (scaling.shift, scaling.divisor, scaling.factor, scaling.offset, scaling.low, scaling.high)
    return tuple(torch.from_numpy(part) for part in parts)


def _normalised(state: Any, shift: Any, divisor: Any, _factor: Any, offset: Any, low: Any, _high: Any) -> Any:
    found = (state - shift) / divisor + offset
    return found.where(~low.isfinite(), found.clamp(-1.0, 1.0)) if low.isfinite().any() else found


def _pixels(cameras: Sequence[Camera]) -> tuple[Array, Array] | None:
    if not cameras:
        return None
    return np.stack([camera.mean for camera in cameras]), np.stack([camera.std for camera in cameras])


def _spec(checkpoint: Checkpoint, config: Config) -> Spec:
    size = checkpoint.size
    observation: dict[str, Field] = {}
    if width := size.state_dim + size.environment_dim:
        observation["state"] = Field((width,), typical=checkpoint.state.typical)
    for camera in checkpoint.cameras:
        height, width_px = config.image_size or (camera.height, camera.width)
        observation[f"images.{camera.name}"] = Field((height, width_px, 3), "uint8")
    if config.max_batch_size is not None and config.max_batch_size < 1:
        raise ConfigError(f"act: max_batch_size: expected at least 1, got {config.max_batch_size}")
    return Spec(
        observation=observation,
        action=Field((size.action_dim,), typical=checkpoint.action.typical),
        action_horizon=size.horizon,
        rate_hz=config.rate_hz,
        max_batch_size=config.max_batch_size or (_MOST_WITH_CAMERAS if checkpoint.cameras else _MOST_WITHOUT),
        control_space=checkpoint.control_space,
        control_type=checkpoint.control_type,
        digest=checkpoint.digest(),
    )


def _facts(checkpoint: Checkpoint) -> dict[str, str]:
    size = checkpoint.size
    count = sum(value.size for value in checkpoint.tensors.values())
    facts = {
        "layout": checkpoint.layout,
        "weights": checkpoint.weights.name,
        "parameters": f"{count / 1e6:.1f} M used for inference",
        "network": f"hidden size {size.hidden}, {checkpoint.heads} heads, {size.encoder_layers} encoder layers"
        + (f", ResNet with {sum(size.blocks)} blocks" if size.blocks else ", no cameras"),
        "normalisation": checkpoint.normalisation,
    }
    if size.environment_dim:
        facts["state"] = f"{size.state_dim} joint values, then {size.environment_dim} of the environment's state"
    if checkpoint.execution_horizon is not None:
        facts["actions run per chunk in training"] = str(checkpoint.execution_horizon)
    return facts
