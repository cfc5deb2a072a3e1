"""ACT, the action chunking transformer, on state input, in LeRobot's layout and tensor names.

Source: Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (2023); tensor names and order of
operations as in LeRobot's ``policies/act/modeling_act.py``, so that ``state_dict`` can be written back as such a checkpoint:
post-norm layers with ReLU, one latent token (zero before its projection unless the CVAE is on), one token for the joints, one for
the environment state, learned positions for these three, learned queries for the chunk, one decoder layer, a linear head.

Tensors are batch first here, ``(batch, tokens, hidden)``; weights do not depend on that. There is no dropout: with tens of
thousands of distinct windows the network does not overfit in the minutes it is trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

STATE, ENVIRONMENT_STATE, ACTION = "observation.state", "observation.environment_state", "action"


@dataclass(frozen=True)
class ActConfig:
    """Sizes; the names are LeRobot's."""

    state_dim: int = 14
    environment_state_dim: int = 7
    action_dim: int = 14
    chunk_size: int = 100
    dim_model: int = 128
    n_heads: int = 8
    dim_feedforward: int = 512
    n_encoder_layers: int = 4
    n_vae_encoder_layers: int = 4
    latent_dim: int = 32
    use_vae: bool = False


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``, in plain operations that export cleanly."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B or 1, Q, D), (B, K, D), (B, K, D), True where a key is padding (B, K) -> (B, Q, D)."""
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (self._split(F.linear(x, w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None, :], float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.out_proj(mixed))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added to its input and then normalised."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        dim = config.dim_model
        self.self_attn = Attention(dim, config.n_heads)
        self.linear1, self.linear2 = nn.Linear(dim, config.dim_feedforward), nn.Linear(config.dim_feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, x, padding))
        return cast(Tensor, self.norm2(x + self.linear2(F.relu(self.linear1(x)))))


class Encoder(nn.Module):
    """A stack of encoder layers; positions are added to queries and keys of every layer."""

    def __init__(self, config: ActConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(layers)])

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        return x


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention to the encoder's tokens, feed-forward."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        dim = config.dim_model
        self.self_attn, self.multihead_attn = Attention(dim, config.n_heads), Attention(dim, config.n_heads)
        self.linear1, self.linear2 = nn.Linear(dim, config.dim_feedforward), nn.Linear(config.dim_feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, x))
        x = self.norm2(x + self.multihead_attn(x + position, memory + memory_position, memory))
        return cast(Tensor, self.norm3(x + self.linear2(F.relu(self.linear1(x)))))


class Decoder(nn.Module):
    """One decoder layer and the closing norm."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(config)])
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(self, position: Tensor, memory: Tensor, memory_position: Tensor) -> Tensor:
        # The decoder starts from zeros, the same for every row of the batch: what precedes the attention to the encoder's
        # tokens is computed once for the batch and broadcast, which saves about a third of a training step.
        x = torch.zeros_like(position)[None]
        return cast(Tensor, self.norm(self.layers[0](x, position, memory, memory_position)))


class Act(nn.Module):
    """Normalised joints (B, 14) and environment state (B, 7) -> normalised actions (B, chunk, 14)."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim_model
        self.encoder = Encoder(config, config.n_encoder_layers)
        self.decoder = Decoder(config)
        self.encoder_robot_state_input_proj = nn.Linear(config.state_dim, dim)
        self.encoder_env_state_input_proj = nn.Linear(config.environment_state_dim, dim)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, dim)
        self.encoder_1d_feature_pos_embed = nn.Embedding(3, dim)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, dim)
        self.action_head = nn.Linear(dim, config.action_dim)
        if config.use_vae:
            self.vae_encoder = Encoder(config, config.n_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, dim)
            self.vae_encoder_robot_state_input_proj = nn.Linear(config.state_dim, dim)
            self.vae_encoder_action_input_proj = nn.Linear(config.action_dim, dim)
            self.vae_encoder_latent_output_proj = nn.Linear(dim, 2 * config.latent_dim)
            self.register_buffer("vae_encoder_pos_enc", _sinusoids(config.chunk_size + 2, dim)[None])
        for stack in (self.encoder, self.decoder, *([self.vae_encoder] if config.use_vae else [])):
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, state: Tensor, environment_state: Tensor, latent: Tensor | None = None) -> Tensor:
        """``latent`` (B, latent_dim) is given only while a CVAE is trained; it is zero otherwise."""
        if latent is None:
            latent = torch.zeros_like(state[:, :1]).expand(-1, self.config.latent_dim)
        tokens = torch.stack(
            [
                self.encoder_latent_input_proj(latent),
                self.encoder_robot_state_input_proj(state),
                self.encoder_env_state_input_proj(environment_state),
            ],
            dim=1,
        )
        position = self.encoder_1d_feature_pos_embed.weight
        decoded = self.decoder(self.decoder_pos_embed.weight, self.encoder(tokens, position), position)
        return cast(Tensor, self.action_head(decoded))

    def encode_latent(self, state: Tensor, actions: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """CVAE: mean and log-variance (B, latent_dim) of the style of a demonstrated chunk (B, chunk, 14)."""
        batch = len(state)
        tokens = torch.cat(
            [
                self.vae_encoder_cls_embed.weight.expand(batch, 1, -1),
                self.vae_encoder_robot_state_input_proj(state)[:, None],
                self.vae_encoder_action_input_proj(actions),
            ],
            dim=1,
        )
        padding = torch.cat([torch.zeros(batch, 2, dtype=torch.bool), padding], dim=1)
        summary = self.vae_encoder(tokens, cast(Tensor, self.vae_encoder_pos_enc), padding)[:, 0]
        mean, log_variance = self.vae_encoder_latent_output_proj(summary).chunk(2, dim=-1)
        return mean, log_variance


def act_loss(model: Act, batch: Mapping[str, Tensor], kl_weight: float = 10.0) -> tuple[Tensor, dict[str, float]]:
    """L1 between predicted and demonstrated chunk, rows after the demonstration's end left out; plus weighted KL with a CVAE.

    :param batch: normalised ``observation.state``, ``observation.environment_state``, ``action`` and bool ``action_is_pad``.
    """
    state, actions, padding = batch[STATE], batch[ACTION], batch["action_is_pad"]
    latent, divergence = None, torch.zeros(())
    if model.config.use_vae:
        mean, log_variance = model.encode_latent(state, actions, padding)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        divergence = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(-1).mean()
    predicted = model(state, batch[ENVIRONMENT_STATE], latent)
    kept = ~padding[..., None]
    distance = ((predicted - actions).abs() * kept).sum() / (kept.sum() * actions.shape[-1])
    return distance + kl_weight * divergence, {"l1": distance.item(), "kl": divergence.item()}


def lerobot_tensors(model: Act) -> dict[str, Tensor]:
    """The weights under the names of a LeRobot ACT checkpoint's ``model.safetensors``."""
    return {f"model.{name}": tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


def _sinusoids(positions: int, dim: int) -> Tensor:
    """Fixed sinusoidal positions (positions, dim), sine in even and cosine in odd columns."""
    column = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return angle.float()
