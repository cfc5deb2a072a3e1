"""Names and sizes of ACT's tensors. Law: pure; the shapes say everything but the number of heads.

Source: Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (2023). The original program (its forks,
IL-Studio) and LeRobot hold the same network under different names; LeRobot's, without ``model.``, are used from here on. Of the
original's seven decoder layers only the first one's output ever reaches the action head, so only that one is part of the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actlink.errors import ConfigError

Shape = tuple[int, ...]

_PREFIXES = {
    "transformer.encoder.": "encoder.",
    "transformer.decoder.": "decoder.",
    "backbones.0.0.body.": "backbone.",
    "encoder.": "vae_encoder.",
    "input_proj_robot_state.": "encoder_robot_state_input_proj.",
    "input_proj_env_state.": "encoder_env_state_input_proj.",
    "input_proj.": "encoder_img_feat_input_proj.",
    "latent_out_proj.": "encoder_latent_input_proj.",
    "additional_pos_embed.": "encoder_1d_feature_pos_embed.",
    "query_embed.": "decoder_pos_embed.",
    "action_head.": "action_head.",
}
"""The original's names -> LeRobot's, both without ``model.``; first match wins."""
_TRAINING_ONLY = (
    "vae_encoder.",
    "is_pad_head.",
    "pos_table",
    "cls_embed.",
    "encoder_action_proj.",
    "encoder_joint_proj.",
    "latent_proj.",
)
"""What only training needs: the style encoder, and the head for padding."""
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d{1,4})\.")
_BLOCK = re.compile(r"backbone\.layer(\d)\.(\d{1,4})\.")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the shapes say."""

    hidden: int
    action_dim: int
    horizon: int
    state_dim: int
    """Entries of the joints' token; 0 where there is none."""
    environment_dim: int
    """Entries of the environment state's token; 0 where there is none."""
    latent_dim: int
    """0 where the sequence has no latent token (the original's checkpoints without cameras)."""
    encoder_layers: int
    decoder_layers: int
    """Those whose output counts."""
    pre_norm: bool
    blocks: tuple[int, ...]
    """Blocks of the ResNet's four stages; empty without cameras."""
    bottleneck: bool
    """Blocks of three convolutions (ResNet-50 and larger) instead of two."""

    @property
    def tokens(self) -> int:
        """Tokens before those of the images."""
        return sum(n > 0 for n in (self.latent_dim, self.state_dim, self.environment_dim))


