"""ACT from cameras and joints, in LeRobot's layout and tensor names: one ResNet-18 for all cameras, its last pixels as tokens.

Sources: Zhao et al. (2023) for the policy, He et al., "Deep Residual Learning" (2015) for the backbone, torchvision's names for its
tensors, and LeRobot's ``policies/act/modeling_act.py`` for order and positions of the tokens. The backbone starts from random
weights, so its batch norms learn along; a checkpoint holds them as the frozen ones that ACT has, as they are in ``eval``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from act_model import ActConfig, Decoder, Encoder
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What every ACT normalises its pictures with, after dividing by 255."""


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        beside = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + beside)


class ResNet18(nn.Module):
    """(B, 3, H, W) -> (B, 512, H/32, W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        sizes = (64, 64, 128, 256, 512)
        for number in range(1, 5):
            first = Block(sizes[number - 1], sizes[number], 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, Block(sizes[number], sizes[number], 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return x


class VisionAct(nn.Module):
    """Joints (B, state_dim) and pictures (B, cameras, 3, H, W) -> actions (B, chunk, action_dim), all normalised."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim_model
        self.backbone = ResNet18()
        self.encoder, self.decoder = Encoder(config, config.n_encoder_layers), Decoder(config)
        self.encoder_robot_state_input_proj = nn.Linear(config.state_dim, dim)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, dim)
        self.encoder_img_feat_input_proj = nn.Conv2d(512, dim, kernel_size=1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(2, dim)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, dim)
        self.action_head = nn.Linear(dim, config.action_dim)
        for stack in (self.encoder, self.decoder):
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, state: Tensor, pictures: Tensor) -> Tensor:
        batch, cameras = pictures.shape[:2]
        maps = self.encoder_img_feat_input_proj(self.backbone(pictures.flatten(0, 1)))  # (B * cameras, dim, h, w)
        pixels = maps.flatten(2).transpose(1, 2).reshape(batch, -1, self.config.dim_model)
        latent = torch.zeros_like(state[:, :1]).expand(-1, self.config.latent_dim)
        tokens = torch.stack([self.encoder_latent_input_proj(latent), self.encoder_robot_state_input_proj(state)], dim=1)
        places = _places(maps.shape[2], maps.shape[3], self.config.dim_model).to(maps)
        position = torch.cat([self.encoder_1d_feature_pos_embed.weight, places.repeat(cameras, 1)])
        memory = self.encoder(torch.cat([tokens, pixels], dim=1), position)
        return cast(Tensor, self.action_head(self.decoder(self.decoder_pos_embed.weight, memory, position)))


def normalised(pictures: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) RGB -> float32 (..., 3, H, W) as the backbone takes them."""
    mean, std = (torch.tensor(values, device=pictures.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pictures.float() / 255 - mean) / std).movedim(-1, -3)


def lerobot_tensors(model: VisionAct) -> dict[str, Tensor]:
    """The weights under the names of a LeRobot ACT checkpoint's ``model.safetensors``; what only training counts is left out."""
    kept = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {f"model.{name}": value.detach().cpu().float().contiguous() for name, value in kept.items()}


def lerobot_config(config: ActConfig, cameras: Sequence[str], height: int, width: int) -> dict[str, Any]:
    """``config.json`` of LeRobot's ACT for these sizes."""
    pictures = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, height, width]} for name in cameras}
    return {
        "type": "act",
        "n_obs_steps": 1,
        "input_features": {"observation.state": {"type": "STATE", "shape": [config.state_dim]}, **pictures},
        "output_features": {"action": {"type": "ACTION", "shape": [config.action_dim]}},
        "device": "cpu",
        "use_amp": False,
        "chunk_size": config.chunk_size,
        "n_action_steps": config.chunk_size,
        "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "vision_backbone": "resnet18",
        "pretrained_backbone_weights": None,
        "replace_final_stride_with_dilation": False,
        "pre_norm": False,
        "dim_model": config.dim_model,
        "n_heads": config.n_heads,
        "dim_feedforward": config.dim_feedforward,
        "feedforward_activation": "relu",
        "n_encoder_layers": config.n_encoder_layers,
        "n_decoder_layers": 1,
        "use_vae": False,
        "latent_dim": config.latent_dim,
        "n_vae_encoder_layers": config.n_vae_encoder_layers,
        "temporal_ensemble_coeff": None,
        "dropout": 0.0,
        "kl_weight": 10.0,
    }


def _places(height: int, width: int, dim: int) -> Tensor:
    """(height * width, dim): sines and cosines of the row, then of the column, which count from 1 and end at 2 pi."""
    half = dim // 2
    scale = 10000 ** (2 * (torch.arange(half) // 2) / half)

    def along(count: int) -> Tensor:
        angle = (torch.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi)[:, None] / scale
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)

    rows, columns = along(height), along(width)
    both = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    return both.reshape(height * width, dim)
