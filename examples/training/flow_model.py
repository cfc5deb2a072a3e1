"""A small flow-matching network for action chunks: state and a noisy chunk in, the clean chunk out, with a flow time per row.

Law: plain tensor operations only, the backward pass included, so that the whole network exports as one graph with a free batch.

**Flow matching** (Lipman et al., arXiv 2210.02747; as a policy: Black et al., arXiv 2410.24164). A chunk ``x_1`` and noise ``x_0``
are joined by a straight line ``x_t = (1 - t) x_0 + t x_1``; a network learns the line's velocity ``x_1 - x_0``, and the policy
follows it from noise to a chunk in a few Euler steps. This network predicts the end of the line instead of its direction; the
velocity is ``(x_1 - x_t) / (1 - t)``. A chunk has few degrees of freedom and noise has all of them, so a narrow network can predict
the one and not the other (Li and He, arXiv 2511.13720).

**A time per row** (training-time real-time chunking, arXiv 2512.05964). In a part of the examples the first ``d`` rows are given
clean, with ``t = 1``, and the loss is taken over the others: the network learns to continue actions that are already decided.

**Guidance** (real-time chunking, arXiv 2506.07339) needs ``J^T (w * (y - x_1))``, ``J`` the Jacobian of the predicted chunk by the
noisy one. ``Flow.pull`` computes it by hand, layer by layer; tests hold it against torch's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LATEST = 0.98
"""Training draws flow times below this; a few Euler steps never ask for later ones."""
SHARPEST = 0.2
"""``1 - t`` is floored here in the weight of an example, or the last part of the line would be all that counts."""


@dataclass(frozen=True)
class FlowConfig:
    """Sizes."""

    state_dim: int
    action_dim: int
    horizon: int = 64
    width: int = 384
    blocks: int = 3
    condition: int = 256
    """Width of what is known of state and row times."""
    most_delay: int = 32
    """Longest prefix in training."""


class Block(nn.Module):
    """``h + out(silu(into(norm(h)) + told(c)))``."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.into = nn.Linear(config.width, config.width)
        self.told = nn.Linear(config.condition, config.width)
        self.out = nn.Linear(config.width, config.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The new ``h`` and the argument of the nonlinearity, which the backward pass needs; both (B, width)."""
        inner = self.into(normalised(h)) + self.told(condition)
        return h + self.out(F.silu(inner)), inner

    def back(self, gradient: Tensor, h: Tensor, inner: Tensor) -> Tensor:
        """The gradient by ``h`` from that by the block's result."""
        gate = torch.sigmoid(inner)
        slope = gate * (1 + inner * (1 - gate))
        inside = ((gradient @ self.out.weight) * slope) @ self.into.weight
        return gradient + back_through_norm(inside, h)


class Flow(nn.Module):
    """States (B, state_dim), noisy chunks (B, horizon, action_dim) and row times (B, horizon) -> clean chunks; all normalised."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.horizon * config.action_dim
        self.know = nn.Sequential(
            nn.Linear(config.state_dim + config.horizon, config.condition),
            nn.SiLU(),
            nn.Linear(config.condition, config.condition),
            nn.SiLU(),
        )
        self.enter = nn.Linear(rows, config.width)
        self.told = nn.Linear(config.condition, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.blocks)])
        self.leave = nn.Linear(config.width, rows)

    def forward(self, state: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        return self._run(state, noisy, times)[0]

    def pull(self, state: Tensor, noisy: Tensor, times: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The clean chunk, and ``J^T (weight * (target - clean))``: how ``noisy`` is to change for the chunk to move to ``target``.

        :param target: (B, horizon, action_dim). :param weight: (B, horizon), how much each row is to follow.
        """
        clean, passed = self._run(state, noisy, times)
        wish = ((target - clean) * weight[..., None]).flatten(1)
        gradient = back_through_norm(wish @ self.leave.weight, passed[-1][0])
        for block, (h, inner) in zip(reversed(self._stack()), reversed(passed[:-1]), strict=True):
            gradient = block.back(gradient, h, inner)
        return clean, (gradient @ self.enter.weight).unflatten(1, (self.config.horizon, self.config.action_dim))

    def _run(self, state: Tensor, noisy: Tensor, times: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The clean chunk; for every block its input and inner argument, and last the input of the closing norm (twice)."""
        condition = self.know(torch.cat([state, times], dim=1))
        h = self.enter(noisy.flatten(1)) + self.told(condition)
        passed = []
        for block in self._stack():
            before = h
            h, inner = block(h, condition)
            passed.append((before, inner))
        clean = self.leave(normalised(h)).unflatten(1, (self.config.horizon, self.config.action_dim))
        return clean, [*passed, (h, h)]

    def _stack(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]


def normalised(h: Tensor) -> Tensor:
    """Root mean square 1 over the last axis."""
    return h * _scale(h)


def back_through_norm(gradient: Tensor, h: Tensor) -> Tensor:
    """The gradient by ``h`` from that by ``normalised(h)``."""
    scale = _scale(h)
    return scale * (gradient - h * scale.square() * (gradient * h).mean(-1, keepdim=True))


def _scale(h: Tensor) -> Tensor:
    return torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


def flow_loss(model: Flow, state: Tensor, chunk: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted square error of the predicted chunks over the rows that are not given.

    :param state: (B, state_dim). :param chunk: (B, horizon, action_dim), demonstrated; both normalised.
    """
    config, batch = model.config, len(state)
    noise = torch.randn(chunk.shape, generator=generator)
    time = LATEST * torch.rand(batch, 1, generator=generator)
    delay = torch.randint(1, config.most_delay + 1, (batch, 1), generator=generator)
    with_prefix = torch.rand(batch, 1, generator=generator) < 0.5
    given = (torch.arange(config.horizon)[None] < delay) & with_prefix
    times = torch.where(given, 1.0, time)
    noisy = (1 - times[..., None]) * noise + times[..., None] * chunk
    error = (model(state, noisy, times) - chunk).square().mean(-1) * ~given
    per_example = error.sum(1) / (~given).sum(1)
    return (per_example / (1 - time[:, 0]).clamp_min(SHARPEST)).mean()


def sample(model: Flow, state: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Chunks by Euler steps, without prefix: for a look during training."""
    x, batch = noise, len(state)
    for index in range(steps):
        time = index / steps
        clean = model(state, x, torch.full((batch, model.config.horizon), time))
        x = x + (clean - x) / (1 - time) / steps
    return x


def parameters_of(model: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in model.parameters())