def from_original(tensors: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Tensors of an original or IL-Studio checkpoint under LeRobot's names, without what only training needs."""
    found: dict[str, Any] = {}
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    if any(name.startswith("backbones.1.") for name in bare):
        raise ConfigError(f"{where}: a ResNet for each camera; only checkpoints whose cameras share one are known")
    without_cameras = "pos.weight" in bare and "input_proj.weight" not in bare
    for name, value in bare.items():
        if without_cameras and name.startswith(("latent_out_proj.", "additional_pos_embed.")):
            continue  # there, but the original's forward pass leaves them out
        renamed = "encoder_1d_feature_pos_embed.weight" if without_cameras and name == "pos.weight" else _renamed(name)
        layer = _LAYER.match(renamed)
        unused_layer = layer is not None and layer[1] == "decoder" and int(layer[2]) > 0
        if not renamed.startswith(_TRAINING_ONLY) and not unused_layer:
            found[renamed] = value
    return found


def to_original(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse, for tensors under LeRobot's names without ``model.``: the original's names with it."""
    back = {new: old for old, new in _PREFIXES.items()}
    found = {}
    for name, value in tensors.items():
        prefix = max((new for new in back if name.startswith(new)), key=len, default=None)
        if prefix is not None:
            found[f"model.{back[prefix]}{name[len(prefix) :]}"] = value
    return found


def from_lerobot(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The network's tensors of a LeRobot checkpoint, without what only training needs (and without statistics)."""
    bare = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return {name: value for name, value in bare.items() if not name.startswith("vae_encoder")}


def _renamed(name: str) -> str:
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def sizes(shapes: Mapping[str, Shape], where: str) -> Sizes:
    """The sizes of the network with these tensors; ``ConfigError`` names a tensor that is missing, left over or misshapen."""
    head, queries = _two(shapes, "action_head.weight", where), _two(shapes, "decoder_pos_embed.weight", where)
    stages = _blocks(shapes)
    found = Sizes(
        hidden=head[1],
        action_dim=head[0],
        horizon=queries[0],
        state_dim=_width(shapes, "encoder_robot_state_input_proj.weight", where),
        environment_dim=_width(shapes, "encoder_env_state_input_proj.weight", where),
        latent_dim=_width(shapes, "encoder_latent_input_proj.weight", where),
        encoder_layers=_layers(shapes, "encoder"),
        decoder_layers=_layers(shapes, "decoder"),
        pre_norm="encoder.norm.weight" in shapes,
        blocks=stages,
        bottleneck="backbone.layer1.0.conv3.weight" in shapes,
    )
    if not found.decoder_layers:
        raise ConfigError(f"{where}: no ACT: it has no decoder layers; tensors: {_some(shapes)}")
    if not found.state_dim and not found.environment_dim and not stages:
        raise ConfigError(f"{where}: no ACT: it projects neither a state nor pictures; tensors: {_some(shapes)}")
    _compare(shapes, expected(found, shapes), where)
    return found


def expected(size: Sizes, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Every tensor of the network with its shape. Widths that are free (feed-forward, channels) are taken from ``shapes``."""
    dim = size.hidden
    found: dict[str, Shape] = {
        "encoder_1d_feature_pos_embed.weight": (size.tokens, dim),
        "decoder_pos_embed.weight": (size.horizon, dim),
        "decoder.norm.weight": (dim,),
        "decoder.norm.bias": (dim,),
        **_linear("action_head", size.action_dim, dim),
    }
    for name, width in (("latent", size.latent_dim), ("robot_state", size.state_dim), ("env_state", size.environment_dim)):
        if width:
            found |= _linear(f"encoder_{name}_input_proj", dim, width)
    if size.pre_norm:
        found |= {"encoder.norm.weight": (dim,), "encoder.norm.bias": (dim,)}
    for stack, count, attentions in (("encoder", size.encoder_layers, 1), ("decoder", size.decoder_layers, 2)):
        for index in range(count):
            found |= _layer(f"{stack}.layers.{index}", dim, attentions, shapes)
    if size.blocks:
        channels = _resnet(found, size, shapes)
        found |= {"encoder_img_feat_input_proj.weight": (dim, channels, 1, 1), "encoder_img_feat_input_proj.bias": (dim,)}
    return found


def _layer(name: str, dim: int, attentions: int, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    inner = _rows(shapes, f"{name}.linear1.weight")
    found = {**_linear(f"{name}.linear1", inner, dim), **_linear(f"{name}.linear2", dim, inner)}
    for attention in ("self_attn", "multihead_attn")[:attentions]:
        found |= {f"{name}.{attention}.in_proj_weight": (3 * dim, dim), f"{name}.{attention}.in_proj_bias": (3 * dim,)}
        found |= _linear(f"{name}.{attention}.out_proj", dim, dim)
    for index in range(1, attentions + 2):
        found |= {f"{name}.norm{index}.weight": (dim,), f"{name}.norm{index}.bias": (dim,)}
    return found


def _resnet(found: dict[str, Shape], size: Sizes, shapes: Mapping[str, Shape]) -> int:
    """Adds the ResNet's tensors; the channels it ends with."""
    last = 2 + size.bottleneck

    def convolution(name: str, norm: str, channels: int, kernel: int) -> int:
        out = _rows(shapes, f"backbone.{name}.weight")
        found[f"backbone.{name}.weight"] = (out, channels, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"backbone.{norm}.{part}"] = (out,)
        return out

    channels = convolution("conv1", "bn1", 3, 7)
    for stage, count in enumerate(size.blocks, 1):
        for index in range(count):
            block, given = f"layer{stage}.{index}", channels
            for step in range(1, last + 1):
                kernel = 1 if size.bottleneck and step != 2 else 3
                channels = convolution(f"{block}.conv{step}", f"{block}.bn{step}", channels, kernel)
            if index == 0 and (stage > 1 or f"backbone.{block}.downsample.0.weight" in shapes):
                convolution(f"{block}.downsample.0", f"{block}.downsample.1", given, 1)
    return channels


def _linear(name: str, out: int, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _compare(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape], where: str) -> None:
    for name, shape in wanted.items():
        if name not in shapes:
            raise ConfigError(f"{where}: expected a tensor {name!r} of shape {shape}, there is none of that name")
        if tuple(shapes[name]) != shape:
            raise ConfigError(f"{where}: tensor {name!r}: expected shape {shape}, got {tuple(shapes[name])}")
    left = [name for name in shapes if name not in wanted and not name.endswith("num_batches_tracked")]
    if left:
        raise ConfigError(f"{where}: tensors that are no part of ACT: {_some(left)}")


def _two(shapes: Mapping[str, Shape], name: str, where: str) -> Shape:
    if len(shapes.get(name, ())) != 2 or 0 in shapes[name]:
        got = f"shape {tuple(shapes[name])}" if name in shapes else f"none of that name (tensors: {_some(shapes)})"
        raise ConfigError(f"{where}: expected a tensor {name!r} of two axes, got {got}")
    return tuple(shapes[name])


def _width(shapes: Mapping[str, Shape], name: str, where: str) -> int:
    return _two(shapes, name, where)[1] if name in shapes else 0


def _rows(shapes: Mapping[str, Shape], name: str) -> int:
    """How many outputs a layer has; 0 where there is none, or it is no layer's weight."""
    return (*shapes.get(name, ()), 0)[0]


def _layers(shapes: Mapping[str, Shape], stack: str) -> int:
    return len({match[2] for name in shapes if (match := _LAYER.match(name)) is not None and match[1] == stack})


def _blocks(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    found: dict[str, set[str]] = {}
    for name in shapes:
        match = _BLOCK.match(name)
        if match is not None:
            found.setdefault(match[1], set()).add(match[2])
    return tuple(len(found.get(stage, ())) for stage in "1234") if found else ()


def _some(names: Mapping[str, Any] | list[str]) -> str:
    listed = sorted(name[:80] for name in names)
    return ", ".join(listed[:4]) + (f", ... ({len(listed)} in all)" if len(listed) > 4 else "") or "none"
