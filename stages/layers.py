"""The operators a net is made of: embeddings, residual blocks, attention, patches, changes of resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(values: Tensor, width: int) -> Tensor:
    """[cos, sin] of ``values`` (B,) at ``width / 2`` frequencies from 1 down to 1/10000: (B, width) float32."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angles = values.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_(module: nn.Module) -> nn.Module:
    """Set the parameters of ``module`` to zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with the most groups, up to 32, that leave at least 4 channels in each."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 4 or g == 1))
    return nn.GroupNorm(groups, channels, eps=1e-5)


class NoiseEmbedding(nn.Module):
    """Scalar noise level (B,) -> (B, width): sinusoid, then a two-layer perceptron."""

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        # Log-SNR spans about 30 units; times 25 it covers the frequencies as a 0..1000 step index does.
        return self.mlp(sinusoid(noise * 25.0, self.features))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm modulated by the embedding, SiLU, dropout, conv; plus the input (ADM's block)."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = group_norm(channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        y = self.conv_in(F.silu(self.norm_in(h)))
        y = torch.addcmul(shift, self.norm_out(y), 1.0 + scale)
        y = self.conv_out(self.dropout(F.silu(y)))
        return self.skip(h) + y


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, added to its input."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        tokens = self.norm(h).flatten(2).transpose(1, 2)  # (B, H W, C)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where it is asked for."""

    def __init__(
        self, channels: Sequence[int], channels_out: int, embedding: int, *, dropout: float, head_width: int | None
    ) -> None:
        """``channels`` are the input channels of each block in turn; all give ``channels_out``."""
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(c, channels_out, embedding, dropout) for c in channels)
        self.attention = nn.ModuleList(
            nn.Identity() if head_width is None else Attention(channels_out, head_width) for _ in channels
        )

    def step(self, index: int, h: Tensor, embedding: Tensor) -> Tensor:
        """Block ``index`` and its attention: (B, C, H, W) -> (B, channels_out, H, W)."""
        return self.attention[index](self.blocks[index](h, embedding))
