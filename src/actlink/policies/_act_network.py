"""ACT's forward pass in torch. Law: one network for every layout; sizes come from the tensors, and nothing is learned here.

Order of operations as in LeRobot's ``policies/act/modeling_act.py`` and the original's ``detr/models``, which are the same: tokens
for the latent (zeros), the joints, the environment state and every place of the cameras' feature maps; post-norm (or pre-norm)
encoder; decoder on learned queries; linear head. Attention does not care for the order of its tokens, so cameras joined along width
(original) and one behind the other (LeRobot) give the same numbers.

What depends on the weights alone is computed once: the frozen batch norms are folded into their convolutions, the scale of the
pixels into the first one; the decoder starts from zeros, so its first self-attention, and the queries that follow from it, are
constants; a position is added to queries and keys behind the projection, so that one product makes queries, keys and values. On a
CPU, products go to oneDNN with weights in its own layout (``_act_onednn``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from actlink.policies._act_names import Sizes
from actlink.policies._act_onednn import Convolution, Linear, Operations

Tensors = Mapping[str, Any]
Place = Callable[[Any], Any]
_BATCH_NORM_EPSILON = 1e-5
_LAYER_NORM_EPSILON = 1e-5
_POSITION_EPSILON = 1e-6
_TEMPERATURE = 10000.0
_MOST_SIZES = 4


class Network:
    """Normalised state (batch, state_dim + environment_dim) and pictures (batch, height, width, 3) of 0..255, one per camera, to
    normalised actions (batch, horizon, action_dim). ``pixels`` is the mean and the deviation of pixels in 0..255, (cameras, 3)."""

    def __init__(
        self, tensors: Tensors, size: Sizes, *, heads: int, activation: str, pixels: tuple[Any, Any] | None, device: str, dtype: Any
    ) -> None:
        self.size = size
        self._heads, self._activation = heads, activation
        self._device, self.dtype = torch.device(device), dtype
        self._operations = Operations(self._device, dtype)
        self._images = _Images(tensors, size, pixels, self._operations, self._place) if size.blocks and pixels is not None else None
        self._state: Any = self._linear(tensors, "encoder_robot_state_input_proj") if size.state_dim else None
        self._environment = self._linear(tensors, "encoder_env_state_input_proj") if size.environment_dim else None
        # The latent is zero, so its token is its projection's bias.
        self._latent = self._place(tensors["encoder_latent_input_proj.bias"]) if size.latent_dim else None
        self._token_positions = self._place(tensors["encoder_1d_feature_pos_embed.weight"])
        self._encoder = [self._layer(tensors, f"encoder.layers.{i}") for i in range(size.encoder_layers)]
        self._encoder_norm: Any = self._pair(tensors, "encoder.norm") if size.pre_norm else None
        self._decoder = [self._layer(tensors, f"decoder.layers.{i}") for i in range(size.decoder_layers)]
        self._queries = self._place(tensors["decoder_pos_embed.weight"])
        self._decoder_norm, self._head = self._pair(tensors, "decoder.norm"), self._linear(tensors, "action_head")
        self._positions: dict[tuple[Any, ...], _Positions] = {}
        with torch.inference_mode():
            start = self._self_attended(self._decoder[0], torch.zeros_like(self._queries)[None], None)
            self._start = start.clone()
            self._first_queries = self._asked(self._decoder[0], start).clone()

    def __call__(self, state: Any, pictures: Sequence[Any]) -> Any:
        batch = state.shape[0] if state is not None else pictures[0].shape[0]
        tokens = [] if self._latent is None else [self._latent.expand(batch, 1, -1)]
        given: Any = state.to(self.dtype) if state is not None else None
        if self._state is not None:
            tokens.append(self._state(given[:, : self.size.state_dim])[:, None])
        if self._environment is not None:
            tokens.append(self._environment(given[:, self.size.state_dim :])[:, None])
        maps = self._images(pictures) if self._images is not None else []
        tokens += [each.flatten(2).transpose(1, 2) for each in maps]
        positions = self._placed(tuple(tuple(each.shape[2:]) for each in maps))
        return self._decoded(self._encoded(torch.cat(tokens, 1), positions), positions).float()

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """As long as this lasts, in torch's ordinary operations, which an exporter knows."""
        fused, self._operations.fused = self._operations.fused, False
        try:
            yield
        finally:
            self._operations.fused = fused

    def _encoded(self, x: Any, positions: _Positions) -> Any:
        for layer, added in zip(self._encoder, positions.encoder, strict=True):
            x = self._fed(layer, self._self_attended(layer, x, added), "norm2")
        return x if self._encoder_norm is None else _normed(x, self._encoder_norm)

    def _decoded(self, memory: Any, positions: _Positions) -> Any:
        x, queries = (each.expand(memory.shape[0], -1, -1) for each in (self._start, self._first_queries))
        for index, (layer, added) in enumerate(zip(self._decoder, positions.decoder, strict=True)):
            if index:
                x = self._self_attended(layer, x, None)
                queries = self._asked(layer, x)
            x = x + self._attended(layer["cross"], queries, layer["cross_kv"](memory) + added)
            x = x if self.size.pre_norm else _normed(x, layer["norm2"])
            x = self._fed(layer, x, "norm3")
        return self._head(_normed(x, self._decoder_norm))

    def _self_attended(self, layer: dict[str, Any], x: Any, added: Any) -> Any:
        """``added``: what the positions add to queries, keys and values; None = the learned queries' positions."""
        placed = _normed(x, layer["norm1"]) if self.size.pre_norm else x
        if added is None:
            added = self._query_addition(layer)
        q, kv = (layer["qkv"](placed) + added).split([self.size.hidden, 2 * self.size.hidden], -1)
        x = x + self._attended(layer["self"], q, kv)
        return x if self.size.pre_norm else _normed(x, layer["norm1"])

    def _query_addition(self, layer: dict[str, Any]) -> Any:
        return _addition(self._queries, layer["qkv"].weight, 2 * self.size.hidden)

    def _asked(self, layer: dict[str, Any], x: Any) -> Any:
        """Queries of the attention to the encoder's tokens."""
        x = _normed(x, layer["norm2"]) if self.size.pre_norm else x
        return layer["cross_q"](x + self._queries)

    def _attended(self, out: Linear, q: Any, kv: Any) -> Any:
        q, (k, v) = self._split(q), (self._split(each) for each in kv.chunk(2, -1))
        return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Any) -> Any:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)

    def _fed(self, layer: dict[str, Any], x: Any, norm: str) -> Any:
        inner = _normed(x, layer[norm]) if self.size.pre_norm else x
        x = x + layer["linear2"](self._activated(layer["linear1"], inner))
        return x if self.size.pre_norm else _normed(x, layer[norm])

    def _activated(self, linear: Linear, x: Any) -> Any:
        return linear(x, rectified=True) if self._activation == "relu" else F.gelu(linear(x))

    def _placed(self, maps: tuple[Any, ...]) -> _Positions:
        """Positions for feature maps of these sizes; kept for the few sizes that cameras have, however many a peer sends."""
        sizes = tuple((int(height), int(width)) for height, width in maps)
        if sizes not in self._positions:
            if len(self._positions) >= _MOST_SIZES:
                self._positions.clear()
            self._positions[sizes] = self._made(sizes)
        return self._positions[sizes]

    def _made(self, maps: tuple[Any, ...]) -> _Positions:
        dim = self.size.hidden
        planes = [_sinusoids(height, width, dim).to(self._device, self.dtype) for height, width in maps]
        tokens = torch.cat([self._token_positions, *planes])
        encoder = [_addition(tokens, layer["qkv"].weight, 2 * dim) for layer in self._encoder]
        return _Positions(encoder, [_addition(tokens, layer["cross_kv"].weight, dim) for layer in self._decoder])

    def _layer(self, tensors: Tensors, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {part: self._linear(tensors, f"{name}.{part}") for part in ("linear1", "linear2")}
        found |= {f"norm{n}": self._pair(tensors, f"{name}.norm{n}") for n in (1, 2, 3) if f"{name}.norm{n}.weight" in tensors}
        found["qkv"] = Linear(*self._pair(tensors, f"{name}.self_attn.in_proj", "_"), self._operations)
        found["self"] = self._linear(tensors, f"{name}.self_attn.out_proj")
        if "norm3" in found:
            found["cross"] = self._linear(tensors, f"{name}.multihead_attn.out_proj")
            weight, bias = self._pair(tensors, f"{name}.multihead_attn.in_proj", "_")
            dim = self.size.hidden
            found["cross_q"] = Linear(weight[:dim], bias[:dim], self._operations)
            found["cross_kv"] = Linear(weight[dim:], bias[dim:], self._operations)
        return found

    def _linear(self, tensors: Tensors, name: str) -> Linear:
        return Linear(*self._pair(tensors, name), self._operations)

    def _pair(self, tensors: Tensors, name: str, separator: str = ".") -> tuple[Any, Any]:
        return self._place(tensors[f"{name}{separator}weight"]), self._place(tensors[f"{name}{separator}bias"])

    def _place(self, tensor: Any) -> Any:
        return torch.as_tensor(tensor).to(self._device, self.dtype).contiguous()


class _Positions:
    """What positions add, per layer: (tokens, 3 hidden) in the encoder, (tokens, 2 hidden) in the decoder."""

    def __init__(self, encoder: Sequence[Any], decoder: Sequence[Any]) -> None:
        self.encoder, self.decoder = encoder, decoder


class _Images:
    """Pictures to feature maps (batch, hidden, height / 32, width / 32): the ResNet without its head, then the projection."""

    def __init__(self, tensors: Tensors, size: Sizes, pixels: tuple[Any, Any], operations: Operations, place: Place) -> None:
        mean, std = (torch.as_tensor(each).double() for each in pixels)
        self._mean, self._size, self._place, self._operations = place(mean[:, :, None, None]), size, place, operations
        # The scale of the pixels goes into the first convolution; the mean cannot, for what pads the picture is zero behind it.
        scales = {tuple(row.tolist()): row for row in std}
        first = {key: self._folded(tensors, "conv1", "bn1", 2, 3, row) for key, row in scales.items()}
        self._first = [first[tuple(row.tolist())] for row in std]
        self._alike = len(scales) == 1
        self._blocks = [
            self._block(tensors, f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1)
            for stage, count in enumerate(size.blocks, 1)
            for index in range(count)
        ]
        weight, bias = (place(tensors[f"encoder_img_feat_input_proj.{part}"]) for part in ("weight", "bias"))
        self._projection = Convolution(weight, bias, operations)

    def __call__(self, pictures: Sequence[Any]) -> list[Any]:
        ready = [
            picture.permute(0, 3, 1, 2).to(self._mean.dtype) - mean for picture, mean in zip(pictures, self._mean, strict=True)
        ]
        if self._alike and len({tuple(map(int, each.shape[1:])) for each in ready}) == 1:
            found = self._features(torch.cat(ready) if len(ready) > 1 else ready[0], self._first[0])
            return list(found.unflatten(0, (len(ready), -1)).unbind(0))
        return [self._features(picture, first) for picture, first in zip(ready, self._first, strict=True)]

    def _features(self, x: Any, first: Convolution) -> Any:
        x = first(x.contiguous(memory_format=torch.channels_last), rectified=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for shorter, *steps, last in self._blocks:
            kept = x if shorter is None else shorter(x)
            for step in steps:
                x = step(x, rectified=True)
            x = last(x).add_(kept).relu_()
        return self._projection(x)

    def _block(self, tensors: Tensors, name: str, stride: int) -> list[Any]:
        """The block's short cut (None = what comes in), and its convolutions; a bottleneck strides in its second one."""
        short = f"{name}.downsample"
        cut = self._folded(tensors, f"{short}.0", f"{short}.1", stride, 0) if f"backbone.{short}.0.weight" in tensors else None
        kernels = (1, 3, 1) if self._size.bottleneck else (3, 3)
        strided = 2 if self._size.bottleneck else 1
        return [
            cut,
            *(
                self._folded(tensors, f"{name}.conv{n}", f"{name}.bn{n}", stride if n == strided else 1, kernel // 2)
                for n, kernel in enumerate(kernels, 1)
            ),
        ]

    def _folded(self, tensors: Tensors, name: str, norm: str, stride: int, padding: int, divisor: Any = None) -> Convolution:
        """A convolution and the frozen batch norm behind it as one convolution, and what divides its input with it."""
        weight = torch.as_tensor(tensors[f"backbone.{name}.weight"]).double()
        gain, bias, mean, variance = (
            torch.as_tensor(tensors[f"backbone.{norm}.{part}"]).double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / (variance + _BATCH_NORM_EPSILON).sqrt()
        weight = weight * scale[:, None, None, None]
        if divisor is not None:
            weight = weight / divisor[:, None, None]
        return Convolution(self._place(weight), self._place(bias - mean * scale), self._operations, stride=stride, padding=padding)


def _normed(x: Any, norm: tuple[Any, Any]) -> Any:
    return F.layer_norm(x, (int(norm[0].shape[0]),), *norm, eps=_LAYER_NORM_EPSILON)


def _addition(positions: Any, weight: Any, width: int) -> Any:
    """What ``positions`` (n, dim) add behind a projection to its first ``width`` columns; the rest are values, without position."""
    added = F.linear(positions, weight[:width])
    return F.pad(added, (0, len(weight) - width))


def _sinusoids(height: int, width: int, dim: int) -> Any:
    """Positions in a picture (height * width, dim): sine and cosine of the row, then of the column, both scaled to 2 pi."""
    half = dim // 2
    frequency = _TEMPERATURE ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)

    def waves(length: int) -> Any:
        place = torch.arange(1, length + 1, dtype=torch.float32)
        angle = (place / (place[-1] + _POSITION_EPSILON) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    rows, columns = waves(height)[:, None].expand(-1, width, -1), waves(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
